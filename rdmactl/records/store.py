# SPDX-License-Identifier: Apache-2.0
"""The one door to the record database: SQLite, one transaction per command. Shell ring.

Readers never wait (write-ahead log), a process may be killed at any moment, and a database of an older version is
copied before it is brought forward. Records are text in the syntax of open-iscsi's own record files, so that keys
nobody knows survive; secrets are kept out of that text, in a table of their own, and the file is for its owner only.

A node record is found by (target, portal directory, interface), where the portal directory "ADDRESS,PORT,TPGT" is what
open-iscsi names its directories (no tag for an unknown one): sorting by it gives iscsiadm's order.

Not here: what a command does to records (`operations.py`), keys and values (`model.py`).
"""

from __future__ import annotations

import os
import sqlite3

from rdmactl.errors import StoreError

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from rdmactl.records.model import Record

__all__ = ["DEFAULT_STATE_DIRECTORY", "NodeId", "Store", "state_directory"]

DEFAULT_STATE_DIRECTORY = "/var/lib/rdmactl"
FILE_NAME = "records.db"

BUSY_S = 30.0
"""How long a writer waits for another: as long as iscsiadm waits for its lock."""

_VERSION_1 = """
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    target TEXT NOT NULL,
    portal TEXT NOT NULL,
    iface TEXT NOT NULL,
    address TEXT NOT NULL,
    port INTEGER NOT NULL,
    tpgt INTEGER NOT NULL,
    source TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX nodes_by_identity ON nodes (target, portal, iface, address, port, tpgt);
CREATE INDEX nodes_by_portal ON nodes (address, port);
CREATE INDEX nodes_by_iface ON nodes (iface);
CREATE INDEX nodes_by_source ON nodes (source);
CREATE TABLE discoveries (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    address TEXT NOT NULL,
    port INTEGER NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (type, address, port)
);
CREATE TABLE ifaces (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE secrets (
    kind TEXT NOT NULL,
    id INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, id, key)
) WITHOUT ROWID;
CREATE TRIGGER node_secrets AFTER DELETE ON nodes
    BEGIN DELETE FROM secrets WHERE kind = 'node' AND id = OLD.id; END;
CREATE TRIGGER discovery_secrets AFTER DELETE ON discoveries
    BEGIN DELETE FROM secrets WHERE kind = 'discovery' AND id = OLD.id; END;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
"""Scripts: the n-th one brings a database from version n to n + 1. An old one is never changed."""


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
    """The open database; a context manager. Every method raises StoreError naming the file."""

    def __init__(self, directory: str | None = None, *, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = os.path.join(directory or state_directory(), FILE_NAME)
        self._migrations = migrations
        self._database = self._open()

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
        where, values = _where(target=target, address=address, port=port, iface=iface)
        rows = self._select(
            # The conditions are names of columns, from the line above.
            f"SELECT target, address, port, tpgt, iface FROM nodes{where} ORDER BY target, portal, iface",  # noqa: S608
            values,
        )
        return [NodeId(*row) for row in rows]

    def nodes_of_source(self, source: str) -> list[NodeId]:
        """Those found by one discovery, or of one kind: "static", "fw", "send_targets ADDRESS,PORT"."""
        rows = self._select(
            "SELECT target, address, port, tpgt, iface FROM nodes WHERE source = ? ORDER BY target, portal, iface",
            (source,),
        )
        return [NodeId(*row) for row in rows]

    def node(self, node: NodeId) -> Record | None:
        """A node record as it was written, secrets included."""
        sql = "SELECT id, record FROM nodes WHERE target = ? AND portal = ? AND iface = ?"
        return self._record("node", sql, _identity(node))

    def write_node(self, node: NodeId, record: Record, source: str) -> None:
        """Add or replace."""
        self.delete_node(node)
        identity = (node.target, node.directory, node.iface, node.address, node.port, node.tpgt, source)
        self._insert(
            "node",
            "INSERT INTO nodes (target, portal, iface, address, port, tpgt, source, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            identity,
            record,
        )

    def delete_node(self, node: NodeId) -> bool:
        """Whether there was one."""
        return self.execute("DELETE FROM nodes WHERE target = ? AND portal = ? AND iface = ?", _identity(node)) > 0

    # Discovery records

    def discoveries(self) -> list[tuple[str, str, int]]:
        """(type, address, port) of each; those of one type in the order in which they were made."""
        return [
            (row[0], row[1], row[2]) for row in self._select("SELECT type, address, port FROM discoveries ORDER BY id")
        ]

    def discovery(self, type: str, address: str, port: int) -> Record | None:
        """A discovery record, secrets included; `type` is "sendtargets" or "isns"."""
        sql = "SELECT id, record FROM discoveries WHERE type = ? AND address = ? AND port = ?"
        return self._record("discovery", sql, (type, address, port))

    def write_discovery(self, type: str, address: str, port: int, record: Record) -> None:
        """Add or replace."""
        self.delete_discovery(type, address, port)
        sql = "INSERT INTO discoveries (type, address, port, record) VALUES (?, ?, ?, ?)"
        self._insert("discovery", sql, (type, address, port), record)

    def delete_discovery(self, type: str, address: str, port: int) -> bool:
        """Whether there was one."""
        sql = "DELETE FROM discoveries WHERE type = ? AND address = ? AND port = ?"
        return self.execute(sql, (type, address, port)) > 0

    # Interface records

    def ifaces(self) -> list[str]:
        """Names of the interfaces made by users, sorted."""
        return [row[0] for row in self._select("SELECT name FROM ifaces ORDER BY name")]

    def iface(self, name: str) -> Record | None:
        rows = self._select("SELECT record FROM ifaces WHERE name = ?", (name,))
        return _parse(rows[0][0]) if rows else None

    def write_iface(self, name: str, record: Record) -> None:
        """Add or replace."""
        self.execute("INSERT OR REPLACE INTO ifaces (name, record) VALUES (?, ?)", (name, _format(record)))

    def delete_iface(self, name: str) -> bool:
        """Whether there was one."""
        return self.execute("DELETE FROM ifaces WHERE name = ?", (name,)) > 0

    # The database

    def _open(self) -> sqlite3.Connection:
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
                self._prepare(database)
            except BaseException:
                database.close()
                raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        version = _version(database)
        if version == 0:
            _use_write_ahead_log(database)
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA secure_delete = ON")
        if version > len(self._migrations):
            raise StoreError(
                f"{self.path} has version {version}, this program knows {len(self._migrations)}",
                hint="use the newer release of rdmactl that has written it, or the copy it kept from before",
            )
        if version < len(self._migrations):
            self._migrate(database)

    def _migrate(self, database: sqlite3.Connection) -> None:
        """Bring the database forward in one transaction, after a copy. Another process may have done it meanwhile."""
        version = _version(database)
        if version:
            self._copy(database, f"{self.path}.v{version}")
        database.execute("BEGIN IMMEDIATE")
        try:
            for number in range(_version(database), len(self._migrations)):
                for statement in _statements(self._migrations[number]):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {number + 1}")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def _copy(self, database: sqlite3.Connection, path: str) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        copy = sqlite3.connect(path)
        try:
            database.backup(copy)
        finally:
            copy.close()

    def _errors(self) -> _Errors:
        return _Errors(self.path)

    def _select(self, sql: str, values: Sequence[str | int] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._database.execute(sql, values).fetchall()

    def execute(self, sql: str, values: Sequence[str | int] = ()) -> int:
        """Run one statement; how many rows it has changed. For this module."""
        with self._errors():
            return self._database.execute(sql, values).rowcount

    def _record(self, kind: str, sql: str, values: Sequence[str | int]) -> Record | None:
        rows = self._select(sql, values)
        if not rows:
            return None
        secrets = self._select("SELECT key, value FROM secrets WHERE kind = ? AND id = ?", (kind, rows[0][0]))
        return _parse(rows[0][1], secrets)

    def _insert(self, kind: str, sql: str, values: Sequence[str | int], record: Record) -> None:
        with self._errors():
            row = self._database.execute(sql, (*values, _format(record))).lastrowid
            self._database.executemany(
                "INSERT INTO secrets (kind, id, key, value) VALUES (?, ?, ?, ?)",
                [(kind, row, key, value) for key, value in _secrets(record)],
            )


class _Errors:
    """What goes wrong inside becomes a StoreError that names the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            if "locked" in str(error) or "busy" in str(error):
                raise StoreError(f"{self._path} has been locked by another program for {BUSY_S:g} s") from None
            raise StoreError(f"{self._path} cannot be used: {error}", hint="check the disk") from None
        if isinstance(error, UnicodeEncodeError):
            raise StoreError("a name that is not UTF-8 cannot be recorded") from None
        if isinstance(error, sqlite3.DatabaseError):
            raise StoreError(f"{self._path} is damaged: {error}", hint="put back a copy of it") from None


