# SPDX-License-Identifier: Apache-2.0
"""The Varlink interfaces of the daemons: what can be asked, in types, and the way from a call to a service. Shell ring.

Each method is a few lines: convert, call the service in its lane through the dispatcher with a deadline, convert back.
What does not belong here: sockets, identity and limits (`server.py`), and anything a service decides.

Records travel as maps from open-iscsi's key names to text (`rdmactl.records.model` knows them): these names have been
stable for twenty years, any language can write them, and a key this daemon does not know does no harm.

asyncvarlink reads the annotations of this module at import, so they are real types here, not strings.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from asyncvarlink import LastResult, TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from rdmactl import __version__
from rdmactl.errors import DeadlineExceeded, LocalError, RdmactlError
from rdmactl.initiator.claims import ADMINISTRATOR, Claims
from rdmactl.iwpm.view import MappingInfo, mapping_list
from rdmactl.netlink.message import NETLINK_RDMA, split
from rdmactl.netlink.rdma import RDMA_NL_IWCM, client_of
from rdmactl.netlink.supervisor import LaneStatus
from rdmactl.netlink.trace import TraceEntry
from rdmactl.records import conf
from rdmactl.records.requests import discovery_request, isns_request, login_request

__all__ = ["CHANGING_METHODS", "Caller", "Daemon", "Failed", "Initiator", "PortMapper", "failure"]

T = TypeVar("T")
_Result = tuple[int, Claims]
_log = logging.getLogger(__name__)

READ_DEADLINE_S = 10.0
"""Reading a table in memory takes milliseconds; ten seconds is how long the kernel itself waits for a port mapper."""

SELFTEST_DEADLINE_S = 30.0
"""Reading what the kernel has (5 s at most), and up to 2 s for each address that does not answer."""

WORK_DEADLINE_MAX_S = 3600.0
"""Longest deadline a caller may ask for: beyond an hour it should ask again."""

LOGINS_AT_ONCE = 1024
"""Of one call. The service orders them: those that wait for a silent portal must not keep others from starting."""

OBJECTS_MAX = 16384
"""Records or session ids in one call."""

MAPPINGS_EACH = 256
"""Mappings in one answer: some milliseconds of work, so that other callers get theirs in between."""

CHANGING_METHODS = frozenset({"Claim", "Discover", "Login", "Logout", "Statistics"})
"""Only for root: they use credentials, open connections, make and remove block devices, or hold up the whole class."""


class Caller(Protocol):
    """What is needed of the dispatcher."""

    async def call(self, name: str, function: Callable[[Any], Awaitable[T]], *, deadline_s: float) -> T: ...

    def status(self) -> Sequence[LaneStatus]: ...

    def trace(self, since: int) -> tuple[int, list[TraceEntry]]: ...


class Failed(TypedVarlinkErrorReply, interface="io.rdmactl.Daemon"):
    """Any call may fail with this. `code` is stable and for programs, `message` and `hint` are for people, `err` is
    open-iscsi's number where there is one.
    """

    class Parameters:
        code: str
        message: str
        hint: str | None
        err: int | None


class Failure(TypedDict):
    """Why one object of a call failed; the same fields as the error Failed."""

    code: str
    message: str
    hint: str | None
    err: int | None


def failure(error: BaseException) -> Failure:
    """Any exception as the fields of Failed. What was not foreseen goes to the log, never to the caller."""
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded("the daemon did not finish within the deadline of the call")
    if isinstance(error, RdmactlError):
        err = getattr(error, "err", None)
        return {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "err": None if err is None else int(err),
        }
    if isinstance(error, asyncio.CancelledError):
        return {"code": "stopping", "message": "the daemon is stopping", "hint": None, "err": None}
    _log.error("a control call failed unexpectedly", exc_info=error)
    return {
        "code": "internal",
        "message": f"internal error ({type(error).__name__})",
        "hint": "the daemon's journal has the details; please report them",
        "err": None,
    }


class Lane(TypedDict):
    name: str
    state: str
    ready: bool
    up_s: float
    restarts: int
    stalls: int
    last_error: str | None
    counters: dict[str, int]


class DaemonStatus(TypedDict):
    version: str
    pid: int
    roles: list[str]
    lanes: list[Lane]


class Daemon(VarlinkInterface, name="io.rdmactl.Daemon"):
    """The process itself."""

    errors = (Failed,)

    def __init__(self, caller: Caller, roles: Sequence[str]) -> None:
        self._caller = caller
        self._roles = list(roles)

    @varlinkmethod
    async def Status(self) -> DaemonStatus:  # noqa: N802 - Varlink's spelling
        """What runs here, and how each service is doing."""
        lanes: list[Lane] = [
            {
                "name": lane.name,
                "state": lane.state.value,
                "ready": lane.ready,
                "up_s": lane.up_s,
                "restarts": lane.restarts,
                "stalls": lane.stalls,
                "last_error": lane.last_error,
                "counters": lane.counters.as_dict(),
            }
            for lane in self._caller.status()
        ]
        return {"version": __version__, "pid": os.getpid(), "roles": self._roles, "lanes": lanes}


class Portal(TypedDict):
    address: str
    port: int
    tpgt: int


class Target(TypedDict):
    name: str
    portals: list[Portal]


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
                "portals": [
                    {"address": portal.address, "port": portal.port, "tpgt": tpgt} for portal, tpgt in target.portals
                ],
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


class Mapping(TypedDict):
    """Addresses are text: "192.0.2.1:4711", "[2001:db8::1]:4711". The other fields are MappingInfo's."""

    local: str
    mapped: str
    kind: str
    references: int
    port_mapped: bool
    claimed: bool
    age_s: float


