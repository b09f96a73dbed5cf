# SPDX-License-Identifier: Apache-2.0
"""The mirror: open-iscsi's tree kept written after each change, for programs that read it. Shell ring.

What has changed is noted in the database, in the transaction that changes it, and forgotten when the tree has it; so a
process that is killed in between leaves the rest to the next one. One process writes at a time, and it writes what the
database has then: a later change is never undone by an earlier one. The database is the truth: what other programs
write into the tree is not read back.

Not here: how the tree is written (`tree_export.py`), whether there is a mirror (`settings.py`).
"""

from __future__ import annotations

import fcntl
import os

from rdmactl.errors import StoreError
from rdmactl.records.files import portal_parts
from rdmactl.records.store import NodeId
from rdmactl.records.tree_export import TreeWriter

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.records.store import Change, Store

__all__ = ["catch_up"]


def catch_up(store: Store, root: str) -> None:
    """Bring the tree at `root` up to date with what has changed. StoreError names the file that cannot be written."""
    lock = _lock(f"{store.path}.mirror")
    try:
        changes = store.unmirrored()
        writer = TreeWriter(root)
        for change in sorted(changes, key=lambda change: _exists(store, change)):
            _write(store, writer, change)
        store.forget_unmirrored(changes)
    except StoreError as error:
        error.hint = "the change itself is recorded; the tree will have it with the next one"
        raise
    finally:
        os.close(lock)


def _lock(path: str) -> int:
    """Held until it is closed; its holder only writes files, and ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _exists(store: Store, change: Change) -> bool:
    """What is gone is removed first: it may stand where another has to go."""
    kind, one, two, three, _ = change
    if kind == "node":
        node = _node(one, two, three)
        return node is not None and store.source(node) is not None
    return True


def _write(store: Store, writer: TreeWriter, change: Change) -> None:
    kind, one, two, three, source = change
    if kind == "node":
        node = _node(one, two, three)
        if node is not None:
            _write_node(store, writer, node, source)
    elif kind == "discovery":
        record = store.discovery(one, two, int(three))
        if record is None:
            writer.remove_discovery(one, two, int(three))
        else:
            writer.write_discovery(one, two, int(three), record)
    else:
        record = store.iface(one)
        if record is None:
            writer.remove_iface(one)
        else:
            writer.write_iface(one, record)


def _write_node(store: Store, writer: TreeWriter, node: NodeId, source: str) -> None:
    now = store.source(node)
    record = store.node(node)
    if now != source:
        writer.remove_link(node, source)
    if now is None or record is None:
        writer.remove_node(node)
    else:
        writer.write_node(node, record, now)


def _node(target: str, portal: str, iface: str) -> NodeId | None:
    parts = portal_parts(portal)
    return None if parts is None else NodeId(target, *parts, iface)
