# SPDX-License-Identifier: Apache-2.0
"""The mirror: after each change the tree is what an export would write; and the settings that ask for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmactl.errors import LocalError, StoreError
from rdmactl.records import settings as record_settings
from rdmactl.records.model import Secret
from rdmactl.records.settings import FIELDS, Mirror
from rdmactl.records.store import NodeId, Store
from rdmactl.records.tree_export import TreeWriter, export_tree
from tests.unit.records.test_records_tree import snapshot

ROOT = Path(__file__).resolve().parents[3]


class World:
    """A store with a mirror."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree = directory / "etc"
        self.warnings: list[str] = []
        (directory / "rdmactl.toml").write_text(f'[records]\nmirror = "{self.tree}"\n')
        self.state = str(directory / "state")

    def open(self) -> Store:
        return Store(self.state, follower=Mirror(self.warnings.append, str(self.directory)))

    def wanted(self) -> dict[str, str]:
        """What an export writes now, without directories of nothing."""
        out = self.directory / "out"
        with Store(self.state) as store:
            export_tree(store, TreeWriter(str(out), str(self.tree)))
        return files(out)


def files(root: Path) -> dict[str, str]:
    return {name: text for name, text in snapshot(root).items() if text != "700"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    return World(tmp_path)


def node(name: str = "iqn.a", tpgt: int = 1, iface: str = "default") -> NodeId:
    return NodeId(name, "192.0.2.1", 3260, tpgt, iface)


def test_the_tree_follows_each_change(world: World) -> None:
    with world.open() as store:
        with store.transaction():
            store.write_node(node(), {"node.startup": "manual", "x.password": Secret("geheim")}, "static")
            store.write_node(node("iqn.b"), {"node.startup": "manual"}, "send_targets 192.0.2.9,3260")
            store.write_discovery("sendtargets", "192.0.2.9", 3260, {"discovery.type": "sendtargets"})
            store.write_iface("eth0", {"iface.transport_name": "tcp"})
        assert files(world.tree) == world.wanted()
        assert len(files(world.tree)) == 6
        with store.transaction():
            store.update_nodes({"node.startup": "onboot"})
            store.write_node(node(), {"node.startup": "onboot"}, "fw")  # claimed by another source
            store.delete_iface("eth0")
        assert sorted(os.listdir(world.tree / "fw")) == ["iqn.a,192.0.2.1,3260,1,default"]
        assert os.listdir(world.tree / "static") == os.listdir(world.tree / "ifaces") == []
        assert "node.startup = onboot" in (world.tree / "nodes/iqn.b/192.0.2.1,3260,1/default").read_text()
        with store.transaction():
            store.delete_node(node())
            store.delete_node(node("iqn.b"))
            store.delete_discovery("sendtargets", "192.0.2.9", 3260)
        assert files(world.tree) == {}
        assert os.listdir(world.tree / "nodes") == []
        assert store.unmirrored() == []


def test_a_record_gets_its_tag(world: World) -> None:
    with world.open() as store:
        with store.transaction():
            store.write_node(node(tpgt=-1), {}, "static")
        assert (world.tree / "nodes/iqn.a/192.0.2.1,3260").is_file()
        with store.transaction():
            store.delete_node(node(tpgt=-1))
            store.write_node(node(tpgt=1), {}, "static")
    assert [path.name for path in (world.tree / "nodes/iqn.a").iterdir()] == ["192.0.2.1,3260,1"]


def test_what_is_not_ours_stays(world: World) -> None:
    for name in ("iscsid.conf", "nodes/iqn.a/notes"):
        (world.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (world.tree / name).write_text("mine")
    with world.open() as store:
        with store.transaction():
            store.write_node(node(), {}, "static")
        with store.transaction():
            store.delete_node(node())
    assert {name for name, text in files(world.tree).items() if "mine" in text} == {"iscsid.conf", "nodes/iqn.a/notes"}


def test_a_transaction_that_fails_changes_nothing_in_the_tree(world: World) -> None:
    def fail(store: Store) -> None:
        with store.transaction():
            store.write_node(node(), {}, "static")
            raise ZeroDivisionError

    with world.open() as store:
        with pytest.raises(ZeroDivisionError):
            fail(store)
        assert not world.tree.exists()
        assert store.unmirrored() == []


def test_what_a_killed_process_has_not_written_the_next_one_writes(world: World) -> None:
    with world.open() as store, store.transaction():
        store.write_node(node("iqn.first"), {}, "static")
    child = os.fork()
    if child == 0:
        Mirror.follow = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign, assignment, return-value]
        with world.open() as store, store.transaction():
            store.write_node(node("iqn.second"), {}, "static")
            store.delete_node(node("iqn.first"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.listdir(world.tree / "nodes") == ["iqn.first"]
    with world.open() as store, store.transaction():
        store.write_iface("eth0", {})
    assert files(world.tree) == world.wanted()
    assert os.listdir(world.tree / "nodes") == ["iqn.second"]


def test_a_tree_that_cannot_be_written_is_named_and_caught_up_with(world: World) -> None:
    world.tree.write_text("not a directory")
    with world.open() as store:
        with pytest.raises(StoreError, match="cannot be written") as caught, store.transaction():
            store.write_node(node(), {}, "static")
        assert "the change itself is recorded" in (caught.value.hint or "")
        assert store.nodes() == [node()]
        world.tree.unlink()
        with store.transaction():
            store.write_node(node("iqn.b"), {}, "static")
    assert files(world.tree) == world.wanted()


NODES = st.builds(node, st.sampled_from(["iqn.a", "iqn.b"]), st.sampled_from([-1, 1, 2]), st.sampled_from(["default"]))
STEPS = st.one_of(
    st.tuples(st.just("write"), NODES, st.sampled_from(["static", "fw", "", "send_targets 192.0.2.9,3260"])),
    st.tuples(st.just("delete"), NODES, st.just("")),
    st.tuples(st.just("update"), NODES, st.sampled_from(["manual", "automatic"])),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(STEPS, max_size=4), max_size=4))
def test_the_mirror_is_always_what_an_export_writes(
    tmp_path_factory: pytest.TempPathFactory, commands: list[list[tuple[str, NodeId, str]]]
) -> None:
    world = World(tmp_path_factory.mktemp("mirror"))
    with world.open() as store:
        for steps in commands:
            with store.transaction():
                for what, which, word in steps:
                    if what == "write":
                        store.write_node(which, {"node.startup": "manual"}, word)
                    elif what == "delete":
                        store.delete_node(which)
                    else:
                        store.update_nodes({"node.startup": word}, target=which.target)
            assert files(world.tree) == world.wanted()
            for path in world.directory.glob("out/**/*"):
                if path.is_symlink() or path.is_file():
                    path.unlink()


# Settings


def test_without_settings_there_is_no_mirror(tmp_path: Path) -> None:
    assert record_settings.read(str(tmp_path))[0].mirror == ""
    assert not Mirror(print, str(tmp_path)).wanted()


def test_drop_ins_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "rdmactl.toml").write_text('[records]\nmirror = "/one"\n')
    (tmp_path / "rdmactl.toml.d").mkdir()
    (tmp_path / "rdmactl.toml.d/20-b.toml").write_text('[records]\nmirror = "/three"\n')
    (tmp_path / "rdmactl.toml.d/10-a.toml").write_text('[records]\nmirror = "/two"\n')
    (tmp_path / "rdmactl.toml.d/30-c.txt").write_text("no toml")
    assert record_settings.read(str(tmp_path))[0].mirror == "/three"
    (tmp_path / "rdmactl.toml").unlink()
    assert record_settings.read(str(tmp_path))[0].mirror == "/three"


def test_unknown_keys_and_sections_are_named(tmp_path: Path) -> None:
    (tmp_path / "rdmactl.toml").write_text('[records]\nmiror = "/etc/iscsi"\n[recods]\n')
    found, unknown = record_settings.read(str(tmp_path))
    assert found.mirror == ""
    assert [sentence.split(", which")[0] for sentence in unknown] == [
        "rdmactl.toml: there is no section recods",
        "rdmactl.toml: [records] has no key miror",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[records\n", "cannot be used"),
        ("records = 1\n", "records in rdmactl.toml is no section"),
        ("[records]\nmirror = 1\n", "must be a str"),
        ('[records]\nmirror = "etc"\n', "must be an absolute path"),
        ("\udcff", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rdmactl.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LocalError, match=message):
        record_settings.read(str(tmp_path))


def test_the_man_page_has_every_key_and_its_sentence() -> None:
    page = " ".join((ROOT / "man/rdmactl.toml.5").read_text().split())
    for key, (_, sentence) in FIELDS.items():
        assert f".It Cm {key}" in page
        assert sentence in page.replace(" .Pa ", " ").replace(" . ", ". ")
