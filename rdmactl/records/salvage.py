# SPDX-License-Identifier: Apache-2.0
"""A record database that is damaged as a file: telling, and saving what can be read. Shell ring.

The damaged file is never changed: it is moved aside under a name of its own, with the log that belongs to it. What can
be read of it, row by row from both ends, goes into a fresh one.

Not here: single damaged records of a sound file (`quarantine.py`).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.errors import StoreError
from rdmactl.records.guard import BUSY_S
from rdmactl.records.schema import APPLICATION_ID, MIGRATIONS
from rdmactl.records.store import FILE_NAME, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Repaired", "check", "repair"]

_TABLES = ("profiles", "nodes", "settings", "discoveries", "ifaces", "secrets", "quarantine")
_COUNTED = ("nodes", "discoveries", "ifaces")
_LOGS = ("-wal", "-shm")
_COMPLAINTS_MAX = 10


class Repaired(NamedTuple):
    """`saved` records are in the new database; `kept_as` is where the damaged one is."""

    saved: int
    kept_as: str


def check(directory: str) -> list[str]:
    """Sentences about what is wrong with the file; none when it is sound, or not there."""
    path = os.path.join(directory, FILE_NAME)
    if not os.path.exists(path):
        return []
    try:
        Store(directory).close()
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
            rows = database.execute(f"PRAGMA integrity_check({_COMPLAINTS_MAX})").fetchall()
    except StoreError as error:
        return [error.message]
    except sqlite3.DatabaseError as error:
        return [f"{path} is damaged: {error}"]
    return [f"{path} is damaged: {row[0]}" for row in rows if row[0] != "ok"]


def repair(directory: str) -> Repaired:
    """Move the file aside, and make a new one of what can be read of it."""
    path = os.path.join(directory, FILE_NAME)
    kept_as = _free_name(path)
    try:
        for suffix in ("", *_LOGS):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, kept_as + suffix)
    except OSError as error:
        raise StoreError(f"{path} cannot be moved aside: {error.strerror}", hint="run as root") from None
    Store(directory).close()
    saved = 0
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as new:
        new.execute("BEGIN IMMEDIATE")
        for table in _TABLES if _is_ours(kept_as) else ():
            saved += _copy(kept_as, new, table) * (table in _COUNTED)
        new.execute("COMMIT")
    return Repaired(saved, kept_as)


def _free_name(path: str) -> str:
    number = 1
    while os.path.lexists(f"{path}.damaged.{number}"):
        number += 1
    return f"{path}.damaged.{number}"


def _open(path: str) -> closing[sqlite3.Connection]:
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return closing(database)


def _is_ours(path: str) -> bool:
    """Only tables of this version are read; another program's are none of our business."""
    try:
        with _open(path) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            return bool(
                database.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
                and 1 <= version <= len(MIGRATIONS)
            )
    except sqlite3.DatabaseError:
        return False


def _copy(path: str, new: sqlite3.Connection, table: str) -> int:
    """What can be read of a table, from its begin up to the damage and from its end down to it."""
    seen: set[tuple[object, ...]] = set()
    with _open(path) as old:
        for order in ("", " DESC"):
            for row in _readable(old, table, order):
                seen.add(row)
    count = 0
    for row in sorted(seen, key=repr):
        marks = ", ".join("?" * len(row))
        try:
            count += new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount  # noqa: S608
        except (sqlite3.Error, UnicodeEncodeError):
            continue  # a row that no table can have; it is in the file that was kept
    return count


def _readable(database: sqlite3.Connection, table: str, order: str) -> Iterator[tuple[object, ...]]:
    key = {"settings": "node", "secrets": "kind"}.get(table, "id")
    try:
        # NOT INDEXED: the table itself, whatever state its indexes are in.
        yield from database.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY {key}{order}")  # noqa: S608
    except sqlite3.DatabaseError:
        return
