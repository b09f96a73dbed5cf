# SPDX-License-Identifier: Apache-2.0
"""Logging in and out through the daemon, and saying so in iscsiadm's words and order. Face ring.

All requests are announced first, then the results follow in the same order, whatever the order in which they arrive.
The status is the first error in time: what is known before asking (already there) wins over what the daemon reports.

A login claims its session, also one that is there already, and a logout gives the claim up: for the administrator, or
for whom $RDMACTL_CLAIM names. A session that others claim, too, stays; that is said, and is no failure.
Not here: which records or sessions are meant.
"""

from __future__ import annotations

import os

from rdmactl.cli.errors import err_text, error_text, iscsiadm_status
from rdmactl.errors import RdmactlError
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from rdmactl.cli.iseradm_context import Context, SessionCounts
    from rdmactl.initiator.sysfs import SessionView
    from rdmactl.records.model import Record
    from rdmactl.records.store import NodeId

__all__ = [
    "CLAIM_VARIABLE",
    "DAEMON_DOWN",
    "Login",
    "add_session",
    "ask_daemon",
    "log_in",
    "log_out",
    "of_nodes",
    "session_text",
]

CLAIM_VARIABLE = "RDMACTL_CLAIM"

DAEMON_DOWN = (
    "iscsid is not running. Could not start it up automatically using the startup command in the iscsid.conf"
    " iscsid.startup setting. Please check that the file exists or that your init scripts have started iscsid.",
    "can not connect to iSCSI daemon (111)!",
)
"""What scripts that call iscsiadm know; under its own name the program says it in one sentence."""

_NOT_CONNECTED = 20
_SESSION_EXISTS = 15
_INVALID = 7
_ADMINISTRATOR = "administrator"

_SESSIONS_MAX = 1024
"""Of one record: multipathing over sessions uses a handful; more is a slip of the pen that would exhaust the host."""

_AT_ONCE = 64
"""How many logins of one call the daemon works on at a time."""

_CLAIM_S = 10.0
_SCAN_S = 60.0
_LOGOUT_S = 120.0
_DEADLINE_MAX_S = 3600.0


class Login(NamedTuple):
    """A session wanted: its record, and what messages call it."""

    node: NodeId
    record: Record
    wanted: int
    present: int


def of_nodes(context: Context, nodes: Iterable[NodeId]) -> list[Login]:
    """What logging in by these records asks for, given the sessions there are."""
    counts = context.session_counts()
    logins = []
    for node in nodes:
        record = context.store.node(node)
        if record is not None:
            logins.append(login_of(node, record, counts))
    return logins


def login_of(node: NodeId, record: Record, counts: SessionCounts) -> Login:
    """What logging in by this record asks for."""
    return Login(node, record, int(str(record.get("node.session.nr_sessions", "1"))), counts.of(node))


def log_in(context: Context, logins: Sequence[Login], *, wait: bool = True, last_line: bool = True) -> int:
    """Log in; returns the status. `last_line`: iscsiadm says at the end that not all went well, in node mode."""
    status = 0
    asked: list[Login] = []
    present: list[NodeId] = []
    for login in logins:
        if login.present >= login.wanted:
            plural = "" if login.wanted == 1 else "s"
            context.error(
                f"{login.node.iface}: {login.wanted} session{plural} requested, but {login.present} already present."
            )
            status = status or _SESSION_EXISTS
            present.append(login.node)
        elif login.wanted - login.present > _SESSIONS_MAX:
            context.error(f"{login.node.iface}: {login.wanted} sessions requested, more than {_SESSIONS_MAX}.")
            status = status or _INVALID
        else:
            asked.extend([login] * (login.wanted - login.present))
    if present:
        _claim_present(context, present)
    if asked:
        failed = _carry_out(context, _logins(asked, wait=wait))
        status = status or failed
    if status and last_line and context.exact:
        context.error("Could not log into all portals")
    return status


def _claim_present(context: Context, nodes: Sequence[NodeId]) -> None:
    """Who logs in to what is there wants it, too. Without a name, and without a daemon, nothing is different."""
    wanted = {(node.target, node.address, node.port, node.iface) for node in nodes}
    sids = [
        session.sid
        for session in context.sessions()
        if session.persistent is not None
        and (session.target, *session.persistent, session.iface_name or "default") in wanted
    ]
    claim = os.environ.get(CLAIM_VARIABLE)
    try:
        with context.client(_CLAIM_S) as client:
            for _ in client.more("io.rdmactl.Initiator.Claim", {"sids": sids, "claim": claim or _ADMINISTRATOR}):
                pass
    except RdmactlError as error:
        if claim:
            context.error(f"no claim for {claim}: {error_text(error)}")


def add_session(context: Context, node: NodeId, record: Record) -> int:
    """One more session to the portal of `node`, however many there are."""
    present = context.session_counts().of(node)
    record["node.session.nr_sessions"] = str(present + 1)
    return log_in(context, [Login(node, record, present + 1, present)])


def log_out(context: Context, sessions: Sequence[SessionView]) -> int:
    """Log out live sessions; returns the status."""
    if not sessions:
        context.error("No matching sessions found")
        return 21
    names = [session_text(session) for session in sessions]
    status = _carry_out(
        context,
        _Work(
            "Logout",
            {"sids": [session.sid for session in sessions], **_claim()},
            _LOGOUT_S,
            [f"session {name}" for name in names],
            [f"Logging out of session {name}" for name in names],
            [f"Logout of {name} successful." for name in names],
            [f"Could not logout of {name}" for name in names],
        ),
    )
    if status == _NOT_CONNECTED and context.exact:
        context.error("No matching sessions found")
        return 21
    if status and context.exact:
        context.error("Could not logout of all requested sessions")
    return status


