# SPDX-License-Identifier: Apache-2.0
"""The life of a daemon, the same for all three: claim roles, start, tell systemd, obey signals, stop. Face ring.

The order matters. The roles are claimed before anything of the kernel's is opened, so that a running C daemon is
refused and never raced. READY is told only when every service says that it serves. The control sockets open before
that, so that a slow start can be looked at.

Not here: which services a program has (`rdmactld.py`, `iwpmd.py`, `iserd.py`), options, logging (`logs.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rdmactl import __version__
from rdmactl.control.roles import RoleLock, claim_role
from rdmactl.control.server import ControlServer
from rdmactl.daemons.notify import tell, watchdog_interval_s
from rdmactl.errors import DeadlineExceeded, RdmactlError, Unavailable
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.ports import Service, SocketDoor
from rdmactl.netlink.sockets import open_socket
from rdmactl.netlink.trace import Tracer

__all__ = ["EXIT_FAILED", "Program", "run"]

_log = logging.getLogger("rdmactl.daemon")

EXIT_FAILED = 1
# As LimitNOFILE= of the units.
_DESCRIPTORS = 102400
TRACE_VARIABLE = "RDMACTL_TRACE"
# The last few hundred messages: what there was before somebody came to look.
TRACE_BYTES = 256 << 10
# A service thread starts in milliseconds; only a machine that does not schedule us at all takes this long.
_START_S = 30.0
# systemd's own limit for a start is 90 s.
_READY_S = 60.0
# How often a service that does not become ready is asked whether it has failed.
_LOOK_S = 0.25
# A collection every few thousand mappings. What cycles there are (exceptions, mostly) is small.
_GARBAGE_OBJECTS = 20_000
# Cancelling a service closes sockets and cannot wait for a peer.
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """What distinguishes one daemon from another.

    `services` by role name; `attached` are further ones, without a role of their own, which work through the dispatcher
    they are given; `exit_status` of the signals that end it; `dump` does what SIGUSR1 asks for (None: the
    signal is ignored); `serving` is called once when every service serves; `door` opens the netlink sockets.
    """

    name: str
    services: Mapping[str, Callable[[], Service]]
    exit_status: Mapping[signal.Signals, int]
    attached: Mapping[str, Callable[[Dispatcher], Service]] = field(default_factory=dict)
    dump: Callable[[Dispatcher], Awaitable[None]] | None = None
    initiator_name: str = ""
    serving: Callable[[], None] = field(default=lambda: None)
    door: SocketDoor = open_socket


def run(make: Callable[[], Program]) -> int:
    """Make the program and run it until a signal ends it; the exit status.

    A failure to start, the making included, is one log line and EXIT_FAILED.
    """
    gc.disable()  # until it serves: reading ten thousand records makes no garbage
    try:
        program = make()
        _raise_descriptor_limit()
        with _claimed(program.services) as locks:
            return asyncio.run(_Daemon(program, locks).run())
    except RdmactlError as error:
        _log.error("%s", error)
        tell(f"STATUS={error.message}")
        return EXIT_FAILED


@contextlib.contextmanager
def _claimed(roles: Mapping[str, object]) -> Iterator[list[RoleLock]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(claim_role(role)) for role in roles]


def _raise_descriptor_limit() -> None:
    """Each mapped port is a descriptor; the soft limit of 1024 exists for programs that use select(2).

    Without systemd the hard limit is often 4096; raising it needs CAP_SYS_RESOURCE.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _DESCRIPTORS:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
            return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tracer() -> Tracer:
    """Keeps the last netlink messages in memory; records all of them when the environment names a file."""
    tracer = Tracer(TRACE_BYTES)
    path = os.environ.get(TRACE_VARIABLE)
    if path:
        tracer.record(path)
    return tracer


class _Daemon:
    def __init__(self, program: Program, locks: list[RoleLock]) -> None:
        self._program = program
        self._dispatcher = Dispatcher(program.door, tracer=_tracer())
        for role, factory in program.services.items():
            self._dispatcher.add(role, factory)
        for name, attach in program.attached.items():
            self._dispatcher.add(name, partial(attach, self._dispatcher))
        self._control = ControlServer(self._dispatcher, locks, initiator_name=program.initiator_name)
        self._ended_by: asyncio.Future[signal.Signals]
        self._dumps: set[asyncio.Future[None]] = set()

    async def run(self) -> int:
        self._ended_by = asyncio.get_running_loop().create_future()
        self._obey_signals()
        _log.info("%s %s starting, pid %d", self._program.name, __version__, os.getpid())
        serving = asyncio.create_task(self._serve())
        awaited: list[asyncio.Future[Any]] = [serving, self._ended_by]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()  # it ends only by raising
            number = self._ended_by.result()
            _log.info("%s ends: %s", self._program.name, number.name)
            return self._program.exit_status[number]
        finally:
            tell("STOPPING=1")
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await self._control.stop()
            await self._dispatcher.stop(_STOP_S)

    async def _serve(self) -> None:
        await self._dispatcher.start(_START_S)
        await self._control.start()
        alive = asyncio.create_task(_keep_alive())
        try:
            await self._wait_ready()
            # What is there by now stays; the collector need not walk through it each time it looks for cycles, and it
            # looks less often: what a message of the kernel leaves behind is no garbage but the table.
            gc.freeze()
            gc.set_threshold(_GARBAGE_OBJECTS)
            gc.enable()
            self._program.serving()
            tell("READY=1", "STATUS=serving")
            await alive
        finally:
            alive.cancel()

    async def _wait_ready(self) -> None:
        """Until every service serves, or has failed once; raises Unavailable when all have failed.

        One that failed is tried again by the dispatcher (its module may be loaded in an hour); a daemon whose only
        service cannot start says why and ends, so that whoever started it knows.
        """
        end = asyncio.get_running_loop().time() + _READY_S
        while True:
            with contextlib.suppress(DeadlineExceeded):
                return await self._dispatcher.wait_ready(_LOOK_S)
            lanes = [lane for lane in self._dispatcher.status() if lane.name in self._program.services]
            failed = [lane for lane in lanes if not lane.ready and lane.last_error is not None]
            if len(failed) == len(lanes):
                raise Unavailable("; ".join(f"{lane.last_error}" for lane in failed), code="cannot-start")
            late = [lane for lane in lanes if not lane.ready and lane.last_error is None]
            if not late:
                for lane in failed:
                    _log.warning("%s does not serve yet: %s", lane.name, lane.last_error)
                return None
            if asyncio.get_running_loop().time() > end:
                names = " and ".join(lane.name for lane in late)
                raise DeadlineExceeded(f"{names} did not become ready within {_READY_S:g} s")

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in self._program.exit_status:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGUSR1, self._dump)

    def _end(self, number: signal.Signals) -> None:
        if not self._ended_by.done():
            self._ended_by.set_result(number)

    def _dump(self) -> None:
        if self._program.dump is not None:
            dump = asyncio.ensure_future(self._program.dump(self._dispatcher))
            self._dumps.add(dump)
            dump.add_done_callback(self._dumps.discard)


async def _keep_alive() -> None:
    """Signs of life for systemd's watchdog, from the main loop: the dispatcher itself watches the services."""
    interval_s = watchdog_interval_s()
    while True:
        await asyncio.sleep(interval_s or 3600)
        if interval_s:
            tell("WATCHDOG=1")
