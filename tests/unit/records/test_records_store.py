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


def whole(which: NodeId, written: Record) -> Record:
    """A node record as it is read: with the keys that say which one it is."""
    identity: Record = {
        "node.name": which.target,
        "node.tpgt": str(which.tpgt),
        "node.conn[0].address": which.address,
        "node.conn[0].port": str(which.port),
    }
    return identity | written


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
        assert store.node(node()) == whole(node(), written)
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
        assert SECRET not in "".join(row[0] for row in database.execute("SELECT record FROM profiles"))
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
        assert store.node(node()) == whole(node(), written)


def test_migration_keeps_a_copy_and_happens_once(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_node(node(), record(note="x"), "static")
    newer = (*MIGRATIONS, "ALTER TABLE nodes ADD COLUMN note TEXT NOT NULL DEFAULT 'new';")
    for _ in range(2):
        with Store(str(tmp_path), migrations=newer) as store:
            assert store.node(node()) == whole(node(), record(note="x"))
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


# One key of all records


def statements(store: Store, count: int) -> list[str]:
    """What an update of a key on `count` records runs."""
    with store.transaction():
        for number in range(count):
            store.write_node(node(f"iqn.{number}"), record(startup="manual"), "static")
    seen: list[str] = []
    store._database.set_trace_callback(seen.append)
    with store.transaction():
        assert store.update_nodes(record(startup="automatic")) == count
    store._database.set_trace_callback(None)
    return [each for each in seen if each.startswith(("INSERT", "UPDATE", "DELETE"))]


def test_a_key_of_all_records_is_one_statement(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store:
        assert len(statements(store, 50)) == 1
        assert all((store.node(each) or {})["node.startup"] == "automatic" for each in store.nodes())


def test_an_update_changes_what_is_selected_and_nothing_else(tmp_path: Path) -> None:
    nodes = [node("iqn.a"), node("iqn.b"), node("iqn.b", "192.0.2.2"), node("iqn.b", iface="iser")]
    password = "node.session.auth.password"
    with Store(str(tmp_path)) as store, store.transaction():
        for each in nodes:
            store.write_node(each, record(startup="manual"), "static")
        assert (
            store.update_nodes({"node.startup": "onboot", password: Secret(SECRET)}, target="iqn.b", iface="iser") == 1
        )
        assert store.update_nodes(record(startup=""), address="192.0.2.2", port=3260) == 1
        assert store.update_nodes(record(startup="x"), target="iqn.none") == 0
        assert [(store.node(each) or {}).get("node.startup") for each in nodes] == ["manual", "manual", "", "onboot"]
        assert [(store.node(each) or {}).get(password) for each in nodes] == [None, None, None, Secret(SECRET)]
        store.update_nodes({password: Secret("")})
        assert (store.node(nodes[3]) or {}).get(password) is None
        store.write_node(nodes[3], record(startup="manual"), "static")  # what was changed before is gone
        assert store.node(nodes[3]) == whole(nodes[3], record(startup="manual"))


def test_records_made_alike_share_their_text_until_the_last_is_gone(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        for name in ("a", "b", "c"):
            store.write_node(node(name), record(startup="manual"), "static")
        store.write_node(node("c"), record(startup="onboot"), "static")
        assert store._select("SELECT count(*) FROM profiles") == [(2,)]
        for name in ("a", "b", "c"):
            assert store.node(node(name)) is not None
            store.delete_node(node(name))
        assert store._select("SELECT count(*) FROM profiles") == [(0,)]
        assert store._select("SELECT count(*) FROM settings") == [(0,)]


@pytest.mark.parametrize(
    ("conditions", "index"),
    [
        ("target = 'a' AND portal = 'b' AND iface = 'c'", "nodes_by_identity"),
        ("target = 'a' AND address = 'b' AND port = 1", "nodes_by_"),
        ("address = 'b' AND port = 1", "nodes_by_portal"),
        ("iface = 'c'", "nodes_by_iface"),
        ("source = 'static'", "nodes_by_source"),
    ],
)
def test_every_search_uses_an_index(tmp_path: Path, conditions: str, index: str) -> None:
    with Store(str(tmp_path)) as store:
        for sql in (
            f"SELECT id FROM nodes WHERE {conditions}",
            f"INSERT OR REPLACE INTO settings SELECT id, 'k', 'v' FROM nodes WHERE {conditions}",
        ):
            plan = " ".join(row[3] for row in store._select(f"EXPLAIN QUERY PLAN {sql}"))
            assert f"INDEX {index}" in plan
            assert "SCAN nodes" not in plan


@pytest.mark.slow
def test_one_of_a_hundred_thousand_records_is_found_at_once(tmp_path: Path) -> None:
    """Counted in steps of the database's machine, which do not depend on the load of this one."""
    with Store(str(tmp_path)) as store:
        steps = []
        for count in (100, 100_000):
            with store.transaction():
                for number in range(count):
                    store.write_node(node(f"iqn.{number:06}"), record(startup="manual"), "static")
            seen = [0]

            def step(seen: list[int] = seen) -> int:
                seen[0] += 1
                return 0

            store._database.set_progress_handler(step, 1)
            assert store.node(node("iqn.000077")) is not None
            store._database.set_progress_handler(None, 1)
            steps.append(seen[0])
        assert steps[0] == steps[1] > 0


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE nodes SET port = 'x' WHERE target = 'iqn.b'",
        "UPDATE nodes SET target = x'ff80' WHERE target = 'iqn.b'",
        "UPDATE nodes SET target = CAST(x'69716eff' AS TEXT) WHERE target = 'iqn.b'",
    ],
)
def test_a_damaged_row_is_set_apart_and_the_others_are_listed(tmp_path: Path, damage: str) -> None:
    warnings: list[str] = []
    with Store(str(tmp_path), warn=warnings.append) as store:
        with store.transaction():
            for name in ("a", "b", "c"):
                store.write_node(node(f"iqn.{name}"), {"node.x": name, "node.password": Secret(SECRET)}, "static")
        store.execute(damage)
        for _ in range(2):
            assert store.nodes() == [node("iqn.a"), node("iqn.c")]
        assert len(warnings) == 1
        assert "is damaged (its name is unreadable) and was set apart" in warnings[0]
        assert len(store.quarantined()) == 1
        kept = store._select("SELECT content FROM quarantine")[0][0]
        assert b"node.x = b".hex().upper() in kept
        assert SECRET not in kept
        assert store._select("SELECT value FROM secrets WHERE kind = 'quarantine'") == [(SECRET,)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE profiles SET record = 'no line of a record' WHERE record LIKE '%b'",
        "UPDATE profiles SET record = x'00ff' WHERE record LIKE '%b'",
        "UPDATE profiles SET record = CAST(x'ff203d2031' AS TEXT) WHERE record LIKE '%b'",
        "DELETE FROM profiles WHERE record LIKE '%b'",
    ],
)
def test_a_damaged_text_is_set_apart_when_it_is_read(tmp_path: Path, damage: str) -> None:
    warnings: list[str] = []
    with Store(str(tmp_path), warn=warnings.append) as store:
        with store.transaction():
            for name in ("a", "b"):
                store.write_node(node(f"iqn.{name}"), {"node.x": name}, "static")
        store.execute(damage)
        assert store.node(node("iqn.b")) is None
        assert store.node(node("iqn.a")) == whole(node("iqn.a"), {"node.x": "a"})
        assert store.nodes() == [node("iqn.a")]
        assert [each.split(" (")[0] for each in warnings] == [
            "the node record iqn.b at 192.0.2.1,3260,1 through default is damaged"
        ]


