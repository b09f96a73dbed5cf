# SPDX-License-Identifier: Apache-2.0
"""Node, interface and discovery records as iscsiadm prints them. Face ring.

Tabs, brackets and words are parsed by scripts: see iscsiadm(8) and tests/golden. Not here: sessions
(`iseradm_session_print.py`), messages.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rdmactl.records.model import Record, Table
    from rdmactl.records.store import NodeId

__all__ = ["node_text", "portal_text", "print_flat", "print_record", "print_tree", "record_text"]


def bracketed(address: str) -> str:
    """An address in front of a port: iscsiadm puts everything without a dot into brackets."""
    return address if "." in address else f"[{address}]"


def portal_text(address: str, port: int, tpgt: int) -> str:
    return f"{bracketed(address)}:{port},{tpgt}"


def node_text(node: NodeId) -> str:
    """How messages name a node record."""
    return f"[iface: {node.iface}, target: {node.target}, portal: {node.address},{node.port}]"


def record_text(record: Record) -> str:
    """How "added" names a node record."""
    transport, hw, ip, net, iface, address, port, tpgt, target = (
        record.get(f"{key}", "")
        for key in (
            "iface.transport_name",
            "iface.hwaddress",
            "iface.ipaddress",
            "iface.net_ifacename",
            "iface.iscsi_ifacename",
            "node.conn[0].address",
            "node.conn[0].port",
            "node.tpgt",
            "node.name",
        )
    )
    return f"[{transport}:[hw={hw},ip={ip},net_if={net},iscsi_if={iface}] {address},{port},{tpgt} {target}]"


def print_flat(nodes: Iterable[NodeId]) -> None:
    """One line for each record; an unknown tag is its 32 bits."""
    for node in nodes:
        print(f"{bracketed(node.address)}:{node.port},{node.tpgt & 0xFFFFFFFF} {node.target}")


def print_tree(nodes: Iterable[NodeId], *, group: bool = False) -> None:
    """Targets, their portals, and an interface for each; `nodes` come sorted by target.

    A portal with several interfaces is printed for each of them, or once with `group`.
    """
    target = portal = None
    for node in nodes:
        if node.target != target:
            target, portal = node.target, None
            print(f"Target: {target}")
        if not group or node.directory != portal:
            portal = node.directory
            print(f"\tPortal: {portal_text(node.address, node.port, node.tpgt)}")
        print(f"\t\tIface Name: {node.iface}")


def print_record(table: Table, record: Record, *, reveal: bool = False) -> None:
    """All keys of a record that are shown, secrets masked unless `reveal`."""
    from rdmactl.cli.iseradm_context import RECORD_VERSION
    from rdmactl.records.model import shown

    print(f"# BEGIN RECORD {RECORD_VERSION}")
    for key in table.keys:
        if not key.hidden:
            value = record.get(key.name)
            print(f"{key.name} = {shown(key, key.default if value is None else value, reveal=reveal)}")
    print("# END RECORD")
