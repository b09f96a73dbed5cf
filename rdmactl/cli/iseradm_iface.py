# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m iface`: interface records. Face ring.

An interface says how a session leaves this host. Changing one rewrites the copies in the node records bound to it.
Not here: what the operations do to records (`rdmactl.records.operations`).
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import Exit
from rdmactl.records import operations
from rdmactl.records.model import iface_table
from rdmactl.records.operations import SPECIAL_IFACES, RecordProblem

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.records.model import Record

__all__ = ["iface_mode"]

TRANSPORTS = ("tcp", "iser", "bnx2i", "cxgb3i", "cxgb4i", "qla4xxx", "qedi", "be2iscsi", "ocs")
"""Transports there are modules for."""


def iface_mode(context: Context, arguments: Arguments) -> int:
    """Returns the exit status."""
    name = arguments.ifaces[0] if arguments.ifaces else None
    if name is not None:
        context.first_iface(arguments.ifaces, f"iface mode only accepts one interface. Using the first one {name}.")
    if arguments.submode == "ping":
        from rdmactl.cli.iseradm_ping import ping

        return ping(context, arguments, name)
    actions: dict[str | None, Callable[[], int]] = {
        None: lambda: _look(context, arguments, name),
        "show": lambda: _look(context, arguments, name),
        "new": lambda: _new(context, name, arguments.pairs),
        "update": lambda: _update(context, name, arguments.pairs),
        "delete": lambda: _delete(context, name),
        "apply": lambda: _apply(context, name),
        "applyall": lambda: _apply_all(context, arguments.host or 0),
    }
    if arguments.operation not in actions:
        raise Exit(7)
    return actions[arguments.operation]()


def _look(context: Context, arguments: Arguments, name: str | None) -> int:
    level = arguments.level or 0
    if level not in (0, 1):
        raise Exit(7, f"Invalid info level {level}. Try 0 - 1.")
    store = context.store
    names = [name] if name is not None else [*store.ifaces(), *SPECIAL_IFACES]
    records = []
    for known in names:
        record = operations.iface_record(store, known)
        if record is None:
            raise Exit(6, f"Could not read iface info for {known}.")
        records.append(record)
    if level == 1:
        _print_tree(context, names)
    elif name is not None:
        from rdmactl.cli.iseradm_print import print_record

        print_record(iface_table(name), records[0])
    else:
        _print_flat(records)
    return 0


def _print_flat(records: list[Record]) -> None:
    fields = ("hwaddress", "ipaddress", "net_ifacename", "initiatorname")
    for record in records:
        rest = ",".join(str(record[f"iface.{field}"]) or "<empty>" for field in fields)
        print(f"{record['iface.iscsi_ifacename']} {record['iface.transport_name']},{rest}")


def _print_tree(context: Context, names: list[str]) -> None:
    from rdmactl.cli.iseradm_print import portal_text

    nodes = context.store.nodes()
    for name in names if nodes else ():
        print(f"Iface: {name}")
        target = None
        for node in nodes:
            if node.iface == name:
                if node.target != target:
                    target = node.target
                    print(f"\tTarget: {target}")
                print(f"\t\tPortal: {portal_text(node.address, node.port, node.tpgt)}")


def _new(context: Context, name: str | None, pairs: list[tuple[str, str]]) -> int:
    if name is None:
        raise Exit(22, "Could not add interface. No interface passed in.")
    if name in SPECIAL_IFACES:
        raise Exit(
            7,
            f"iface {name} is a special interface and is not stored in /etc/iscsi/ifaces.",
            f"Could not create new interface {name}.",
        )
    if _in_use(context, name):
        raise Exit(15, f"Could not create new interface {name}.")
    if "/" in name:
        raise Exit(6, f"Could not create new interface {name}.")
    store = context.store
    with store.transaction():
        record = operations.new_iface(store, name)
        try:
            _apply_pairs(context, name, record, pairs)
        except _Refused as refusal:
            for message in refusal.messages:
                context.error(message)
            context.error(f"Could not update iface {name}: invalid parameter")
        else:
            operations.rewrite_iface(store, name, record)
            print(f"{name} updated.")
    print(f"New interface {name} added")
    return 0


