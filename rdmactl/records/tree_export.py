# SPDX-License-Identifier: Apache-2.0
"""Writing open-iscsi's tree of record files, for programs that read it: dracut, storage managers. Shell ring.

The tree has the names, link targets, file syntax and modes of open-iscsi 2.1.8. Each file is made next to the tree and
renamed into it, so that a reader meets the old or the new one. What else lies in the tree is left alone.

Not here: when to write (`mirror.py` after each change; `rdmactl records export` once), the text of files (`files.py`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from rdmactl.errors import StoreError
from rdmactl.records.files import format_file, is_component, link_name, source_directory
from rdmactl.records.model import discovery_table, iface_table, node_table

if TYPE_CHECKING:
    from rdmactl.records.model import Record
    from rdmactl.records.store import NodeId, Store

__all__ = ["DISCOVERY_FILES", "TreeWriter", "export_tree"]

DISCOVERY_FILES = {"sendtargets": ("send_targets", "st_config"), "isns": ("isns", "isns_config")}
"""Of a type of discovery: the directory, and the file in the directory of a portal."""

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


class TreeWriter:
    """A tree below `root`. `seen_as` is where its readers will find it: links are absolute.

    Names that cannot be names of files are refused: the methods return the reason then, the end of a sentence.
    """

    def __init__(self, root: str, seen_as: str | None = None) -> None:
        self.root = os.path.abspath(root)
        self.seen_as = os.path.abspath(seen_as or root)

    def write_node(self, node: NodeId, record: Record, source: str) -> str | None:
        """A node record, and the link of its source."""
        path, link = self._node_path(node), self._link_path(node, source)
        problem = _problem(path) or (link and _problem(link))
        if problem:
            return problem
        self._write(path, format_file(record, node_table(node.iface)))
        if link is not None:
            self._link(link, os.path.join(self.seen_as, "nodes", node.target, node.directory))
        return None

    def remove_node(self, node: NodeId) -> None:
        """The file of a record that is gone, and the directories that are empty then."""
        path = self._node_path(node)
        if _problem(path) is None:
            self._remove(path, keep=1)

    def remove_link(self, node: NodeId, source: str) -> None:
        """The link of a source that claims the record no more."""
        link = self._link_path(node, source)
        if link is not None and _problem(link) is None:
            self._remove(link, keep=1)

    def write_discovery(self, type: str, address: str, port: int, record: Record) -> str | None:
        path = _discovery_path(type, address, port)
        problem = _problem(path)
        if problem is None:
            self._write(path, format_file(record, discovery_table(type)))
        return problem

    def remove_discovery(self, type: str, address: str, port: int) -> None:
        path = _discovery_path(type, address, port)
        if _problem(path) is None:
            self._remove(path, keep=1)

    def write_iface(self, name: str, record: Record) -> str | None:
        path = ("ifaces", name)
        problem = _problem(path)
        if problem is None:
            self._write(path, format_file(record, iface_table(name)))
        return problem

    def remove_iface(self, name: str) -> None:
        path = ("ifaces", name)
        if _problem(path) is None:
            self._remove(path, keep=1)

    def _node_path(self, node: NodeId) -> tuple[str, ...]:
        """A record without tag is a file where others have a directory: that is open-iscsi's old style."""
        path = ("nodes", node.target, node.directory)
        return path if node.tpgt == -1 else (*path, node.iface)

    def _link_path(self, node: NodeId, source: str) -> tuple[str, ...] | None:
        directory = source_directory(source)
        if directory is None or (node.tpgt == -1 and source == "static"):
            return None
        return (*directory, link_name(node.target, node.address, node.port, node.tpgt, node.iface))

    def _write(self, path: tuple[str, ...], text: str) -> None:
        new = os.path.join(self.root, f".rdmactl.{os.getpid()}.new")
        try:
            self._make_directories(path[:-1])
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(new, flags, _FILE_MODE), "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(new, os.path.join(self.root, *path))
        except OSError as error:
            raise self._failed(path, error) from None

    def _link(self, path: tuple[str, ...], target: str) -> None:
        whole = os.path.join(self.root, *path)
        new = os.path.join(self.root, f".rdmactl.{os.getpid()}.new")
        try:
            if os.path.islink(whole) and os.readlink(whole) == target:
                return
            self._make_directories(path[:-1])
            with suppress(FileNotFoundError):
                os.unlink(new)
            os.symlink(target, new)
            os.replace(new, whole)
        except OSError as error:
            raise self._failed(path, error) from None

    def _make_directories(self, path: tuple[str, ...]) -> None:
        os.makedirs(self.root, mode=_DIRECTORY_MODE, exist_ok=True)
        for depth in range(1, len(path) + 1):
            with suppress(FileExistsError):
                os.mkdir(os.path.join(self.root, *path[:depth]), _DIRECTORY_MODE)

    def _remove(self, path: tuple[str, ...], keep: int) -> None:
        """Unlink, then remove directories upwards that are empty, but not the first `keep`."""
        try:
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                os.unlink(os.path.join(self.root, *path))
            for depth in range(len(path) - 1, keep, -1):
                os.rmdir(os.path.join(self.root, *path[:depth]))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise self._failed(path, error) from None

    def _failed(self, path: tuple[str, ...], error: OSError) -> StoreError:
        return StoreError(f"{os.path.join(self.root, *path)} cannot be written: {error.strerror}", hint="run as root")


_NOT_EMPTY = (39, 17)  # ENOTEMPTY; some file systems say EEXIST


def export_tree(store: Store, writer: TreeWriter) -> tuple[int, list[str]]:
    """Write everything; returns how many records those are, and sentences about those that cannot be files."""
    count = 0
    problems: list[str] = []

    def done(what: str, problem: str | None) -> None:
        nonlocal count
        if problem is None:
            count += 1
        else:
            problems.append(f"{what} {problem}")

    for name in store.ifaces():
        record = store.iface(name)
        if record is not None:
            done(f"the interface {name}", writer.write_iface(name, record))
    for type, address, port in store.discoveries():
        record = store.discovery(type, address, port)
        if record is not None:
            done(
                f"the discovery record {address},{port}",
                writer.write_discovery(type, address, port, record),
            )
    old_style: set[tuple[str, str]] = set()
    for node in store.nodes():
        record = store.node(node)
        if record is None:
            continue
        problem = None
        if node.tpgt == -1:
            problem = _CLASH if (node.target, node.directory) in old_style else None
            old_style.add((node.target, node.directory))
        what = f"the node record {node.target} at {node.directory} through {node.iface}"
        done(what, problem or writer.write_node(node, record, store.source(node) or ""))
    return count, problems


_CLASH = "has no tag, and open-iscsi can have one such record for each portal"


def _discovery_path(type: str, address: str, port: int) -> tuple[str, ...]:
    directory, name = DISCOVERY_FILES[type]
    return (directory, f"{address},{port}", name)


def _problem(path: tuple[str, ...]) -> str | None:
    """Why a path cannot be, as the end of a sentence."""
    for part in path:
        if not is_component(part):
            return "has a name that cannot be the name of a file"
    return None
