# SPDX-License-Identifier: Apache-2.0
"""One discovery record under watch: asks when it is time, logs in what came, and out what went. Shell ring.

All interfaces are asked side by side, one attempt each: the next round is the next attempt. Logins run by themselves,
so that a target that keeps silent delays neither the next question nor its neighbours.

Not here: the rules (`care.py`), the times (`schedule.py`), which records there are (`service.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from rdmactl.discoveryd.care import Answer, Care, Facts, Place, obstacle
from rdmactl.discoveryd.initiator import Held, Initiator
from rdmactl.discoveryd.listening import Ear, listen
from rdmactl.discoveryd.questions import ask, initiator_names
from rdmactl.discoveryd.schedule import LONGEST_PAUSE_S, Timetable
from rdmactl.discoveryd.watched import Watched, login_requests
from rdmactl.errors import RdmactlError
from rdmactl.initiator.api import LoginRequest
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.isns.api import WatchConfig
from rdmactl.netlink.ports import Lane

__all__ = ["DiscoveryStatus", "Watcher"]

log = logging.getLogger(__name__)

_STORE_S = 60.0
_USES_S = 60.0
_RETRY_S = 1.0  # between looks for logins whose pause is over
_LOGINS_AT_ONCE = 256


class DiscoveryStatus(NamedTuple):
    """How a watch is doing. Times are seconds since 1970, None for not yet."""

    type: str
    address: str
    port: int
    places: int
    """Known: (target, portal, interface)."""
    missing: int
    """Of these, how many the last answers did not name."""
    logins: int
    """Under way."""
    answered_at_s: float | None
    whole: bool
    """Whether every interface was answered, and nothing had to be left out."""
    failures: int
    """Questions without an answer since the last answer."""
    last_error: str
    listening: bool
    """Whether the server will tell of changes."""
    next_in_s: float | None
    """None: it does not ask again until something changes."""


class Watcher:
    """The watch over one record. `uses(sid)` tells what uses a session's disks, and may block."""

    def __init__(
        self,
        lane: Lane,
        watched: Watched,
        initiator: Initiator,
        initiator_name: str,
        *,
        care: Care | None = None,
        ear: Ear,
        uses: Callable[[int], list[str]],
        uniform: Callable[[float, float], float],
        directory: str | None = None,
    ) -> None:
        self.care = care or Care()
        self.watched = watched
        self._lane = lane
        self._initiator = initiator
        self._initiator_name = initiator_name
        self._ear = ear
        self._uses = uses
        self._directory = directory
        self._timetable = Timetable(watched.poll_s, uniform)
        self._room = asyncio.Semaphore(_LOGINS_AT_ONCE)
        self._logins: dict[Place, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._heard: dict[str, bool] = {}
        self._kept: dict[Place, str] = {}
        self._answered_at_s: float | None = None
        self._whole = False
        self._errors: dict[str, str] = {}  # by interface
        self._oddities: dict[str, tuple[str, ...]] = {}

    def status(self) -> DiscoveryStatus:
        """For people."""
        wake_at = self._timetable.wake_at()
        return DiscoveryStatus(
            self.watched.type,
            *self.watched.portal,
            len(self.care),
            self.care.missing,
            len(self._logins),
            self._answered_at_s,
            self._whole,
            self._timetable.failures,
            next(iter(self._errors.values()), ""),
            bool(self._heard) and all(self._heard.values()),
            None if wake_at is None else max(0.0, wake_at - self._lane.now()),
        )

    def news(self) -> None:
        """The server says that something has changed."""
        self._timetable.news(self._lane.now())
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled. Sessions stay; logins under way are left to the initiator to put away."""
        ears = [asyncio.create_task(self._listen(name)) for name in self._names_to_listen_for()]
        try:
            while True:
                await self._until_due()
                await self._round()
        finally:
            for task in (*ears, *self._logins.values()):
                task.cancel()
            await asyncio.gather(*ears, return_exceptions=True)

    def _names_to_listen_for(self) -> list[str]:
        return initiator_names(self.watched, self._initiator_name) if self.watched.listens else []

    async def _listen(self, name: str) -> None:
        def heard(is_heard: bool) -> None:
            self._heard[name] = is_heard
            self._timetable.listening(self._lane.now(), heard=all(self._heard.values()))
            self._woken.set()

        while True:
            heard(False)
            try:
                await listen(self._ear(self._lane, WatchConfig(self.watched.portal, name)), self.news, heard)
            except Exception:
                log.exception("%s: listening for news has failed; it polls instead", self.watched)
            await asyncio.sleep(LONGEST_PAUSE_S)

    async def _until_due(self) -> None:
        """Until a question is due. A pause before a login may end earlier: then only logins are begun."""
        while (due := self._timetable.wake_at()) is None or due > self._lane.now():
            self._woken.clear()
            retry_at = self.care.wake_at()
            if retry_at is not None and retry_at <= self._lane.now():
                await self._keep_step()
                retry_at = max(self.care.wake_at() or 0.0, self._lane.now() + _RETRY_S)
            moments = [at for at in (due, retry_at) if at is not None]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(moments) - self._lane.now()) if moments else None):
                    await self._woken.wait()

    async def _round(self) -> None:
        answers = await asyncio.gather(*(self._ask(iface) for iface in self.watched.ifaces))
        now = self._lane.now()
        there = [answer for answer in answers if answer is not None]
        if not there:
            self._timetable.failed(now)
            return
        for answer in there:
            self.care.receive(answer, now)
        await self._keep_step()
        self._whole = len(there) == len(answers) and all(answer.complete for answer in there)
        self._answered_at_s = time.time()
        self._timetable.answered(self._lane.now(), missing=bool(self.care.missing))

    async def _ask(self, iface: dict[str, str]) -> Answer | None:
        """What one interface finds; None when nobody answered it. Both are logged when they are news."""
        name = iface["iface.iscsi_ifacename"]
        try:
            answer, oddities = await ask(self._initiator, self.watched, iface, self._initiator_name)
        except RdmactlError as error:
            if error.message != self._errors.get(name):
                log.warning("%s: %s; its sessions stay as they are", self.watched, error)
            self._errors[name] = error.message
            return None
        if self._errors.pop(name, None) is not None:
            log.info("%s answers again", self.watched)
        if oddities != self._oddities.get(name, ()):
            for oddity in oddities:
                log.warning("%s: %s", self.watched, oddity)
        self._oddities[name] = oddities
        return answer

    # ---------------------------------------------------------------- sessions

    async def _keep_step(self) -> None:
        """Bring the sessions into step with what is known."""
        try:
            held = {Place(each.target, each.portal, each.iface): each for each in await self._initiator.sessions()}
            # Also those an earlier life of this watch has made.
            self.care.adopt(place for place, session in held.items() if self.watched.claim in session.claims)
            await self._log_in(held)
            await self._log_out(held)
        except RdmactlError as error:
            log.warning("%s: sessions are not brought into step: %s", self.watched, error)

    async def _log_in(self, held: dict[Place, Held]) -> None:
        wanted = [each for each in self.care.wanted(held, self._lane.now()) if each[0] not in self._logins]
        if not wanted:
            return
        requests = await self._lane.blocking(
            lambda: login_requests(self.watched, wanted, self._initiator_name, self._directory), deadline_s=_STORE_S
        )
        for place, request in requests:
            self._logins[place] = asyncio.create_task(self._login(place, request))

    async def _login(self, place: Place, request: LoginRequest) -> None:
        try:
            async with self._room:
                sid = await self._initiator.login(request, self.watched.claim)
            log.info("%s: logged in to %s, session %d", self.watched, request, sid)
        except RdmactlError as error:
            if not (isinstance(error, IscsiFailure) and error.err is IscsiErr.SESS_EXISTS):
                first = self.care.login_failed(place, self._lane.now())
                log.log(logging.WARNING if first else logging.DEBUG, "%s: %s", self.watched, error)
        finally:
            del self._logins[place]
            self._woken.set()

    async def _log_out(self, held: dict[Place, Held]) -> None:
        """Log out of what is gone, if nothing speaks against it; what does is logged once."""
        for place in self.care.gone(self._lane.now()):
            session = held.get(place)
            if session is None:
                self.care.forget(place)
                self._kept.pop(place, None)
                continue
            against = await self._obstacle(session)
            if against is None:
                await self._release(place, session)
            elif self._kept.get(place) != against:
                self._kept[place] = against
                log.warning("%s no longer has %s; session %d %s", self.watched, place.target, session.sid, against)

    async def _obstacle(self, session: Held) -> str | None:
        """Why a session stays; its disks are looked at only where nothing else speaks against the end."""
        against = obstacle(Facts(session.sid, session.claims, ()), self.watched.claim)
        if against is not None:
            return against
        uses = await self._lane.blocking(lambda: self._uses(session.sid), deadline_s=_USES_S)
        return obstacle(Facts(session.sid, session.claims, tuple(uses)), self.watched.claim)

    async def _release(self, place: Place, session: Held) -> None:
        log.info("%s no longer has %s at %s: logging out session %d", self.watched, *place[:2], session.sid)
        try:
            await self._initiator.release(session.sid, self.watched.claim)
        except RdmactlError as error:
            log.warning("%s: session %d stays: %s", self.watched, session.sid, error)
            return
        self.care.forget(place)
        self._kept.pop(place, None)
