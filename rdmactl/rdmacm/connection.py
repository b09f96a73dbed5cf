# SPDX-License-Identifier: Apache-2.0
"""One RDMA connection that carries messages: made, used and taken down on the loop. Shell ring.

The state moves along `states.TRANSITIONS` only, in `_move`. Two descriptors feed it, without any order between them:
events of the connection manager, and completions. Hence two rules. Before an event is believed, the completion queue
is read until it is empty: the last answer of a target is often found behind its DISCONNECTED. And a flushed work
request is no verdict: the event or the error that explains it gets a moment to arrive.

What may block is not called on the loop: `rdma_connect` on iWARP (a TCP connect inside soft-iWARP), route resolution
on InfiniBand (asks ibacm), freeing. A thread that does not come back cannot be stopped: the connection is then
`stuck`, gives nothing back, and its process has to end, which is why connections live in worker processes.

Not here: what the messages mean (`discovery.py`), listening (`listener.py`), queue pair and memory (`endpoint.py`).
Private data of connection requests: RFC 7145, and annex A12 of the InfiniBand specification (iSER's 4 bytes).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rdmactl.errors import LocalError, PeerError, RdmactlError
from rdmactl.netlink.sockaddr import SOCKADDR_STORAGE_BYTES, SockAddr
from rdmactl.rdmacm import failures, library
from rdmactl.rdmacm.channel import EventChannel, Notice
from rdmactl.rdmacm.endpoint import DISCOVERY, Arena, Endpoint, Sizes
from rdmactl.rdmacm.states import DEVICE_EVENTS, CmEvent, Event, Own, State, UnexpectedEvent, next_state
from rdmactl.rdmacm.steps import Steps

__all__ = ["DEADLINES", "Connection", "Deadlines"]

_RETRY_COUNT = 3
"""Of the transport. Soft-RoCE takes 7 for "for ever"."""

_RNR_RETRY_COUNT = 6
"""How often the peer tries again while we have no buffer posted."""

_MIN_RNR_TIMER = 12
"""0.64 ms between such tries, where the default means 655 ms (IBTA table of RNR NAK timer values)."""

_KERNEL_TIMER_SLACK_S = 1.0
"""Address and route have timers in the kernel, whose event says more than ours; ours is for when it never comes."""

_FLUSH_GRACE_S = 0.05
_INBOX_MIN = 64
"""Messages received and not yet taken, or four times the receives posted: a peer that sends more is broken."""


class Deadlines(NamedTuple):
    """The longest each stage may take, in seconds."""

    address_s: float = 2.0
    route_s: float = 2.0
    connect_s: float = 5.0
    suspect_s: float = 5.0
    close_s: float = 1.0
    close_failed_s: float = 0.2
    free_s: float = 0.5


DEADLINES = Deadlines()


class Connection:
    """A connection to `peer`, whose text names it in errors. `steps` gets the time of each stage.

    Active side: `connect`. Passive side: made by a `Listener`, then `accept`. Then `send` and `receive` whole
    messages, and `close`, always. `device`, `transport` and `local` are known once the route is resolved.
    """

    def __init__(
        self,
        channel: EventChannel,
        peer: str,
        *,
        requested_id: int | None = None,
        sizes: Sizes = DISCOVERY,
        deadlines: Deadlines = DEADLINES,
        steps: Steps | None = None,
    ) -> None:
        module = library.load()
        self._ffi, self._lib = module.ffi, module.lib
        self._loop = asyncio.get_running_loop()
        self._channel, self.peer, self._sizes, self._deadlines = channel, peer, sizes, deadlines
        self.steps = steps or Steps(time.monotonic)
        self.state = State.NEW if requested_id is None else State.BUILD
        self.failure: RdmactlError | None = None
        self.private_data = b""
        self.stuck = False
        self._inbox: deque[bytes] = deque()
        self._inbox_max = max(_INBOX_MIN, 4 * sizes.receives)
        self.on_change: Callable[[], None] | None = None
        """Called on the loop after messages arrived, a send slot became free, or the state changed."""
        self._change: asyncio.Future[None] = self._loop.create_future()
        self._endpoint: Endpoint | None = None
        self._completion_fd = -1
        self._was_up = self._peer_gone = False
        self._closing: asyncio.Task[None] | None = None
        self._suspect_timer: asyncio.TimerHandle | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        if requested_id is None:
            self._id = channel.create_id(self._cm_event)
        else:
            self._id = channel.handle(requested_id)
            channel.adopt(requested_id, self._cm_event)
        self._key = channel.key(self._id)

    @property
    def device(self) -> str:
        """The name of the RDMA device, "" before it is known."""
        context = self._lib.cm_context(self._id) if self.state is not State.CLOSED else self._ffi.NULL
        return "" if context == self._ffi.NULL else str(self._ffi.string(self._lib.device_name(context)).decode())

    @property
    def local(self) -> SockAddr | None:
        """This side's address; None before it is known."""
        return self._address(self._lib.cm_local_addr)

    @property
    def remote(self) -> SockAddr | None:
        """The other side's address; None before it is known."""
        return self._address(self._lib.cm_peer_addr)

    @property
    def transport(self) -> str:
        """ "InfiniBand", "RoCE" or "iWARP"; "" before the device is known."""
        if not self.device:
            return ""
        return "iWARP" if self._is_iwarp else "InfiniBand" if self._is_infiniband else "RoCE"

    @property
    def _is_iwarp(self) -> bool:
        return bool(self._lib.device_is_iwarp(self._lib.cm_context(self._id)))

    @property
    def _is_infiniband(self) -> bool:
        context, port = self._lib.cm_context(self._id), self._lib.cm_port(self._id)
        return bool(self._lib.device_port_is_infiniband(context, port) > 0)

    async def connect(self, destination: SockAddr, private_data: bytes, source: SockAddr | None = None) -> None:
        """Resolve, build, connect. Raises what went wrong; `close` is due all the same."""
        self.steps.begin("address")
        await self._resolve_address(destination, source)
        self.steps.begin("route")
        await self._resolve_route()
        self.steps.begin("resources")
        self._build()
        self.steps.begin("connect")
        await self._connect(private_data)

    async def accept(self, private_data: bytes) -> None:
        """Passive side: build and accept the request this connection was made for."""
        self._build()
        self._move(Own.CONNECT)
        assert self._endpoint is not None
        served = self._endpoint.reads_served
        rc = self._lib.cm_accept(self._id, private_data, len(private_data), served, 0, _RNR_RETRY_COUNT)
        self._check(rc, "rdma_accept")
        await self._leave(State.CONNECT, "connect", self._deadlines.connect_s)

    async def reject(self, private_data: bytes = b"") -> None:
        """Passive side: refuse the request, and close."""
        self._lib.cm_reject(self._id, private_data, len(private_data))
        await self.close()

    @property
    def room(self) -> int:
        """How many messages `post` would take now; 0 when the connection is not up."""
        up = self.failure is None and (self.state is State.UP or self.state is State.SUSPECT)
        return self._endpoint.room if up and self._endpoint is not None else 0

    async def send(self, message: bytes) -> None:
        """Send one message; waits for a free slot, not for its arrival."""
        while True:
            self._require_up()
            if self.room:
                break
            await self._changed()
        self.post((message,))

    def post(self, messages: Sequence[bytes], *, quiet: bool = False) -> None:
        """Send messages at once, as many as there is `room` for, at most `BATCH`. `quiet`: see `Endpoint.send`."""
        self._require_up()
        assert self._endpoint is not None
        try:
            self._endpoint.send(messages, quiet=quiet)
        except RdmactlError as error:
            self._fail(error)
            raise

    def take(self) -> list[bytes]:
        """The messages that have arrived, without waiting."""
        messages = list(self._inbox)
        self._inbox.clear()
        return messages

    def share(self, size_bytes: int, *, writable: bool) -> Arena:
        """Memory for the peer's use until the connection is closed; see `Endpoint.share`."""
        self._require_up()
        assert self._endpoint is not None
        return self._endpoint.share(size_bytes, writable=writable)

    async def receive(self) -> bytes:
        """The next message. What arrived before a failure is still handed out; then the failure is raised."""
        while not self._inbox:
            self._require_up()
            await self._changed()
        return self._inbox.popleft()

    async def close(self) -> None:
        """Take the connection down and give everything back; never raises, harmless when called twice.

        With a call that does not return nothing can be given back: then `stuck` stays True. When the caller is
        cancelled, it goes on by itself.
        """
        if self._closing is None or (self._closing.done() and self.state is not State.CLOSED):
            self._closing = self._loop.create_task(self._take_down())
            self._channel.taking_down(self._closing)
        await asyncio.shield(self._closing)

    async def _take_down(self) -> None:
        self._move(Own.CLOSE)
        if self.state is State.CLOSED or not await self._until(self._returned, self._deadlines.close_failed_s):
            return
        if self._was_up and not self._peer_gone:
            self._lib.cm_disconnect(self._id)
            patience_s = self._deadlines.close_failed_s if self.failure else self._deadlines.close_s
            await self._until(lambda: self._peer_gone, patience_s)  # in a black hole it never comes: go on without
        self._stop_watching()
        self._channel.forget(self._key)
        # On iWARP this waits for the peer's part of the connection set-up, 10 s with soft-iWARP.
        self._start_in_thread(self._free)
        if await self._until(self._returned, self._deadlines.free_s):
            self._move(Own.FREED)

    # Stages

    async def _resolve_address(self, destination: SockAddr, source: SockAddr | None) -> None:
        self._move(Own.RESOLVE)
        to, come_from = destination.pack(), source.pack() if source else b""
        limit_s = self._deadlines.address_s
        rc = self._lib.cm_resolve_addr(self._id, come_from, len(come_from), to, len(to), int(limit_s * 1000))
        self._check(rc, "rdma_resolve_addr")
        await self._leave(State.ADDRESS, "address", limit_s + _KERNEL_TIMER_SLACK_S)
        self._channel.watch_device(self._lib.cm_context(self._id), self._device_event)

    async def _resolve_route(self) -> None:
        limit_s = self._deadlines.route_s
        arguments = (self._lib.cm_resolve_route, self._id, int(limit_s * 1000))
        if self._is_infiniband:
            rc = await self._in_thread(*arguments)  # asks ibacm, if that runs
        else:
            rc = arguments[0](*arguments[1:])
        self._check(rc, "rdma_resolve_route")
        await self._leave(State.ROUTE, "route", limit_s + _KERNEL_TIMER_SLACK_S)

    def _build(self) -> None:
        try:
            self._endpoint = Endpoint(self._id, self._sizes, self.peer)
        except RdmactlError as error:
            self._fail(error)
            raise
        self._completion_fd = self._endpoint.fd
        self._loop.add_reader(self._completion_fd, self._drain)

    async def _connect(self, private_data: bytes) -> None:
        assert self._endpoint is not None
        self._move(Own.CONNECT)
        arguments = (self._id, private_data, len(private_data), self._endpoint.reads_served, 0)
        deadline_s = self._deadlines.connect_s
        try:
            async with asyncio.timeout(deadline_s):
                if self._is_iwarp:
                    rc = await self._in_thread(self._lib.cm_connect, *arguments, _RETRY_COUNT, _RNR_RETRY_COUNT)
                else:
                    rc = self._lib.cm_connect(*arguments, _RETRY_COUNT, _RNR_RETRY_COUNT)
                self._check(rc, "rdma_connect")
                await self._leave(State.CONNECT, "connect", deadline_s)
        except TimeoutError:
            raise self._late("connect", deadline_s) from None
        if not self._is_iwarp:
            self._lib.qp_set_min_rnr_timer(self._id, _MIN_RNR_TIMER)  # only makes recovery faster: no error of ours

    # Events

    def _cm_event(self, notice: Notice) -> None:
        self._drain()
        if notice.kind is CmEvent.ESTABLISHED:
            self._was_up = True
            self.private_data = notice.private_data
        elif notice.kind is CmEvent.DISCONNECTED:
            self._peer_gone = True
            self._lib.cm_disconnect(self._id)  # answers the peer, who waits for it
        self._move(notice.kind, lambda: failures.event_failed(self.peer, notice.kind, notice.status))

    def _device_event(self, kind: int) -> None:
        own = DEVICE_EVENTS.get(kind)
        if own is not None:
            self._move(own, lambda: failures.event_failed(self.peer, CmEvent.DEVICE_REMOVAL, 0))

    def _drain(self) -> None:
        if self._endpoint is None or self._completion_fd < 0:
            return
        try:
            messages, failed = self._endpoint.completions()
            if messages:
                self._received(messages)
            for status in failed:
                self._completed_badly(status)
        except RdmactlError as error:
            self._loop.remove_reader(self._completion_fd)
            self._completion_fd = -1
            self._fail(error)
        self._wake()

    def _received(self, messages: list[bytes]) -> None:
        self._inbox.extend(messages)
        if len(self._inbox) > self._inbox_max:
            self._fail(PeerError(f"{self.peer} sent {len(self._inbox)} messages nobody asked for"))
        elif self.state is not State.UP:
            self._move(Own.ALIVE)

    def _completed_badly(self, status: int) -> None:
        failure = failures.completion_failed(self.peer, status, self._sizes.receive_bytes)
        if status != failures.WR_FLUSH_ERR:
            self._fail(failure)
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(_FLUSH_GRACE_S, self._fail, failure)

    # State

    def _move(self, event: Event, failure: Callable[[], RdmactlError] | None = None) -> None:
        before = self.state
        try:
            self.state = next_state(before, event)
        except UnexpectedEvent as odd:
            self.state = State.FAILED
            self.failure = self.failure or PeerError(f"the RDMA connection to {self.peer} broke: unexpected {odd}")
        if self.state is State.FAILED and self.failure is None and failure is not None:
            self.failure = failure()
        if self.state is State.SUSPECT and before is not State.SUSPECT:
            late = failures.deadline_passed(self.peer, "suspect", self._deadlines.suspect_s)
            self._suspect_timer = self._loop.call_later(self._deadlines.suspect_s, self._fail, late)
        elif self.state is not State.SUSPECT and self._suspect_timer is not None:
            self._suspect_timer.cancel()
            self._suspect_timer = None
        self._wake()

    def _fail(self, failure: RdmactlError) -> None:
        if self.state is not State.CLOSED:
            self._move(Own.FAIL, lambda: failure)

    def _late(self, stage: str, seconds: float) -> RdmactlError:
        late = failures.deadline_passed(self.peer, stage, seconds)
        self._fail(late)
        return self.failure or late

    def _check(self, rc: int, operation: str) -> None:
        if rc < 0:
            self._fail(failures.call_failed(self.peer, operation, -rc))
            assert self.failure is not None
            raise self.failure

    def _require_up(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.state not in (State.UP, State.SUSPECT):
            raise LocalError(f"the connection to {self.peer} is {self.state.value}, not up")

    # Waiting

    def _wake(self) -> None:
        if not self._change.done():
            self._change.set_result(None)
        if self.on_change is not None:
            self.on_change()

    async def _changed(self) -> None:
        if self._change.done():
            self._change = self._loop.create_future()
        await asyncio.shield(self._change)

    async def _leave(self, state: State, stage: str, deadline_s: float) -> None:
        """Wait until the state is another one; raise when it is FAILED, or after the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                while self.state is state:
                    await self._changed()
        except TimeoutError:
            raise self._late(stage, deadline_s) from None
        if self.failure is not None:
            raise self.failure

    async def _until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait until the condition holds; whether it did in time.

        Not asyncio.timeout: up to Python 3.11.4 that one cancels a task for good in which another one has expired, and
        taking down after a deadline is just that.
        """
        end = self._loop.time() + deadline_s
        timer = self._loop.call_at(end, self._wake)
        try:
            while not condition():
                if self._loop.time() >= end:
                    return False
                await self._changed()
        finally:
            timer.cancel()
        return True

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a call that may block. When the caller gives up waiting, the connection is stuck until it returns."""
        return await asyncio.shield(self._start_in_thread(function, *arguments))

    def _start_in_thread(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        self.stuck = True
        call = self._loop.run_in_executor(None, function, *arguments)
        call.add_done_callback(self._call_ended)
        return call

    def _returned(self) -> bool:
        return not self.stuck

    def _call_ended(self, call: asyncio.Future[Any]) -> None:
        self.stuck = False
        self._wake()
        if not call.cancelled():
            call.exception()  # seen: nobody may be waiting any more

    # Giving back

    def _stop_watching(self) -> None:
        for timer in (self._flush_timer, self._suspect_timer):
            if timer is not None:
                timer.cancel()
        context = self._lib.cm_context(self._id)
        if context != self._ffi.NULL:
            self._channel.unwatch_device(context, self._device_event)
        if self._completion_fd >= 0:
            self._loop.remove_reader(self._completion_fd)
            self._completion_fd = -1

    def _free(self) -> None:
        if self._endpoint is not None:
            self._endpoint.free()
        self._lib.cm_destroy_id(self._id)

    def _address(self, getter: Callable[..., int]) -> SockAddr | None:
        if self.state is State.CLOSED:
            return None
        room = self._ffi.new("char[]", SOCKADDR_STORAGE_BYTES)
        length = getter(self._id, room, SOCKADDR_STORAGE_BYTES)
        return SockAddr.unpack(bytes(self._ffi.buffer(room))) if length > 0 else None
