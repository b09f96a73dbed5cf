# SPDX-License-Identifier: Apache-2.0
"""Reading open-iscsi's tree of record files into the store. Shell ring.

Everything is taken that its own programs would take, of every release: records in directories and old-style ones that
are files, records of discoveries, the links that say which source claims a record, interfaces. What cannot be read is
named and left where it is; the rest is imported. The tree itself is never changed.

Not here: the text of files (`files.py`), writing a tree (`tree_export.py`).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.errors import StoreError
from rdmactl.iscsi.names import printable
from rdmactl.records.files import is_component, link_name, parse_file, portal_parts, source_directory
from rdmactl.records.model import discovery_table, iface_table, node_table, plain
from rdmactl.records.operations import SPECIAL_IFACES, source_of
from rdmactl.records.store import NodeId
from rdmactl.records.tree_export import DISCOVERY_FILES

if TYPE_CHECKING:
    from rdmactl.records.model import Record, Table
    from rdmactl.records.store import Store

__all__ = ["ROOTS", "Tree", "import_tree", "read_tree"]

ROOTS = ("/etc/iscsi", "/var/lib/iscsi")
"""Where distributions keep the tree: the first one that has records is imported when none is named."""

_FILE_BYTES_MAX = 1 << 20
_EXAMPLE = "iface.example"


class Tree(NamedTuple):
    """What a tree holds. `problems` are whole sentences, each naming a file."""

    nodes: list[tuple[NodeId, Record, str]]
    discoveries: list[tuple[str, str, int, Record]]
    ifaces: list[tuple[str, Record]]
    problems: list[str]


class Imported(NamedTuple):
    """What an import did: records that were new, that took the place of others, that were there already; and that were
    there with other values and stay, unless replacing was asked for."""

    added: int
    replaced: int
    unchanged: int
    kept: list[str]


def import_tree(store: Store, tree: Tree, *, replace: bool) -> Imported:
    """Put a tree's records into the store, in one transaction."""
    with store.transaction():
        job = _Import(store, replace)
        for name, record in tree.ifaces:
            if job.wanted(f"the interface {name}", store.iface(name), record):
                store.write_iface(name, record)
        for type, address, port, record in tree.discoveries:
            if job.wanted(f"the discovery record {address},{port}", store.discovery(type, address, port), record):
                store.write_discovery(type, address, port, record)
        for node, record, source in tree.nodes:
            what = f"the node record {node.target} at {node.directory} through {node.iface}"
            if job.wanted(what, store.node(node), record, same_source=store.source(node) == source):
                store.write_node(node, record, source)
    return Imported(job.added, job.replaced, job.unchanged, job.kept)


class _Import:
    def __init__(self, store: Store, replace: bool) -> None:
        self.store = store
        self.replace = replace
        self.added = self.replaced = self.unchanged = 0
        self.kept: list[str] = []

    def wanted(self, what: str, here: Record | None, there: Record, *, same_source: bool = True) -> bool:
        """Whether to write a record; counts."""
        if here is None:
            self.added += 1
            return True
        if same_source and {k: v for k, v in here.items() if v} == {**_identity_of(here), **there}:
            self.unchanged += 1
            return False
        if not self.replace:
            self.kept.append(what)
            return False
        self.replaced += 1
        return True


def _identity_of(record: Record) -> Record:
    names = ("node.name", "node.tpgt", "node.conn[0].address", "node.conn[0].port")
    return {name: record[name] for name in names if name in record}


def read_tree(root: str) -> Tree:
    """Read a whole tree. StoreError when `root` cannot be read at all."""
    reader = _Reader(os.path.abspath(root))
    if not os.path.isdir(reader.root):
        raise StoreError(f"there is no directory {root} to import", hint="name the directory that has nodes/ in it")
    reader.read_ifaces()
    for type, (directory, _) in DISCOVERY_FILES.items():
        reader.read_discoveries(type, directory)
    for directory in ("static", "fw"):
        reader.read_links((directory,), directory)
    reader.linked = bool(reader.links)
    reader.read_nodes()
    reader.name_unused_links()
    return Tree(reader.nodes, reader.discoveries, reader.ifaces, reader.problems)


