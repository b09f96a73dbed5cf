# SPDX-License-Identifier: Apache-2.0
"""io.rdmactl.Initiator: discoveries, logins, sessions. Shell ring. See `interfaces.py` for what holds in all of these.

Records travel as maps from open-iscsi's key names to text (`rdmactl.records.model` knows them): these names have been
stable for twenty years, any language can write them, and a key this daemon does not know does no harm.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypedDict

from asyncvarlink import LastResult, VarlinkInterface, varlinkmethod

from rdmactl.control.interfaces import READ_DEADLINE_S, Caller, Failed, Failure, failure
from rdmactl.errors import LocalError
from rdmactl.initiator.claims import ADMINISTRATOR, Claims
from rdmactl.iscsi.portal import target_address
from rdmactl.records import conf
from rdmactl.records.requests import discovery_request, isns_request, login_request

__all__ = ["Initiator"]

_Result = tuple[int, Claims]

WORK_DEADLINE_MAX_S = 3600.0
"""Longest deadline a caller may ask for: beyond an hour it should ask again."""

LOGINS_AT_ONCE = 1024
"""Of one call. The service orders them: those that wait for a silent portal must not keep others from starting."""

OBJECTS_MAX = 16384
"""Records or session ids in one call."""


class Target(TypedDict):
    """`addresses`: each portal as RFC 7143 writes a TargetAddress, "192.0.2.1:3260,1" with its portal group tag, or
    "[2001:db8::1]:3260" where that is not known. There may be many thousand targets: a text is a third of an object.
    """

    name: str
    addresses: list[str]


class Found(TypedDict):
    """A list of targets. `skipped` entries of it were left out, for the reasons among `warnings`."""

    targets: list[Target]
    skipped: int
    warnings: list[str]


class Outcome(TypedDict):
    """How one object of a call ended: `index` is its place in the call, `sid` its session, `failure` None if well.

    `claims`: who wants the session still, after a logout that did not end it.
    """

    index: int
    sid: int | None
    failure: Failure | None
    claims: list[str]


class Counter(TypedDict):
    name: str
    value: int


class SessionCounters(TypedDict):
    """Counters of one session, in the kernel's order: `fixed` that all transports have, `named` of its transport."""

    fixed: list[Counter]
    named: list[Counter]


class SessionState(TypedDict):
    """What the daemon knows of a session beyond the kernel's account."""

    sid: int
    target: str
    address: str
    port: int
    iface: str
    claims: list[str]
    phase: str
    attempts: int
    recoveries: int
    last_error: str


class HistoryMoment(TypedDict):
    """`at_s`: seconds since 1970. `attempts`: to bring the session back, before this moment."""

    at_s: float
    state: str
    reason: str
    attempts: int


class SessionHistory(TypedDict):
    """A session's life as this daemon has seen it, oldest moment first; `ended_s` is null while it lives."""

    sid: int
    target: str
    address: str
    port: int
    iface: str
    transport: str
    claims: list[str]
    ended_s: float | None
    moments: list[HistoryMoment]


