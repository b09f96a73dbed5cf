# SPDX-License-Identifier: Apache-2.0
"""From the kernel's event stream to the sessions it is about. Shell ring.

The event socket is one for all sessions; each session has an `Inbox` that exactly one coroutine reads at a time: its
login, its supervisor or its logout.

The kernel's events carry no generation: after a connection was stopped, those of the old one may still be queued. They
are all in the socket's queue when the answer to STOP_CONN is here, so `barrier` (let the loop empty the socket) and
`Inbox.clear` together forget them.

Not here: what an event means for a session (`service.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from rdmactl.errors import DeadlineExceeded
from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import ConnError, ReceivedPdu, SessionDestroyed, SessionStatistics, SessionUnbound
from rdmactl.netlink.iscsi_stats import Statistics
from rdmactl.netlink.ports import ChannelSpec, Received, Reply

__all__ = ["EVENTS", "Inbox", "Inboxes", "Item"]

# A path failure of a few hundred sessions fits in 8 MiB; a login response has up to 8 KiB of data.
EVENTS = ChannelSpec(
    iscsi.NETLINK_ISCSI,
    groups=(iscsi.ISCSI_NL_GRP_ISCSID,),
    receive_buffer_bytes=8 << 20,
    receive_bytes=16 << 10,
)

Item = ReceivedPdu | ConnError | SessionDestroyed

_INBOX_LIMIT = 256  # PDUs nobody has read: a target that floods loses the oldest
_BARRIER_TURNS = 1000


class Inbox:
    """What has happened to one session."""

    def __init__(self) -> None:
        self.unbound = asyncio.Event()
        self.destroyed = asyncio.Event()
        self.settled = asyncio.Event()  # its login or logout is over, well or not
        self.failed = False  # the connection is lost; who releases it takes this back
        self._items: deque[Item] = deque(maxlen=_INBOX_LIMIT)
        self._hints: deque[str] = deque(maxlen=1)
        self._arrived = asyncio.Event()

    def put(self, item: Item) -> None:
        self.failed = self.failed or isinstance(item, ConnError)
        self._items.append(item)
        self._arrived.set()

    def end(self, news: SessionDestroyed) -> None:
        """The session is no more."""
        self.unbound.set()
        self.destroyed.set()
        self.put(news)

    def clear(self) -> None:
        """Forget PDUs and errors; they are of a connection that is no more."""
        self._items.clear()
        self._arrived.clear()

    def hint(self, text: str) -> None:
        """Something outside of the session that makes another attempt promising."""
        self._hints.append(text)
        self._arrived.set()

    async def anything(self) -> None:
        """Return when there is something to take."""
        while not self._items and not self._hints:
            self._arrived.clear()
            await self._arrived.wait()

    def take(self) -> list[Item]:
        """What has happened, in the order of the wire."""
        items = list(self._items)
        self._items.clear()
        return items

    def take_hints(self) -> list[str]:
        """The latest hint, if there is one nobody has taken."""
        hints = list(self._hints)
        self._hints.clear()
        return hints

    async def next(self) -> Item:
        """The next PDU, error or end, in the order of the wire. Bound it with a time-out where an answer is awaited."""
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()


class Inboxes:
    """All inboxes, and the handler of the event channel (`ports.ChannelHandler`)."""

    def __init__(self, on_overrun: Callable[[], None]) -> None:
        self._by_sid: dict[int, Inbox] = {}
        self._on_overrun = on_overrun
        self._turns = 0
        self._statistics: dict[int, set[asyncio.Future[Statistics]]] = {}
        self.malformed = 0

    def open(self, sid: int) -> Inbox:
        """Begin to listen for a session; earlier events are lost, so do it before the kernel has reason to send any."""
        inbox = self._by_sid[sid] = Inbox()
        return inbox

    def close(self, sid: int) -> None:
        """Stop listening."""
        inbox = self._by_sid.pop(sid, None)
        if inbox is not None:
            inbox.settled.set()

    def get(self, sid: int) -> Inbox | None:
        """The inbox of a session that is listened for."""
        return self._by_sid.get(sid)

    def all(self) -> list[tuple[int, Inbox]]:
        """(sid, inbox) of every session that is listened for."""
        return list(self._by_sid.items())

    @contextlib.contextmanager
    def statistics(self, sid: int) -> Iterator[asyncio.Future[Statistics]]:
        """The next answer to GET_STATS about a session, whoever asked: counters are the same for everybody."""
        future: asyncio.Future[Statistics] = asyncio.get_running_loop().create_future()
        waiting = self._statistics.setdefault(sid, set())
        waiting.add(future)
        try:
            yield future
        finally:
            waiting.discard(future)
            if not waiting and self._statistics.get(sid) is waiting:
                del self._statistics[sid]

    def __contains__(self, sid: int) -> bool:
        return sid in self._by_sid

    async def barrier(self) -> None:
        """Return when everything the kernel had queued before this call has been delivered.

        The loop polls its descriptors once per turn; two turns without a batch mean that the socket was empty.
        """
        for _ in range(_BARRIER_TURNS):
            before = self._turns
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if self._turns == before:
                return
        raise DeadlineExceeded("the kernel's event queue does not run empty")

    def received(self, received: Received, now: float) -> None:
        """A multicast message; those about sessions of others are theirs."""
        if received.message.type != 0:
            return
        event = iscsi.parse_event(received.message)
        if event is None:
            self.malformed += 1
            return
        if isinstance(event, SessionStatistics):
            for future in self._statistics.pop(event.sid, ()):
                if not future.done():
                    future.set_result(event.statistics)
            return
        inbox = self._by_sid.get(getattr(event, "sid", -1))
        if inbox is None:
            return
        match event:
            case ReceivedPdu() | ConnError():
                inbox.put(event)
            case SessionUnbound():
                inbox.unbound.set()
            case SessionDestroyed():
                inbox.end(event)

    def replied(self, reply: Reply, now: float) -> None:
        """Nothing is sent on this channel."""

    def overrun(self, now: float) -> None:
        self._on_overrun()

    def drained(self, now: float) -> None:
        self._turns += 1
