# SPDX-License-Identifier: Apache-2.0
"""Open-iscsi's tree of files: what is read of it, what is written, and that nothing is lost in between."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rdmactl.errors import StoreError
from rdmactl.records.conf import Setting
from rdmactl.records.files import format_file, is_component, parse_file, portal_parts
from rdmactl.records.model import Record, Secret, convert, discovery_table, iface_table, node_table
from rdmactl.records.operations import iface_record, new_node
from rdmactl.records.store import NodeId, Store
from rdmactl.records.tree_export import TreeWriter, export_tree
from rdmactl.records.tree_import import Tree, import_tree, read_tree

DATA = Path(__file__).resolve().parents[2] / "data" / "records"
LIVE = "/etc/iscsi"
IQN = "iqn.2026-11.org.example"
SECRET = "corpus-secret-1234"

Snapshot = dict[str, str]


def snapshot(root: Path) -> Snapshot:
    """Path to what is there: the text of a file, the target of a link, "" for a directory; and the modes."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = f"{stat.S_IMODE(path.stat().st_mode):o}"
        else:
            found[name] = f"{stat.S_IMODE(path.stat().st_mode):o} {path.read_text()}"
    return found


def corpus(root: Path) -> Path:
    """A tree that iscsiadm 2.1.8 has written."""
    shutil.copytree(DATA / "tree", root)
    for name in (DATA / "links.txt").read_text().splitlines():
        (root / name).parent.mkdir(exist_ok=True)
        target, portal = name.partition("/")[2].split(",", 1)
        os.symlink(f"{LIVE}/nodes/{target}/{portal.rpartition(',')[0]}", root / name)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
    return root


def imported(root: Path, state: Path, *, replace: bool = False) -> Tree:
    tree = read_tree(str(root))
    with Store(str(state)) as store:
        import_tree(store, tree, replace=replace)
    return tree


def exported(state: Path, to: Path) -> list[str]:
    with Store(str(state)) as store:
        return export_tree(store, TreeWriter(str(to), LIVE))[1]