class AnswerTime(TypedDict):
    """How many answers took at most `within_s` and more than the bound before; the last one has no bound."""

    within_s: float | None
    answers: int


class PortMapperStatus(TypedDict):
    state: str
    registered: bool
    abi_version: int
    mappings: int
    claims: int
    queries_open: int
    offers_open: int
    counters: dict[str, int]
    answer_times: list[AnswerTime]
    unmapped: list[str]


class TraceMessage(TypedDict):
    """A datagram between the kernel and the port mapper, as a recording has it (`rdmactl.netlink.trace`)."""

    time_s: float
    direction: str
    note: str
    hex: str
    waited_us: int | None


class Trace(TypedDict):
    """`next` is the `since` of a call that goes on from here."""

    next: int
    messages: list[TraceMessage]


class Check(TypedDict):
    """What the daemon found when it looked at itself: `result` is ok, warning or failed."""

    name: str
    result: str
    text: str


class PortMapper(VarlinkInterface, name="io.rdmactl.PortMapper"):
    """iWARP port mappings."""

    errors = (Failed,)

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @varlinkmethod(return_parameter="mappings")
    async def List(self) -> AsyncIterator[list[Mapping]]:  # noqa: N802
        """Every mapping of this host at one moment, oldest first, MAPPINGS_EACH in an answer."""
        found, now = await self._caller.call("iwpm", lambda service: service.snapshot(), deadline_s=READ_DEADLINE_S)
        last = max(0, len(found) - 1) // MAPPINGS_EACH * MAPPINGS_EACH
        for at in range(0, last, MAPPINGS_EACH):
            yield _mappings(mapping_list(found[at : at + MAPPINGS_EACH], now))
        raise LastResult(_mappings(mapping_list(found[last:], now)))

    @varlinkmethod
    async def Status(self) -> PortMapperStatus:  # noqa: N802
        """How the port mapper is doing."""
        status = await self._caller.call("iwpm", lambda service: service.status(), deadline_s=READ_DEADLINE_S)
        return {
            "state": status.state,
            "registered": status.registered,
            "abi_version": status.abi_version,
            "mappings": status.mappings,
            "claims": status.claims,
            "queries_open": status.queries_open,
            "offers_open": status.offers_open,
            "counters": status.counters,
            "answer_times": [{"within_s": bound, "answers": answers} for bound, answers in status.answer_times],
            "unmapped": list(status.unmapped),
        }

    @varlinkmethod(return_parameter="lines")
    async def Dump(self) -> list[str]:  # noqa: N802
        """The lines rdma-core's iwpmd logs on SIGUSR1."""
        lines: list[str] = await self._caller.call("iwpm", lambda service: service.dump(), deadline_s=READ_DEADLINE_S)
        return lines

    @varlinkmethod
    async def Trace(self, *, since: int) -> Trace:  # noqa: N802
        """The last messages exchanged with the kernel's iw_cm: those after the first `since` ones of all."""
        reached, entries = self._caller.trace(since)
        # Acknowledgements do not say whose they are; the socket does.
        portids = {entry.portid for entry in entries if _is_iwcm(entry)}
        messages: list[TraceMessage] = [
            {
                "time_s": entry.time_s,
                "direction": entry.direction,
                "note": entry.note,
                "hex": entry.datagram.hex(),
                "waited_us": None if entry.waited_s is None else round(entry.waited_s * 1e6),
            }
            for entry in entries
            if entry.portid in portids
        ]
        return {"next": reached, "messages": messages}

    @varlinkmethod(return_parameter="checks")
    async def Selftest(self) -> list[Check]:  # noqa: N802
        """Look whether everything that is needed is there; disturbs nothing."""
        found = await self._caller.call("iwpm", lambda service: service.selftest(), deadline_s=SELFTEST_DEADLINE_S)
        return [{"name": check.name, "result": check.result.value, "text": check.text} for check in found]


def _mappings(found: list[MappingInfo]) -> list[Mapping]:
    return [
        {
            "local": str(mapping.local),
            "mapped": str(mapping.mapped),
            "kind": mapping.kind,
            "references": mapping.references,
            "port_mapped": mapping.port_mapped,
            "claimed": mapping.claimed,
            "age_s": mapping.age_s,
        }
        for mapping in found
    ]


def _is_iwcm(entry: TraceEntry) -> bool:
    return entry.family == NETLINK_RDMA and any(
        client_of(message.type) == RDMA_NL_IWCM for message in split(entry.datagram)
    )
