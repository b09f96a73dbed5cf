# SPDX-License-Identifier: Apache-2.0
"""What can be done with records: the same code for a command line without a daemon and for a daemon. Shell ring.

Nothing here prints; what a user did wrong is raised as a `RecordProblem`, which carries the facts, and the front end
words it. Semantics are open-iscsi's, also where they surprise: `new` overwrites, a discovery resets what it finds
again, an update of several pairs is all or nothing per record.
Must be called inside `Store.transaction` when it changes anything.
"""

from __future__ import annotations

from rdmactl.errors import LocalError
from rdmactl.records import conf
from rdmactl.records.model import (
    ValueProblem,
    convert,
    defaults,
    discovery_table,
    iface_table,
    node_table,
    plain,
)
from rdmactl.records.store import NodeId
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rdmactl.records.conf import Setting
    from rdmactl.records.model import Record, Table
    from rdmactl.records.store import Store

__all__ = [
    "SPECIAL_IFACES",
    "BadValue",
    "Changes",
    "Found",
    "ReadOnlyKey",
    "RecordProblem",
    "Selection",
    "Source",
    "UnknownKey",
    "add_found",
    "check_pairs",
    "delete_discovery",
    "delete_stale",
    "discovery_ifaces",
    "discovery_record",
    "discovery_source",
    "iface_record",
    "in_startup_group",
    "matching",
    "new_discovery",
    "new_iface",
    "new_node",
    "new_nodes",
    "node_record",
    "portals_for_new",
    "rewrite_iface",
    "update_discovery",
    "update_nodes",
]

SPECIAL_IFACES = {"default": "tcp", "iser": "iser"}
"""Interfaces that always exist, are not stored and cannot be changed; with their transports."""

Pairs = list[tuple[str, str]]


class RecordProblem(LocalError):
    """A pair that cannot be applied. `key` is the name as it was given."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class UnknownKey(RecordProblem):
    """No such key in this kind of record."""


class ReadOnlyKey(RecordProblem):
    """The key identifies the record."""


class BadValue(RecordProblem):
    """The key does not take this value."""

    def __init__(self, key: str, value: str, message: str) -> None:
        super().__init__(key, message)
        self.value = value


class Selection(NamedTuple):
    """Which node records: what is None does not matter."""

    target: str | None = None
    address: str | None = None
    port: int | None = None
    iface: str | None = None


class Source(NamedTuple):
    """Where a node record comes from: `type` is one of node.discovery_type's words.

    `recorded`: there is a discovery record that claims what was found. iscsiadm makes none for `discovery -t isns`.
    """

    type: str = "static"
    address: str = ""
    port: int = 0
    recorded: bool = True

    @property
    def text(self) -> str:
        """How the store indexes it."""
        return f"{self.type} {self.address},{self.port}" if self.address and self.recorded else self.type


STATIC = Source()


class Found(NamedTuple):
    """A portal of a target that a discovery reported."""

    target: str
    address: str
    port: int
    tpgt: int


class Changes(NamedTuple):
    """What recording a discovery may change: iscsiadm's operations new, update and delete."""

    add: bool
    overwrite: bool
    delete: bool


def matching(
    store: Store, selection: Selection, resolve: Callable[[str], frozenset[str]] | None = None
) -> list[NodeId]:
    """The node records selected, in iscsiadm's order.

    Addresses are compared as text; with `resolve` (a name or address to its numeric addresses) also by what they mean,
    so that a name finds the record stored under its address and the other way round.
    """
    target, address, port, iface = selection
    if address is None or resolve is None:
        return store.nodes(target=target, address=address, port=port, iface=iface)
    meant: frozenset[str] | None = None
    known: dict[str, bool] = {address: True}
    chosen = []
    for node in store.nodes(target=target, port=port, iface=iface):
        if node.address not in known:
            meant = resolve(address) if meant is None else meant
            known[node.address] = bool(meant & resolve(node.address))
        if known[node.address]:
            chosen.append(node)
    return chosen


def source_of(record: Record) -> Source:
    """The source a record names."""
    address, port = plain(record.get("node.discovery_address", "")), plain(record.get("node.discovery_port", "0"))
    return Source(plain(record.get("node.discovery_type", "static")), address, int(port or 0))


