# SPDX-License-Identifier: Apache-2.0
"""The one door to the record database: SQLite, one transaction per command. Shell ring.

Readers never wait (write-ahead log), and a process may be killed at any moment. Records are text in the syntax of
open-iscsi's own record files, so that keys nobody knows survive; secrets are kept out of that text, in a table of their
own, and the file is for its owner only. A record that cannot be read is set apart, named once and kept: it never takes
a listing with it.

A node record is found by (target, portal directory, interface), where the portal directory "ADDRESS,PORT,TPGT" is what
open-iscsi names its directories (no tag for an unknown one): sorting by it gives iscsiadm's order.

Not here: the tables and their versions (`schema.py`), what a command does to records (`operations.py`), keys and values
(`model.py`), texts of rows (`rows.py`), what its errors become (`guard.py`), files and trees (`tree_import.py`,
`tree_export.py`).
"""

from __future__ import annotations

import os
import sqlite3

from rdmactl.errors import StoreError
from rdmactl.records.guard import BUSY_S, Guard
from rdmactl.records.rows import check_words, format_record, has_undecoded, parse_record, secrets_of
from rdmactl.records.schema import MIGRATIONS, prepare

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol

    from rdmactl.records.model import Record

    class Follower(Protocol):
        """What is told of changes: the mirror. `wanted` is asked when a transaction begins."""

        def wanted(self) -> bool: ...

        def follow(self, store: Store) -> None: ...


__all__ = ["DEFAULT_STATE_DIRECTORY", "Change", "NodeId", "Store", "state_directory"]

DEFAULT_STATE_DIRECTORY = "/var/lib/rdmactl"
FILE_NAME = "records.db"

Change = tuple[str, str, str, str, str]
"""A record that the mirror has to look at: kind, three parts of its name, and the source of a node record."""

_PARSED_MAX = 64
"""Profiles kept in parsed form: hosts have a handful."""


_WHERE_NODE = " WHERE target = ? AND portal = ? AND iface = ?"
_INSERT_NODE = """
INSERT INTO nodes (target, portal, iface, address, port, tpgt, source, profile) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_IDENTITY_KEYS = ("node.name", "node.tpgt", "node.conn[0].address", "node.conn[0].port")
"""The keys of a node record that are columns here."""

_THE_NODE = "FROM nodes WHERE target = ?1 AND portal = ?2 AND iface = ?3"
_NODE = f"""
SELECT 0, id, (SELECT record FROM profiles WHERE profiles.id = profile) {_THE_NODE}
UNION ALL SELECT 1, key, value FROM settings WHERE node = (SELECT id {_THE_NODE})
UNION ALL SELECT 2, key, value FROM secrets WHERE kind = 'node' AND id = (SELECT id {_THE_NODE})
ORDER BY 1
"""  # noqa: S608
_THE_DISCOVERY = "FROM discoveries WHERE type = ?1 AND address = ?2 AND port = ?3"
_DISCOVERY = f"""
SELECT 0, id, record {_THE_DISCOVERY}
UNION ALL SELECT 2, key, value FROM secrets WHERE kind = 'discovery' AND id = (SELECT id {_THE_DISCOVERY})
ORDER BY 1
"""  # noqa: S608


class NodeId:
    """Which node record; `tpgt` is -1 when unknown. A value: equal when all parts are, and not to be changed."""

    __slots__ = ("address", "iface", "port", "target", "tpgt")

    def __init__(self, target: str, address: str, port: int, tpgt: int, iface: str) -> None:
        self.target = target
        self.address = address
        self.port = port
        self.tpgt = tpgt
        self.iface = iface

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeId) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __repr__(self) -> str:
        return f"NodeId{self._parts}"

    @property
    def _parts(self) -> tuple[str, str, int, int, str]:
        return self.target, self.address, self.port, self.tpgt, self.iface

    @property
    def directory(self) -> str:
        """How open-iscsi calls the portal's directory, which is also the sort key of portals."""
        return f"{self.address},{self.port}" + (f",{self.tpgt}" if self.tpgt != -1 else "")