class Initiator(VarlinkInterface, name="io.rdmactl.Initiator"):
    """Sessions to iSCSI and iSER targets."""

    errors = (Failed,)

    def __init__(self, caller: Caller, initiator_name: str) -> None:
        self._caller = caller
        self._initiator_name = initiator_name
        self._background: set[asyncio.Task[Any]] = set()

    @varlinkmethod
    async def Discover(self, *, record: dict[str, str], deadline_s: float) -> Found:  # noqa: N802
        """Ask a discovery address for its targets. `record`: a discovery record and, optionally, iface.* keys."""
        isns = record.get("discovery.type") == "isns"
        request = (isns_request if isns else discovery_request)(record, self._initiator_name)
        limit_s = _limited(deadline_s)
        found = await self._caller.call("initiator", lambda service: service.discover(request), deadline_s=limit_s)
        targets: list[Target] = [
            {
                "name": target.name,
                "addresses": [target_address(portal, tpgt) for portal, tpgt in target.portals],
            }
            for target in found.targets
        ]
        return {"targets": targets, "skipped": found.skipped, "warnings": list(found.warnings)}

    @varlinkmethod(return_parameter="outcome", delay_generator=False)
    async def Login(  # noqa: N802
        self, *, records: list[dict[str, str]], deadline_s: float, wait: bool | None = None, claim: str | None = None
    ) -> AsyncIterator[Outcome]:
        """Log in by node records; one outcome for each, as they come. A caller that goes away stops nothing.

        With `wait` false there is one outcome, at once: the logins go on by themselves. `claim`: in whose name, which
        goes for sessions that exist already (15), too; by default the administrator's.
        """
        requests = [login_request(record, self._initiator_name) for record in records]
        limit_s = _limited(deadline_s)

        def log_in(request: Any) -> Callable[[], Awaitable[_Result]]:
            async def run() -> _Result:
                login = self._caller.call(
                    "initiator", lambda service: service.login(request, claim or ADMINISTRATOR), deadline_s=limit_s
                )
                return await login, ()

            return run

        async for outcome in self._each([log_in(request) for request in requests], wait=wait is not False):
            yield outcome

    @varlinkmethod(return_parameter="outcome", delay_generator=False)
    async def Logout(  # noqa: N802
        self,
        *,
        sids: list[int],
        deadline_s: float,
        claim: str | None = None,
        everybody: bool | None = None,
        safe: bool | None = None,
    ) -> AsyncIterator[Outcome]:
        """Give up the claims of `claim` (the administrator's by default) or of `everybody` to sessions; one outcome for
        each, as they come. With its last claim a session is logged out; not if others claim it and `claim` does not
        (28), and not if it is in use (28), when it shall be `safe` (iscsid.safe_logout by default).
        """
        limit_s = _limited(deadline_s)
        careful = conf.option("iscsid.safe_logout") == "Yes" if safe is None else safe

        def log_out(sid: int) -> Callable[[], Awaitable[_Result]]:
            async def run() -> _Result:
                logout = self._caller.call(
                    "initiator",
                    lambda service: service.logout(
                        sid, claim or ADMINISTRATOR, everybody=bool(everybody), safe=careful
                    ),
                    deadline_s=limit_s,
                )
                return sid, await logout

            return run

        async for outcome in self._each([log_out(sid) for sid in sids]):
            yield outcome

    @varlinkmethod(return_parameter="outcome", delay_generator=False)
    async def Claim(self, *, sids: list[int], claim: str) -> AsyncIterator[Outcome]:  # noqa: N802
        """Claim sessions that are there for one more; one outcome for each, as they come."""

        def put(sid: int) -> Callable[[], Awaitable[_Result]]:
            async def run() -> _Result:
                return sid, await self._caller.call(
                    "initiator", lambda service: service.claim(sid, claim), deadline_s=READ_DEADLINE_S
                )

            return run

        async for outcome in self._each([put(sid) for sid in sids]):
            yield outcome

    @varlinkmethod(return_parameter="sessions")
    async def Sessions(self) -> list[SessionState]:  # noqa: N802
        """The sessions looked after, and who claims them."""

        async def ask(service: Any) -> Any:
            return service.status()

        return [
            {
                "sid": found.sid,
                "target": found.target,
                "address": found.portal.address,
                "port": found.portal.port,
                "iface": found.iface_name,
                "claims": list(found.claims),
                "phase": found.phase,
                "attempts": found.attempts,
                "recoveries": found.recoveries,
                "last_error": found.last_error,
            }
            for found in await self._caller.call("initiator", ask, deadline_s=READ_DEADLINE_S)
        ]

    @varlinkmethod(return_parameter="sessions")
    async def History(self) -> list[SessionHistory]:  # noqa: N802
        """What has happened to the sessions looked after, and to the last ones that have ended."""

        async def ask(service: Any) -> Any:
            return service.history()

        return [
            {
                "sid": found.sid,
                "target": found.target,
                "address": found.portal.address,
                "port": found.portal.port,
                "iface": found.iface_name,
                "transport": found.transport,
                "claims": list(found.claims),
                "ended_s": found.ended_s,
                "moments": [
                    {"at_s": each.at_s, "state": each.state, "reason": each.reason, "attempts": each.attempts}
                    for each in found.moments
                ],
            }
            for found in await self._caller.call("initiator", ask, deadline_s=READ_DEADLINE_S)
        ]

    @varlinkmethod
    async def Statistics(self, *, sid: int, deadline_s: float) -> SessionCounters:  # noqa: N802
        """The kernel's counters of one session."""
        found = await self._caller.call(
            "initiator", lambda service: service.statistics(sid), deadline_s=_limited(deadline_s)
        )
        return {
            "fixed": [{"name": name, "value": value} for name, value in found.fixed],
            "named": [{"name": name, "value": value} for name, value in found.named],
        }

    async def _each(self, jobs: list[Callable[[], Awaitable[_Result]]], *, wait: bool = True) -> AsyncIterator[Outcome]:
        """Run all jobs, some at once, and give each outcome when it is there; the last one ends the stream."""
        if not 1 <= len(jobs) <= OBJECTS_MAX:
            raise LocalError(f"a call must name 1 to {OBJECTS_MAX} objects, not {len(jobs)}")
        room = asyncio.Semaphore(LOGINS_AT_ONCE)
        done: asyncio.Queue[Outcome] = asyncio.Queue()

        async def run(index: int, job: Callable[[], Awaitable[_Result]]) -> None:
            try:
                async with room:
                    sid, claims = await job()
                done.put_nowait({"index": index, "sid": sid, "failure": None, "claims": list(claims)})
            except Exception as error:
                done.put_nowait({"index": index, "sid": None, "failure": failure(error), "claims": []})

        for index, job in enumerate(jobs):
            task = asyncio.create_task(run(index, job))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        if not wait:
            raise LastResult({"index": 0, "sid": None, "failure": None, "claims": []})
        for _ in jobs[1:]:
            yield await done.get()
        raise LastResult(await done.get())

    async def stop(self) -> None:
        """Give up what callers left running."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)


def _limited(deadline_s: float) -> float:
    if not 0 < deadline_s <= WORK_DEADLINE_MAX_S:
        raise LocalError(f"the deadline must be above 0 and at most {WORK_DEADLINE_MAX_S:g} s, not {deadline_s:g}")
    return deadline_s