def node_record(node: NodeId, iface: Record, settings: Sequence[Setting], source: Source = STATIC) -> Record:
    """A fresh node record: defaults, then iscsid.conf, then the interface, then what identifies it."""
    table = node_table(node.iface)
    record = defaults(table)
    conf.apply(record, table, settings)
    record.update(iface)
    record.update(
        {
            "node.name": node.target,
            "node.tpgt": str(node.tpgt),
            "node.conn[0].address": node.address,
            "node.conn[0].port": str(node.port),
            "node.discovery_address": source.address,
            "node.discovery_port": str(source.port),
            "node.discovery_type": source.type,
        }
    )
    return record


def new_node(store: Store, node: NodeId, iface: Record, settings: Sequence[Setting], source: Source = STATIC) -> Record:
    """Write a fresh node record, over one that may exist; returns it.

    A record without tag for the same portal gives way to one with a tag.
    """
    record = node_record(node, iface, settings, source)
    if node.tpgt != -1:
        for other in store.nodes(target=node.target, address=node.address, port=node.port):
            if other.tpgt == -1:
                store.delete_node(other)
    store.write_node(node, record, source.text)
    return record


def new_nodes(
    store: Store, nodes: Sequence[NodeId], iface: Record, settings: Sequence[Setting], source: Source = STATIC
) -> None:
    """Write fresh node records bound to one interface, over those that may exist: as `new_node`, but in one go."""
    if nodes:
        store.write_nodes(nodes, node_record(nodes[0], iface, settings, source), source.text)


def portals_for_new(store: Store, selection: Selection, tpgt: int, iface: str) -> list[NodeId]:
    """Which node records `new` makes: the one named by target and portal, else one for each known portal selected."""
    target, address, port, _ = selection
    if target is not None and address is not None and port is not None:
        return [NodeId(target, address, port, tpgt, iface)]
    known = store.nodes(target=target, address=address, port=port)
    return list(dict.fromkeys(NodeId(node.target, node.address, node.port, node.tpgt, iface) for node in known))


def check_pairs(table: Table, pairs: Pairs) -> tuple[Record, list[str]]:
    """The converted values of all pairs and remarks, or the problem of the first bad one."""
    changes: Record = {}
    remarks: list[str] = []
    for name, text in pairs:
        key = table.find(name)
        if key is None:
            raise UnknownKey(name, f"there is no key {name}")
        if key.read_only:
            raise ReadOnlyKey(name, f"{name} identifies the record")
        try:
            changes[key.name], said = convert(key, text)
        except ValueProblem as problem:
            raise BadValue(name, text, f"{name} cannot have this value: {problem}") from None
        remarks.extend(said)
    return changes, remarks


def update_nodes(store: Store, selection: Selection, addresses: Collection[str], pairs: Pairs) -> tuple[int, list[str]]:
    """Apply all pairs to the records selected, or to none; returns how many those are, and remarks.

    `addresses` are those that the selection's address means; without an address in it they do not matter.
    """
    changes, remarks = check_pairs(node_table("default"), pairs)  # both node tables agree on what an update may name
    target, address, port, iface = selection
    count = 0
    for each in addresses if address is not None else (None,):
        count += store.update_nodes(changes, target=target, address=each, port=port, iface=iface)
    return count, remarks


def in_startup_group(record: Record, group: str) -> bool:
    """Whether the record starts with "manual", "automatic" or "onboot": either of its two keys may say so."""
    return group in (record.get("node.startup"), record.get("node.conn[0].startup"))


# Interfaces


def iface_record(store: Store, name: str) -> Record | None:
    """An interface with all its keys; None when there is none of this name."""
    record = defaults(iface_table(name))
    record["iface.iscsi_ifacename"] = name
    if name in SPECIAL_IFACES:
        record["iface.transport_name"] = SPECIAL_IFACES[name]
        return record
    stored = store.iface(name)
    if stored is None:
        return None
    record.update(stored)
    return record


def new_iface(store: Store, name: str) -> Record:
    """Make an interface, or put one back to its defaults."""
    record = defaults(iface_table(name))
    record["iface.iscsi_ifacename"] = name
    store.write_iface(name, record)
    return record


