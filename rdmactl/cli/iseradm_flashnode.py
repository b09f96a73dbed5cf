# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m host -H N -C flashnode`: the targets an adapter logs in to by itself. Face ring.

They are shown from sysfs and changed through the kernel; -x picks one.
Not here: how the adapter is asked (`rdmactl.initiator.adapter`).
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import RECORD_VERSION, Exit
from rdmactl.cli.iseradm_print import bracketed
from rdmactl.initiator.adapter import flashnode, flashnodes
from rdmactl.netlink.iscsi import Uevent
from rdmactl.records.adapter import FLASHNODE, flash_key, flash_value
from rdmactl.records.model import EMPTY, MASK

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.adapter import FlashNode
    from rdmactl.initiator.sysfs import HostView

__all__ = ["flashnode_submode"]

_ABSENT = ("", "(null)", "<NULL>")
_REQUESTS = {
    "delete": (Uevent.DEL_FLASHNODE, "deleted"),
    "login": (Uevent.LOGIN_FLASHNODE, "logged in"),
    "logout": (Uevent.LOGOUT_FLASHNODE, "logged out"),
}


def flashnode_submode(context: Context, arguments: Arguments, host: HostView) -> int:
    """Returns the exit status."""
    operation = arguments.operation
    if operation in (None, "show"):
        return _show(context, arguments, host)
    if operation == "new":
        return _new(context, arguments, host)
    if operation != "update" and operation not in _REQUESTS:
        raise Exit(7, "Invalid operation.")
    if arguments.index is None:
        raise Exit(7, f"Flash node {operation} requires the index of a flash node.")
    node = flashnode(host.host_no, arguments.index, context.sysfs)
    if node is None:
        raise Exit(21, f"No flash node {arguments.index} on host {host.host_no}.")
    if operation == "update":
        return _update(context, arguments, host, node)
    request, done = _REQUESTS[operation or ""]
    with context.adapter(host) as adapter:
        adapter.flashnode(request, node.number)
    print(f"Flash node {node.number} of host {host.host_no} {done}.")
    return 0


def _show(context: Context, arguments: Arguments, host: HostView) -> int:
    if arguments.index is None:
        nodes = flashnodes(host.host_no, context.sysfs)
        if not nodes:
            raise Exit(21, f"No flashnodes attached to host {host.host_no}.")
        for listed in nodes:
            print(_line(host, listed))
        return 0
    node = flashnode(host.host_no, arguments.index, context.sysfs)
    if node is None:
        raise Exit(21, f"No flash node {arguments.index} on host {host.host_no}.")
    print(f"# BEGIN RECORD {RECORD_VERSION}")
    for key in FLASHNODE:
        part = node.session if key.name.startswith("flashnode.session.") else node.connection
        value = part.get(key.attribute)
        if value is not None:
            shown = EMPTY if value in _ABSENT else MASK if key.kind == "secret" else value
            print(f"{key.name} = {shown}")
    print("# END RECORD")
    return 0


def _line(host: HostView, node: FlashNode) -> str:
    """transport: [index] address:port,tag target"""
    address = _text(node.connection.get("ipaddress"))
    where = address if address == EMPTY else bracketed(address)
    port, tag = (_text(part.get(name)) for part, name in ((node.connection, "port"), (node.session, "tpgt")))
    return f"{host.transport}: [{node.number}] {where}:{port},{tag} {_text(node.session.get('targetname'))}"


def _text(value: str | None) -> str:
    return EMPTY if value is None or value in _ABSENT else value


def _new(context: Context, arguments: Arguments, host: HostView) -> int:
    family = arguments.portal_type
    if family is None:
        raise Exit(7, "A new flash node requires its portal type: -A ipv4 or -A ipv6.")
    with context.adapter(host) as adapter:
        number = adapter.new_flashnode(family)
    print(f"New flash node {number} of host {host.host_no} added.")
    return 0


def _update(context: Context, arguments: Arguments, host: HostView, node: FlashNode) -> int:
    """All pairs in one request, so that the adapter takes all of them or none."""
    if not arguments.pairs:
        raise Exit(7, "Flash node update requires name and value.")
    params = []
    for name, text in arguments.pairs:
        key = flash_key(name)
        if key is None:
            raise Exit(7, f"Cannot modify {name}. Invalid param name.")
        try:
            params.append((key.number, flash_value(key, text)))
        except ValueError:
            shown = MASK if key.kind == "secret" else text
            raise Exit(7, f"unknown value format '{shown}' for parameter name '{name}'") from None
    with context.adapter(host) as adapter:
        adapter.set_flashnode(node.number, params)
    print(f"Flash node {node.number} of host {host.host_no} updated.")
    return 0
