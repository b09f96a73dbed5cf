# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m node`: node records, and logging in and out by them. Face ring.

The order of the checks is iscsiadm's. Not here: talking to the daemon (`iseradm_login.py`), printing
(`iseradm_print.py`), what an operation does to the records (`rdmactl.records.operations`).
"""

from __future__ import annotations

import os

from rdmactl.cli.iseradm_context import Exit

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.sysfs import SessionView
    from rdmactl.records.model import Record
    from rdmactl.records.operations import RecordProblem, Selection
    from rdmactl.records.store import NodeId

__all__ = ["in_use_text", "node_mode", "operate", "problem_messages", "rescan_or_stats", "selection_of"]

_FILE_NAME_MAX = 255
_TARGET_BYTES_MAX = 254
"""Longer names are cut, as by iscsiadm."""

_LAST_LINE = "Could not execute operation on all records: {}"


def node_mode(context: Context, arguments: Arguments) -> int:
    """Returns the exit status."""
    if arguments.loginall is not None:
        from rdmactl.cli.iseradm_startup import login_all

        return login_all(context, arguments)
    if arguments.logoutall is not None:
        from rdmactl.cli.iseradm_startup import logout_all

        return logout_all(context, arguments)
    if _is_list(arguments):
        return _list(context, arguments)
    iface = context.first_iface(
        arguments.ifaces,
        "NODE mode only accepts one interface. Using the first one driver  hwaddress  ipaddress .",
    )
    selection, tpgt = selection_of(arguments, iface)
    return operate(context, arguments, selection, tpgt)


def operate(context: Context, arguments: Arguments, selection: Selection, tpgt: int) -> int:
    """What node mode, and session mode with an id, do once it is known which records are meant."""
    iface_record = _iface_of(context, selection)
    if arguments.operation == "new":
        return _new(context, selection, tpgt, iface_record)
    if arguments.rescan or arguments.stats:
        return rescan_or_stats(context, _sessions_matching(context, selection), arguments.rescan)
    if arguments.login and arguments.logout:
        raise Exit(7, "Invalid parameters. Both login and logout passed in")
    if (arguments.login or arguments.logout) and arguments.operations:
        raise Exit(7, "Invalid parameters. Login/logout and op passed in")
    if arguments.login:
        return _log_in(context, arguments, selection)
    if arguments.logout:
        from rdmactl.cli.iseradm_login import log_out

        return log_out(context, _sessions_matching(context, selection))
    operations: dict[str | None, Callable[[], int]] = {
        None: lambda: _show(context, selection, arguments.show),
        "show": lambda: _show(context, selection, arguments.show),
        "update": lambda: _update(context, selection, arguments.pairs),
        "delete": lambda: _delete(context, selection),
    }
    if arguments.operation not in operations:
        raise Exit(7, "operation is not supported.")
    return operations[arguments.operation]()


def selection_of(arguments: Arguments, iface: str | None) -> tuple[Selection, int]:
    """Which records the options -T, -p and -I mean, and the tag given with the portal."""
    from rdmactl.records.operations import Selection

    target = arguments.target
    if target is not None and len(target) > _TARGET_BYTES_MAX // 4:
        target = os.fsdecode(os.fsencode(target)[:_TARGET_BYTES_MAX])
    if arguments.portal is None:
        return Selection(target, None, None, iface), -1
    from rdmactl.cli.iseradm_portal import read_portal

    portal = read_portal(arguments.portal)
    if portal is None:
        return Selection(target, None, None, iface), -1
    address, port, tpgt = portal
    return Selection(target, address, port, iface), tpgt


def _is_list(arguments: Arguments) -> bool:
    named = arguments.target is not None or arguments.portal is not None or arguments.ifaces
    acts = arguments.login or arguments.logout or arguments.rescan or arguments.stats
    return not (named or acts or arguments.operations)


def _list(context: Context, arguments: Arguments) -> int:
    from rdmactl.cli.iseradm_print import print_flat, print_tree

    level = arguments.level or 0
    if level not in (0, 1):
        raise Exit(7, f"Invalid info level {level}. Try 0 or 1.")
    nodes = context.store.nodes()
    if not nodes:
        raise Exit(21, "No records found")
    (print_tree if level else print_flat)(nodes)
    return 0


def _iface_of(context: Context, selection: Selection) -> Record:
    """The interface of the selection; an unknown one ends the run."""
    from rdmactl.records.operations import iface_record

    record = iface_record(context.store, selection.iface or "default")
    if record is None:
        raise Exit(3, f"Could not read iface info for {selection.iface}.")
    return record


def _new(context: Context, selection: Selection, tpgt: int, iface: Record) -> int:
    from rdmactl.cli.iseradm_print import record_text
    from rdmactl.records.operations import new_node, portals_for_new

    if selection.target is not None and "/" in selection.target and selection.address is not None:
        raise Exit(
            6,
            f"Could not make /etc/iscsi/nodes/{selection.target}: No such file or directory",
            "Error while adding record: encountered iSCSI database failure",
        )
    name = str(iface["iface.iscsi_ifacename"])
    settings = context.settings
    store = context.store
    with store.transaction():
        nodes = portals_for_new(store, selection, tpgt, name)
        for node in nodes:
            _refuse_long_name(node)
        records = [new_node(store, node, iface, settings) for node in nodes]
    if not records:
        context.error("Error while adding record: ")
    for record in records:
        print(f"New iSCSI node {record_text(record)} added")
    return 0


def _refuse_long_name(node: NodeId) -> None:
    """A record that open-iscsi's tree of files could not hold could not be exported."""
    link = f"{node.target},{node.directory},{node.iface}"
    if len(link.encode("utf-8", "surrogateescape")) > _FILE_NAME_MAX:
        raise Exit(
            6,
            f"Could not make link from disc source /etc/iscsi/static/{link}"
            f" to node /etc/iscsi/nodes/{node.target}/{node.directory}: File name too long",
            "Error while adding record: encountered iSCSI database failure",
        )


