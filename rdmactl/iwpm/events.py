# SPDX-License-Identifier: Apache-2.0
"""What the port mapper's engines are told and what they want done: values only. Engine ring.

Not here: how any of it is carried out (`service.py`). Named tuples, because one of each is made per message.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from rdmactl.netlink.message import Message
from rdmactl.netlink.rdma import iwcm_type
from rdmactl.netlink.sockaddr import SockAddr

__all__ = [
    "Datagram",
    "Door",
    "Input",
    "KernelReply",
    "Level",
    "Notice",
    "Outbox",
    "Output",
    "Overrun",
    "Path",
    "Ready",
    "Stalled",
    "ToKernel",
    "ToPeer",
    "Unreachable",
]


_IWCM_TYPE = iwcm_type(0)
_tuple = tuple.__new__  # cheaper than a named tuple's own constructor


class Door(enum.Enum):
    """Which UDP socket: the one bound to the well-known port, or the one requests leave from."""

    SERVER = "server"
    CLIENT = "client"


class Path(NamedTuple):
    """Where a datagram came from, or goes to. A reply goes back on the path of what it answers, unchanged.

    `local` is the address of ours the peer used (4 or 16 bytes; empty: the kernel chooses), `ifindex` its interface.
    """

    door: Door
    peer: SockAddr
    local: bytes = b""
    ifindex: int = 0


class KernelReply(NamedTuple):
    """NLMSG_DONE or NLMSG_ERROR for what was sent: operation, payload as sent, code (0 or -errno).

    Success of an answer to the kernel need not be told. `asked_at` is when the request came that was answered, None if
    that is not known, or if none was.
    """

    op: int
    payload: bytes
    code: int
    asked_at: float | None = None


class Overrun(NamedTuple):
    """Messages from the kernel have been lost."""


class Stalled(NamedTuple):
    """This process did not run for `gap_s` seconds: what is in the queues may be that old."""

    gap_s: float


class Datagram(NamedTuple):
    """A UDP datagram, with up to one byte more than the longest valid one."""

    data: bytes
    path: Path


class Unreachable(NamedTuple):
    """What was sent to `peer` cannot arrive (ICMP, no route, no such address family). `quoted`: as much as is known."""

    quoted: bytes
    peer: SockAddr


Input = Message | KernelReply | Overrun | Stalled | Datagram | Unreachable
"""A Message is one of the kernel's own, that nobody asked for; other senders' are kept away (`netlink/channel.py`)."""


class ToKernel(NamedTuple):
    """Send to the kernel. `asked_at` is when the request came that this answers, None if it answers none."""

    type: int
    payload: bytes
    asked_at: float | None


class ToPeer(NamedTuple):
    """Send to a peer."""

    data: bytes
    path: Path


class Ready(NamedTuple):
    """The table agrees with the kernel's, as far as the kernel has one: requests are served from now on. Said once."""


class Level(enum.Enum):
    """How much a notice matters."""

    INFO = "info"
    WARNING = "warning"


class Notice(NamedTuple):
    """A change of state an administrator may want to read about. Repetitions are counted instead (`stats.py`)."""

    level: Level
    text: str


Output = ToKernel | ToPeer | Ready | Notice


class Outbox:
    """What the engines want done. The order matters: REMOTE_INFO must reach the kernel before ACCEPT leaves."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: list[Output] = []

    def kernel(self, op: int, payload: bytes, asked_at: float | None = None) -> None:
        """Queue a message to the kernel."""
        self._items.append(_tuple(ToKernel, (_IWCM_TYPE | op, payload, asked_at)))

    def peer(self, data: bytes, path: Path) -> None:
        """Queue a datagram."""
        self._items.append(ToPeer(data, path))

    def ready(self) -> None:
        """Say that requests are served."""
        self._items.append(Ready())

    def info(self, text: str) -> None:
        """Tell of a change that needs nobody's attention."""
        self._items.append(Notice(Level.INFO, text))

    def warning(self, text: str) -> None:
        """Tell of a change somebody should know about."""
        self._items.append(Notice(Level.WARNING, text))

    def take(self) -> list[Output]:
        """All that has gathered; the box is empty afterwards."""
        items = self._items
        if items:
            self._items = []
        return items
