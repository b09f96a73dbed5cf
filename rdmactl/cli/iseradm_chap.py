# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m host -H N -C chap`: the CHAP table of an adapter. Face ring.

Entries are printed as records; -x picks one. Not here: how the adapter is asked (`rdmactl.initiator.adapter`).
"""

from __future__ import annotations

import errno

from rdmactl.cli.iseradm_context import Exit
from rdmactl.cli.iseradm_print import print_record
from rdmactl.errors import KernelError
from rdmactl.records.adapter import CHAP_IN, CHAP_OUT, chap_entry, chap_record
from rdmactl.records.operations import RecordProblem, check_pairs

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.adapter import Adapter
    from rdmactl.initiator.sysfs import HostView
    from rdmactl.netlink.iscsi_adapter import ChapEntry
    from rdmactl.records.model import Record

__all__ = ["chap_submode"]

_INDEX_MAX = 0xFFFF


def chap_submode(context: Context, arguments: Arguments, host: HostView) -> int:
    """Returns the exit status."""
    operation = arguments.operation
    if operation not in ("show", "new", "update", "delete"):
        raise Exit(7, "Invalid operation.")
    if operation in ("new", "update") and not arguments.pairs:
        raise Exit(7, "CHAP entries need host.auth names and values.")
    if operation in ("update", "delete") and arguments.index is None:
        raise Exit(7, f"CHAP {operation} requires the index of a CHAP entry.")
    if arguments.index is not None and arguments.index > _INDEX_MAX:
        raise Exit(7, f"Invalid CHAP table index {arguments.index}.")
    with context.adapter(host) as adapter:
        if operation == "show":
            return _show(adapter, arguments)
        if operation == "delete":
            assert arguments.index is not None
            return _delete(adapter, arguments.index)
        return _write(adapter, arguments)


def _show(adapter: Adapter, arguments: Arguments) -> int:
    entries = [entry for entry in adapter.chap() if arguments.index in (None, entry.number)]
    if not entries:
        raise Exit(21, "No CHAP entries found.")
    for entry in entries:
        table, record = chap_record(entry)
        print_record(table, record)
    return 0


def _delete(adapter: Adapter, number: int) -> int:
    try:
        adapter.delete_chap(number)
    except KernelError as error:
        if error.errno == errno.EBUSY:
            raise Exit(28, f"CHAP entry {number} is in use.") from None
        raise
    return 0


def _write(adapter: Adapter, arguments: Arguments) -> int:
    """new: the given line, or the first free one; update: a line there is."""
    known = {entry.number: entry for entry in adapter.chap()}
    number = arguments.index
    if number is None:
        number = next(free for free in range(_INDEX_MAX) if free not in known)
    if arguments.operation == "new" and number in known:
        raise Exit(7, f"CHAP entry {number} exists. Use update to change it.")
    if arguments.operation == "update" and number not in known:
        raise Exit(21, f"No CHAP entry {number}.")
    adapter.set_chap(_entry(number, arguments.pairs, known.get(number)))
    return 0


def _entry(number: int, pairs: list[tuple[str, str]], old: ChapEntry | None) -> ChapEntry:
    from rdmactl.cli.iseradm_node import problem_messages

    incoming = any(name.endswith("_in") for name, _ in pairs)
    values: Record
    try:
        values, _ = check_pairs(CHAP_IN if incoming else CHAP_OUT, pairs)
    except RecordProblem as problem:
        raise Exit(7, *problem_messages(problem)) from None
    values.pop("host.auth.tbl_idx", None)
    return chap_entry(number, values, old)
