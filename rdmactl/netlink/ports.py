# SPDX-License-Identifier: Apache-2.0
"""What a service may ask of the dispatcher, and what the dispatcher asks of the kernel: interfaces only.

A service is written against `Lane` and `Channel`; it never opens a netlink socket. The dispatcher is written against
`NetlinkSocket`, so that the fake kernel (tests/fake) can stand where the real one does.
Must change together with `dispatcher.py` (the implementation) and tests/fake (the other implementation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from rdmactl.netlink.counters import Counters
from rdmactl.netlink.message import Message

__all__ = [
    "Channel",
    "ChannelHandler",
    "ChannelSpec",
    "Lane",
    "NetlinkSocket",
    "Received",
    "Reply",
    "RequestChannel",
    "Service",
    "SocketDoor",
]

T = TypeVar("T")


class ChannelSpec(NamedTuple):
    """One netlink socket a service wants.

    Fields: `family` NETLINK_xxx; `groups` multicast group numbers to join; `clients` for NETLINK_RDMA the RDMA_NL_xxx
    clients whose messages this service takes (empty: all); `receive_buffer_bytes` asked for with SO_RCVBUFFORCE, None
    leaves the default; `receive_bytes` the length passed to recv (NETLINK_RDMA charges by it: keep it small).
    """

    family: int
    groups: tuple[int, ...] = ()
    clients: tuple[int, ...] = ()
    receive_buffer_bytes: int | None = None
    receive_bytes: int = 8192


class Received(NamedTuple):
    """A message nobody asked for: a kernel request or event. `sender` is the portid it came from: 0 is the kernel.

    `groups` is the bitmask of the multicast group it came through, 0 for a unicast. A tuple, not a dataclass: it is
    made once per kernel message, and building one takes half the time.
    """

    message: Message
    sender: int
    groups: int


class Reply(NamedTuple):
    """The answer to something this channel sent: NLMSG_DONE or NLMSG_ERROR with its code (0 or -errno).

    `request` is the message as it was sent; `messages` what came with the same seq before the end; `context` what was
    given to `Channel.send`.
    """

    request: Message
    code: int
    messages: tuple[Message, ...] = ()
    context: object = None


class ChannelHandler(Protocol):
    """What a service gives for a channel. All methods are called on the lane's loop and must not block."""

    def received(self, received: Received, now: float) -> None:
        """A message nobody asked for has arrived."""

    def replied(self, reply: Reply, now: float) -> None:
        """Something sent with `Channel.send` has been answered; at most once for each, see `only_failure` there."""

    def overrun(self, now: float) -> None:
        """Messages were lost (ENOBUFS): resynchronise. Called after the socket has been drained."""

    def drained(self, now: float) -> None:
        """The end of a batch: a good moment to send what has gathered."""


class Channel(Protocol):
    """An open netlink socket, registered with its lane's loop."""

    @property
    def portid(self) -> int: ...

    @property
    def counters(self) -> Counters: ...

    def send(
        self,
        type: int,
        payload: bytes,
        *,
        flags: int = 1,
        seq: int | None = None,
        only_failure: bool = False,
        context: object = None,
    ) -> int:
        """Send one message to the kernel; returns its nlmsg_seq. nlmsg_pid is always the channel's own portid.

        The answers are drained before this returns to the loop. With `only_failure` success is not told to `replied`;
        `context` is handed back with what is. Raises KernelError when the kernel refuses.
        """

    def close(self) -> None: ...


class RequestChannel(Protocol):
    """A netlink socket used strictly as question and answer (NETLINK_ISCSI), in its own thread.

    The kernel works inside send(2), for seconds at times, and under one lock for the whole machine: hence one thread,
    one request at a time, and never the loop.
    """

    async def exchange(self, messages: Sequence[bytes], *, deadline_s: float) -> list[bytes]:
        """Send whole messages (header included) in one datagram; one reply per message, in order, header included.

        Raises DeadlineExceeded (the reply is then discarded when it comes) or KernelError.
        """

    def close(self) -> None: ...


class Lane(Protocol):
    """A service's place in the dispatcher: its own thread, its own loop, its channels."""

    def now(self) -> float:
        """The monotonic clock, seconds: what engines get as `now`."""

    def open(self, spec: ChannelSpec, handler: ChannelHandler) -> Channel:
        """Open a channel. LocalError if another service has the same (family, client or group)."""

    def open_requests(self, spec: ChannelSpec) -> RequestChannel:
        """Open a request channel."""

    def ready(self) -> None:
        """The service serves from now on; the daemon reports READY when every service has said so."""

    async def blocking(self, function: Callable[[], T], *, deadline_s: float) -> T:
        """Run a blocking kernel call (scan, unbind, configuration) in a worker thread.

        DeadlineExceeded when the time is up; the thread is then left to end by itself.
        """


class Service(Protocol):
    """One of the programs under the dispatcher. A new instance is made for every (re)start."""

    async def run(self, lane: Lane) -> None:
        """Live until cancelled. Raising, returning or stalling the loop restarts this service and no other."""


class NetlinkSocket(Protocol):
    """The door to the kernel: one bound netlink socket. Errors are OSError, as from socket(2)."""

    portid: int

    def fileno(self) -> int: ...

    def send(self, datagram: bytes) -> None: ...

    def receive(self) -> tuple[bytes, int, int] | None:
        """(datagram, sender's portid, groups bitmask), or None when the queue is empty.

        Something lost is an OSError: ENOBUFS (the queue overran), EMSGSIZE (longer than `receive_bytes`).
        """

    def fence(self) -> None:
        """From any thread: nothing can be sent or received from now on; the descriptor stays taken until `close`."""

    def close(self) -> None: ...


SocketDoor = Callable[[ChannelSpec], NetlinkSocket]
"""How sockets are opened: the real kernel's (`sockets.open_socket`) or a fake's."""
