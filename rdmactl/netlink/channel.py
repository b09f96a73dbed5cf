# SPDX-License-Identifier: Apache-2.0
"""A channel: one netlink socket, drained in fair batches, its answers paired with what was sent. Shell ring.

Not here: opening sockets (`sockets.py`), threads and loops (`lane.py`), the meaning of any message. No asyncio either:
the owner calls `turn` when the socket is readable and lends a `schedule` for "once more, soon", so that tests and
replays drive a channel by hand.
Behaviour: netlink(7), net/netlink/af_netlink.c (netlink_ack, netlink_dump, netlink_overrun).

How a message finds its way. NLMSG_DONE and NLMSG_ERROR end what was sent with their seq. A unicast that carries our
own portid and an outstanding seq is part of that answer (a dump). Everything else is news and goes to the handler: the
kernel's own requests carry portid 0 and a counter of the kernel's, which may well equal a seq of ours.

How answers that come while sending are handled. For NETLINK_RDMA the kernel works inside send(2); when it returns, the
answers are queued, each charged with thousands of bytes whatever its length. So `send` moves them into this process at
once, until nothing it has sent is unanswered, and the next delivery takes them from there, never from inside `send`: a
handler is not re-entered, and the caller knows its seq before the answer comes. Whoever only wants to hear of failures
is not told of success, which then costs one comparison.

What is bounded: messages per turn (others on the loop get theirs), datagrams held here (beyond it the kernel's own
limit counts, and tells), outstanding sends, messages of one answer. What is lost is always reported: `overrun`.

An NLMSG_ERROR -EBUSY or -ENOBUFS from NETLINK_RDMA is delivered like any other answer. -EBUSY: not processed, send it
again. -ENOBUFS: the kernel has postponed it to a later recv of ours; its DONE then counts as unmatched.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from rdmactl.errors import KernelError, LocalError
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.message import (
    HEADER,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_RDMA,
    NLM_F_MULTI,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Message,
    reply_code,
    split,
)
from rdmactl.netlink.ports import ChannelHandler, ChannelSpec, NetlinkSocket, Received, Reply

if TYPE_CHECKING:
    from rdmactl.netlink.trace import Tracer

__all__ = ["NetlinkChannel"]

# Datagrams of one turn. At 10 to 20 us each a turn stays near a millisecond, which is what anything else on the loop
# (a timer, a call, another channel) has to wait at most.
QUOTA = 64

# Datagrams moved out of the kernel's queue while sending. A handler may send as many messages as may be outstanding and
# the kernel answers each with few datagrams; beyond it the kernel's own limit counts, and reports.
PENDING_LIMIT = 4096

# Sends without an answer yet. The kernel answers inside send(2), so that only a burst within one turn gathers here.
OUTSTANDING_LIMIT = 1024

# Messages of one answer: a dump of every route of a large host fits; a full Internet table is nobody's business here.
ANSWER_LIMIT = 65536

# A queue that never runs empty must not hide a loss for ever: after this many datagrams (more than an 8 MiB receive
# buffer holds) whatever was queued at the time of the loss has been handled.
LOSS_DATAGRAMS_LIMIT = 16384

_SUCCESS = struct.Struct("=IHHIIi")  # NLMSG_DONE with its header, NLM_F_MULTI, and the code
_ENDS = frozenset({NLMSG_DONE, NLMSG_ERROR})
_HEADER_BYTES = HEADER.size
_pack_header, _unpack_header = HEADER.pack, HEADER.unpack_from
_SEQ_MASK = 0xFFFFFFFF
_tuple = tuple.__new__  # cheaper than a named tuple's own constructor, where it counts
_CLIENT_SHIFT = 10


class _Outstanding:
    """A sent message, what its sender wants to know of it, and what has come for it so far."""

    __slots__ = ("context", "only_failure", "parts", "request")

    def __init__(self, request: Message, only_failure: bool, context: object) -> None:
        self.request = request
        self.only_failure = only_failure
        self.context = context
        self.parts: list[Message] = []

    def reply(self, code: int) -> Reply:
        return Reply(self.request, code, tuple(self.parts), self.context)


class NetlinkChannel:
    """The implementation of `ports.Channel`.

    `clock` gives monotonic seconds, `schedule` runs a function soon on the same loop, `failed` is told what the handler
    raised. All methods but `fence` belong to the thread of that loop.
    """

    def __init__(
        self,
        socket: NetlinkSocket,
        spec: ChannelSpec,
        handler: ChannelHandler,
        *,
        clock: Callable[[], float],
        schedule: Callable[[Callable[[], None]], object],
        failed: Callable[[Exception], None],
        counters: Counters | None = None,
        tracer: Tracer | None = None,
        released: Callable[[NetlinkChannel], None] | None = None,
    ) -> None:
        self.portid = socket.portid
        self.spec = spec
        self.counters = counters or Counters()
        self._socket = socket
        self._handler = handler
        self._clock = clock
        self._schedule = schedule
        self._failed = failed
        self._trace = None if tracer is None else tracer.writer(spec.family, socket.portid)
        self._released = released
        self._framed = spec.family != NETLINK_KOBJECT_UEVENT
        self._done_before_seq, self._done_after_seq = _success(socket.portid)
        self._clients = frozenset(spec.clients) if spec.family == NETLINK_RDMA and spec.clients else None
        self._pending: deque[tuple[bytes, int, int]] = deque()
        self._outstanding: dict[int, _Outstanding] = {}
        self._seq = 0
        self._in_turn = False
        self._scheduled = False
        self._empty = False  # the socket's queue was seen empty in this turn
        self._lost = False
        self._since_loss = 0
        self._closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    # ---------------------------------------------------------------- sending

    def send(
        self,
        type: int,
        payload: bytes = b"",
        *,
        flags: int = 1,
        seq: int | None = None,
        only_failure: bool = False,
        context: object = None,
    ) -> int:
        """See `ports.Channel.send`."""
        if self._closed:
            raise LocalError("the netlink channel is closed", code="channel-closed")
        if seq is None:
            seq = self._seq
            if seq in self._outstanding:
                seq = self._next_seq()
            self._seq = (seq + 1) & _SEQ_MASK
        elif seq in self._outstanding:
            raise LocalError(f"sequence number {seq} is still waiting for its answer")
        datagram = _pack_header(_HEADER_BYTES + len(payload), type, flags, seq, self.portid) + payload
        if self._trace is not None:
            self._trace.write((self._clock(), False, datagram))
            if not self._in_turn:
                self._trace.hand_over()
        try:
            self._socket.send(datagram)
        except OSError as error:
            number = error.errno or errno.EIO
            raise KernelError("sendto", number, f"the kernel took no netlink message: {os.strerror(number)}") from error
        self.counters.sent += 1
        first = self._receive()
        if only_failure and first is not None and not self._lost:
            done = self._done_before_seq + datagram[8:12] + self._done_after_seq
            if first == (done, 0, 0):
                self.counters.replies += 1
                return seq
        if len(self._outstanding) >= OUTSTANDING_LIMIT:
            self._give_up(next(iter(self._outstanding)))
        request = Message(type, flags, seq, self.portid, payload)
        self._outstanding[seq] = _Outstanding(request, only_failure, context)
        self._gather(first)
        return seq

    def _next_seq(self) -> int:
        seq = self._seq
        while seq in self._outstanding:
            seq = (seq + 1) & _SEQ_MASK
        return seq

    def _gather(self, item: tuple[bytes, int, int] | None) -> None:
        """Move what the send has brought out of the kernel's queue, `item` first; deliver it later."""
        pending = self._pending
        while item is not None:
            pending.append(item)
            item = self._receive() if len(pending) < PENDING_LIMIT else None
        if (pending or self._lost) and not self._in_turn:
            self._once_more()

    def _once_more(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self.turn)

    # ---------------------------------------------------------------- receiving

    def turn(self) -> None:
        """Handle one batch. The loop calls this when the socket is readable; it never raises."""
        self._scheduled = False
        if self._closed or self._in_turn:
            return
        self._in_turn = True
        self._empty = False
        self.counters.turns += 1
        now = self._clock()
        try:
            self._batch(now)
            if self._lost and (self._empty or self._since_loss >= LOSS_DATAGRAMS_LIMIT):
                self._report_loss(now)
            if not self._closed:
                self._handler.drained(now)
        except Exception as error:
            self._failed(error)
        finally:
            self._in_turn = False
            if self._trace is not None:
                self._trace.hand_over()
            if self._pending and not self._closed:
                self._once_more()

    def _batch(self, now: float) -> None:
        pending = self._pending
        for _ in range(QUOTA):
            if pending:
                item: tuple[bytes, int, int] | None = pending.popleft()
            elif self._empty:
                return
            else:
                item = self._receive()
            if item is None:
                return
            datagram, sender, groups = item
            self._deliver(datagram, sender, groups, now)
            if self._closed:
                return

    def _receive(self) -> tuple[bytes, int, int] | None:
        """The next datagram; None when the queue is empty. A loss is noted and reading goes on."""
        while True:
            try:
                item = self._socket.receive()
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE):
                    raise
                self.counters.overruns += 1
                self._lost = True
                self._since_loss = 0
                continue
            if item is None:
                self._empty = True
                return None
            if self._lost:
                self._since_loss += 1
            if self._trace is not None:
                self._trace.write((self._clock(), True, item[0]))
            return item

    def _deliver(self, datagram: bytes, sender: int, groups: int, now: float) -> None:
        if sender != 0:
            self.counters.foreign += 1
        elif not self._framed:
            self.counters.messages += 1
            self._handler.received(Received(Message(0, 0, 0, 0, datagram), sender, groups), now)
        elif len(datagram) >= _HEADER_BYTES:
            length, type_, flags, seq, pid = _unpack_header(datagram)
            if length == len(datagram):
                message = _tuple(Message, (type_, flags, seq, pid, datagram[_HEADER_BYTES:]))
                self._route(type_, pid, message, groups, now)
            else:
                self._deliver_packed(datagram, groups, now)
        else:
            self.counters.malformed += 1

    def _deliver_packed(self, datagram: bytes, groups: int, now: float) -> None:
        """Several messages in one datagram, or something behind the only one."""
        size = 0
        for message in split(datagram):
            size += (_HEADER_BYTES + len(message.payload) + 3) & ~3
            self._route(message.type, message.pid, message, groups, now)
            if self._closed:
                return
        if size < len(datagram):
            self.counters.malformed += 1

    def _route(self, type: int, pid: int, message: Message, groups: int, now: float) -> None:
        """`type` and `pid` are the message's: its caller has them at hand."""
        if type in _ENDS:
            self._finish(message, now)
        elif type == NLMSG_NOOP:
            return
        elif pid == self.portid and groups == 0:
            self._collect(message, now)
        elif self._clients is not None and type >> _CLIENT_SHIFT not in self._clients:
            self.counters.foreign += 1
        else:
            self.counters.messages += 1
            self._handler.received(_tuple(Received, (message, 0, groups)), now)

    def _collect(self, message: Message, now: float) -> None:
        """Part of an answer to us."""
        entry = self._outstanding.get(message.seq)
        if entry is None:
            self.counters.unmatched += 1
        elif len(entry.parts) < ANSWER_LIMIT:
            entry.parts.append(message)
        else:
            del self._outstanding[message.seq]
            self.counters.overruns += 1
            entry.parts.clear()
            self._handler.replied(entry.reply(-errno.EMSGSIZE), now)

    def _finish(self, message: Message, now: float) -> None:
        """NLMSG_DONE or NLMSG_ERROR: the end of an answer."""
        entry = self._outstanding.pop(message.seq, None) if message.pid == self.portid else None
        if entry is None:
            self.counters.unmatched += 1
            return
        self.counters.replies += 1
        code = reply_code(message) or 0
        if code or not entry.only_failure:
            self._handler.replied(entry.reply(code), now)

    def _report_loss(self, now: float) -> None:
        """The queue has been emptied: an answer that is not here by now was among what was lost."""
        self._lost = False
        self._since_loss = 0
        if self._empty:
            for seq in list(self._outstanding):
                self._give_up(seq)
        self._handler.overrun(now)

    def _give_up(self, seq: int) -> None:
        del self._outstanding[seq]
        self.counters.unanswered += 1

    # ---------------------------------------------------------------- ending

    def close(self) -> None:
        """Close the socket; nothing is delivered from now on. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        if self._released is not None:
            self._released(self)  # leaves the loop while the descriptor is still valid
        self._socket.close()
        self._pending.clear()
        self._outstanding.clear()

    def fence(self) -> None:
        """From any thread: this channel can neither send nor receive again."""
        self._closed = True
        self._socket.fence()

    def dispose(self) -> None:
        """After `fence`, by whoever has outlived the thread: give the descriptor back."""
        self._socket.close()


def _success(portid: int) -> tuple[bytes, bytes]:
    """NLMSG_DONE with code 0 for this portid: what is in front of the sequence number, and what is behind it."""
    done = _SUCCESS.pack(_SUCCESS.size, NLMSG_DONE, NLM_F_MULTI, 0, portid, 0)
    return done[:8], done[12:]
