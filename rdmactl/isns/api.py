# SPDX-License-Identifier: Apache-2.0
"""What the iSNS client is asked and what it answers: values, no I/O. Shell ring."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rdmactl.initiator.api import DiscoveredTarget
from rdmactl.iscsi.portal import Portal

__all__ = ["Change", "ChangeKind", "IsnsAnswer", "IsnsRequest", "WatchConfig", "WatchStatus"]


@dataclass(frozen=True, slots=True)
class IsnsRequest:
    """A query for targets. The server shows what its discovery domains allow `initiator_name` to see."""

    server: Portal
    initiator_name: str
    names: tuple[str, ...] = ()  # the targets wanted; empty: all
    timeout_s: float = 20.0  # connecting, and each answer
    total_s: float = 60.0  # everything


@dataclass(frozen=True, slots=True)
class IsnsAnswer:
    """A complete answer: an empty one says that there is nothing.

    `unreachable` targets are registered without a portal to use. `skipped` entries were left out because they were bad:
    what was in them nobody knows, so that nothing may be taken for gone.
    """

    targets: tuple[DiscoveredTarget, ...]
    unreachable: tuple[str, ...] = ()
    skipped: int = 0
    warnings: tuple[str, ...] = ()


class ChangeKind(Enum):
    """What a change says."""

    RESYNC = "registered with the server, or too much has changed: ask for everything"
    PRESENT = "the target was added or updated"
    GONE = "the target is no longer there"


@dataclass(frozen=True, slots=True)
class Change:
    """Something has changed at the server, and a complete answer of the server has confirmed it.

    RESYNC has no name. PRESENT carries what the server says of the target now.
    """

    kind: ChangeKind
    name: str = ""
    target: DiscoveredTarget | None = None


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """A registration with a server, for its notifications; times in seconds."""

    server: Portal
    initiator_name: str
    transport: str = "udp"  # how the server reaches us: "udp" or "tcp"
    port: int = 0  # and where; 0: one that is free
    also_from: tuple[str, ...] = ()  # addresses notifications may come from, beside the server's
    timeout_s: float = 20.0  # connecting, and each answer
    esi_interval_s: int = 60  # status inquiries asked for; the server decides
    settle_s: float = 1.0  # notifications that come together are one change
    quiet_s: float = 2.0  # between two changes


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """How a watch stands."""

    registered: bool  # the server has our entity
    notified: bool  # and will tell us of changes; else poll
    period_s: float  # of the registration; 0: the server has not said
    notifications: int  # taken
    ignored: int  # from elsewhere, about others, or malformed
    last_error: str  # of the last exchange; "" when it succeeded
    inquiries: int = 0  # answered
