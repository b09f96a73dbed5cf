# SPDX-License-Identifier: Apache-2.0
"""`rdmactl records import|export|check` and `rdmactl iname`: words, text, JSON, status."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from rdmactl.cli import rdmactl
from rdmactl.iscsi.names import name_problem
from rdmactl.records.store import NodeId, Store

Output = pytest.CaptureFixture[str]

NODE = "nodes/iqn.a/192.0.2.1,3260,1/default"


@pytest.fixture(autouse=True)
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMACTL_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RDMACTL_SETTINGS_DIRECTORY", str(tmp_path / "settings"))
    monkeypatch.setenv("RDMACTL_CONFIG_DIRECTORY", str(tmp_path / "etc"))
    path = tmp_path / "etc" / NODE
    path.parent.mkdir(parents=True)
    path.write_text("node.startup = onboot\n")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: Output):  # type: ignore[no-untyped-def]
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rdmactl", *words])
        status = rdmactl.main()
        return status, *capsys.readouterr()

    return run


def test_import_and_export(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tree, out = str(tmp_path / "etc"), str(tmp_path / "out")
    assert run("records", "import", tree) == (0, f"{tree}: 1 added, 0 replaced, 0 unchanged\n", "")
    assert run("records", "import", tree) == (0, f"{tree}: 0 added, 0 replaced, 1 unchanged\n", "")
    assert run("records", "export", out, "--as", "/etc/iscsi") == (0, f"{out}: 1 written\n", "")
    assert "node.startup = onboot\n" in (tmp_path / "out" / NODE).read_text()
    status, stdout, _ = run("records", "export", "-j", out)
    assert (status, json.loads(stdout)["written"]) == (0, 1)


def test_what_is_left_out_is_named(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "etc/nodes/stray").write_text("")
    status, stdout, stderr = run("records", "import", str(tmp_path / "etc"))
    assert (status, stdout) == (1, f"{tmp_path}/etc: 1 added, 0 replaced, 0 unchanged\n")
    assert stderr == f"rdmactl: {tmp_path}/etc/nodes/stray: is no directory of a target; it was left out\n"
    (tmp_path / "etc" / NODE).write_text("node.startup = manual\n")
    status, stdout, stderr = run("records", "import", "-j", str(tmp_path / "etc"))
    body = json.loads(stdout)
    assert (status, body["kept"], len(body["problems"])) == (
        1,
        ["the node record iqn.a at 192.0.2.1,3260,1 through default"],
        1,
    )
    assert "exists with other values and was kept; --replace replaces it" in stderr
    assert json.loads(run("records", "import", "-j", "-r", str(tmp_path / "etc"))[1])["replaced"] == 1


def test_a_name_that_cannot_be_a_file(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with Store() as store, store.transaction():
        store.write_node(NodeId("../x", "192.0.2.1", 3260, 1, "default"), {}, "static")
    status, stdout, stderr = run("records", "export", str(tmp_path / "out"))
    assert (status, stdout) == (1, f"{tmp_path}/out: 0 written\n")
    assert "../x at 192.0.2.1,3260,1 through default has a name that cannot be the name of a file" in stderr


def test_check_tells_and_repairs(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("records", "check") == (0, "the records are sound\n", "")
    run("records", "import", str(tmp_path / "etc"))
    with Store() as store:
        store.execute("UPDATE nodes SET port = 'x'")
    status, stdout, stderr = run("records", "check")
    assert (status, stdout) == (
        1,
        "set apart: the node record iqn.a at 192.0.2.1,3260,1 through default: its name is unreadable\n",
    )
    assert stderr.count("was set apart") == 1
    (tmp_path / "state/records.db").write_bytes(b"x" * 5000)
    status, stdout, stderr = run("records", "check")
    assert (status, stdout) == (1, "")
    assert "is damaged: file is not a database" in stderr
    status, stdout, stderr = run("records", "check", "--repair")
    assert (status, stdout) == (
        0,
        f"0 records saved; the damaged database is {tmp_path}/state/records.db.damaged.1\n",
    )
    body = json.loads(run("records", "check", "-j")[1])
    assert (body["damage"], body["kept_as"], body["set_apart"]) == ([], None, [])


def test_names_of_initiators(run) -> None:  # type: ignore[no-untyped-def]
    status, name, _ = run("iname")
    assert (status, name_problem(name.strip())) == (0, None)
    assert re.fullmatch(r"iqn\.2016-04\.com\.open-iscsi:[0-9a-f]{6,12}\n", name)
    assert run("iname")[1] != name
    assert re.fullmatch(r"InitiatorName=iqn\.a\.b:[0-9a-f]{6,12}\n", run("iname", "-g", "-p", "iqn.a.b")[1])
    assert json.loads(run("iname", "-j", "-p", "iqn.a.b:")[1])["initiator_name"].startswith("iqn.a.b:")
    assert run("iname", "-p", "x" * 211)[0] == 2
    status, _, stderr = run("iname", "-p", "foo bar")
    assert (status, stderr) == (
        2,
        "rdmactl: a name with this prefix does not begin with iqn., eui. or naa.;"
        " a prefix looks like iqn.2016-04.com.open-iscsi:\n",
    )


def test_iscsi_unknown_settings_are_named_when_something_changes(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/rdmactl.toml").write_text(f'[records]\nmirror = "{tmp_path}/mirror"\nx = 1\n')
    status, _, stderr = run("records", "import", str(tmp_path / "etc"))
    assert (status, stderr) == (0, "rdmactl: rdmactl.toml: [records] has no key x, which counts for nothing\n")
    assert (tmp_path / "mirror" / NODE).is_file()
