# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m node --loginall` and `--logoutall`: startup groups and leading logins. Face ring.

A record belongs to a group by node.startup or by node.conn[0].startup. Logging out leaves alone what boot code started
(onboot, firmware) and sessions that have no record.
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import Exit
from rdmactl.cli.iseradm_login import Login, log_in, log_out, login_of
from rdmactl.records.operations import in_startup_group
from rdmactl.records.store import NodeId

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.sysfs import SessionView
    from rdmactl.records.model import Record

__all__ = ["login_all", "logout_all"]

_FATAL_LOGIN = 19


def login_all(context: Context, arguments: Arguments) -> int:
    """Log in by every record of a group: the normal ones, then the leading ones."""
    group = _group(context, arguments.loginall, "loginall", ("all", "manual", "automatic", "onboot"))
    counts = context.session_counts()
    normal: list[Login] = []
    leading: list[Login] = []
    for node in context.store.nodes():
        record = context.store.node(node)
        if record is not None and (group == "all" or in_startup_group(record, group)):
            login = login_of(node, record, counts)
            (leading if record.get("node.leading_login") == "Yes" else normal).append(login)
    if not normal and not leading:
        raise Exit(21, "No records found")
    status = log_in(context, normal, wait=not arguments.no_wait) if normal else 0
    return _log_in_leading(context, leading) or status


def _log_in_leading(context: Context, logins: list[Login]) -> int:
    """One interface after the other, for each target until it has a session."""
    connected = {login.node.target for login in logins if login.present}
    open_targets = {login.node.target for login in logins} - connected
    for iface in dict.fromkeys(login.node.iface for login in logins):
        todo = [login for login in logins if login.node.iface == iface and login.node.target in open_targets]
        if not todo:
            continue
        if log_in(context, todo, last_line=False):
            context.error(f"Could not log into all portals on {iface}, trying next interface")
        there = {session.target for session in context.sessions()}
        open_targets -= there
    if open_targets:
        context.error("Could not login all leading-login portals")
        return _FATAL_LOGIN
    return 0


def logout_all(context: Context, arguments: Arguments) -> int:
    """Log out the sessions whose record is of a group."""
    group = _group(context, arguments.logoutall, "logoutall", ("all", "manual", "automatic"))
    chosen = []
    for session in context.sessions():
        record = _record_of(context, session)
        if record is None or in_startup_group(record, "onboot") or record.get("node.discovery_type") == "fw":
            continue
        if group == "all" or in_startup_group(record, group):
            chosen.append(session)
    return log_out(context, chosen)


def _group(context: Context, word: str | None, option: str, words: tuple[str, ...]) -> str:
    if word not in words:
        raise Exit(7, f"Invalid {option} option {word}.", plain=context.try_line)
    return word


def _record_of(context: Context, session: SessionView) -> Record | None:
    """The record a session was made by; the tag does not matter."""
    portal = session.persistent
    if portal is None:
        return None
    iface = session.iface_name or "default"
    nodes: list[NodeId] = context.store.nodes(
        target=session.target, address=portal.address, port=portal.port, iface=iface
    )
    return context.store.node(nodes[0]) if nodes else None
