# SPDX-License-Identifier: Apache-2.0
"""The tree of files that we write, read by open-iscsi's own iscsiadm; and the tree that it writes, read by us.

No session is made: the machine is here so that /etc/iscsi can be written to.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

TREE = Path("/etc/iscsi")
PARTS = ("nodes", "static", "send_targets", "isns", "fw", "ifaces")
IQN = "iqn.2026-11.org.example"
SECRET = "corpus-secret-1234"

MAKE = [
    ["-m", "iface", "-I", "eth-a", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:a", "-p", "192.0.2.10:3260,1", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:a", "-p", "192.0.2.10:3260,1", "-I", "eth-a", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:a", "-p", "[2001:db8::10]:3261,2", "-I", "iser", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:old", "-p", "192.0.2.11", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:a", "-o", "update", "-n", "node.session.auth.password", "-v", SECRET],
    ["-m", "node", "-o", "update", "-n", "node.session.queue_depth", "-v", "64"],
    ["-m", "discoverydb", "-t", "st", "-p", "192.0.2.1", "-o", "new"],
    ["-m", "discoverydb", "-t", "isns", "-p", "192.0.2.2", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:gone", "-p", "192.0.2.12:3260,1", "-o", "new"],
    ["-m", "node", "-T", f"{IQN}:gone", "-o", "delete"],
]
LOOK = [
    ["-m", "node"],
    ["-m", "node", "-P", "1"],
    ["-m", "node", "-o", "show", "-S"],
    ["-m", "iface"],
    ["-m", "iface", "-P", "1"],
    ["-m", "iface", "-I", "eth-a"],
    ["-m", "discovery"],
    ["-m", "discovery", "-P", "1"],
    ["-m", "discoverydb", "-t", "st", "-p", "192.0.2.1", "-S"],
    ["-m", "discoverydb", "-t", "isns", "-p", "192.0.2.2"],
]


@pytest.fixture(autouse=True)
def _nothing_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean()
    (TREE / "initiatorname.iscsi").write_text(f"InitiatorName={IQN}:host\n")
    (TREE / "iscsid.conf").write_text("# nothing\n")
    monkeypatch.setenv("RDMACTL_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RDMACTL_SETTINGS_DIRECTORY", str(tmp_path / "settings"))
    (tmp_path / "settings").mkdir()


def clean() -> None:
    TREE.mkdir(exist_ok=True)
    for part in PARTS:
        shutil.rmtree(TREE / part, ignore_errors=True)


def theirs(words: list[str]) -> tuple[int, str]:
    done = subprocess.run(["/usr/sbin/iscsiadm", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def ours(words: list[str]) -> tuple[int, str]:
    program = "import sys; sys.argv[0] = 'iscsiadm'; from rdmactl.cli.iseradm import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def rdmactl(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "rdmactl.cli.rdmactl", *words], capture_output=True, check=True)


def same_view() -> None:
    for words in LOOK:
        if words[:3] == ["-m", "discovery", "-P"]:  # in the order of directory entries
            assert sorted(theirs(words)[1].splitlines()) == sorted(ours(words)[1].splitlines())
        else:
            assert theirs(words) == ours(words), words
    assert IQN in theirs(["-m", "node"])[1]


def tree() -> dict[str, str]:
    found = {}
    for part in PARTS:
        for path in sorted((TREE / part).rglob("*")):
            name = str(path.relative_to(TREE))
            if path.is_symlink():
                found[name] = str(path.readlink())
            else:
                mode = f"{path.stat().st_mode:o} "
                found[name] = mode + (path.read_text() if path.is_file() else "")
    return found


def test_iscsiadm_reads_what_the_mirror_writes(tmp_path: Path) -> None:
    (tmp_path / "settings/rdmactl.toml").write_text(f'[records]\nmirror = "{TREE}"\n')
    for words in MAKE:
        assert ours(words)[0] == 0, words
    same_view()


def test_both_make_the_same_tree_and_we_read_theirs(tmp_path: Path) -> None:
    for words in MAKE:
        assert theirs(words)[0] == 0, words
    written = tree()
    rdmactl("records", "import")
    same_view()
    clean()
    rdmactl("records", "export", str(TREE))
    assert tree() == written


def test_iscsiadm_changes_and_deletes_what_we_have_written() -> None:
    for words in MAKE:
        assert ours(words)[0] == 0, words
    rdmactl("records", "export", str(TREE))
    update = ["-m", "node", "-T", f"{IQN}:a", "-I", "iser", "-o", "update", "-n", "node.startup", "-v", "automatic"]
    assert theirs(update)[0] == ours(update)[0] == 0
    assert theirs(["-m", "node", "-T", f"{IQN}:old", "-o", "delete"])[0] == 0
    assert ours(["-m", "node", "-T", f"{IQN}:old", "-o", "delete"])[0] == 0
    same_view()
    assert theirs(["-m", "node", "-o", "delete"])[0] == 0
    assert list((TREE / "nodes").iterdir()) == list((TREE / "static").iterdir()) == []
