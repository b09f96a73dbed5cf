# SPDX-License-Identifier: Apache-2.0
"""Keep sessions alive: tell the engine what happens, and do what it asks for, one coroutine per session. Shell ring.

The kernel meanwhile holds the session's I/O back, for replacement_timeout seconds; then it fails it, and goes on doing
so until a login succeeds.

Not here: when to do what (`recovery_engine.py`), the steps of an attempt (`login.Logins.again`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator

from rdmactl.errors import RdmactlError
from rdmactl.initiator import params, scan, sysfs
from rdmactl.initiator.breaker import Breakers
from rdmactl.initiator.events import Item
from rdmactl.initiator.kernel import Kernel
from rdmactl.initiator.login import Logins
from rdmactl.initiator.logout import say_goodbye
from rdmactl.initiator.recovery_engine import (
    Action,
    Attempt,
    Goodbye,
    News,
    Policy,
    Recovery,
    Release,
    Remove,
    Rescan,
    Told,
)
from rdmactl.initiator.recovery_states import Event, State
from rdmactl.initiator.session import Phase, Session
from rdmactl.initiator.tasks import Tasks
from rdmactl.iscsi.pdu import Async, AsyncEvent, Opcode
from rdmactl.iscsi.sense import parse_sense
from rdmactl.netlink.iscsi import ConnError, ReceivedPdu, SessionDestroyed, kernel_error_text
from rdmactl.netlink.ports import Lane
from rdmactl.netlink.workers import WorkerPool

__all__ = ["Keeper", "news_of", "pauses"]

log = logging.getLogger(__name__)

_ATTEMPT_S = 30.0  # of a relogin when the record sets no limit
_SCAN_S = 120.0
_OPCODE = 0x3F
_HOST_REMOVED = 1018  # ISCSI_ERR_INVALID_HOST
_REPORTED_LUNS_CHANGED = (0x3F, 0x0E)
_SENSE_LENGTH_BYTES = 2

_ANNOUNCED = {
    AsyncEvent.LOGOUT_REQUEST: Event.LOGOUT_ASKED,
    AsyncEvent.CONNECTION_DROP: Event.DROP_ANNOUNCED,
    AsyncEvent.SESSION_DROP: Event.DROP_ANNOUNCED,
    AsyncEvent.RENEGOTIATE: Event.RENEGOTIATE,
}
_PHASES = {State.UP: Phase.UP, State.GIVEN_UP: Phase.LOST, State.GONE: Phase.LOST}


def pauses(first_s: float, longest_s: float, uniform: Callable[[float, float], float]) -> Iterator[float]:
    """Seconds between attempts: doubling up to `longest_s`, each shortened by up to half of it at random."""
    pause_s = first_s
    while True:
        yield uniform(pause_s / 2, pause_s)
        pause_s = min(pause_s * 2, longest_s)


def news_of(item: Item) -> News | None:
    """What an event of the kernel means to a session that nobody is logging in or out; None for nothing."""
    match item:
        case SessionDestroyed():
            return News(Event.DESTROYED)
        case ConnError(error=error):
            return News(Event.HOST_REMOVED if error == _HOST_REMOVED else Event.LOST, kernel_error_text(error))
        case ReceivedPdu(header=header) if header[0] & _OPCODE == Opcode.ASYNC:
            return _announced(Async.unpack(header), item.data)
    return None


def _announced(message: Async, data: bytes) -> News:
    """The target's asynchronous messages (RFC 7143, 11.9)."""
    event = _ANNOUNCED.get(AsyncEvent(message.event)) if message.event in set(AsyncEvent) else None
    if message.event == AsyncEvent.SCSI:
        sense = parse_sense(data[_SENSE_LENGTH_BYTES:])
        event = Event.LUNS_CHANGED if sense and (sense.asc, sense.ascq) == _REPORTED_LUNS_CHANGED else None
    wait_s = message.parameter3 if event is Event.LOGOUT_ASKED else message.parameter2
    return News(event or Event.OTHER_NEWS, seconds=float(wait_s))


