# SPDX-License-Identifier: Apache-2.0
"""Setting a damaged record apart, so that the others can be used and nothing of it is lost. Shell ring.

Not here: noticing the damage (`store.py`), damage of the whole file (`salvage.py`).
"""

from __future__ import annotations

import sqlite3

__all__ = ["set_apart"]

_KINDS = {"nodes": "node", "discoveries": "discovery", "ifaces": "iface"}
_NAMES = {
    "nodes": "target || ' at ' || portal || ' through ' || iface",
    "discoveries": "type || ' at ' || address || ',' || port",
    "ifaces": "name",
}

_REST_OF_NODE = """
SELECT 'profile', quote(CAST(record AS BLOB)) FROM profiles WHERE id = (SELECT profile FROM nodes WHERE id = :row)
UNION ALL SELECT quote(CAST(key AS BLOB)), quote(CAST(value AS BLOB)) FROM settings WHERE node = :row
"""


def set_apart(database: sqlite3.Connection, table: str, row: int, reason: str) -> str | None:
    """Move a row of `table` into the quarantine; returns how to name it, or None when it is not there any more.

    Its columns are kept as SQL literals, a node's own settings behind them; its secrets stay in their table.
    """
    kind = _KINDS[table]
    mine = not database.in_transaction
    if mine:
        database.execute("BEGIN IMMEDIATE")
    try:
        name = _move(database, table, kind, row, reason)
    except BaseException:
        if mine:
            database.execute("ROLLBACK")
        raise
    if mine:
        database.execute("COMMIT")
    return None if name is None else f"the {kind} record {name}"


def _move(database: sqlite3.Connection, table: str, kind: str, row: int, reason: str) -> str | None:
    # Table and column names are this module's and the database's own.
    columns = [column[1] for column in database.execute(f"PRAGMA table_info({table})")]
    literals = " || ', ' || ".join(f"quote(CAST({column} AS BLOB))" for column in columns)
    found = database.execute(
        f"SELECT CAST({_NAMES[table]} AS BLOB), {literals} FROM {table} WHERE id = ?",  # noqa: S608
        (row,),
    ).fetchone()
    if found is None:
        return None
    name = (found[0] or b"without a name").decode("utf-8", "backslashreplace")
    name = "".join(c if c.isprintable() else "?" for c in name)
    content = [f"{', '.join(columns)}: {found[1]}"]
    if table == "nodes":
        content += [f"{key}: {value}" for key, value in database.execute(_REST_OF_NODE, {"row": row})]
    kept = database.execute(
        "INSERT INTO quarantine (kind, name, reason, content) VALUES (?, ?, ?, ?)",
        (kind, name, reason, "\n".join(content)),
    ).lastrowid
    moved = "UPDATE OR REPLACE secrets SET kind = 'quarantine', id = ? WHERE kind = ? AND id = ?"
    database.execute(moved, (kept, kind, row))
    database.execute(f"DELETE FROM {table} WHERE id = ?", (row,))  # noqa: S608
    return name