def _update(context: Context, name: str | None, pairs: list[tuple[str, str]]) -> int:
    """What is wrong with the pairs does not change the status: iscsiadm's callers know it so."""
    if name is None or not pairs:
        raise Exit(7, "Update requires name, value, and iface.")
    store = context.store
    with store.transaction():
        record = operations.iface_record(store, name)
        if record is None:
            raise Exit(7, f"Could not read iface info for {name}.")
        transport = str(record["iface.transport_name"])
        if transport not in TRANSPORTS:
            raise Exit(
                7,
                f"Could not insert module {transport}. Kmod error -2",
                f"Cound not locate transport for iface {name}",
            )
        try:
            if name in SPECIAL_IFACES:
                raise _Refused(f"iface {name} is a special interface and cannot be modified.")
            _apply_pairs(context, name, record, pairs)
        except _Refused as refusal:
            raise Exit(0, *refusal.messages, f"Could not update iface {name}: invalid parameter") from None
        if _in_use(context, name):
            context.error(
                "Updating iface while iscsi sessions are using it. You must logout the running sessions then log back"
                " in for the new settings to take affect."
            )
        operations.rewrite_iface(store, name, record)
    print(f"{name} updated.")
    return 0


class _Refused(Exception):
    """Pairs that cannot be applied, in iscsiadm's words."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages


def _apply_pairs(context: Context, name: str, record: Record, pairs: list[tuple[str, str]]) -> None:
    """All pairs, or none: an interface is bound by device or by hardware address, and keeps its name."""
    from rdmactl.cli.iseradm_node import problem_messages

    for key, _ in pairs:
        if key == "iface.iscsi_ifacename":
            raise _Refused("Can not update iface.iscsi_ifacename. Delete it, and then create a new one.")
        for wanted, other in (("hwaddress", "net_ifacename"), ("net_ifacename", "hwaddress")):
            if key == f"iface.{wanted}" and record[f"iface.{other}"]:
                raise _Refused(
                    f"Can not update interface binding from {other} to {wanted}."
                    " You must delete the interface and create a new one"
                )
    try:
        changes, remarks = operations.check_pairs(iface_table(name), pairs)
    except RecordProblem as problem:
        raise _Refused(*problem_messages(problem)) from None
    for remark in remarks:
        context.error(remark)
    record.update(changes)


def _delete(context: Context, name: str | None) -> int:
    from rdmactl.cli.iseradm_node import in_use_text

    if name is None:
        raise Exit(7, "Could not delete interface. No interface passed in.")
    refused = f"Could not delete iface {name}: invalid parameter"
    if name in SPECIAL_IFACES:
        raise Exit(7, f"iface {name} is a special interface and cannot be deleted.", refused)
    store = context.store
    with store.transaction():
        if store.iface(name) is None:
            raise Exit(7, f"Could not read iface info for {name}.", refused)
        nodes = store.nodes(iface=name)
        counts = context.session_counts()
        used = [node for node in nodes if counts.of(node)]
        if used:
            raise Exit(15, *map(in_use_text, used), f"Could not delete iface {name}: session exists")
        for node in nodes:
            store.delete_node(node)
        store.delete_iface(name)
    print(f"{name} unbound and deleted.")
    return 0


def _in_use(context: Context, name: str) -> bool:
    return any(session.iface_name == name for session in context.sessions())


def _apply(context: Context, name: str | None) -> int:
    from rdmactl.cli.iseradm_apply import apply

    return apply(context, name)


def _apply_all(context: Context, host_no: int) -> int:
    from rdmactl.cli.iseradm_apply import apply_all

    return apply_all(context, host_no)
