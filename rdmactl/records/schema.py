# SPDX-License-Identifier: Apache-2.0
"""The tables of the record database, its versions, and bringing an older one forward. Shell ring.

A node record is a row of what identifies it, a *profile* (the text of everything else, which records that were made
alike share), and *settings*, which are the keys that were changed since. So ten thousand records that differ in their
names are ten thousand short rows, and a key of all of them is changed by one statement. Secrets are in a table of their
own.

Not here: reading and writing records (`store.py`), saving what can be saved of a damaged file (`salvage.py`).
"""

from __future__ import annotations

import os
import sqlite3

from rdmactl.errors import StoreError

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["APPLICATION_ID", "MIGRATIONS", "prepare"]

APPLICATION_ID = 0x52444D41
"""What marks a file as ours ("RDMA"): PRAGMA application_id."""

_VERSION_1 = """
CREATE TABLE profiles (
    id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX profiles_by_checksum ON profiles (checksum);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    target TEXT NOT NULL,
    portal TEXT NOT NULL,
    iface TEXT NOT NULL,
    address TEXT NOT NULL,
    port INTEGER NOT NULL,
    tpgt INTEGER NOT NULL,
    source TEXT NOT NULL,
    profile INTEGER NOT NULL
);
CREATE UNIQUE INDEX nodes_by_identity ON nodes (target, portal, iface, address, port, tpgt);
CREATE INDEX nodes_by_portal ON nodes (address, port);
CREATE INDEX nodes_by_iface ON nodes (iface);
CREATE INDEX nodes_by_source ON nodes (source);
CREATE INDEX nodes_by_profile ON nodes (profile);
CREATE TABLE settings (
    node INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (node, key)
) WITHOUT ROWID;
CREATE TABLE discoveries (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    address TEXT NOT NULL,
    port INTEGER NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (type, address, port)
);
CREATE TABLE ifaces (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE TABLE secrets (
    kind TEXT NOT NULL,
    id INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, id, key)
) WITHOUT ROWID;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE TABLE unmirrored (
    kind TEXT NOT NULL,
    one TEXT NOT NULL,
    two TEXT NOT NULL,
    three TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (kind, one, two, three, source)
) WITHOUT ROWID;
CREATE TRIGGER node_goes AFTER DELETE ON nodes BEGIN
    DELETE FROM settings WHERE node = OLD.id;
    DELETE FROM secrets WHERE kind = 'node' AND id = OLD.id;
    DELETE FROM profiles WHERE id = OLD.profile
        AND NOT EXISTS (SELECT 1 FROM nodes WHERE profile = OLD.profile);
END;
CREATE TRIGGER discovery_goes AFTER DELETE ON discoveries BEGIN
    DELETE FROM secrets WHERE kind = 'discovery' AND id = OLD.id;
END;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
"""Scripts: the n-th one brings a database from version n to n + 1. One that was released is never changed."""


def prepare(database: sqlite3.Connection, path: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Make a database that was just opened ready: create its tables, or bring them forward; refuse what is not ours."""
    version = _version(database)
    if version != len(migrations) or _pragma(database, "application_id") != APPLICATION_ID:
        _make_current(database, path, version, migrations)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA secure_delete = ON")


def _make_current(database: sqlite3.Connection, path: str, version: int, migrations: Sequence[str]) -> None:
    if version == 0 and database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        _use_write_ahead_log(database)
    elif not _is_ours(database):
        raise StoreError(
            f"{path} is a database of another program",
            hint="run rdmactl records check --repair, which keeps it aside and begins a new one",
        )
    if version > len(migrations):
        raise StoreError(
            f"{path} has version {version}, this program knows {len(migrations)}",
            hint="use the newer release of rdmactl that has written it, or the copy it kept from before",
        )
    if version < len(migrations):
        _migrate(database, path, migrations)


def _is_ours(database: sqlite3.Connection) -> bool:
    """Looked at inside a transaction of its own, because another process may be making the tables."""
    database.execute("BEGIN IMMEDIATE")
    try:
        return _pragma(database, "application_id") == APPLICATION_ID
    finally:
        database.execute("ROLLBACK")


def _migrate(database: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    """Bring the database forward in one transaction, after a copy. Another process may have done it meanwhile."""
    version = _version(database)
    if version:
        _copy(database, f"{path}.v{version}")
    database.execute("BEGIN IMMEDIATE")
    try:
        for number in range(_version(database), len(migrations)):
            for statement in _statements(migrations[number]):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {number + 1}")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _copy(database: sqlite3.Connection, path: str) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    copy = sqlite3.connect(path)
    try:
        database.backup(copy)
    finally:
        copy.close()


def _use_write_ahead_log(database: sqlite3.Connection) -> None:
    try:
        database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):  # else another process makes the database at this moment, and does it
            raise


def _version(database: sqlite3.Connection) -> int:
    return _pragma(database, "user_version")


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """One by one, because executescript would commit in between."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
