# SPDX-License-Identifier: Apache-2.0
"""Logging in and out through the daemon, and saying so in iscsiadm's words and order. Face ring.

All requests are announced first, then the results follow in the same order, whatever the order in which they arrive.
The status is the first error in time: what is known before asking (already there) wins over what the daemon reports.
Not here: which records or sessions are meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rdmactl.cli.errors import err_text, error_text, iscsiadm_status
from rdmactl.errors import RdmactlError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from rdmactl.cli.iseradm_context import Context
    from rdmactl.initiator.sysfs import SessionView
    from rdmactl.records.model import Record
    from rdmactl.records.store import NodeId

__all__ = ["DAEMON_DOWN", "Login", "add_session", "ask_daemon", "log_in", "log_out", "of_nodes"]

DAEMON_DOWN = (
    "iscsid is not running. Could not start it up automatically using the startup command in the iscsid.conf"
    " iscsid.startup setting. Please check that the file exists or that your init scripts have started iscsid.",
    "can not connect to iSCSI daemon (111)!",
)
"""What scripts that call iscsiadm know; under its own name the program says it in one sentence."""

_NOT_CONNECTED = 20
_SESSION_EXISTS = 15

_AT_ONCE = 64
"""How many logins of one call the daemon works on at a time."""

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
    sessions = context.sessions()
    logins = []
    for node in nodes:
        record = context.store.node(node)
        if record is not None:
            logins.append(login_of(context, node, record, sessions))
    return logins


def login_of(context: Context, node: NodeId, record: Record, sessions: Iterable[SessionView]) -> Login:
    present = len(context.sessions_of(node, sessions))
    return Login(node, record, int(str(record.get("node.session.nr_sessions", "1"))), present)


def log_in(context: Context, logins: Sequence[Login], *, wait: bool = True, last_line: bool = True) -> int:
    """Log in; returns the status. `last_line`: say at the end that not all went well, as node mode does."""
    from rdmactl.cli.iseradm_print import node_text

    status = 0
    asked: list[Login] = []
    for login in logins:
        if login.present >= login.wanted:
            plural = "" if login.wanted == 1 else "s"
            context.error(
                f"{login.node.iface}: {login.wanted} session{plural} requested, but {login.present} already present."
            )
            status = status or _SESSION_EXISTS
        else:
            asked.extend([login] * (login.wanted - login.present))
    if asked:
        multiple = {True: " (multiple)", False: ""}
        announced = [f"Logging in to {node_text(login.node)}{multiple[login.wanted > 1]}" for login in asked]
        records = [wire_record(login.record) for login in asked]
        failed = _report(
            context,
            announced,
            _outcomes(context, "Login", {"records": records, "wait": wait}, len(asked), _deadline_s(records))
            if wait
            else _send_only(context, records),
            [f"Login to {node_text(login.node)} successful." if wait else "" for login in asked],
            [f"Could not login to {node_text(login.node)}" for login in asked],
        )
        status = status or failed
    if status and last_line and (context.exact or len(logins) > 1 or not asked):
        context.error("Could not log into all portals")
    return status


def add_session(context: Context, node: NodeId, record: Record) -> int:
    """One more session to the portal of `node`, however many there are."""
    present = len(context.sessions_of(node, context.sessions()))
    record["node.session.nr_sessions"] = str(present + 1)
    return log_in(context, [Login(node, record, present + 1, present)])


def log_out(context: Context, sessions: Sequence[SessionView]) -> int:
    """Log out live sessions; returns the status."""
    if not sessions:
        context.error("No matching sessions found")
        return 21
    names = [_session_text(session) for session in sessions]
    status = _report(
        context,
        [f"Logging out of session {name}" for name in names],
        _outcomes(context, "Logout", {"sids": [session.sid for session in sessions]}, len(sessions), _LOGOUT_S),
        [f"Logout of {name} successful." for name in names],
        [f"Could not logout of {name}" for name in names],
    )
    if status == _NOT_CONNECTED and context.exact:
        context.error("No matching sessions found")
        return 21
    if status and (context.exact or len(sessions) > 1):
        context.error("Could not logout of all requested sessions")
    return status


def ask_daemon(context: Context, method: str, parameters: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """One call of io.rdmactl.Initiator."""
    with context.client(deadline_s + 5.0) as client:
        return client.call(f"io.rdmactl.Initiator.{method}", {**parameters, "deadline_s": deadline_s})


def wire_record(record: Record) -> dict[str, str]:
    """A record as it travels: text, secrets included, nothing empty."""
    from rdmactl.records.model import plain

    return {key: plain(value) for key, value in record.items() if value}


class _Failure(NamedTuple):
    """Why one object failed: open-iscsi's number and a sentence."""

    err: int
    sentence: str


def _outcomes(
    context: Context, method: str, parameters: dict[str, Any], count: int, each_s: float
) -> Iterator[_Failure | None]:
    """How each object of a call ended, in the order of the call."""
    rounds = (count + _AT_ONCE - 1) // _AT_ONCE
    waiting: dict[int, _Failure | None] = {}
    turn = 0
    with context.client(min(each_s * rounds, _DEADLINE_MAX_S) + 5.0) as client:
        for reply in client.more(f"io.rdmactl.Initiator.{method}", {**parameters, "deadline_s": each_s}):
            outcome = reply["outcome"]
            failure = outcome.get("failure")
            waiting[outcome["index"]] = None if failure is None else _failure(failure)
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def _send_only(context: Context, records: list[dict[str, str]]) -> Iterator[_Failure | None]:
    """Hand the logins to the daemon, which goes on by itself."""
    parameters = {"records": records, "wait": False, "deadline_s": _deadline_s(records)}
    with context.client(30.0) as client:
        for _ in client.more("io.rdmactl.Initiator.Login", parameters):
            pass
    yield from [None] * len(records)


def _report(
    context: Context,
    announced: Sequence[str],
    outcomes: Iterator[_Failure | None],
    good: Sequence[str],
    bad: Sequence[str],
) -> int:
    """Announce, then print the outcomes as they come; the first failure's number."""
    status = 0
    done = 0
    if context.exact:
        print("\n".join(announced), flush=True)
    try:
        for turn, failure in enumerate(outcomes):
            if turn == 0 and not context.exact:
                print("\n".join(announced), flush=True)
            done = turn + 1
            if failure is None:
                if good[turn]:
                    print(good[turn], flush=True)
            else:
                status = status or failure.err
                _complain(context, bad[turn], failure)
    except Unavailable as error:
        failure = _unavailable(context, error, len(announced) - done)
        if context.exact:
            for text in bad[done:]:
                _complain(context, text, failure)
        return status or failure.err
    except RdmactlError as error:
        failure = _Failure(iscsiadm_status(error), error_text(error))
        for text in bad[done:]:
            _complain(context, text, failure)
        return status or failure.err
    return status


def _unavailable(context: Context, error: Unavailable, requests: int) -> _Failure:
    """The daemon is not there, or has gone: said once, or in iscsiadm's words once for each request."""
    if not context.exact:
        context.error(error_text(error))
    elif error.code == "daemon-not-running":
        for _ in range(requests):
            for line in DAEMON_DOWN:
                context.error(line)
    return _Failure(iscsiadm_status(error), error.message)


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


def _session_text(session: SessionView) -> str:
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
