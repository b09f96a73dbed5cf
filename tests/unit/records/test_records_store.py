# SPDX-License-Identifier: Apache-2.0
"""The record database: identity and order, secrets apart, transactions, crashes, migration."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rdmactl.errors import StoreError
from rdmactl.records.model import Record, Secret
from rdmactl.records.store import MIGRATIONS, NodeId, Store

SECRET = "suite-secret-4711"


def node(
    target: str = "iqn.a", address: str = "192.0.2.1", port: int = 3260, tpgt: int = 1, iface: str = "default"
) -> NodeId:
    return NodeId(target, address, port, tpgt, iface)


def record(**values: str) -> Record:
    return {f"node.{name}": value for name, value in values.items()}


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written: Record = {
        "node.name": "iqn.a",
        "future.key": "kept = as it is # yes",
        "node.session.auth.password": Secret(SECRET),
        "node.session.auth.username": "",
    }
    with Store(str(tmp_path)) as store:
        with store.transaction():
            store.write_node(node(), written, "static")
        del written["node.session.auth.username"]  # what is empty is not stored
        assert store.node(node()) == written
        assert store.node(node(iface="other")) is None


def test_order_is_by_target_then_portal_directory_then_interface(tmp_path: Path) -> None:
    nodes = [
        node("iqn.b"),
        node("iqn.a", "192.0.2.9"),
        node("iqn.a", "192.0.2.10", iface="iser"),
        node("iqn.a", "192.0.2.10", iface="default"),
        node("Iqn.z"),
        node("iqn.a", "192.0.2.10", tpgt=-1),
    ]
    with Store(str(tmp_path)) as store:
        with store.transaction():
            for each in nodes:
                store.write_node(each, record(), "static")
        assert store.nodes() == [nodes[4], nodes[5], nodes[3], nodes[2], nodes[1], nodes[0]]
        assert store.nodes(target="iqn.a", iface="iser") == [nodes[2]]
        assert store.nodes(address="192.0.2.10", port=3260) == [nodes[5], nodes[3], nodes[2]]
        assert store.nodes(port=1) == []


def test_sources(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_node(node(), record(), "static")
        store.write_node(node("iqn.b"), record(), "send_targets 192.0.2.1,3260")
        assert store.nodes_of_source("static") == [node()]
        store.write_node(node(), record(), "send_targets 192.0.2.1,3260")
        assert store.nodes_of_source("static") == []


def test_discoveries_and_ifaces(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        found: Record = {"discovery.type": "sendtargets", "x.password": Secret(SECRET)}
        store.write_discovery("sendtargets", "192.0.2.1", 3260, found)
        assert store.discovery("sendtargets", "192.0.2.1", 3260) == found
        assert store.discovery("isns", "192.0.2.1", 3260) is None
        assert store.discoveries() == [("sendtargets", "192.0.2.1", 3260)]
        assert store.delete_discovery("sendtargets", "192.0.2.1", 3260)
        assert not store.delete_discovery("sendtargets", "192.0.2.1", 3260)
        store.write_iface("b", {"iface.transport_name": "tcp"})
        store.write_iface("a", {})
        assert store.ifaces() == ["a", "b"]
        assert store.iface("b") == {"iface.transport_name": "tcp"}
        assert store.delete_iface("b")
        assert store.iface("b") is None


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Store(str(state)) as store, store.transaction():
        store.write_node(node(), {"x.password": Secret(SECRET)}, "static")
        files = list(state.iterdir())
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_secrets_are_apart_and_go_with_their_record(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store:
        with store.transaction():
            store.write_node(node(), {"x.password": Secret(SECRET)}, "static")
            store.write_discovery("sendtargets", "a", 1, {"x.password": Secret(SECRET)})
        database = sqlite3.connect(store.path)
        assert SECRET not in "".join(row[0] for row in database.execute("SELECT record FROM nodes"))
        assert database.execute("SELECT count(*) FROM secrets").fetchone() == (2,)
        with store.transaction():
            store.delete_node(node())
            store.delete_discovery("sendtargets", "a", 1)
        assert database.execute("SELECT count(*) FROM secrets").fetchone() == (0,)
        database.close()
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    def fail(store: Store) -> None:
        with store.transaction():
            store.write_node(node(), record(), "static")
            raise ZeroDivisionError

    with Store(str(tmp_path)) as store:
        with pytest.raises(ZeroDivisionError):
            fail(store)
        assert store.nodes() == []


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as writer, writer.transaction():
        writer.write_node(node(), record(), "static")
        with Store(str(tmp_path)) as reader:
            assert reader.nodes() == []


def test_a_second_writer_waits_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdmactl.records.store.BUSY_S", 0.01)
    with (
        Store(str(tmp_path)) as one,
        one.transaction(),
        Store(str(tmp_path)) as other,
        pytest.raises(StoreError, match="locked by another program"),
        other.transaction(),
    ):
        pass


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_text("not a database at all" * 100)
    with pytest.raises(StoreError, match="damaged"):
        Store(str(tmp_path))


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(str(tmp_path / "file" / "state"))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, pytest.raises(StoreError, match="UTF-8"), store.transaction():
        store.write_node(node("iqn.\udcff"), record(), "static")


@pytest.mark.parametrize("name", ["a\nnode.startup = automatic", "a\x1b[2J", "a\u2028b", "a\rb"])
def test_a_name_with_control_characters(tmp_path: Path, name: str) -> None:
    with Store(str(tmp_path)) as store:
        with pytest.raises(StoreError, match=r"node\.name has a control character"), store.transaction():
            store.write_node(node(name), {"node.name": name}, "static")
        assert store.nodes() == []


def test_spaces_of_other_languages_are_no_control_characters(tmp_path: Path) -> None:
    written = record(name="a\u00a0b\u3000c")
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_node(node(), written, "static")
        assert store.node(node()) == written


def test_migration_keeps_a_copy_and_happens_once(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_node(node(), record(name="iqn.a"), "static")
    newer = (*MIGRATIONS, "ALTER TABLE nodes ADD COLUMN note TEXT NOT NULL DEFAULT 'new';")
    for _ in range(2):
        with Store(str(tmp_path), migrations=newer) as store:
            assert store.node(node()) == record(name="iqn.a")
    copy = tmp_path / "records.db.v1"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    old = sqlite3.connect(copy)
    assert old.execute("SELECT target FROM nodes").fetchall() == [("iqn.a",)]
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    old.close()
    with pytest.raises(StoreError, match="has version 2, this program knows 1"):
        Store(str(tmp_path))


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    Store(str(tmp_path)).close()
    broken = (*MIGRATIONS, "CREATE TABLE half (x);\nCREATE TABLE half (x);")
    with pytest.raises(StoreError):
        Store(str(tmp_path), migrations=broken)
    with Store(str(tmp_path)) as store:
        assert store.nodes() == []


CRASHING = """
import os, signal, sqlite3, sys
from rdmactl.records.store import NodeId, Store