class Keeper:
    """Supervises sessions."""

    def __init__(
        self,
        lane: Lane,
        logins: Logins,
        kernel: Kernel,
        tasks: Tasks,
        breakers: Breakers,
        scans: WorkerPool,
        root: str = "/sys",
    ) -> None:
        self._lane = lane
        self._tasks = tasks
        self._logins = logins
        self._kernel = kernel
        self._breakers = breakers
        self._scans = scans
        self._root = root

    async def keep(self, session: Session, *, lost: bool = False) -> None:
        """Runs until cancelled, or until the session is gone. `lost`: its connection is gone already."""
        engine = Recovery(
            policy(session), random.uniform, self._lane.now(), time2wait_s=0.0 if lost else session.time2wait_s
        )
        if lost:
            self._ask_kernel(session, engine)
            engine.receive(News(Event.LOST, "found without a connection"), self._lane.now())
        while True:
            await self._obey(session, engine)
            if engine.state is State.GONE:
                return
            await self._await_news(session, engine)
            engine.tick(self._lane.now())

    async def _await_news(self, session: Session, engine: Recovery) -> None:
        """Until something has happened or the engine's time has come; the engine is told."""
        wake_at, inbox = engine.wake_at(), session.inbox
        try:
            async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - self._lane.now())):
                await inbox.anything()
        except TimeoutError:
            return
        for item in inbox.take():
            news = news_of(item)
            if news is not None and engine.state is not State.GONE:
                if news.event is Event.LOST:
                    self._ask_kernel(session, engine)
                engine.receive(news, self._lane.now())
        self._pass_hints(session, engine)

    def _ask_kernel(self, session: Session, engine: Recovery) -> None:
        waits_s = sysfs.recovery_timeout(session.sid, self._root)
        if waits_s is not None:
            engine.kernel_waits(waits_s)

    def _pass_hints(self, session: Session, engine: Recovery) -> None:
        for hint in session.inbox.take_hints():
            engine.receive(News(Event.TRY_NOW, hint), self._lane.now())

    async def _obey(self, session: Session, engine: Recovery) -> None:
        """Do what the engine asks for, and what it asks for after that."""
        while actions := engine.take_output():
            for action in actions:
                news = await self._act(session, action)
                if session.inbox.destroyed.is_set() and engine.state is not State.GONE:
                    news = News(Event.DESTROYED)
                self._pass_hints(session, engine)
                if news is not None:
                    engine.receive(news, self._lane.now())

    async def _act(self, session: Session, action: Action) -> News | None:
        match action:
            case Told():
                _tell(session, action)
            case Release():
                await self._release(session)
            case Attempt():
                return await self._attempt(session)
            case Goodbye(deadline_s=deadline_s):
                return await self._goodbye(session, deadline_s)
            case Rescan():
                self._tasks.spawn(self._scanned(session, "look for new LUNs"), f"rescan {session.sid}")
            case Remove():
                await self._remove(session)
        return None

    async def _remove(self, session: Session) -> None:
        try:
            await self._tasks.complete(self._logins.remove(session))
        except RdmactlError as error:
            log.error("%s", error)

    async def _release(self, session: Session) -> None:
        try:
            await self._logins.release(session)
        except RdmactlError as error:  # the next attempt fails, and releases again
            log.warning("%s: %s", session, error)

    async def _attempt(self, session: Session) -> News:
        wait_s = self._breakers.admit(session.request.portal, self._lane.now())
        if wait_s > 0:
            return News(Event.POSTPONED, seconds=wait_s)
        session.attempts += 1
        try:
            await self._logins.again(session, session.request.settings.login_timeout_s or _ATTEMPT_S)
        except RdmactlError as error:
            return News(Event.FAILED, error.message)
        session.recoveries += 1
        self._tasks.spawn(self._scanned(session, "read sizes again"), f"revive {session.sid}")
        return News(Event.LOGGED_IN, seconds=session.time2wait_s)

    async def _goodbye(self, session: Session, deadline_s: float) -> News:
        wait_s = 0
        try:
            async with asyncio.timeout(deadline_s):
                wait_s = await say_goodbye(self._kernel, session)
        except TimeoutError:
            log.info("%s: the target did not answer the logout it asked for", session)
        except RdmactlError as error:
            log.info("%s: %s", session, error)
        return News(Event.GOODBYE_DONE, "logged out, as the target asked", float(wait_s))

    async def _scanned(self, session: Session, purpose: str) -> None:
        """Apart from the supervision: a disk's answer waits for the next recovery when the connection fails."""
        sid, root = session.sid, self._root
        depth = params.queue_depth(session.request.settings)
        work: Callable[[], list[str]] = lambda: scan.revive(sid, root)  # noqa: E731
        if purpose == "look for new LUNs":
            work = lambda: scan.scan(sid, depth, root)  # noqa: E731
        for note in await self._scans.run(work, deadline_s=_SCAN_S, what=f"the scan of session {sid}"):
            log.warning("%s", note)


def policy(session: Session) -> Policy:
    """The record's part in it."""
    settings = session.request.settings
    return Policy(
        reopen_max=settings.reopen_max,
        replacement_s=settings.replacement_timeout_s,
        goodbye_s=settings.logout_timeout_s or _ATTEMPT_S,
        rescan=settings.scan == "auto",
    )


def _tell(session: Session, told: Told) -> None:
    """A change of state, or a new reason: into the timeline and the log. Attempts are only counted."""
    session.phase = _PHASES.get(told.state, Phase.RECOVERY)
    session.last_error = told.reason
    session.note(time.time(), told.reason)
    match told.state:
        case State.UP:
            log.warning("%s: back after %d attempts", session, told.attempts)
            session.attempts = told.attempts
        case State.GIVEN_UP:
            log.error("%s: given up after %d attempts: %s", session, told.attempts, told.reason)
        case _:
            if told.attempts == 0:
                session.attempts = 0
            log.warning("%s: %s: %s", session, told.state.value, told.reason)
