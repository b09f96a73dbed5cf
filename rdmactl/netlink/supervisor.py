# SPDX-License-Identifier: Apache-2.0
"""Keeps one service running: starts its lane, watches it, restarts it alone. Shell ring.

Not here: what happens inside a lane (`lane.py`), the pause between restarts (`restart.py`), the set of services
(`dispatcher.py`).

Runs on the main loop. A service has ended when its run() has raised or returned, or when its loop has not answered a
ping for `stall_s`; in the second case its thread is left behind, fenced, and interrupted until it ends. The supervisor
judges nobody in a moment when it was late itself: after a stopped process or on a choked machine every lane looks so.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from rdmactl.errors import DeadlineExceeded, RdmactlError, Unavailable
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.lane import ServiceLane
from rdmactl.netlink.restart import RestartBackoff

__all__ = ["LaneState", "LaneStatus", "Supervisor"]

T = TypeVar("T")

_log = logging.getLogger("rdmactl.dispatcher")

# Pings within one stall_s: the verdict comes at most a quarter late.
_PINGS = 4

# Abandoned threads that have not ended. Beyond it no new instance is started until one of them does: each holds memory
# and descriptors, and whatever holds them will hold the next one too.
ABANDONED_LIMIT = 8


class LaneState(enum.Enum):
    """Where a service is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One service, as `Dispatcher.status` reports it.

    `state` and `ready` of the present instance, `up_s` its age in seconds (0 between instances), `restarts` since the
    start and `stalls` among them, `abandoned` threads that have not ended yet, `last_error` in words (None: none so
    far), `counters` totals over all instances.
    """

    name: str
    state: LaneState
    ready: bool
    up_s: float
    restarts: int
    stalls: int
    abandoned: int
    last_error: str | None
    counters: Counters


class Supervisor:
    """`make_lane` makes a lane, not yet started; `changed` is called on the main loop when readiness changes."""

    def __init__(
        self,
        name: str,
        make_lane: Callable[[], ServiceLane],
        *,
        stall_s: float,
        changed: Callable[[], None],
        backoff: RestartBackoff | None = None,
    ) -> None:
        self.name = name
        self._make_lane = make_lane
        self._stall_s = stall_s
        self._changed = changed
        self._backoff = backoff or RestartBackoff(random.random)
        self._lane: ServiceLane | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._stop = asyncio.Event()
        self._abandoned: list[ServiceLane] = []
        self._retired = Counters()
        self._restarts = 0
        self._stalls = 0
        self._last_error: str | None = None
        self._recovering = False
        self._up_s = 0.0
        self._stopped = False

    @property
    def is_ready(self) -> bool:
        return self._lane is not None and self._lane.is_ready

    def status(self) -> LaneStatus:
        lane = self._lane
        counters = Counters()
        counters.add(self._retired)
        if lane is not None:
            counters.add(lane.counters)
        return LaneStatus(
            name=self.name,
            state=self._state(),
            ready=self.is_ready,
            up_s=0.0 if lane is None else time.monotonic() - lane.started_s,
            restarts=self._restarts,
            stalls=self._stalls,
            abandoned=sum(other.is_alive() for other in self._abandoned),
            last_error=self._last_error,
            counters=counters,
        )

    def _state(self) -> LaneState:
        if self._stopped:
            return LaneState.STOPPED
        if self._lane is None:
            return LaneState.WAITING
        return LaneState.SERVING if self._lane.is_ready else LaneState.STARTING

    # ---------------------------------------------------------------- the life of a service

    async def run(self, started: Callable[[], None]) -> None:
        """Until `stop`: start, watch, wait, start again. `started` is called once the first lane's thread runs."""
        try:
            while not self._stop.is_set():
                if len(self._abandoned) < ABANDONED_LIMIT:
                    await self._live_once(started)
                await self._pause()
        finally:
            self._stopped = True
            self._changed()

    async def _live_once(self, started: Callable[[], None]) -> None:
        lane = self._make_lane()
        self._lane = lane
        self._gone = asyncio.Event()
        lane.start()
        started()
        try:
            error = await self._watch(lane)
        finally:
            self._lane = None
            self._gone.set()
            self._retired.add(lane.counters)
            self._changed()
        if self._stop.is_set():
            return
        self._up_s = time.monotonic() - lane.started_s
        self._note(error, served=lane.has_served)

    async def _watch(self, lane: ServiceLane) -> Exception | None:
        """Wait for the end of the lane; abandon it when it stalls."""
        ended = asyncio.wrap_future(lane.ended)
        interval_s = self._stall_s / _PINGS
        due_s = time.monotonic() + interval_s
        while True:
            await asyncio.wait({ended}, timeout=interval_s)
            if ended.done():
                return ended.result()
            self.bury()
            self._note_recovery(lane)
            now = time.monotonic()
            if now - due_s > interval_s:
                lane.forgive(now)
            elif lane.silent_s(now) > self._stall_s:
                return self._abandon(lane)
            lane.ping(now)
            due_s = now + interval_s

    def _abandon(self, lane: ServiceLane) -> Exception:
        lane.abandon()
        self._abandoned.append(lane)
        self._stalls += 1
        return DeadlineExceeded(f"{self.name} did not come back to its loop within {self._stall_s:g} s", code="stalled")

    async def _pause(self) -> None:
        """The back-off between two instances."""
        # What an ended instance leaves is one heap of cycles; descriptors hang on it, so it goes now and not some day.
        gc.collect()
        self.bury()
        if self._stop.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.pause_s(self._up_s)):
                await self._stop.wait()

    def bury(self) -> None:
        """Clear away abandoned threads that have ended; interrupt the others, for their code may catch everything."""
        for lane in list(self._abandoned):
            if lane.is_alive():
                lane.interrupt()
            else:
                lane.dispose()
                self._abandoned.remove(lane)
                gc.collect()

    def _note(self, error: Exception | None, *, served: bool) -> None:
        """Count the end of an instance; log it if it is news: a new reason, or the end of one that served."""
        self._restarts += 1
        text = _text(error)
        if served or text != self._last_error:
            unexpected = error is not None and not isinstance(error, RdmactlError)
            _log.error("%s: %s; it is being restarted", self.name, text, exc_info=error if unexpected else None)
        self._last_error = text
        self._recovering = True

    def _note_recovery(self, lane: ServiceLane) -> None:
        if self._recovering and lane.is_ready:
            self._recovering = False
            _log.info("%s: serving again after %d restarts", self.name, self._restarts)

    # ---------------------------------------------------------------- for the dispatcher

    async def call(self, function: Callable[[Any], Awaitable[T]], deadline_s: float) -> T:
        """See `Dispatcher.call`."""
        lane, gone = self._lane, self._gone
        if lane is None:
            raise Unavailable(f"{self.name} is not running", hint=self._last_error, code="restarting")
        answer: asyncio.Future[T] = asyncio.wrap_future(lane.submit(function))
        ending: asyncio.Future[Any] = asyncio.ensure_future(gone.wait())
        both: list[asyncio.Future[Any]] = [answer, ending]
        try:
            await asyncio.wait(both, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not answer.cancelled():
                return answer.result()
            if answer.done() or ending.done():  # a service that ends cancels what runs in it
                raise Unavailable(f"{self.name} was restarted during the call", hint="try again", code="restarting")
            raise DeadlineExceeded(f"{self.name} did not answer within {deadline_s:g} s")
        finally:
            ending.cancel()
            answer.cancel()

    def stop(self) -> None:
        """Ask the service to end; `run` returns when it has."""
        self._stop.set()
        if self._lane is not None:
            self._lane.stop()

    def kill(self) -> None:
        """The time for stopping is up: leave the lane behind."""
        if self._lane is not None:
            self._lane.abandon()
            self._abandoned.append(self._lane)


def _text(error: Exception | None) -> str:
    if error is None:
        return "ended"
    return str(error) if isinstance(error, RdmactlError) else f"{type(error).__name__}: {error}"
