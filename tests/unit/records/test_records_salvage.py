# SPDX-License-Identifier: Apache-2.0
"""Damaged database files: one sentence, kept aside, and what can be read is saved."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rdmactl.errors import StoreError
from rdmactl.records.model import Secret
from rdmactl.records.salvage import check, repair
from rdmactl.records.store import NodeId, Store

COUNT = 400
PAGE = 4096


def fill(state: Path) -> Path:
    with Store(str(state)) as store, store.transaction():
        for number in range(COUNT):
            node = NodeId(f"iqn.{number:04}", "192.0.2.1", 3260, 1, "default")
            store.write_node(node, {"node.startup": "manual", "x.password": Secret("geheim")}, "static")
        store.update_nodes({"node.startup": "onboot"})
        store.write_iface("eth0", {"iface.transport_name": "tcp"})
    return state / "records.db"


def test_a_sound_database_and_none_at_all(tmp_path: Path) -> None:
    assert check(str(tmp_path)) == []
    fill(tmp_path)
    assert check(str(tmp_path)) == []


def pages_of(path: Path, table: str) -> list[int]:
    database = sqlite3.connect(path)
    rows = database.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).fetchall()
    database.close()
    return [row[0] for row in rows]


def test_rows_around_a_damaged_page_are_saved(tmp_path: Path) -> None:
    path = fill(tmp_path)
    try:
        pages = pages_of(path, "nodes")
    except sqlite3.OperationalError:
        pytest.skip("this SQLite cannot tell which pages a table has")
    assert len(pages) > 4
    with path.open("r+b") as file:
        file.seek((pages[2] - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    broken = path.read_bytes()
    assert any("is damaged" in sentence for sentence in check(str(tmp_path)))
    repaired = repair(str(tmp_path))
    assert Path(repaired.kept_as).read_bytes() == broken
    assert check(str(tmp_path)) == []
    with Store(str(tmp_path)) as store:
        nodes = store.nodes()
        assert COUNT * 0.6 < len(nodes) < COUNT
        assert repaired.saved == len(nodes) + 1
        for node in nodes:
            record = store.node(node)
            assert record is not None
            assert (record["node.startup"], record["x.password"]) == ("onboot", Secret("geheim"))
        assert store.ifaces() == ["eth0"]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + bytes(5000)])
def test_a_file_of_something_else_is_kept_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        Store(str(tmp_path))
    assert "records check --repair" in (caught.value.hint or "")
    assert len(check(str(tmp_path))) == 1
    repaired = repair(str(tmp_path))
    assert (repaired.saved, Path(repaired.kept_as).read_bytes()) == (0, content)
    with Store(str(tmp_path)) as store:
        assert store.nodes() == []


def test_a_database_of_another_program_is_kept_aside(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "records.db")
    other.execute("CREATE TABLE nodes (id INTEGER PRIMARY KEY, x)")
    other.execute("INSERT INTO nodes VALUES (1, 'theirs')")
    other.commit()
    other.close()
    assert "another program" in check(str(tmp_path))[0]
    first, second = repair(str(tmp_path)), repair(str(tmp_path))
    assert (first.saved, first.kept_as, second.kept_as) == (
        0,
        f"{tmp_path}/records.db.damaged.1",
        f"{tmp_path}/records.db.damaged.2",
    )
    kept = sqlite3.connect(first.kept_as)
    assert kept.execute("SELECT x FROM nodes").fetchall() == [("theirs",)]
    kept.close()
