# SPDX-License-Identifier: Apache-2.0
"""The dispatcher: owns every netlink socket of a process, and the services that use them. Shell ring.

Not here: port mapping, iSCSI, the control interface, signals. It brings together the parts:

    sockets.py     the door to the kernel            lane.py        a thread, a loop and sockets for one service
    channel.py     events and acknowledgements       supervisor.py  restarts one service alone
    requests.py    strict question and answer        registry.py    who gets which messages
    workers.py     calls that block                  trace.py       what went in and out, and when

It lives on the main loop of the process and never does a service's work there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rdmactl.errors import DeadlineExceeded, LocalError, Unavailable
from rdmactl.netlink.lane import ServiceLane
from rdmactl.netlink.ports import Service, SocketDoor
from rdmactl.netlink.registry import Registry
from rdmactl.netlink.sockets import open_socket
from rdmactl.netlink.supervisor import LaneState, LaneStatus, Supervisor
from rdmactl.netlink.trace import TraceEntry, Tracer
from rdmactl.netlink.workers import WorkerPool

__all__ = ["Dispatcher", "LaneState", "LaneStatus"]

T = TypeVar("T")

# How long a computing lane may keep the interpreter from another one that has work. With Python's default of 5 ms an
# answer to the kernel took 5.1 ms then (p99 10.7), with this 0.6 ms (p99 1.0); without such a neighbour it is 15 us.
_SWITCH_INTERVAL_S = 0.0005


class Dispatcher:
    """`door` opens sockets (the fake kernel's in tests); `stall_s` is how long a service's loop may stand still."""

    def __init__(self, door: SocketDoor = open_socket, *, tracer: Tracer | None = None, stall_s: float = 5.0) -> None:
        self._door = door
        self._tracer = tracer
        self._stall_s = stall_s
        self._registry = Registry()
        self._supervisors: dict[str, Supervisor] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._readiness = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._switch_interval_s = sys.getswitchinterval()

    def add(self, name: str, factory: Callable[[], Service]) -> None:
        """Register a service before `start`. `factory` makes an instance for each start, in its own thread."""
        if self._loop is not None:
            raise LocalError(f"{name} must be added before the dispatcher starts")
        if name in self._supervisors:
            raise LocalError(f"{name} is already registered", code="duplicate")
        pool = WorkerPool(name)  # outlives restarts: a thread that does not come back keeps counting

        def make_lane() -> ServiceLane:
            return ServiceLane(
                name,
                factory,
                door=self._door,
                registry=self._registry,
                pool=pool,
                tracer=self._tracer,
                changed=self._lane_changed,
            )

        self._supervisors[name] = Supervisor(name, make_lane, stall_s=self._stall_s, changed=self._readiness.set)

    async def start(self, deadline_s: float) -> None:
        """Start every service; returns when their threads run. Whether they serve is `wait_ready`'s question."""
        if self._loop is not None:
            raise LocalError("the dispatcher has been started already")
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(min(_SWITCH_INTERVAL_S, self._switch_interval_s))
        started = []
        for supervisor in self._supervisors.values():
            event = asyncio.Event()
            started.append(event.wait())
            self._tasks.append(asyncio.create_task(supervisor.run(event.set), name=f"supervise {supervisor.name}"))
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*started)
        except TimeoutError:
            raise DeadlineExceeded(f"the services' threads did not start within {deadline_s:g} s") from None

    async def stop(self, deadline_s: float) -> None:
        """Cancel every service and wait; one that does not end in time is left behind, fenced. May be repeated."""
        for supervisor in self._supervisors.values():
            supervisor.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=deadline_s)
            for supervisor, task in zip(self._supervisors.values(), self._tasks, strict=True):
                if task in late:
                    supervisor.kill()
                    task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        sys.setswitchinterval(self._switch_interval_s)

    async def call(self, name: str, function: Callable[[Any], Awaitable[T]], *, deadline_s: float) -> T:
        """Run `function(service)` in the lane of the service called `name` and return its result.

        May be called on the main loop and on the loop of another service. Raises what the function raises, Unavailable
        when the service is not running (or ends meanwhile), and DeadlineExceeded, which cancels the function.
        """
        supervisor = self._supervisors.get(name)
        if supervisor is None:
            raise Unavailable(f"this daemon does not run {name}", code="no-such-service")
        calling = supervisor.call(function, deadline_s)
        if self._loop is None or asyncio.get_running_loop() is self._loop:
            return await calling
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(calling, self._loop))

    def trace(self, since: int) -> tuple[int, list[TraceEntry]]:
        """See `Tracer.since`; nothing if this dispatcher traces nothing."""
        return (0, []) if self._tracer is None else self._tracer.since(since)

    def status(self) -> list[LaneStatus]:
        """One entry per service, in the order they were added."""
        return [supervisor.status() for supervisor in self._supervisors.values()]

    async def wait_ready(self, deadline_s: float) -> None:
        """Until every service serves. DeadlineExceeded names those that do not, and why."""
        try:
            async with asyncio.timeout(deadline_s):
                while not all(supervisor.is_ready for supervisor in self._supervisors.values()):
                    await self._readiness.wait()
                    self._readiness.clear()
        except TimeoutError:
            missing = [status for status in self.status() if not status.ready]
            names = ", ".join(status.name for status in missing)
            errors = "; ".join(status.last_error for status in missing if status.last_error)
            raise DeadlineExceeded(f"not ready within {deadline_s:g} s: {names}", hint=errors or None) from None

    def _lane_changed(self) -> None:
        """Called in a lane's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._readiness.set)