def test_damaged_interfaces_and_discoveries_are_set_apart(tmp_path: Path) -> None:
    warnings: list[str] = []
    with Store(str(tmp_path), warn=warnings.append) as store:
        with store.transaction():
            for name in ("a", "b"):
                store.write_iface(name, {"iface.transport_name": "tcp"})
                store.write_discovery("sendtargets", name, 3260, {"discovery.type": "sendtargets"})
        store.execute("UPDATE ifaces SET record = 'x' WHERE name = 'b'")
        store.execute("UPDATE discoveries SET port = x'00' WHERE address = 'a'")
        assert (store.iface("b"), store.iface("a")) == (None, {"iface.transport_name": "tcp"})
        assert store.discoveries() == [("sendtargets", "b", 3260)]
        assert [kind for kind, _, _ in store.quarantined()] == ["iface", "discovery"]


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "records.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = (tmp_path / "records.db").read_bytes()
    with pytest.raises(StoreError, match="is a database of another program") as caught:
        Store(str(tmp_path))
    assert caught.value.hint is not None
    assert "records check --repair" in caught.value.hint
    assert (tmp_path / "records.db").read_bytes() == before


# Many at once


MANY = [node(f"iqn.many:{number}", iface=iface) for number in range(3) for iface in ("default", "eth1")]