def ask_daemon(context: Context, method: str, parameters: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """One call of io.rdmactl.Initiator."""
    with context.client(deadline_s + 5.0) as client:
        return client.call(f"io.rdmactl.Initiator.{method}", {**parameters, "deadline_s": deadline_s})


class _Work(NamedTuple):
    """One call for several objects; what to say of each before it, when it went well, and when it failed."""

    method: str
    parameters: dict[str, Any]
    each_s: float
    objects: list[str]
    announced: list[str]
    good: list[str]
    bad: list[str]


class _Failure(NamedTuple):
    """Why one object failed: open-iscsi's number and a sentence."""

    err: int
    sentence: str


class _Kept(NamedTuple):
    """Who claims a session that was to be logged out."""

    claims: list[str]


def _claim() -> dict[str, str]:
    """In whose name, if not the administrator's, which is the daemon's default."""
    claim = os.environ.get(CLAIM_VARIABLE)
    return {"claim": claim} if claim else {}


def _logins(asked: Sequence[Login], *, wait: bool) -> _Work:
    """Logins as work; those nobody waits for have nothing to say when they are done."""
    from rdmactl.cli.iseradm_print import node_text
    from rdmactl.records.model import wire_node

    records = [wire_node(login.record) for login in asked]
    names = [node_text(login.node) for login in asked]
    return _Work(
        "Login",
        {"records": records, "wait": wait, **_claim()},
        _deadline_s(records),
        names,
        [f"Logging in to {name}{' (multiple)' * (login.wanted > 1)}" for name, login in zip(names, asked, strict=True)],
        [f"Login to {name} successful." for name in names] if wait else [],
        [f"Could not login to {name}" for name in names],
    )


def _carry_out(context: Context, work: _Work) -> int:
    """Announce, and print the outcomes as they come; the first failure's number.

    iscsiadm announces before it looks for its daemon; under our own name nothing is announced that cannot begin.
    """
    status = done = 0
    if context.exact:
        print("\n".join(work.announced), flush=True)
    try:
        for turn, outcome in enumerate(_outcomes(context, work)):
            done = turn + 1
            if isinstance(outcome, _Failure):
                status = status or outcome.err
                _complain(context, work.bad[turn], outcome)
            elif outcome is not None:
                context.error(f"{work.objects[turn]} stays, it is also claimed by {', '.join(outcome.claims)}")
            elif work.good:
                print(work.good[turn], flush=True)
    except RdmactlError as error:
        return status or _given_up(context, error, work.bad[done:])
    return status


def _outcomes(context: Context, work: _Work) -> Iterator[_Failure | _Kept | None]:
    """How each object of a call ended, in the order of the call; None: well."""
    rounds = (len(work.bad) + _AT_ONCE - 1) // _AT_ONCE
    waiting: dict[int, _Failure | _Kept | None] = {}
    turn = 0
    with context.client(min(work.each_s * rounds, _DEADLINE_MAX_S) + 5.0) as client:
        if not context.exact:
            print("\n".join(work.announced), flush=True)
        parameters = {**work.parameters, "deadline_s": work.each_s}
        for reply in client.more(f"io.rdmactl.Initiator.{work.method}", parameters):
            outcome = reply["outcome"]
            failure, claims = outcome.get("failure"), outcome.get("claims")
            kept = _Kept(claims) if claims else None
            waiting[outcome["index"]] = kept if failure is None else _failure(failure)
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def _given_up(context: Context, error: RdmactlError, bad: Sequence[str]) -> int:
    """The call as a whole failed: said once, or in iscsiadm's words for each object."""
    failure = _Failure(iscsiadm_status(error), error_text(error))
    if not context.exact:
        context.error(failure.sentence)
        return failure.err
    if error.code == "daemon-not-running":
        for line in DAEMON_DOWN * len(bad):
            context.error(line)
    for text in bad:
        _complain(context, text, failure)
    return failure.err


def _complain(context: Context, text: str, failure: _Failure) -> None:
    if context.exact:
        context.error(f"{text}.")
        context.error(f"initiator reported error ({failure.err} - {err_text(failure.err)})")
    else:
        context.error(f"{text}: {failure.sentence}")


def _failure(wire: dict[str, Any]) -> _Failure:
    from rdmactl.control.client import RemoteError

    error = RemoteError(wire["message"], code=wire["code"], hint=wire["hint"], err=wire["err"])
    return _Failure(iscsiadm_status(error), error_text(error))


def session_text(session: SessionView) -> str:
    """How messages name a session."""
    portal = session.persistent
    where = f"{portal.address},{portal.port}" if portal is not None else ","
    return f"[sid: {session.sid}, target: {session.target}, portal: {where}]"


def _deadline_s(records: Iterable[dict[str, str]]) -> float:
    """How long the slowest of these logins may take: its tries, and the scan for LUNs."""
    slowest = 0.0
    for record in records:
        tries = int(record.get("node.session.initial_login_retry_max", "4")) + 1
        each_s = int(record.get("node.conn[0].timeo.login_timeout", "30")) or 30
        slowest = max(slowest, float(max(tries, 1) * max(each_s, 1)))
    return min(slowest + _SCAN_S, _DEADLINE_MAX_S)