def rewrite_iface(store: Store, name: str, record: Record) -> None:
    """Store an interface, and its copies in the node records bound to it."""
    store.write_iface(name, record)
    for node in store.nodes(iface=name):
        bound = store.node(node)
        if bound is not None:
            bound.update(record)
            store.write_node(node, bound, store.source(node) or "")


def discovery_ifaces(store: Store) -> list[str]:
    """Which interfaces a discovery uses when none was named: the user-made ones with transport tcp, else "default"."""
    chosen = []
    for name in store.ifaces():
        record = iface_record(store, name)
        if record is not None and record["iface.transport_name"] == "tcp":
            chosen.append(name)
    return chosen or ["default"]


# Discovery records and what a discovery finds


def discovery_record(type: str, address: str, port: int, settings: Sequence[Setting]) -> Record:
    """A fresh discovery record: defaults, then iscsid.conf, then what identifies it."""
    table = discovery_table(type)
    record = defaults(table)
    conf.apply(record, table, settings)
    record["discovery.type"] = type
    record["discovery.sendtargets.address"] = address
    record["discovery.sendtargets.port"] = str(port)
    return record


def new_discovery(store: Store, type: str, address: str, port: int, settings: Sequence[Setting]) -> Record:
    """Write a fresh discovery record, over one that may exist; returns it."""
    record = discovery_record(type, address, port, settings)
    store.write_discovery(type, address, port, record)
    return record


def update_discovery(store: Store, type: str, address: str, port: int, pairs: Pairs) -> list[str]:
    """Apply all pairs to a discovery record that exists, or none; returns remarks."""
    changes, remarks = check_pairs(discovery_table(type), pairs)
    record = store.discovery(type, address, port)
    if record is not None:
        record.update(changes)
        store.write_discovery(type, address, port, record)
    return remarks


def delete_discovery(store: Store, type: str, address: str, port: int) -> bool:
    """Delete a discovery record and the node records it has found, in use or not; whether there was one."""
    if not store.delete_discovery(type, address, port):
        return False
    for node in store.nodes_of_source(discovery_source(type, address, port).text):
        store.delete_node(node)
    return True


def discovery_source(type: str, address: str, port: int, *, recorded: bool = True) -> Source:
    """The source that node records of this discovery name."""
    return Source("isns" if type == "isns" else "send_targets", address, port, recorded)


def source_of_discovery(store: Store, type: str, address: str, port: int) -> Source:
    """The same, for a discovery that may have no record."""
    recorded = type != "isns" or store.discovery(type, address, port) is not None
    return discovery_source(type, address, port, recorded=recorded)


def add_found(
    store: Store,
    found: Sequence[Found],
    iface: Record,
    source: Source,
    changes: Changes,
    settings: Sequence[Setting],
) -> None:
    """Node records for the portals a discovery found through an interface.

    `changes.add` keeps records that exist; `changes.overwrite` resets them, and adds missing ones as well.
    """
    if not (changes.overwrite or changes.add):
        return
    name = plain(iface["iface.iscsi_ifacename"])
    nodes = [NodeId(*portal, name) for portal in found]
    new = nodes if changes.overwrite else [node for node in nodes if store.source(node) is None]
    new_nodes(store, new, iface, settings, source)


def delete_stale(
    store: Store,
    found: Collection[NodeId],
    source: Source,
    in_use: Callable[[NodeId], bool],
    *,
    preserve: bool = False,
) -> list[NodeId]:
    """Delete the records of a source that it has not reported again, through the interfaces that were asked.

    Those in use stay and are returned. With `preserve`, those that were changed since they were made stay as well. A
    discovery through other interfaces than before takes the place of the earlier.
    """
    stale = _found_before(store, source, found)
    if preserve:
        stale = [node for node in stale if not store.is_changed(node)]
    kept = [node for node in stale if in_use(node)]
    store.delete_nodes(node for node in stale if node not in kept)
    return kept


def _found_before(store: Store, source: Source, found: Collection[NodeId]) -> list[NodeId]:
    """The records of a source but for those `found`; among those no discovery record claims, the ones that name it."""
    nodes = store.nodes_of_source(source.text, without=found) if source.recorded else []
    for node in store.nodes_of_source("isns", without=found) if source.type == "isns" else ():
        record = store.node(node)
        if record is not None and source_of(record)[:3] == source[:3]:
            nodes.append(node)
    return nodes
