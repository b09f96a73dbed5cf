# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m session`: the sessions the kernel has, straight from sysfs. Face ring.

No daemon is asked, and no privilege is needed to look. With an id, session mode does what node mode does, for the
records of that session's target, portal and interface.
Not here: printing (`iseradm_session_print.py`), logging out (`iseradm_login.py`).
"""

from __future__ import annotations

from rdmactl.cli import iseradm_session_print as view
from rdmactl.cli.iseradm_context import RECORD_VERSION, Exit
from rdmactl.initiator import sysfs

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.sysfs import SessionView

__all__ = ["session_mode"]

_DEEPEST_SESSION_LEVEL = 3


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