def write(root: Path, name: str, text: str = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def link(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/anywhere")


def test_a_tree_of_open_iscsi_comes_back_byte_for_byte(tmp_path: Path) -> None:
    tree = corpus(tmp_path / "etc")
    assert imported(tree, tmp_path / "state").problems == []
    assert exported(tmp_path / "state", tmp_path / "out") == []
    assert snapshot(tmp_path / "out") == snapshot(tree)


def test_what_the_corpus_holds(tmp_path: Path) -> None:
    tree = imported(corpus(tmp_path / "etc"), tmp_path / "state")
    with Store(str(tmp_path / "state")) as store:
        assert store.nodes() == [
            NodeId(f"{IQN}:a", "192.0.2.10", 3260, 1, "default"),
            NodeId(f"{IQN}:a", "192.0.2.10", 3260, 1, "eth-a"),
            NodeId(f"{IQN}:a", "2001:db8::10", 3261, 2, "iser"),
            NodeId(f"{IQN}:b", "san.example", 3260, 1, "off.ipv6.0"),
            NodeId(f"{IQN}:old", "192.0.2.11", 3260, -1, "default"),
        ]
        first = store.node(store.nodes()[0])
        assert first is not None
        assert first["node.session.auth.password"] == Secret(SECRET)
        assert [store.source(node) for node in store.nodes()] == ["static"] * 5
        assert store.discoveries() == [("sendtargets", "192.0.2.1", 3260), ("isns", "192.0.2.2", 3205)]
        assert store.ifaces() == ["eth-a", "off.ipv6.0"]
    assert SECRET not in repr(tree)


NODE = "node.name = {0}\nnode.tpgt = 1\nnode.conn[0].address = 192.0.2.1\nnode.conn[0].port = 3260\n"
FOUND = "node.discovery_address = 192.0.2.9\nnode.discovery_port = {1}\nnode.discovery_type = {0}\n"


def wild(root: Path) -> None:
    """Everything that trees hold besides what iscsiadm writes today."""
    for name, source in (("st", FOUND.format("send_targets", 3260)), ("is", FOUND.format("isns", 3205))):
        write(root, f"nodes/iqn.{name}/192.0.2.1,3260,1/default", NODE.format(f"iqn.{name}") + source)
    link(root, "send_targets/192.0.2.9,3260/iqn.st,192.0.2.1,3260,1,default")
    write(root, "send_targets/192.0.2.9,3260/st_config", "discovery.sendtargets.address = 192.0.2.9\n")
    link(root, "isns/192.0.2.9,3205/iqn.is,192.0.2.1,3260,1,default")
    write(root, "isns/192.0.2.9,3205/isns_config", "discovery.type = isns\n")
    write(root, "nodes/iqn.is2/192.0.2.1,3260,1/default", NODE.format("iqn.is2"))
    link(root, "isns/iqn.is2,192.0.2.1,3260,1,default")  # of a query without a record of its own
    write(root, "nodes/iqn.fw/192.0.2.1,3260,1/default", NODE.format("iqn.fw") + "node.discovery_type = fw\n")
    link(root, "fw/iqn.fw,192.0.2.1,3260,1,default")
    write(root, "nodes/iqn.copied/fe80::1,3260,0/eth0", NODE.format("iqn.copied"))  # without any link
    crlf = NODE.format("iqn.crlf").replace("\n", "\r\n") + "node.startup = onboot\r\n"
    write(root, "nodes/iqn.crlf/192.0.2.1,3260,1/default", crlf)
    write(root, "nodes/iqn.future/192.0.2.1,3260,1/default", "node.new.key = a = b\nnode.new.password = x\n")
    write(root, "nodes/iqn.old/192.0.2.1,3260", "node.startup = manual\niface.iscsi_ifacename = eth0\n")
    write(root, "nodes/iqn.noeol/192.0.2.1,3260,1/default", "node.startup = onboot")
    write(root, "nodes/iqn.colon:a,b/192.0.2.1,3260,65535/if:0", NODE.format("iqn.colon:a,b"))
    link(root, "static/iqn.colon:a,b,192.0.2.1,3260,65535,if:0")
    (root / "nodes/iqn.empty-directory").mkdir()
    write(root, "ifaces/iface.example", "# an example\n")
    write(root, "ifaces/eth0", "iface.transport_name = tcp\niface.future = 1\n")


def records(root: Path) -> dict[str, Record]:
    """The records of a tree as programs read them, and its links, in order of path."""
    found: dict[str, Record] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = {"link": os.readlink(path).rpartition("/nodes/")[2]}
        elif path.is_file() and path.name != "iface.example":
            table = iface_table("") if name.startswith("ifaces") else node_table("")
            found[name] = parse_file(path.read_bytes(), table)[0]
    return found


def test_all_that_is_in_the_wild_comes_back(tmp_path: Path) -> None:
    wild(tmp_path / "etc")
    tree = imported(tmp_path / "etc", tmp_path / "state")
    assert tree.problems == []
    assert exported(tmp_path / "state", tmp_path / "out") == []
    theirs, ours = records(tmp_path / "etc"), records(tmp_path / "out")
    assert list(theirs) == list(ours)
    for name, record in theirs.items():
        if "link" not in record:  # links in this corpus lead anywhere; their names are what counts
            identity = {} if "nodes" not in name else {key: ours[name][key] for key in IDENTITY}
            assert ours[name] == identity | record, name
    assert "iqn.old" not in " ".join(os.listdir(tmp_path / "out/static"))
    again = tmp_path / "again"
    imported(tmp_path / "out", again)
    with Store(str(tmp_path / "state")) as one, Store(str(again)) as other:
        assert one.nodes() == other.nodes()
        assert [one.node(node) for node in one.nodes()] == [other.node(node) for node in other.nodes()]
        assert [one.source(node) for node in one.nodes()] == [other.source(node) for node in other.nodes()]


IDENTITY = ("node.name", "node.tpgt", "node.conn[0].address", "node.conn[0].port")

BAD = "nodes/iqn.bad/192.0.2.1,3260,1/default"


@pytest.mark.parametrize(
    ("name", "text", "problem", "count"),
    [
        (BAD, "node.startup = sometimes\n", "line 1 has a value for node.startup that is kept but cannot be used", 2),
        (BAD, "\n\nnode.startup\n", "line 3 has no value and was left out", 2),
        (BAD, "node.startup=manual\n", "line 1 has no '=' separator and was left out", 2),
        (BAD, "node.startup =\n", "line 1 has no value and was left out", 2),
        (BAD, "k = " + "x" * 3000 + "\n", "line 1 is too long and was left out", 2),
        (BAD, "node.session.auth.username = a\x1b[2Jb\n", "no record can have; it was left out", 2),
        (BAD, "", "is empty", 2),
        (BAD, "x = y\n" * 200000, "is longer than any record; it was left out", 1),
        ("nodes/stray", "x", "is no directory of a target; it was left out", 1),
        ("nodes/iqn.bad/portal", "x", "is not named ADDRESS,PORT,TPGT; it was left out", 1),
        ("nodes/iqn.bad/192.0.2.1,port,1/default", "x", "is not named ADDRESS,PORT,TPGT; it was left out", 1),
        ("nodes/iqn.bad/192.0.2.1,3260,1", "x = y", "is neither a directory of a portal nor a record", 1),
        ("nodes/iqn.bad/192.0.2.1,3260,1/default/deep", "x", "is no record; it was left out", 1),
        ("nodes/iqn.bad/192.0.2.1,3260/default", "x = y\n", "is a directory without tag", 2),
        ("nodes/iqn.\x1b[2J/192.0.2.1,3260,1/default", "x = y\n", "has a name that no record can have", 1),
        ("send_targets/192.0.2.9/st_config", "x = y\n", "is not named ADDRESS,PORT; it was left out", 1),
        ("send_targets/192.0.2.9,3260/other", "x = y\n", "has no st_config", 1),
        ("static/file", "", "is no link to a record; it was left out", 1),
        ("ifaces/default", "iface.transport_name = tcp\n", "name of an interface that always exists", 1),
        ("ifaces/eth0", "iface.hwaddress = x\n", "has no iface.transport_name", 1),
        ("ifaces/eth0/x", "", "is no file; it was left out", 1),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_imported(
    tmp_path: Path, name: str, text: str, problem: str, count: int
) -> None:
    root = tmp_path / "etc"
    write(root, "nodes/iqn.good/192.0.2.1,3260,1/default", NODE.format("iqn.good"))
    write(root, name, text)
    tree = imported(root, tmp_path / "state")
    assert any(problem in each for each in tree.problems), tree.problems
    assert all(each.startswith(f"{root}/") for each in tree.problems)
    with Store(str(tmp_path / "state")) as store:
        assert len(store.nodes()) == count
        assert NodeId("iqn.good", "192.0.2.1", 3260, 1, "default") in store.nodes()


def test_links_that_lead_nowhere_or_twice_are_named(tmp_path: Path) -> None:
    write(tmp_path, "nodes/iqn.a/192.0.2.1,3260,1/default", NODE.format("iqn.a") + "node.discovery_type = static\n")
    link(tmp_path, "static/iqn.a,192.0.2.1,3260,1,default")
    link(tmp_path, "fw/iqn.a,192.0.2.1,3260,1,default")
    link(tmp_path, "static/iqn.gone,192.0.2.1,3260,1,default")
    tree = read_tree(str(tmp_path))
    assert [source for _, _, source in tree.nodes] == ["static"]
    assert sorted(each.partition(": ")[2][:20] for each in tree.problems) == [
        "is a link to a recor",
        "is a second link to ",
    ]


def test_a_copy_that_has_lost_its_links_keeps_its_sources(tmp_path: Path) -> None:
    """As `scp -r` or a backup makes it. With a single link in it the tree is whole, and what has none has no source."""
    sent = "node.discovery_type = send_targets\nnode.discovery_address = 192.0.2.9\nnode.discovery_port = 3260\n"
    write(tmp_path, "nodes/iqn.a/192.0.2.1,3260,1/default", NODE.format("iqn.a") + "node.discovery_type = static\n")
    write(tmp_path, "nodes/iqn.b/192.0.2.1,3260,1/default", NODE.format("iqn.b") + sent)
    assert [source for _, _, source in read_tree(str(tmp_path)).nodes] == ["static", "send_targets 192.0.2.9,3260"]
    link(tmp_path, "static/iqn.a,192.0.2.1,3260,1,default")
    assert [source for _, _, source in read_tree(str(tmp_path)).nodes] == ["static", ""]


def test_links_are_never_followed(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/192.0.2.1,3260,1/default", NODE.format("iqn.a"))
    (tmp_path / "etc/nodes").mkdir(parents=True)
    (tmp_path / "etc/nodes/iqn.a").symlink_to(tmp_path / "elsewhere")
    tree = read_tree(str(tmp_path / "etc"))
    assert tree.nodes == []
    assert "is no directory of a target" in tree.problems[0]


def test_a_file_that_cannot_be_read_and_a_tree_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, "nodes/iqn.a/192.0.2.1,3260,1/good", NODE.format("iqn.a"))
    os.mkfifo(tmp_path / "nodes/iqn.a/192.0.2.1,3260,1/pipe")
    tree = read_tree(str(tmp_path))
    assert [node.iface for node, _, _ in tree.nodes] == ["good"]
    assert "pipe: is no record" in tree.problems[0]
    with pytest.raises(StoreError, match="there is no directory"):
        read_tree(str(tmp_path / "nothing"))


def test_what_exists_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    root, state = corpus(tmp_path / "etc"), tmp_path / "state"
    with Store(str(state)) as store:
        first = import_tree(store, read_tree(str(root)), replace=False)
        again = import_tree(store, read_tree(str(root)), replace=False)
        assert (first.added, first.unchanged, again.added, again.unchanged) == (9, 0, 0, 9)
        with store.transaction():
            store.update_nodes({"node.startup": "onboot"}, target=f"{IQN}:b")
        kept = import_tree(store, read_tree(str(root)), replace=False)
        assert (kept.unchanged, kept.kept) == (8, [f"the node record {IQN}:b at san.example,3260,1 through off.ipv6.0"])
        assert import_tree(store, read_tree(str(root)), replace=True).replaced == 1
        assert import_tree(store, read_tree(str(root)), replace=True).unchanged == 9


def test_names_that_are_no_names_of_files_are_not_written(tmp_path: Path) -> None:
    with Store(str(tmp_path / "state")) as store:
        with store.transaction():
            for target in ("..", ".", "a/b", "../../x", "x" * 300):
                store.write_node(NodeId(target, "192.0.2.1", 3260, 1, "default"), {}, "static")
            store.write_node(NodeId("iqn.a", "../..", 3260, 1, "default"), {}, "static")
            store.write_node(NodeId("iqn.a", "192.0.2.1", 3260, 1, ".."), {}, "static")
            store.write_node(NodeId("iqn.good", "192.0.2.1", 3260, 1, "default"), {}, "static")
            for iface in ("eth0", "eth1"):  # one old-style file cannot hold two
                store.write_node(NodeId("iqn.old", "192.0.2.1", 3260, -1, iface), {}, "static")
            store.write_iface("../x", {})
        count, problems = export_tree(store, TreeWriter(str(tmp_path / "a/b/out")))
    assert (count, len(problems)) == (2, 9)
    files = [path.name for path in tmp_path.rglob("*") if path.is_file() and "state" not in path.parts]
    assert sorted(files) == ["192.0.2.1,3260", "default"]


def test_our_own_records_are_files_as_open_iscsi_writes_them(tmp_path: Path) -> None:
    node = NodeId(f"{IQN}:a", "2001:db8::10", 3261, 2, "iser")
    with Store(str(tmp_path / "state")) as store:
        iface = iface_record(store, "iser")
        assert iface is not None
        with store.transaction():
            new_node(store, node, iface, [Setting(1, "node.startup", "automatic")])
    exported(tmp_path / "state", tmp_path / "out")
    path = f"nodes/{IQN}:a/2001:db8::10,3261,2/iser"
    theirs, ours = (DATA / "tree" / path).read_text(), (tmp_path / "out" / path).read_text()
    assert ours.replace("node.startup = automatic", "node.startup = manual") == theirs.replace(
        "node.startup = automatic", "node.startup = manual"
    )


TABLES = st.sampled_from([node_table("default"), node_table("ipv6"), iface_table("x"), discovery_table("sendtargets")])


@pytest.mark.slow
@given(TABLES, st.data())
def test_writing_and_reading_a_record_are_inverse(table: object, data: st.DataObject) -> None:
    keys = {key.name: key for key in table.keys}  # type: ignore[attr-defined]
    names = data.draw(st.lists(st.sampled_from(sorted(keys)) | st.from_regex(r"[a-z]+\.[a-z_]+", fullmatch=True)))
    record: Record = {}
    for name in names:
        text = data.draw(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40))
        key = keys.get(name)
        if key is not None and key.kind in ("enum", "list"):
            text = data.draw(st.sampled_from(key.words))
        value = text if key is None else convert(key, text)[0]
        if value and not name.endswith("_length") and not (key is None and "password" in name):
            record[name] = value
    assert parse_file(format_file(record, table).encode(), table) == (record, [])  # type: ignore[arg-type]


@given(st.binary(max_size=300))
def test_no_file_breaks_the_reader_and_what_it_reads_can_be_stored(data: bytes) -> None:
    record, _ = parse_file(data, node_table("default"))
    assert parse_file(format_file(record, node_table("default")).encode(), node_table("default"))[0] == record


@given(st.text(max_size=20), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-1, (1 << 31) - 1))
def test_names_of_portals_are_read_as_they_are_written(address: str, port: int, tpgt: int) -> None:
    node = NodeId("t", address, port, tpgt, "default")
    assert portal_parts(node.directory) == ((address, port, tpgt) if address and "," not in address else None)


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=9
)
SOURCES = st.sampled_from(["static", "fw", "isns", "", "send_targets 192.0.2.9,3260", "isns fe80::1,3205"])


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from(["192.0.2.1", "fe80::1", "san"]), st.integers(-1, 3), NAMES, SOURCES),
        unique_by=lambda each: each[:3] if each[2] == -1 else each[:4],
        max_size=6,
    )
)
@example([("t", "192.0.2.1", 0, ".rdmactl.1.new", "static")])  # named as the files that a writer renames
def test_any_store_survives_export_and_import(rows: list[tuple[str, str, int, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        one, out, other = (Path(directory) / name for name in ("one", "out", "other"))
        with Store(str(one)) as store, store.transaction():
            for target, address, tpgt, iface, source in rows:
                if all(map(is_component, (target, iface))):
                    node = NodeId(target, address, 3260, tpgt, iface)
                    kept = "static" if source == "" and tpgt == -1 else source  # these never have a link
                    store.write_node(node, {"iface.iscsi_ifacename": iface, "node.password": Secret("x")}, kept)
        assert exported(one, out) == []
        out.mkdir(exist_ok=True)
        linked = any(path.is_symlink() for path in out.rglob("*"))
        imported(out, other)
        with Store(str(one)) as store, Store(str(other)) as again:
            assert again.nodes() == store.nodes()
            for node in store.nodes():
                assert again.node(node) == store.node(node)
                assert again.source(node) == (store.source(node) or ("" if linked else "static"))