class _Reader:
    def __init__(self, root: str) -> None:
        self.root = root
        self.nodes: list[tuple[NodeId, Record, str]] = []
        self.discoveries: list[tuple[str, str, int, Record]] = []
        self.ifaces: list[tuple[str, Record]] = []
        self.problems: list[str] = []
        self.seen: set[NodeId] = set()
        self.links: dict[str, dict[str, str]] = {}  # name of link: source to path
        self.linked = True
        """Whether the tree has links. A copy may have lost them: then the records' own words tell their sources."""

    def complain(self, path: tuple[str, ...], text: str) -> None:
        self.problems.append(f"{printable(os.path.join(self.root, *path))}: {text}")

    def entries(self, path: tuple[str, ...]) -> list[tuple[str, int]]:
        """(name, type as in stat) of a directory's entries, sorted; names no record can have are named and left out."""
        found = []
        try:
            with os.scandir(os.path.join(self.root, *path)) as entries:
                for entry in entries:
                    if not is_component(entry.name) or not entry.name.isprintable():
                        self.complain((*path, entry.name), "has a name that no record can have; it was left out")
                    else:
                        found.append((entry.name, stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)))
        except FileNotFoundError:
            return []
        except OSError as error:
            self.complain(path, f"cannot be read: {error.strerror}")
        return sorted(found)

    def record(self, path: tuple[str, ...], table: Table) -> Record | None:
        """The record in a file; None, after saying so, when there is none to be had."""
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(os.path.join(self.root, *path), flags), "rb") as file:
                data = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            self.complain(path, f"cannot be read: {error.strerror}; it was left out")
            return None
        if len(data) > _FILE_BYTES_MAX:
            self.complain(path, "is longer than any record; it was left out")
            return None
        record, problems = parse_file(data, table)
        for problem in problems:
            self.complain(path, problem)
        return record

    def read_ifaces(self) -> None:
        for name, kind in self.entries(("ifaces",)):
            path = ("ifaces", name)
            if name == _EXAMPLE:
                continue
            if kind != stat.S_IFREG:
                self.complain(path, "is no file; it was left out")
            elif name in SPECIAL_IFACES:
                self.complain(path, "has the name of an interface that always exists; it was left out")
            else:
                record = self.record(path, iface_table(name))
                if record is not None and "iface.transport_name" not in record:
                    self.complain(path, "has no iface.transport_name, which open-iscsi wants; it was left out")
                elif record is not None:
                    self.ifaces.append((name, record))

    def read_discoveries(self, type: str, directory: str) -> None:
        for name, kind in self.entries((directory,)):
            path = (directory, name)
            parts = portal_parts(name)
            if kind == stat.S_IFLNK:
                self.add_link(path, directory)
            elif parts is None or parts[2] != -1:
                self.complain(path, "is not named ADDRESS,PORT; it was left out")
            elif kind == stat.S_IFREG:  # before there were links, the record was a file
                self.add_discovery(type, parts, path)
            elif kind == stat.S_IFDIR:
                self.read_discovery_directory(type, parts, path)

    def read_discovery_directory(self, type: str, parts: tuple[str, int, int], path: tuple[str, ...]) -> None:
        directory, config = DISCOVERY_FILES[type]
        self.read_links(path, f"{directory} {path[-1]}", besides=config)
        if os.path.lexists(os.path.join(self.root, *path, config)):
            self.add_discovery(type, parts, (*path, config))
        else:
            self.complain(path, f"has no {config}")

    def add_discovery(self, type: str, parts: tuple[str, int, int], path: tuple[str, ...]) -> None:
        record = self.record(path, discovery_table(type))
        if record is not None:
            self.discoveries.append((type, parts[0], parts[1], record))

    def read_links(self, path: tuple[str, ...], source: str, besides: str = "") -> None:
        for name, kind in self.entries(path):
            if kind == stat.S_IFLNK:
                self.add_link((*path, name), source)
            elif name != besides:
                self.complain((*path, name), "is no link to a record; it was left out")

    def add_link(self, path: tuple[str, ...], source: str) -> None:
        self.links.setdefault(path[-1], {})[source] = os.path.join(*path)

    def read_nodes(self) -> None:
        for target, kind in self.entries(("nodes",)):
            if kind != stat.S_IFDIR:
                self.complain(("nodes", target), "is no directory of a target; it was left out")
                continue
            for portal, portal_kind in self.entries(("nodes", target)):
                self.read_portal(target, portal, portal_kind)

    def read_portal(self, target: str, portal: str, kind: int) -> None:
        path = ("nodes", target, portal)
        parts = portal_parts(portal)
        if parts is None:
            self.complain(path, "is not named ADDRESS,PORT,TPGT; it was left out")
        elif kind == stat.S_IFREG and parts[2] == -1:
            record = self.record(path, node_table(""))
            if record is not None:
                iface = plain(record.get("iface.iscsi_ifacename", "")) or "default"
                self.add_node(NodeId(target, *parts, iface), record, path)
        elif kind != stat.S_IFDIR:
            self.complain(path, "is neither a directory of a portal nor a record without tag; it was left out")
        else:
            self.read_portal_directory(target, parts, path)

    def read_portal_directory(self, target: str, parts: tuple[str, int, int], path: tuple[str, ...]) -> None:
        if parts[2] == -1:
            self.complain(path, "is a directory without tag: its record will be a file when it is exported")
        for iface, kind in self.entries(path):
            if kind != stat.S_IFREG:
                self.complain((*path, iface), "is no record; it was left out")
                continue
            record = self.record((*path, iface), node_table(iface))
            if record is not None:
                self.add_node(NodeId(target, *parts, iface), record, (*path, iface))

    def add_node(self, node: NodeId, record: Record, path: tuple[str, ...]) -> None:
        if node in self.seen:
            self.complain(path, "is a second record of the same name; it was left out")
            return
        self.seen.add(node)
        if not record:
            self.complain(path, "is empty: the record has its name and the defaults of its keys")
        name = link_name(node.target, node.address, node.port, node.tpgt, node.iface)
        sources = self.links.pop(name, {})
        own = source_of(record).text
        never_linked = own == "static" and node.tpgt == -1
        told = own if never_linked or (not self.linked and source_directory(own)) else ""
        source = own if own in sources else next(iter(sources), told)
        for other, link in sources.items():
            if other != source:
                self.complain((link,), "is a second link to a record, which belongs to one source; it was left out")
        self.nodes.append((node, record, source))

    def name_unused_links(self) -> None:
        for sources in self.links.values():
            for link in sources.values():
                self.complain((link,), "is a link to a record that is not there; it was left out")
