# SPDX-License-Identifier: Apache-2.0
"""The initiator under the dispatcher: logs in and out, discovers, keeps sessions alive. Shell ring.

Two netlink channels. One carries requests, each answered before the next; the kernel may hold it up for seconds, in a
thread of its own. The other one carries the kernel's events, for all sessions of this host, and is never behind.

Sessions of whoever made them are treated alike, because the kernel's list is the truth: what runs when this service
starts is supervised from then on, and nothing of it is touched. Stopping the service leaves all sessions as they are.

Not here: records (the caller sends all settings), the protocol (`rdmactl.iscsi`), steps (`login.py`, `logout.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rdmactl.errors import RdmactlError
from rdmactl.initiator import modules, params, scan, sysfs, usage
from rdmactl.initiator.adoption import Adoption, judge, maker_lives
from rdmactl.initiator.api import (
    DiscoveryAnswer,
    DiscoveryRequest,
    LoginRequest,
    SessionHistory,
    SessionStatus,
)
from rdmactl.initiator.breaker import Breakers
from rdmactl.initiator.claims import ADMINISTRATOR, Claims, checked, with_claim, without_claim
from rdmactl.initiator.events import EVENTS, Inboxes
from rdmactl.initiator.failures import TryAgain, translated
from rdmactl.initiator.io_flusher import mark_this_thread
from rdmactl.initiator.kernel import Kernel, KernelSession
from rdmactl.initiator.login import Logins
from rdmactl.initiator.logout import log_out
from rdmactl.initiator.paths import watch
from rdmactl.initiator.recovery import Keeper, pauses
from rdmactl.initiator.runtime import Kept, RuntimeRecords
from rdmactl.initiator.session import Phase, Session
from rdmactl.initiator.sysfs import SessionView
from rdmactl.initiator.tasks import Tasks
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.iscsi import NETLINK_ISCSI, ConnError, SessionDestroyed
from rdmactl.netlink.iscsi_stats import Statistics
from rdmactl.netlink.ports import Channel, ChannelSpec, Lane
from rdmactl.netlink.workers import WorkerPool

if TYPE_CHECKING:
    from rdmactl.initiator.discovery import Discoveries
    from rdmactl.isns.api import IsnsRequest

__all__ = ["InitiatorService"]

log = logging.getLogger(__name__)

_REQUESTS = ChannelSpec(NETLINK_ISCSI, receive_buffer_bytes=1 << 20)
_MODULES_S = 60.0
_SCAN_S = 120.0
_DISKS_S = 10.0
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0
_DEFAULT_TOTAL_S = 120.0  # of a first login when the record sets no limit
_UNWELCOME_LIMIT = 3  # connections ended upon our CHAP response: no longer a coincidence
_CLEAN_UP_S = 5.0
_USES_S = 30.0
_STATISTICS_S = 5.0
_RECORD_S = 10.0
_PAST_MAX = 256  # ended sessions whose timelines are still told
_LOST = 1011  # ISCSI_ERR_CONN_FAILED


class InitiatorService:
    """One instance per life of the service (`ports.Service`). `root` is where sysfs is."""

    def __init__(
        self,
        root: str = "/sys",
        *,
        runtime: str | None = None,
        settings_of: Callable[[SessionView], LoginRequest | None] = lambda view: None,
        record_moved: Callable[[LoginRequest, Portal], bool] = lambda request, portal: False,
        ready_transport: Callable[[str, str], int] | None = None,
        scans: WorkerPool | None = None,
    ) -> None:
        """`runtime`: directory of what outlives the daemon, None: nothing does. `settings_of`: from the records;
        `record_moved`: tell them of a permanent redirection, True when there was one to change. `scans`: threads that
        outlive this instance, because one that hangs in a scan does."""
        self._root = root
        self._runtime = None if runtime is None else RuntimeRecords(runtime)
        self._settings_of = settings_of
        self._record_moved = record_moved
        self._breakers = Breakers()
        self._past: deque[SessionHistory] = deque(maxlen=_PAST_MAX)
        self._ready_transport = ready_transport or modules.transport_ready
        self._sessions: dict[int, Session] = {}
        self._under_way: list[LoginRequest] = []
        self._calls: set[asyncio.Task[object]] = set()  # callers' own tasks, inside login()
        self._tasks = Tasks()
        self._scans = scans or WorkerPool("initiator-scans")  # they wait for targets; nothing else shall wait for them
        self._overrun = asyncio.Event()
        self._overruns = 0
        self._inboxes = Inboxes(self._overrun_noted)
        self._discoveries: Discoveries | None = None

    async def run(self, lane: Lane) -> None:
        """See `ports.Service.run`."""
        self._lane = lane
        if not mark_this_thread():
            log.debug("not marked as an I/O flusher: that takes CAP_SYS_RESOURCE")
        lane_events = lane.open(EVENTS, self._inboxes)
        requests = lane.open_requests(_REQUESTS)
        self._kernel = Kernel(requests, self._root)
        self._logins = Logins(
            lane,
            self._kernel,
            self._inboxes,
            self._tasks,
            self._breakers,
            root=self._root,
            portal_back=self._portal_back,
            moved=self._moved,
        )
        self._keeper = Keeper(lane, self._logins, self._kernel, self._tasks, self._breakers, self._scans, self._root)
        paths: list[Channel] = []
        try:
            self._adopt()
            paths = watch(lane, self._path_opened)
            lane.ready()
            self._ready_discoveries().prepare(self._root)
            while True:
                await self._overrun.wait()
                self._overrun.clear()
                await self._inboxes.barrier()
                self._resynchronise()
        finally:
            await self._wind_up()
            requests.close()
            lane_events.close()
            for path in paths:
                path.close()

    # ---------------------------------------------------------------- what callers ask

    async def discover(self, request: DiscoveryRequest | IsnsRequest) -> DiscoveryAnswer:
        """SendTargets over TCP or iSER, or a query to an iSNS server. IscsiFailure."""
        return await self._ready_discoveries().discover(request)

    def _ready_discoveries(self) -> Discoveries:
        """Imported behind READY: a tenth of a daemon's start, of which no session needs anything."""
        if self._discoveries is None:
            from rdmactl.initiator.discovery import Discoveries

            self._discoveries = Discoveries(self._lane)
        return self._discoveries

    async def login(self, request: LoginRequest, claim: str = ADMINISTRATOR) -> int:
        """Log in; the sid. With scan "auto" the LUNs are scanned and their block devices there. IscsiFailure.

        The session is claimed for `claim`. When there are enough (15), those there are get the claim as well.
        """
        checked(claim)
        try:
            return await self._log_in(request, claim)
        except IscsiFailure as failure:
            if failure.err is IscsiErr.SESS_EXISTS:
                for session in [each for each in self._sessions.values() if each.request.identity == request.identity]:
                    self._claim(session, claim)
            raise

    async def _log_in(self, request: LoginRequest, claim: str) -> int:
        with translated(str(request)), self._room_for(request), self._cancellable():
            session = await self._first_login(request)
            session.claims = (claim,)
            self._supervise(session, "logged in")
        self._keep_record(session)
        log.info("%s: logged in", session)
        if request.settings.scan == "auto":
            await self._scan(session)
        return session.sid

    async def logout(
        self, sid: int, claim: str = ADMINISTRATOR, *, everybody: bool = False, safe: bool = False
    ) -> Claims:
        """Give a claim up, or those of `everybody`; with the last one log out and leave nothing. What claims are left.

        IscsiFailure: 2 no such session, 28 `claim` holds none and others do; 28 its disks are in use and it shall be
        `safe`; 28 still being torn down after a long time. A session that is being logged in or out just now is waited
        for: sysfs shows it before its login is over here, and of two who want it gone the second one is as content as
        the first.
        """
        checked(claim)
        session = await self._settled(sid)
        if session is not None and safe and (everybody or not without_claim(session.claims, claim, str(session))):
            await self._lane.blocking(lambda: usage.refuse_if_used(sid, self._root), deadline_s=_USES_S)
            session = await self._settled(sid)
        if session is None:
            return ()
        left = () if everybody else without_claim(session.claims, claim, str(session))
        if left:
            session.claims = left
            self._keep_record(session)
            log.info("%s: %s gave its claim up, it stays for %s", session, claim, ", ".join(left))
            return left
        session.phase = Phase.LOGOUT
        session.inbox.settled.clear()
        with translated(str(session)):
            await self._tasks.complete(self._end(session))
        log.info("%s: logged out", session)
        return ()

    async def claim(self, sid: int, claim: str) -> Claims:
        """Keep a session that is there for one more; all its claims. IscsiFailure: 2 no such session."""
        checked(claim)
        session = await self._settled(sid)
        if session is None:
            raise IscsiFailure(IscsiErr.SESS_NOT_FOUND, f"session {sid} has just been logged out")
        self._claim(session, claim)
        return session.claims

    async def _settled(self, sid: int) -> Session | None:
        """A session that nobody is logging in or out; None when it has gone just now. IscsiFailure: no such session."""
        known = sid in self._inboxes
        while (inbox := self._inboxes.get(sid)) is not None and not inbox.settled.is_set():
            await inbox.settled.wait()
        session = self._sessions.get(sid)
        if session is None:
            view = sysfs.session(sid, self._root)
            session = None if view is None else self._take_over(view)
        if session is None and not known:
            raise IscsiFailure(IscsiErr.SESS_NOT_FOUND, f"no session {sid}")
        return session

    def _claim(self, session: Session, claim: str) -> None:
        before, session.claims = session.claims, with_claim(session.claims, claim)
        if session.claims != before:
            self._keep_record(session)
            log.info("%s: %s claims it, too", session, claim)

    def _keep_record(self, session: Session) -> None:
        if self._runtime is not None:
            self._runtime.save(session.sid, session.request, session.claims)

    async def statistics(self, sid: int) -> Statistics:
        """Counters of a session, whoever made it. IscsiFailure: 2 no such session, 33 no answer."""
        view = sysfs.session(sid, self._root)
        handle = None if view is None else sysfs.transport_handle(view.transport, self._root)
        if handle is None:
            raise IscsiFailure(IscsiErr.SESS_NOT_FOUND, f"no session {sid}")
        with translated(f"session {sid}"), self._inboxes.statistics(sid) as answer:
            await self._kernel.ask_statistics(handle, sid)
            try:
                async with asyncio.timeout(_STATISTICS_S):
                    return await answer
            except TimeoutError:
                raise IscsiFailure(
                    IscsiErr.REQ_TIMEDOUT, f"the kernel sent no statistics of session {sid} within {_STATISTICS_S:g} s"
                ) from None

    def status(self) -> list[SessionStatus]:
        """The sessions this service looks after."""
        return [session.status() for session in self._sessions.values()]

    def history(self) -> list[SessionHistory]:
        """The timelines of the sessions looked after, and of the last ones that have ended."""
        return [*self._past, *(session.history() for session in self._sessions.values())]

    async def _end(self, session: Session) -> None:
        try:
            await self._unsupervised(session)
            session.phase = Phase.LOGOUT
            session.note(time.time(), "somebody asked for it")
            await log_out(self._logins, self._kernel, session, self._root)
        finally:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        """It is gone, or will not be looked after any more."""
        self._inboxes.close(session.sid)
        if self._sessions.pop(session.sid, None) is not None:
            self._past.append(session.history(time.time()))
        if self._runtime is not None and session.inbox.destroyed.is_set():
            self._runtime.forget(session.sid)

    # ---------------------------------------------------------------- first login

    @contextlib.contextmanager
    def _room_for(self, request: LoginRequest) -> Iterator[None]:
        """Hold the right to make one session of this identity; IscsiFailure (15) when there are enough."""
        present = self._present(request)
        if present >= request.sessions_wanted:
            raise IscsiFailure(
                IscsiErr.SESS_EXISTS,
                f"{request}, interface {request.iface_name}: {present} of {present} sessions exist",
            )
        self._under_way.append(request)
        try:
            yield
        finally:
            self._under_way.remove(request)

    @contextlib.contextmanager
    def _cancellable(self) -> Iterator[None]:
        """While this lasts, the end of the service cancels the caller and waits until everything is put away."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            yield
        finally:
            self._calls.discard(task)

    def _present(self, request: LoginRequest) -> int:
        """Sessions of the same identity: being made here, looked after here, and others in the kernel.

        Only the last kind is read from sysfs: a login costs the same with one session and with a thousand.
        """
        identity = request.identity
        present = set(sysfs.session_ids(self._root))
        same_target = [each for each in self._sessions.values() if each.request.target == request.target]
        ours = [*self._under_way, *(each.request for each in same_target if each.sid in present)]
        strangers = (sid for sid in present if sid not in self._inboxes)
        return sum(other.identity == identity for other in ours) + sysfs.count_alike(identity, strangers, self._root)

    async def _transport(self, transport: str) -> int:
        """Its handle; when it is not there, loading its module is a worker's business."""
        if (handle := sysfs.transport_handle(transport, self._root)) is not None:
            return handle
        return await self._lane.blocking(lambda: self._ready_transport(transport, self._root), deadline_s=_MODULES_S)

    async def _first_login(self, request: LoginRequest) -> Session:
        """Attempts until one succeeds, one fails for good, or the record's patience is over."""
        settings = request.settings
        total_s = (settings.login_timeout_s * max(1, settings.initial_login_retry_max)) or _DEFAULT_TOTAL_S
        begin, attempts, unwelcome = self._lane.now(), 0, 0
        spacing = pauses(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, random.uniform)
        while True:
            attempts += 1
            left_s = total_s - (self._lane.now() - begin)
            handle = await self._transport(request.transport)  # another one when its module is loaded again meanwhile
            try:
                return await self._logins.first(request, handle, min(settings.login_timeout_s or left_s, left_s))
            except TryAgain as failure:
                unwelcome += failure.err is IscsiErr.LOGIN_AUTH_FAILED
                if attempts == 1:
                    log.info("%s: %s; trying for up to %.0f s", request, failure, total_s)
                again = unwelcome < _UNWELCOME_LIMIT
                if not (again and await self._pause(request.portal, next(spacing), begin + total_s)):
                    tries = f"{attempts} attempts" if attempts > 1 else "1 attempt"
                    text = f"{failure.message} ({tries} in {self._lane.now() - begin:.1f} s)"
                    err = IscsiErr.LOGIN_AUTH_FAILED if unwelcome == attempts else IscsiErr.TRANS_TIMEOUT
                    raise IscsiFailure(err, text, hint=failure.hint) from failure

    async def _pause(self, portal: Portal, pause_s: float, end: float) -> bool:
        """Before another attempt; False when there is no time for one. A portal that is out gets one at a time."""
        while True:
            if self._lane.now() + pause_s >= end:
                return False
            await asyncio.sleep(pause_s)
            pause_s = min(self._breakers.admit(portal, self._lane.now()), _LONGEST_PAUSE_S)
            if pause_s == 0:
                return True

    async def _scan(self, session: Session) -> None:
        """The session is up whatever becomes of this: what is missing is logged."""
        depth = params.queue_depth(session.request.settings)
        sid, root = session.sid, self._root
        try:
            notes = await self._scans.run(
                lambda: scan.scan(sid, depth, root, disks_s=_DISKS_S), deadline_s=_SCAN_S + _DISKS_S, what="its scan"
            )
        except RdmactlError as error:
            notes = [f"{session}: {error}"]
        for note in notes:
            log.warning("%s", note)

    # ---------------------------------------------------------------- supervision

    def _supervise(self, session: Session, how: str, *, lost: bool = False) -> None:
        session.phase = Phase.RECOVERY if lost else Phase.UP
        session.note(time.time(), how)
        session.inbox.settled.set()
        self._sessions[session.sid] = session
        session.task = self._tasks.spawn(self._keep(session, lost), f"session {session.sid}")

    async def _keep(self, session: Session, lost: bool) -> None:
        await self._keeper.keep(session, lost=lost)
        if session.inbox.destroyed.is_set():
            self._forget(session)

    def _path_opened(self, what: str) -> None:
        for session in self._sessions.values():
            if session.phase is Phase.RECOVERY:
                session.inbox.hint(what)

    def _portal_back(self, portal: Portal) -> None:
        for session in self._sessions.values():
            if session.phase is Phase.RECOVERY and session.request.portal == portal:
                session.inbox.hint("its portal answers again")

    def _moved(self, session: Session, before: LoginRequest) -> None:
        self._keep_record(session)
        self._tasks.spawn(self._note_move(before, session.request.portal), f"record of session {session.sid}")

    async def _note_move(self, before: LoginRequest, home: Portal) -> None:
        told = "no record to update"
        try:
            if await self._lane.blocking(lambda: self._record_moved(before, home), deadline_s=_RECORD_S):
                told = "record updated"
        except RdmactlError as error:
            told = f"record not updated: {error}"
        log.warning("%s: redirected to %s (permanent); %s", before, home, told)

    async def _unsupervised(self, session: Session) -> None:
        """End the supervision, and wait until it has put away what it was doing."""
        if session.task is not None:
            session.task.cancel()
            await asyncio.wait([session.task])

    def _adopt(self) -> None:
        """The event channel is open already, so that nothing falls between this list and the first event."""
        views = sysfs.sessions(self._root)
        if self._runtime is not None:
            self._runtime.sweep({view.sid for view in views})
        found: dict[Adoption, int] = {}
        for view in views:
            verdict = judge(view, maker_lives(view))
            session = None if verdict is Adoption.LEAVE else self._found(view)
            if session is None:
                continue
            log.debug("%s found: %s", session, verdict.value)
            found[verdict] = found.get(verdict, 0) + 1
            if verdict is Adoption.REMOVE:
                self._tasks.spawn(self._logins.remove(session), f"remove {session.sid}")
            else:
                self._supervise(session, f"found {verdict.value}", lost=verdict is Adoption.RECOVER)
                if view.target_state == "ALLOCATED" and session.request.settings.scan == "auto":  # it was interrupted
                    self._tasks.spawn(self._scan(session), f"scan {session.sid}")
        for verdict, count in found.items():
            log.info("%d sessions found %s", count, verdict.value)

    def _take_over(self, view: SessionView) -> Session | None:
        """Somebody else has made it since this service started, and now it is asked for here."""
        session = self._found(view)
        verdict = judge(view, maker_is_alive=True)
        if session is not None and verdict in (Adoption.WATCH, Adoption.RECOVER):
            self._supervise(session, "taken over: another program made it", lost=verdict is Adoption.RECOVER)
        elif session is not None:  # its maker is still at work: nobody else may read its events
            self._sessions[session.sid] = session
            session.inbox.settled.set()
        return session

    def _found(self, view: SessionView) -> Session | None:
        """A session of the kernel this service has not made; how its endpoint is called is not known."""
        handle = sysfs.transport_handle(view.transport, self._root)
        if handle is None or view.flash:
            return None
        kernel = KernelSession(view.sid, view.host_no, view.transport, handle)
        kept = self._kept(view)
        return Session(kernel, kept.request, self._inboxes.open(view.sid), kept.claims)

    def _kept(self, view: SessionView) -> Kept:
        """What a session was asked for with: as kept at its login, else as recorded, else as the kernel knows."""
        kept = None if self._runtime is None else self._runtime.load(view)
        return kept or Kept(self._settings_of(view) or params.adopted_request(view), (ADMINISTRATOR,))

    def _overrun_noted(self) -> None:
        self._overruns += 1
        self._overrun.set()

    def _resynchronise(self) -> None:
        """Events were lost: compare what is known with the kernel's list, and put the missing ones into the inboxes."""
        log.warning("events of the kernel were lost; comparing with its list of sessions")
        for sid, inbox in self._inboxes.all():
            view = sysfs.session(sid, self._root)
            session = self._sessions.get(sid)
            up = session is not None and session.phase is Phase.UP
            if view is None:
                inbox.end(SessionDestroyed(sid, host_no=-1))
            elif up and (view.state != "LOGGED_IN" or view.connection_state != "up"):
                inbox.put(ConnError(sid, 0, _LOST))
            if view is None or view.target_state == "UNBOUND":
                inbox.unbound.set()

    async def _wind_up(self) -> None:
        """Stop looking after sessions; they stay. What was half made is put away."""
        supervisors = [session.task for session in self._sessions.values() if session.task is not None]
        for task in (*supervisors, *self._calls):
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=_CLEAN_UP_S)
        await self._tasks.finish(_CLEAN_UP_S)
        if self._discoveries is not None:
            await self._discoveries.close()