def rescan_or_stats(context: Context, sessions: list[SessionView], is_rescan: bool) -> int:
    """What is done to live sessions, by whatever they were selected."""
    if not sessions:
        raise Exit(21, "No session found.")
    if not is_rescan:
        from rdmactl.cli.iseradm_stats import print_statistics

        return print_statistics(context, sessions)
    from rdmactl.cli.iseradm_rescan import rescan

    return rescan(context, sessions)


def _sessions_matching(context: Context, selection: Selection) -> list[SessionView]:
    from rdmactl.cli.iseradm_portal import sessions_matching

    return sessions_matching(context.sessions(), selection)


def _matching(context: Context, selection: Selection, *, resolve: bool) -> list[NodeId]:
    """The records selected; none ends the run."""
    from rdmactl.cli.iseradm_portal import resolver
    from rdmactl.records.operations import matching

    nodes = matching(context.store, selection, resolver() if resolve else None)
    if not nodes:
        raise Exit(21, "No records found")
    return nodes


def _log_in(context: Context, arguments: Arguments, selection: Selection) -> int:
    from rdmactl.cli.iseradm_login import log_in, of_nodes

    nodes = _matching(context, selection, resolve=True)
    return log_in(context, of_nodes(context, nodes), wait=not arguments.no_wait)


def _show(context: Context, selection: Selection, reveal: bool) -> int:
    from rdmactl.cli.iseradm_print import print_record
    from rdmactl.records.model import node_table

    for node in _matching(context, selection, resolve=False):
        record = context.store.node(node)
        if record is not None:
            print_record(node_table(node.iface), record, reveal=reveal)
    return 0


def _update(context: Context, selection: Selection, pairs: list[tuple[str, str]]) -> int:
    from rdmactl.records.model import ALIASES
    from rdmactl.records.operations import RecordProblem, update_nodes

    if not pairs:
        raise Exit(7, "update requires name and value")
    for name, _ in pairs:
        if name.startswith("iface.") and name != "iface.transport_name":
            raise Exit(7, f"Cannot modify {name}. Use iface mode to update this value.")
        if ALIASES.get(name, name) == "iface.transport_name" and _sessions_matching(context, selection):
            raise Exit(
                15,
                "Cannot modify node/iface transport name while a session is using it."
                " Log out the session then update record.",
            )
    store = context.store
    with store.transaction():
        # An address may mean others that are written differently; without one, the database finds the records itself.
        nodes = _matching(context, selection, resolve=True) if selection.address is not None else []
        try:
            count, remarks = update_nodes(store, selection, {node.address for node in nodes}, pairs)
        except RecordProblem as problem:
            for _ in nodes or _matching(context, selection, resolve=False):
                for message in problem_messages(problem):
                    context.error(message)
            raise Exit(7, _LAST_LINE.format("invalid parameter")) from None
        if not count:
            raise Exit(21, "No records found")
        for remark in remarks * count:
            context.error(remark)
    return 0


def problem_messages(problem: RecordProblem) -> list[str]:
    """iscsiadm's words for a pair that cannot be applied."""
    from rdmactl.records.operations import BadValue, ReadOnlyKey

    if isinstance(problem, ReadOnlyKey):
        return [f"Cannot modify {problem.key}. It is used to look up the record and cannot be changed."]
    if isinstance(problem, BadValue):
        shown = problem.value if problem.value.isprintable() else repr(problem.value)[1:-1]
        if "password" in problem.key:
            shown = "********"
        return [
            f"unknown value format '{shown}' for parameter name '{problem.key}'",
            f"Unknown parameter {problem.key}.",
        ]
    return [f"Cannot modify {problem.key}. Invalid param name."]


def _delete(context: Context, selection: Selection) -> int:
    counts = context.session_counts()
    used = 0
    store = context.store
    with store.transaction():
        for node in _matching(context, selection, resolve=True):
            if counts.of(node):
                context.error(in_use_text(node))
                used += 1
            else:
                store.delete_node(node)
    if used:
        raise Exit(15, _LAST_LINE.format("session exists"))
    return 0


def in_use_text(node: NodeId) -> str:
    from rdmactl.cli.iseradm_print import node_text

    return (
        f"This command will remove the record {node_text(node)}, but a session is using it."
        " Logout session then rerun command to remove record."
    )