class _Transaction:
    """BEGIN ... COMMIT, or ROLLBACK when something is raised inside."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._store.execute("COMMIT" if error is None else "ROLLBACK")


def _use_write_ahead_log(database: sqlite3.Connection) -> None:
    try:
        database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):  # else another process makes the database at this moment, and does it
            raise


def _identity(node: NodeId) -> tuple[str, str, str]:
    return node.target, node.directory, node.iface


def _where(**conditions: str | int | None) -> tuple[str, list[str | int]]:
    given = {name: value for name, value in conditions.items() if value is not None}
    return (" WHERE " + " AND ".join(f"{name} = ?" for name in given) if given else ""), list(given.values())


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """One by one, because executescript would commit in between."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _format(record: Record) -> str:
    """The record as text; empty values and secrets are left out.

    A line feed in a name would make another key of what follows it; other control characters have no business there.
    """
    from rdmactl.records.model import has_control_characters

    lines = [f"{key} = {value}" for key, value in record.items() if isinstance(value, str) and value]
    for line in lines:
        if has_control_characters(line):
            key = line.partition(" = ")[0]
            raise StoreError(f"{key} has a control character and cannot be recorded")
    return "\n".join(lines)


def _secrets(record: Record) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if not isinstance(value, str) and value:
            yield key, value.reveal()


def _parse(text: str, secrets: Sequence[tuple[str, ...]] = ()) -> Record:
    from rdmactl.records.model import Secret

    record: Record = {}
    for line in text.split("\n") if text else ():
        key, _, value = line.partition(" = ")
        record[key] = value
    for key, value in secrets:
        record[key] = Secret(value)
    return record
