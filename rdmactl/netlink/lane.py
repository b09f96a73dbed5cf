# SPDX-License-Identifier: Apache-2.0
"""A lane: one service instance with its own thread, its own asyncio loop and its own sockets. Shell ring.

Not here: deciding to restart (`supervisor.py`), message handling (`channel.py`), anything a service does.

Why a thread for each service. The kernel waits for the port mapper, for seconds and under a mutex of rdma_cm; iSCSI's
control path may at the same time sit in a handler that takes too long, or in a bug that never returns. Two tasks on one
loop would share that fate. Two processes would not share the dispatcher. With a thread, a loop and sockets each, a
stalled instance can be left behind and a new one started, and the other service sees nothing of it.

Leaving one behind ("abandoning") has to be safe, because its thread may wake at any later moment:

* its channels are fenced: the sockets are taken from under the descriptors, nothing can be sent or received again;
* so is every descriptor its loop watches (UDP sockets, connections): the successor can bind the same ports, and the
  numbers stay taken, so that a late write cannot reach a stranger's socket;
* an exception is raised in the thread; it ends loops in Python at once and sleeping calls when they return. It derives
  from SystemExit because asyncio swallows any other exception of a callback;
* when the thread has ended, the main thread gives the descriptors back (`dispose`). No code of the service runs again.

An ended lane is never used again: a restart is a new object.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import selectors
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rdmactl.errors import LocalError, Unavailable
from rdmactl.netlink.channel import NetlinkChannel
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.ports import ChannelHandler, ChannelSpec, Service, SocketDoor
from rdmactl.netlink.registry import Claim, Registry
from rdmactl.netlink.requests import NetlinkRequestChannel
from rdmactl.netlink.sockets import fence_descriptor
from rdmactl.netlink.trace import Tracer
from rdmactl.netlink.workers import WorkerPool, block_signals

__all__ = ["ServiceLane"]

T = TypeVar("T")

# What tasks of an ended service get to clean up after themselves.
_CLEAN_UP_S = 1.0


class _Abandoned(SystemExit):
    """Raised inside the thread of an abandoned lane, from outside."""


class ServiceLane:
    """The implementation of `ports.Lane`, and the handle the supervisor holds.

    `open`, `open_requests`, `ready`, `blocking` and `now` are the service's, on the lane's thread. All other
    public methods are the supervisor's, on the main thread. `changed` is called from the lane's thread.
    """

    def __init__(
        self,
        name: str,
        factory: Callable[[], Service],
        *,
        door: SocketDoor,
        registry: Registry,
        pool: WorkerPool,
        tracer: Tracer | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.counters = Counters()
        self.is_ready = False
        self.has_served = False
        self.started_s = time.monotonic()
        self.ended: concurrent.futures.Future[Exception | None] = concurrent.futures.Future()
        self._factory = factory
        self._door = door
        self._registry = registry
        self._pool = pool
        self._tracer = tracer
        self._changed = changed
        self._service: Service | None = None
        self._channels: dict[NetlinkChannel | NetlinkRequestChannel, Claim | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._abandoned = False
        self._error: Exception | None = None
        self._silent_since: float | None = None
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._loop.set_exception_handler(self._callback_failed)
        self._own_descriptors = frozenset(key.fd for key in self._selector.get_map().values())
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    # ---------------------------------------------------------------- for the service

    now = staticmethod(time.monotonic)

    def open(self, spec: ChannelSpec, handler: ChannelHandler) -> NetlinkChannel:
        """See `ports.Lane.open`. Unavailable or KernelError when the socket cannot be had."""
        self._refuse_if_abandoned()
        claim = self._registry.claim(self.name, spec)
        try:
            socket = self._door(spec)
        except BaseException:
            self._registry.release(claim)
            raise
        channel = NetlinkChannel(
            socket,
            spec,
            handler,
            clock=time.monotonic,
            schedule=self._loop.call_soon,
            failed=self._fail,
            counters=self.counters,
            tracer=self._tracer,
            released=self._channel_closed,
        )
        self._channels[channel] = claim
        self._refuse_if_abandoned(channel)
        self._loop.add_reader(socket.fileno(), channel.turn)
        return channel

    def open_requests(self, spec: ChannelSpec) -> NetlinkRequestChannel:
        """See `ports.Lane.open_requests`."""
        self._refuse_if_abandoned()
        if spec.groups:
            raise LocalError("a request channel joins no group: events would be taken for answers")
        channel = NetlinkRequestChannel(
            self._door(spec),
            spec,
            clock=time.monotonic,
            counters=self.counters,
            tracer=self._tracer,
            name=f"{self.name}-requests",
            released=self._requests_closed,
        )
        self._channels[channel] = None
        self._refuse_if_abandoned(channel)
        return channel

    def ready(self) -> None:
        self.is_ready = self.has_served = True
        self._changed()

    async def blocking(self, function: Callable[[], T], *, deadline_s: float) -> T:
        """See `ports.Lane.blocking`."""
        return await self._pool.run(function, deadline_s=deadline_s, what=_name_of(function))

    # ---------------------------------------------------------------- for the supervisor

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancel run(); `ended` tells when it is over."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._cancel)

    def submit(self, function: Callable[[Any], Awaitable[T]]) -> concurrent.futures.Future[T]:
        """Run `function(service)` in the lane. Unavailable if the lane has ended."""
        coroutine = self._invoke(function)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise Unavailable(f"{self.name} is being restarted", hint="try again", code="restarting") from None

    def ping(self, now: float) -> None:
        """Ask the loop for a sign of life, unless it still owes one."""
        if self._silent_since is None:
            self._silent_since = now
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._pong)

    def silent_s(self, now: float) -> float:
        """For how long the loop has owed an answer to `ping`, or a failed service its end."""
        since = self._silent_since
        return 0.0 if since is None else now - since

    def forgive(self, now: float) -> None:
        """Count silence from now on: the judge himself was away (process stopped, machine overloaded)."""
        if self._silent_since is not None:
            self._silent_since = now

    def abandon(self) -> None:
        """Take everything from the instance that it could do harm with, and tell its thread to end."""
        self._abandoned = True
        for channel, claim in list(self._channels.items()):
            channel.fence()
            if claim is not None:
                self._registry.release(claim)
        self._take_descriptors()
        self.interrupt()

    def interrupt(self) -> None:
        """Raise in the thread. Repeat it while the thread lives: code may catch everything."""
        if self._thread.ident is not None and self._thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(_Abandoned))
            with contextlib.suppress(RuntimeError):  # an exception is only raised in Python code: wake an idle loop
                self._loop.call_soon_threadsafe(self._pong)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def dispose(self) -> None:
        """After `abandon`, once the thread has ended: give the descriptors back."""
        for channel in self._channels:
            if isinstance(channel, NetlinkChannel):
                channel.dispose()  # a request channel's thread closes its own
        self._channels.clear()
        self._service = None
        with contextlib.suppress(RuntimeError):
            self._loop.close()

    # ---------------------------------------------------------------- inside the thread

    def _main(self) -> None:
        try:
            block_signals()
            outcome = self._serve()
            self._finish()
        except _Abandoned:
            return
        except Exception as error:
            outcome = error
        self.ended.set_result(outcome)

    def _serve(self) -> Exception | None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._live(), name=self.name)
        self._task.add_done_callback(lambda task: self._loop.stop())
        try:
            self._loop.run_forever()
        except _Abandoned:
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            return LocalError(f"{self.name} ended with {type(error).__name__}", code="ended")
        return self._outcome(self._task)

    async def _live(self) -> None:
        if self._stopping:
            return
        self._service = self._factory()
        await self._service.run(self)
        raise LocalError(f"{self.name} returned although nobody stopped it", code="ended")

    def _outcome(self, task: asyncio.Task[None]) -> Exception | None:
        """Why the service ended; None if it was told to."""
        if self._error is not None:
            return self._error
        if self._stopping:
            return None
        if task.cancelled():
            return LocalError(f"{self.name} cancelled itself", code="ended")
        error = task.exception()
        return error if isinstance(error, Exception) else LocalError(f"{self.name} ended: {error!r}", code="ended")

    def _finish(self) -> None:
        """End what the service has left behind: tasks, channels, descriptors."""
        self.is_ready = False
        self._service = None
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=_CLEAN_UP_S))
        for channel in list(self._channels):
            channel.close()
        self._take_descriptors()
        self._loop.close()

    def _take_descriptors(self) -> None:
        """Release what the loop still watches; the numbers stay taken until their owners close."""
        watched = self._selector.get_map()
        for key in () if watched is None else list(watched.values()):
            if key.fd not in self._own_descriptors:
                fence_descriptor(key.fd)

    def _cancel(self) -> None:
        self._stopping = True
        if self._task is not None:
            self._task.cancel()

    def _pong(self) -> None:
        if self._error is None:  # a failed service that does not end is as good as stalled
            self._silent_since = None

    async def _invoke(self, function: Callable[[Any], Awaitable[T]]) -> T:
        if self._service is None:
            raise Unavailable(f"{self.name} is being started", hint="try again", code="restarting")
        return await function(self._service)

    def _fail(self, error: Exception) -> None:
        """Something in the service raised outside run(): that ends run() too."""
        if self._error is None and not self._stopping:
            self._error = error
            if self._silent_since is None:
                self._silent_since = time.monotonic()
        if self._task is not None:
            self._task.cancel()

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's report of an exception nobody caught: a callback, or a task nobody waited for."""
        error = context.get("exception")
        if isinstance(error, Exception) and not self._abandoned:
            self._fail(error)

    def _refuse_if_abandoned(self, channel: NetlinkChannel | NetlinkRequestChannel | None = None) -> None:
        """A thread that woke too late gets no new socket. Asked before, and again once `_channels` has it."""
        if self._abandoned:
            if channel is not None:
                channel.fence()
            raise LocalError(f"this instance of {self.name} has been given up", code="abandoned")

    def _channel_closed(self, channel: NetlinkChannel) -> None:
        self._loop.remove_reader(channel.fileno())
        claim = self._channels.pop(channel, None)
        if claim is not None:
            self._registry.release(claim)

    def _requests_closed(self, channel: NetlinkRequestChannel) -> None:
        self._channels.pop(channel, None)


def _name_of(function: Callable[[], Any]) -> str:
    name: str = getattr(function, "__name__", "<lambda>")
    return "a blocking call" if name == "<lambda>" else name