class Counting(sqlite3.Connection):
    def execute(self, sql, *values):
        result = super().execute(sql, *values)
        Counting.left -= 1
        if Counting.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

Counting.left = int(sys.argv[2])
connect = sqlite3.connect
sqlite3.connect = lambda *words, **more: connect(*words, factory=Counting, **more)
with Store(sys.argv[1]) as store, store.transaction():
    for name in ("a", "b"):
        store.write_node(NodeId("iqn." + name, "192.0.2.1", 3260, 1, "default"), {"node.name": name}, "static")
"""


@pytest.mark.slow
def test_killed_at_every_statement_it_has_all_or_nothing(tmp_path: Path) -> None:
    """SIGKILL after the first, second, ... statement of a command, until it gets through."""
    seen = set()
    for after in range(1, 60):
        state = tmp_path / str(after)
        done = subprocess.run([sys.executable, "-c", CRASHING, str(state), str(after)], check=False)
        with Store(str(state)) as store:
            names = [each.target for each in store.nodes()]
            assert names in ([], ["iqn.a", "iqn.b"])
            seen.add((done.returncode, len(names)))
        if done.returncode == 0:
            break
    assert seen == {(-signal.SIGKILL, 0), (-signal.SIGKILL, 2), (0, 2)}


def test_killed_before_the_commit_nothing_is_there(tmp_path: Path) -> None:
    Store(str(tmp_path)).close()
    child = os.fork()
    if child == 0:
        store = Store(str(tmp_path))
        with store.transaction():
            store.write_node(node(), record(), "static")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with Store(str(tmp_path)) as store:
        assert store.nodes() == []