def state_directory() -> str:
    """Where the records are: $RDMACTL_STATE_DIRECTORY, or /var/lib/rdmactl."""
    return os.environ.get("RDMACTL_STATE_DIRECTORY") or DEFAULT_STATE_DIRECTORY


class Store:
    """The open database; a context manager. Every method raises StoreError naming the file.

    `warn` is called with a sentence for each record that is found damaged; `follower` after each transaction.
    """

    def __init__(
        self,
        directory: str | None = None,
        *,
        warn: Callable[[str], None] | None = None,
        follower: Follower | None = None,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        self.path = os.path.join(directory or state_directory(), FILE_NAME)
        self._warn = warn
        self._follower = follower
        self._followed = False
        self._tolerant = False
        self._parsed: dict[str, Record] = {}
        self._database = self._open(migrations)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def transaction(self) -> _Transaction:
        """A context manager: all or nothing of what happens inside; a second writer waits."""
        return _Transaction(self)

    # Node records

    def nodes(
        self,
        *,
        target: str | None = None,
        address: str | None = None,
        port: int | None = None,
        iface: str | None = None,
    ) -> list[NodeId]:
        """Which node records there are, in iscsiadm's order; None is no condition."""
        return self._nodes(*_where(target=target, address=address, port=port, iface=iface))

    def nodes_of_source(self, source: str, *, without: Iterable[NodeId] = ()) -> list[NodeId]:
        """Those found by one discovery, or of one kind: "static", "fw", "send_targets ADDRESS,PORT"."""
        others = {_identity(node) for node in without}
        if not others:
            return self._nodes(" WHERE source = ?", (source,))
        rows = self._select("SELECT target, portal, iface FROM nodes WHERE source = ?", (source,))
        left = [row for row in rows if row not in others]
        return [node for row in left for node in self._nodes(_WHERE_NODE, row)]

    def source(self, node: NodeId) -> str | None:
        """Where a node record comes from; "" for one that no discovery and no command claims, None if there is none."""
        rows = self._select(f"SELECT source FROM nodes{_WHERE_NODE}", _identity(node))  # noqa: S608
        return str(rows[0][0]) if rows else None

    def node(self, node: NodeId) -> Record | None:
        """A node record with all its keys, secrets included."""
        record = self._record("nodes", _NODE, _identity(node))
        return None if record is None else _identity_keys(node) | record

    def write_node(self, node: NodeId, record: Record, source: str) -> None:
        """Add or replace."""
        known = _identity_keys(node)
        format_record(known | {"iface.iscsi_ifacename": node.iface})
        self.delete_node(node)
        profile = self._profile(format_record({key: value for key, value in record.items() if value != known.get(key)}))
        values = (*_identity(node), node.address, node.port, node.tpgt, source, profile)
        self._insert("node", _INSERT_NODE, values, record)
        self._note_nodes(_WHERE_NODE, _identity(node))

    def write_nodes(self, nodes: Sequence[NodeId], record: Record, source: str) -> None:
        """Add or replace many that are alike but for what identifies them, which is not looked at in `record`.

        A record without tag gives way to one with a tag for the same portal.
        """
        for node in nodes:
            check_words(node.target, node.address, node.iface)
        identities = [_identity(node) for node in nodes]
        if self._select("SELECT 1 FROM nodes LIMIT 1"):
            tagged = [(node.target, node.address, node.port) for node in nodes if node.tpgt != -1]
            self._delete_all(" WHERE target = ? AND address = ? AND port = ? AND tpgt = -1", tagged)
            self._delete_all(_WHERE_NODE, identities)
        profile = self._profile(format_record({k: v for k, v in record.items() if k not in _IDENTITY_KEYS}))
        rows = [
            (*identity, node.address, node.port, node.tpgt, source, profile)
            for identity, node in zip(identities, nodes, strict=True)
        ]
        rows.sort()  # an index that grows at its end is written once
        self._execute_many(f"{_INSERT_NODE} ON CONFLICT DO NOTHING", rows)  # twice the same portal is one record
        for key, value in secrets_of(record):
            sql = "INSERT OR REPLACE INTO secrets (kind, id, key, value) SELECT 'node', id, ?, ? FROM nodes"
            self._execute_many(sql + _WHERE_NODE, [(key, value, *identity) for identity in identities])
        for identity in identities if self._followed else ():
            self._note_nodes(_WHERE_NODE, identity)

    def update_nodes(
        self,
        changes: Record,
        *,
        target: str | None = None,
        address: str | None = None,
        port: int | None = None,
        iface: str | None = None,
    ) -> int:
        """Set keys of all node records selected, which are not those that identify one: one statement for each key.

        Returns how many records were selected.
        """
        where, values = _where(target=target, address=address, port=port, iface=iface)
        format_record(changes)
        for key, value in changes.items():
            if isinstance(value, str):
                sql = "INSERT OR REPLACE INTO settings (node, key, value) SELECT id, ?, ? FROM nodes"
                self.execute(sql + where, (key, value, *values))
            elif value:
                sql = "INSERT OR REPLACE INTO secrets (kind, id, key, value) SELECT 'node', id, ?, ? FROM nodes"
                self.execute(sql + where, (key, value.reveal(), *values))
            else:
                sql = f"DELETE FROM secrets WHERE kind = 'node' AND key = ? AND id IN (SELECT id FROM nodes{where})"  # noqa: S608
                self.execute(sql, (key, *values))
        self._note_nodes(where, values)
        return int(self._select(f"SELECT count(*) FROM nodes{where}", values)[0][0])  # noqa: S608

    def delete_node(self, node: NodeId) -> bool:
        """Whether there was one."""
        self._note_nodes(_WHERE_NODE, _identity(node))
        return self.execute(f"DELETE FROM nodes{_WHERE_NODE}", _identity(node)) > 0  # noqa: S608

    def delete_nodes(self, nodes: Iterable[NodeId]) -> None:
        """Delete many."""
        self._delete_all(_WHERE_NODE, [_identity(node) for node in nodes])

    def is_changed(self, node: NodeId) -> bool:
        """Whether a key of a node record was changed since the record was made."""
        sql = f"SELECT 1 FROM settings WHERE node = (SELECT id {_THE_NODE}) LIMIT 1"  # noqa: S608
        return bool(self._select(sql, _identity(node)))

    # Discovery records

    def discoveries(self) -> list[tuple[str, str, int]]:
        """(type, address, port) of each; those of one type in the order in which they were made."""
        rows = self._select("SELECT id, type, address, port FROM discoveries ORDER BY id")
        return [(row[1], row[2], row[3]) for row in self._sound("discoveries", rows, (str, str, int))]

    def discovery(self, type: str, address: str, port: int) -> Record | None:
        """A discovery record, secrets included; `type` is "sendtargets" or "isns"."""
        return self._record("discoveries", _DISCOVERY, (type, address, port))

    def write_discovery(self, type: str, address: str, port: int, record: Record) -> None:
        """Add or replace."""
        format_record({"discovery.sendtargets.address": address})
        self.delete_discovery(type, address, port)
        sql = "INSERT INTO discoveries (type, address, port, record) VALUES (?, ?, ?, ?)"
        self._insert("discovery", sql, (type, address, port, format_record(record)), record)

    def delete_discovery(self, type: str, address: str, port: int) -> bool:
        """Whether there was one."""
        self._note("discovery", type, address, str(port))
        sql = "DELETE FROM discoveries WHERE type = ? AND address = ? AND port = ?"
        return self.execute(sql, (type, address, port)) > 0

    # Interface records

    def ifaces(self) -> list[str]:
        """Names of the interfaces made by users, sorted."""
        rows = self._select("SELECT id, name FROM ifaces ORDER BY name")
        return [row[1] for row in self._sound("ifaces", rows, (str,))]

    def iface(self, name: str) -> Record | None:
        return self._record("ifaces", "SELECT 0, id, record FROM ifaces WHERE name = ?", (name,))

    def write_iface(self, name: str, record: Record) -> None:
        """Add or replace."""
        format_record({"iface.iscsi_ifacename": name})
        self._note("iface", name)
        self.execute("INSERT OR REPLACE INTO ifaces (name, record) VALUES (?, ?)", (name, format_record(record)))

    def delete_iface(self, name: str) -> bool:
        """Whether there was one."""
        self._note("iface", name)
        return self.execute("DELETE FROM ifaces WHERE name = ?", (name,)) > 0

    # For the mirror

    def unmirrored(self) -> list[Change]:
        """What has changed since the mirror was written."""
        rows = self._select("SELECT kind, one, two, three, source FROM unmirrored")
        return [(str(row[0]), str(row[1]), str(row[2]), str(row[3]), str(row[4])) for row in rows]

    def forget_unmirrored(self, changes: Iterable[Change]) -> None:
        """The mirror has these."""
        sql = "DELETE FROM unmirrored WHERE kind = ? AND one = ? AND two = ? AND three = ? AND source = ?"
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(sql, changes)
            self._database.execute("COMMIT")

    # What was set apart

    def quarantined(self) -> list[tuple[str, str, str]]:
        """(kind, name, reason) of each damaged record that was set apart."""
        rows = self._select("SELECT kind, name, reason FROM quarantine ORDER BY id")
        return [(row[0], row[1], row[2]) for row in rows]

    # The database

    def begin(self) -> None:
        """For `transaction`."""
        self._followed = self._follower is not None and self._follower.wanted()
        self.execute("BEGIN IMMEDIATE")

    def end(self, *, commit: bool) -> None:
        """For `transaction`."""
        followed, self._followed = self._followed, False
        self.execute("COMMIT" if commit else "ROLLBACK")
        if commit and followed and self._follower is not None:
            self._follower.follow(self)

    def execute(self, sql: str, values: Sequence[str | int] = ()) -> int:
        """Run one statement; how many rows it has changed. For this module and its tests."""
        with self._errors():
            return self._database.execute(sql, values).rowcount

    def _execute_many(self, sql: str, rows: Sequence[Sequence[str | int]]) -> None:
        with self._errors():
            self._database.executemany(sql, rows)

    def _delete_all(self, where: str, rows: Sequence[Sequence[str | int]]) -> None:
        for row in rows if self._followed else ():
            self._note_nodes(where, row)
        self._execute_many(f"DELETE FROM nodes{where}", rows)  # noqa: S608

    def _open(self, migrations: Sequence[str]) -> sqlite3.Connection:
        directory = os.path.dirname(self.path)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            hint = "run as root" if os.geteuid() else "check the directory"
            raise StoreError(f"the records in {self.path} cannot be opened: {error.strerror}", hint=hint) from None
        with self._errors():
            database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            try:
                prepare(database, self.path, migrations)
            except BaseException:
                database.close()
                raise
        return database

    def _errors(self) -> Guard:
        return Guard(self.path)

    def _select(self, sql: str, values: Sequence[str | int] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            try:
                return self._database.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if self._tolerant or "decode" not in str(error):
                    raise
                # Only damage has text that is no UTF-8: from here on it is read as it is, to find whose it is.
                self._tolerant = True
                self._database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
                return self._database.execute(sql, values).fetchall()

    def _nodes(self, where: str, values: Sequence[str | int]) -> list[NodeId]:
        # The conditions are names of columns, from this module.
        sql = f"SELECT id, target, address, port, tpgt, iface FROM nodes{where} ORDER BY target, portal, iface"  # noqa: S608
        rows = self._sound("nodes", self._select(sql, values), (str, str, int, int, str))
        return [NodeId(*row[1:]) for row in rows]

    def _sound(self, table: str, rows: list[tuple[Any, ...]], types: tuple[type, ...]) -> list[tuple[Any, ...]]:
        """The rows whose columns, behind the id, have these types; the others are set apart."""
        bad = [row for row in rows if tuple(map(type, row[1:])) != types or (self._tolerant and has_undecoded(row))]
        for row in bad:
            self._set_apart(table, row[0], "its name is unreadable")
        return [row for row in rows if row not in bad] if bad else rows

    def _record(self, table: str, sql: str, values: Sequence[str | int]) -> Record | None:
        """The record that rows (0, id, text), (1, key, value) and (2, key, secret) make.

        It is one statement, so that no other process changes the record between its parts.
        """
        rows = self._select(sql, values)
        if not rows or rows[0][0] != 0:
            return None
        try:
            record = self._parse(rows[0][2])
        except ValueError as problem:
            self._set_apart(table, rows[0][1], str(problem))
            return None
        for what, key, value in rows[1:]:
            if what == 2:
                from rdmactl.records.model import Secret

                record[key] = Secret(value)
            else:
                record[key] = value
        return record

    def _parse(self, text: object) -> Record:
        """The record in a text, a copy of its own; ValueError, with the reason, when it is damaged."""
        if not isinstance(text, str) or (self._tolerant and has_undecoded((text,))):
            raise ValueError("its text is unreadable" if text is not None else "its text is missing")
        known = self._parsed.get(text)
        if known is None:
            if len(self._parsed) >= _PARSED_MAX:
                self._parsed.clear()
            known = self._parsed[text] = parse_record(text)
        return known.copy()

    def _profile(self, text: str) -> int:
        from zlib import crc32

        checksum = crc32(text.encode("utf-8", "surrogateescape"))
        rows = self._select("SELECT id FROM profiles WHERE checksum = ? AND record = ?", (checksum, text))
        if rows:
            return int(rows[0][0])
        with self._errors():
            sql = "INSERT INTO profiles (checksum, record) VALUES (?, ?)"
            return self._database.execute(sql, (checksum, text)).lastrowid or 0

    def _insert(self, kind: str, sql: str, values: Sequence[str | int], record: Record) -> None:
        with self._errors():
            row = self._database.execute(sql, values).lastrowid
            secrets = [(kind, row, key, value) for key, value in secrets_of(record)]
            if secrets:
                self._database.executemany("INSERT INTO secrets (kind, id, key, value) VALUES (?, ?, ?, ?)", secrets)

    def _set_apart(self, table: str, row: int, reason: str) -> None:
        """Move a damaged row into the quarantine, with its secrets, and say so once."""
        from rdmactl.records.quarantine import set_apart

        with self._errors():
            name = set_apart(self._database, table, row, reason)
        if name is not None and self._warn is not None:
            self._warn(f"{name} is damaged ({reason}) and was set apart; see rdmactl records check")

    def _note(self, kind: str, one: str, two: str = "", three: str = "") -> None:
        if self._followed:
            self.execute("INSERT OR IGNORE INTO unmirrored VALUES (?, ?, ?, ?, '')", (kind, one, two, three))

    def _note_nodes(self, where: str, values: Sequence[str | int]) -> None:
        if self._followed:
            sql = "INSERT OR IGNORE INTO unmirrored SELECT 'node', target, portal, iface, source FROM nodes"
            self.execute(sql + where, values)


class _Transaction:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._store.end(commit=error is None)


def _identity(node: NodeId) -> tuple[str, str, str]:
    return node.target, node.directory, node.iface


def _identity_keys(node: NodeId) -> Record:
    return dict(zip(_IDENTITY_KEYS, (node.target, str(node.tpgt), node.address, str(node.port)), strict=True))


def _where(**conditions: str | int | None) -> tuple[str, list[str | int]]:
    given = {name: value for name, value in conditions.items() if value is not None}
    return (" WHERE " + " AND ".join(f"{name} = ?" for name in given) if given else ""), list(given.values())
