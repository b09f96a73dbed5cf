# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m session` and `-m host`: what the kernel has, straight from sysfs. Face ring.

No daemon is asked, and no privilege is needed to look. With an id, session mode does what node mode does, for the
records of that session's target, portal and interface.
Not here: printing (`iseradm_session_print.py`), logging out (`iseradm_login.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmactl.cli import iseradm_session_print as view
from rdmactl.cli.iseradm_context import RECORD_VERSION, Exit
from rdmactl.initiator import sysfs

if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.sysfs import SessionView

__all__ = ["host_mode", "session_mode"]

_DEEPEST_SESSION_LEVEL = 3
_DEEPEST_HOST_LEVEL = 4
_SOFTWARE = ("tcp", "iser")


def session_mode(context: Context, arguments: Arguments) -> int:
    """Returns the exit status."""
    if arguments.sid is not None:
        return _one(context, arguments, arguments.sid)
    if "new" in arguments.operations:
        raise Exit(7, "session mode: Operation 'new' only allowed with specific session IDs")
    sessions = context.sessions()
    if arguments.logout:
        from rdmactl.cli.iseradm_login import log_out

        return log_out(context, sessions)
    if arguments.rescan or arguments.stats:
        from rdmactl.cli.iseradm_node import rescan_or_stats

        return rescan_or_stats(context, sessions, arguments.rescan)
    if not sessions:
        raise Exit(21, "No active sessions.")
    return _print(context, arguments, sessions, arguments.level or 0)


def _one(context: Context, arguments: Arguments, sid: int) -> int:
    session = sysfs.session(sid, context.sysfs)
    if session is None or not session.target or session.persistent is None:
        raise Exit(22, "could not read session targetname: 5", f"Could not get session info for sid {sid}")
    acts = arguments.logout or arguments.rescan or arguments.stats or arguments.operations
    if arguments.level is not None and arguments.level >= 1 and not acts:
        return _print(context, arguments, [session], arguments.level)
    return _as_node(context, arguments, session)


def _as_node(context: Context, arguments: Arguments, session: SessionView) -> int:
    from rdmactl.cli.iseradm_node import operate
    from rdmactl.records.operations import Selection, matching

    assert session.persistent is not None
    selection = Selection(session.target, *session.persistent, session.iface_name or "default")
    if arguments.operation == "new":
        from rdmactl.cli.iseradm_login import add_session

        nodes = matching(context.store, selection)
        record = context.store.node(nodes[0]) if nodes else None
        if record is None:
            raise Exit(21, "No records found")
        return add_session(context, nodes[0], record)
    if arguments.logout and not arguments.operations:
        from rdmactl.cli.iseradm_login import log_out

        return log_out(context, [session])
    return operate(context, arguments, selection, session.tpgt)


def _print(context: Context, arguments: Arguments, sessions: list[SessionView], level: int) -> int:
    if not 0 <= level <= _DEEPEST_SESSION_LEVEL:
        raise Exit(7, f"Invalid info level {level}. Try 0 - {_DEEPEST_SESSION_LEVEL}.")
    if level == 0:
        view.print_sessions_flat(sessions)
        return 0
    if level == _DEEPEST_SESSION_LEVEL:
        view.print_versions(sysfs.transport_class_version(context.sysfs), RECORD_VERSION)
    deep = level > 1
    parts = view.Parts(timeouts=deep, chap=deep, negotiated=deep, devices=level > 2, reveal=arguments.show)
    view.print_sessions_tree(sessions, parts)
    return 0


def host_mode(context: Context, arguments: Arguments) -> int:
    """Lists hosts; the number given with -H does not filter, as in iscsiadm. Returns the exit status."""
    if arguments.submode is not None:
        return _host_submode(context, arguments)
    level = arguments.level or 0
    if not 0 <= level <= _DEEPEST_HOST_LEVEL:
        raise Exit(7, f"Invalid info level {level}. Try 0 - {_DEEPEST_HOST_LEVEL}.")
    if level == _DEEPEST_HOST_LEVEL:
        view.print_versions(sysfs.transport_class_version(context.sysfs), RECORD_VERSION)
    hosts = sysfs.hosts(context.sysfs)
    if not hosts:
        raise Exit(21, "No iSCSI hosts.")
    if level == 0:
        view.print_hosts_flat(hosts)
        return 0
    sessions = context.sessions()
    parts = view.Parts(negotiated=level > 2, devices=level > 3, host_line=False, indent="\t")
    for host in hosts:
        view.print_host(host)
        if level > 1:
            view.print_heading("Sessions:", "\t")
            view.print_sessions_tree([session for session in sessions if session.host_no == host.host_no], parts)
    return 0


def _host_submode(context: Context, arguments: Arguments) -> int:
    """Adapters' own tables. Software hosts have none, which is said in the words of open-iscsi's failure to ask."""
    if arguments.submode == "ping":
        context.error("Invalid Sub Mode")
        return 0
    if arguments.submode == "chap" and (arguments.host is None or not arguments.operations):
        raise Exit(7, "CHAP mode requires host no and valid operation")
    if arguments.submode == "flashnode" and arguments.operation == "delete" and arguments.index is None:
        raise Exit(7, "Deleting a flash node requires its index.")
    number = arguments.host or 0
    host = sysfs.host(number, context.sysfs)
    if host is None:
        raise Exit(12, f"Could not match hostno {number} to transport.")
    if host.transport in _SOFTWARE:
        if arguments.submode == "flashnode":
            raise Exit(21, f"No flashnodes attached to host {number}.")
        if arguments.submode == "stats":
            raise Exit(1, "get_host_stats failed. errno=0")
        raise Exit(1, "Received iferror -22: Invalid argument.", "get_chap_info failed. errno=0")
    raise Exit(7, f"The tables of adapters (-C {arguments.submode}) are not supported yet.")
