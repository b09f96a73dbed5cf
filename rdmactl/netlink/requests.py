# SPDX-License-Identifier: Apache-2.0
"""A request channel: NETLINK_ISCSI as strict question and answer, in a thread of its own. Shell ring.

Not here: the formats (`iscsi.py`), events (a `NetlinkChannel` on a second socket), sequences of requests.
Behaviour: drivers/scsi/scsi_transport_iscsi.c (iscsi_if_rx), net/netlink/af_netlink.c.

The kernel executes a request inside send(2), under one mutex for the whole machine, in microseconds or in seconds.
The unicast answers are queued when send(2) returns, so they are fetched without waiting, and an empty queue means that
there is none. A deadline cannot end a request, only the wait for it: the thread stays in the kernel, the answer is
thrown away when it comes, and what is queued behind it waits with deadlines of its own. An exchange whose time is up
before its turn is never sent.

This socket joins no group, so nothing but answers arrives on it. (Success of GET_STATS, GET_CHAP and GET_HOST_STATS is
multicast by the kernel, and is an exchange without an answer here.)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rdmactl.errors import DeadlineExceeded, KernelError, LocalError, RdmactlError
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.message import HEADER
from rdmactl.netlink.ports import ChannelSpec, NetlinkSocket
from rdmactl.netlink.workers import block_signals

if TYPE_CHECKING:
    from rdmactl.netlink.trace import Tracer

__all__ = ["NetlinkRequestChannel"]

# Exchanges waiting for their turn. A thousand sessions logging in at once queue one each.
QUEUE_LIMIT = 4096

# Stale answers thrown away before a request is sent: more than this is no leftover but a flood.
STALE_LIMIT = 4096


class _Exchange:
    """A question on its way through the thread and back."""

    __slots__ = ("deadline_s", "error", "future", "loop", "messages", "overruns", "replies", "stale")

    def __init__(self, messages: Sequence[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.messages = messages
        self.loop = loop
        self.future: asyncio.Future[list[bytes]] = loop.create_future()
        self.replies: list[bytes] = []
        self.error: RdmactlError | None = None
        self.overruns = 0
        self.stale = 0


class NetlinkRequestChannel:
    """The implementation of `ports.RequestChannel`. All methods but `fence` belong to the lane's loop."""

    def __init__(
        self,
        socket: NetlinkSocket,
        spec: ChannelSpec,
        *,
        clock: Callable[[], float],
        counters: Counters | None = None,
        tracer: Tracer | None = None,
        name: str = "requests",
        released: Callable[[NetlinkRequestChannel], None] | None = None,
    ) -> None:
        self.portid = socket.portid
        self.spec = spec
        self.counters = counters or Counters()
        self._socket = socket
        self._clock = clock
        self._tracer = tracer
        self._released = released
        self._queue: queue.SimpleQueue[_Exchange | None] = queue.SimpleQueue()
        self._waiting: set[_Exchange] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def exchange(self, messages: Sequence[bytes], *, deadline_s: float) -> list[bytes]:
        """See `ports.RequestChannel.exchange`."""
        if self._closed:
            raise LocalError("the netlink request channel is closed", code="channel-closed")
        if len(self._waiting) >= QUEUE_LIMIT:
            raise LocalError(f"{QUEUE_LIMIT} requests are already waiting for the kernel", code="queue-full")
        exchange = _Exchange(messages, asyncio.get_running_loop())
        self._waiting.add(exchange)
        self._queue.put(exchange)
        try:
            async with asyncio.timeout(deadline_s):
                return await exchange.future
        except TimeoutError:
            raise DeadlineExceeded(f"the kernel did not answer a request within {deadline_s:g} s") from None

    def close(self) -> None:
        """Whoever waits gets an error; the thread ends when the kernel lets go of it, and then closes the socket."""
        if self._closed:
            return
        self._closed = True
        if self._released is not None:
            self._released(self)
        self._queue.put(None)
        for exchange in self._waiting:
            if not exchange.future.done():
                exchange.future.set_exception(
                    LocalError("the netlink request channel was closed", code="channel-closed")
                )
        self._waiting.clear()

    def fence(self) -> None:
        """From any thread: nothing is sent any more; the thread ends when the kernel lets go of it."""
        self._closed = True
        self._socket.fence()
        self._queue.put(None)

    # ---------------------------------------------------------------- on the loop, after the thread

    def _settle(self, exchange: _Exchange) -> None:
        self._waiting.discard(exchange)
        counters = self.counters
        counters.sent += len(exchange.messages)
        counters.replies += len(exchange.replies)
        counters.overruns += exchange.overruns
        counters.unmatched += exchange.stale
        if exchange.future.done():
            counters.late += 1
        elif exchange.error is not None:
            exchange.future.set_exception(exchange.error)
        else:
            exchange.future.set_result(exchange.replies)

    # ---------------------------------------------------------------- in the thread

    def _work(self) -> None:
        block_signals()
        while (exchange := self._queue.get()) is not None and not self._closed:
            # A future that is done has timed out or was cancelled: what nobody waits for is not started.
            if exchange.future.done():
                settle: Callable[[_Exchange], None] = self._waiting.discard
            else:
                settle = self._settle
                self._converse(exchange)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                exchange.loop.call_soon_threadsafe(settle, exchange)
        self._socket.close()

    def _converse(self, exchange: _Exchange) -> None:
        """One send, and one answer for each of its messages."""
        try:
            exchange.stale = len(self._fetch(exchange, STALE_LIMIT))
            exchange.overruns = 0  # of answers nobody waits for any more
            self._send(exchange.messages)
            exchange.replies = self._fetch(exchange, len(exchange.messages))
        except OSError as error:
            number = error.errno or errno.EIO
            exchange.error = KernelError("sendto", number, f"the kernel refused a request: {os.strerror(number)}")
            return
        if len(exchange.replies) < len(exchange.messages):
            exchange.error = self._missing(exchange)

    def _send(self, messages: Sequence[bytes]) -> None:
        if self._tracer is not None:
            for message in messages:
                self._tracer.sent(self._clock(), self.spec.family, self.portid, message)
        self._socket.send(messages[0] if len(messages) == 1 else _concatenate(messages))

    def _fetch(self, exchange: _Exchange, limit: int) -> list[bytes]:
        """What is in the queue now, up to `limit` messages; a loss is counted and reading goes on."""
        replies: list[bytes] = []
        while len(replies) < limit:
            try:
                item = self._socket.receive()
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE):
                    raise
                exchange.overruns += 1
                continue
            if item is None:
                break
            datagram, sender, _ = item
            if sender == 0 and len(datagram) >= HEADER.size:
                replies.append(datagram)
                if self._tracer is not None:
                    self._tracer.received(self._clock(), self.spec.family, self.portid, datagram)
        return replies

    def _missing(self, exchange: _Exchange) -> KernelError:
        got, asked = len(exchange.replies), len(exchange.messages)
        if exchange.overruns:
            return KernelError("recvfrom", errno.ENOBUFS, f"the kernel dropped {asked - got} of {asked} answers")
        return KernelError("recvfrom", errno.ENODATA, f"no reply: the kernel answered {got} of {asked} requests")


def _concatenate(messages: Sequence[bytes]) -> bytes:
    """Several messages as one datagram: each starts at a multiple of four."""
    return b"".join(message + bytes(-len(message) & 3) for message in messages)
