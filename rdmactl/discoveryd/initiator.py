# SPDX-License-Identifier: Apache-2.0
"""What the discovery daemon asks of the initiator, which lives in another lane of the same process. Shell ring.

Not here: why (`watcher.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from rdmactl.initiator.api import DiscoveryAnswer, DiscoveryRequest, LoginRequest
from rdmactl.iscsi.portal import Portal

__all__ = ["Caller", "Held", "Initiator"]

T = TypeVar("T")

_LIST_S = 30.0
_SLACK_S = 10.0
_LOGIN_S = 900.0  # the initiator's own limits come first
_LOGOUT_S = 300.0


class Held(NamedTuple):
    """A session of this host, and who claims it; nobody is known to claim what somebody else has made."""

    sid: int
    target: str
    portal: Portal
    iface: str
    claims: frozenset[str]


class Caller(Protocol):
    """What is needed of the dispatcher."""

    async def call(self, name: str, function: Callable[[Any], Awaitable[T]], *, deadline_s: float) -> T: ...


class Initiator(Protocol):
    """The initiator, as far as it matters here. Failures are RdmactlError."""

    async def discover(self, request: DiscoveryRequest) -> DiscoveryAnswer: ...

    async def sessions(self) -> list[Held]: ...

    async def login(self, request: LoginRequest, claim: str) -> int: ...

    async def release(self, sid: int, claim: str) -> None: ...
