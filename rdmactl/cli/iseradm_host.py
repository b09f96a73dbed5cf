# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m host`: hosts of iSCSI transports, straight from sysfs, and what an adapter keeps itself. Face ring.

Not here: printing (`iseradm_session_print.py`), the tables of adapters (`iseradm_chap.py`, `iseradm_flashnode.py`).
"""

from __future__ import annotations

from rdmactl.cli import iseradm_session_print as view
from rdmactl.cli.iseradm_context import RECORD_VERSION, Exit
from rdmactl.initiator import sysfs

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.sysfs import HostView

__all__ = ["host_mode", "is_software"]

_DEEPEST_LEVEL = 4
_SOFTWARE = ("tcp", "iser")


def is_software(transport: str) -> bool:
    """Whether a transport is the kernel's own, and so has nothing to configure."""
    return transport in _SOFTWARE


def host_mode(context: Context, arguments: Arguments) -> int:
    """Lists hosts; the number given with -H does not filter, as in iscsiadm. Returns the exit status."""
    if arguments.submode is not None:
        return _submode(context, arguments)
    level = arguments.level or 0
    if not 0 <= level <= _DEEPEST_LEVEL:
        raise Exit(7, f"Invalid info level {level}. Try 0 - {_DEEPEST_LEVEL}.")
    if level == _DEEPEST_LEVEL:
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


def _submode(context: Context, arguments: Arguments) -> int:
    """Adapters' own tables. Software hosts have none, which is said in the words of open-iscsi's failure to ask."""
    if arguments.submode == "ping":
        context.error("Invalid Sub Mode")
        return 0
    if arguments.submode == "chap" and (arguments.host is None or not arguments.operations):
        raise Exit(7, "CHAP mode requires host no and valid operation")
    if arguments.submode == "flashnode" and arguments.operation == "delete" and arguments.index is None:
        raise Exit(7, "Deleting a flash node requires its index.")
    host = _host(context, arguments.host or 0)
    if is_software(host.transport):
        if arguments.submode == "flashnode":
            raise Exit(21, f"No flashnodes attached to host {host.host_no}.")
        if arguments.submode == "stats":
            raise Exit(1, "get_host_stats failed. errno=0")
        raise Exit(1, "Received iferror -22: Invalid argument.", "get_chap_info failed. errno=0")
    match arguments.submode:
        case "chap":
            from rdmactl.cli.iseradm_chap import chap_submode as submode
        case "flashnode":
            from rdmactl.cli.iseradm_flashnode import flashnode_submode as submode
        case _:
            return _statistics(context, host)
    return submode(context, arguments, host)


def _host(context: Context, number: int) -> HostView:
    host = sysfs.host(number, context.sysfs)
    if host is None:
        raise Exit(12, f"Could not match hostno {number} to transport.")
    return host


def _statistics(context: Context, host: HostView) -> int:
    with context.adapter(host) as adapter:
        found = adapter.statistics()
    print("Host Statistics:")
    for name, value in found.fixed:
        print(f"\t{name}: {value}")
    if found.named:
        print("iSCSI Extended:")
    for name, value in found.named:
        print(f"\t{name}: {value}")
    return 0