def test_many_are_written_as_one_by_one(tmp_path: Path) -> None:
    written: Record = {"node.startup": "manual", "node.session.auth.password": Secret(SECRET)}
    with Store(str(tmp_path / "a")) as together, Store(str(tmp_path / "b")) as single:
        for _ in range(2):  # over nothing, and over what is there
            with together.transaction():
                together.write_nodes(MANY, written, "static")
            with single.transaction():
                for each in MANY:
                    single.write_node(each, written, "static")
            assert together.nodes() == single.nodes()
            assert [together.node(each) for each in MANY] == [single.node(each) for each in MANY]
            assert {together.source(each) for each in MANY} == {"static"}


def test_many_over_changed_ones_reset_them(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_nodes(MANY, {"node.startup": "manual"}, "static")
        store.update_nodes({"node.startup": "automatic", "node.session.auth.password": Secret(SECRET)}, iface="eth1")
        assert [store.is_changed(each) for each in MANY] == [False, True] * 3
        store.write_nodes(MANY, {"node.startup": "manual"}, "fw")
        assert [store.node(each) for each in MANY] == [whole(each, {"node.startup": "manual"}) for each in MANY]
        assert not any(store.is_changed(each) for each in MANY)
        assert store.nodes_of_source("static") == []


def test_twice_the_same_portal_is_one_record(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_nodes([node(), node()], record(startup="manual"), "static")
        assert store.nodes() == [node()]


def test_a_record_without_tag_gives_way(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_nodes([node(tpgt=-1), node("iqn.b", tpgt=-1)], record(startup="manual"), "static")
        store.write_nodes([node(), node("iqn.b", tpgt=-1)], record(startup="manual"), "static")
        assert store.nodes() == [node(), node("iqn.b", tpgt=-1)]


@pytest.mark.parametrize("bad", [node("iqn.a\nnode.x = 1"), node(address="192.0.2.1\x1b"), node(iface="a\rb")])
def test_none_of_many_has_control_characters(tmp_path: Path, bad: NodeId) -> None:
    with Store(str(tmp_path)) as store:
        with pytest.raises(StoreError, match="control character"), store.transaction():
            store.write_nodes([node(), bad], record(), "static")
        assert store.nodes() == []


def test_many_are_deleted_with_what_belongs_to_them(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_nodes(MANY, {"node.startup": "manual", "node.session.auth.password": Secret(SECRET)}, "static")
        store.delete_nodes(MANY)
        for table in ("nodes", "profiles", "settings", "secrets"):
            assert store._select(f"SELECT count(*) FROM {table}") == [(0,)]


def test_the_text_that_many_share_is_looked_up_once(tmp_path: Path) -> None:
    with Store(str(tmp_path)) as store, store.transaction():
        seen: list[str] = []
        store._database.set_trace_callback(seen.append)
        store.write_nodes([node(f"iqn.many:{number}") for number in range(100)], record(startup="manual"), "static")
        store._database.set_trace_callback(None)
        assert sum("FROM profiles WHERE checksum" in sql or "INTO profiles" in sql for sql in seen) == 2
