# SPDX-License-Identifier: Apache-2.0
"""iseradm under its own name: one sentence for each failure, no secret anywhere, nothing imported in vain.

What it prints when all goes well is held by tests/golden.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context

pytestmark = pytest.mark.fake

SECRET = "suite-secret-4711"
TARGET = "iqn.2003-01.org.example:disk1"
NEW = ["-m", "node", "-o", "new", "-T", TARGET, "-p", "192.0.2.10:3260,1"]
PASSWORD = "node.session.auth.password"


class Machine:
    """A host without a daemon and without sessions."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.sysfs = directory / "sys"
        self.sysfs.mkdir()
        self.capsys = capsys

    def run(self, *words: str, name: str = "iseradm") -> tuple[int, str, str]:
        """(status, standard output, standard error)."""
        status = run(Context(name, sysfs=str(self.sysfs)), words)
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def fails(self, *words: str) -> tuple[int, str]:
        """(status, the one sentence on standard error)."""
        status, out, err = self.run(*words)
        assert out == ""
        assert err.startswith("iseradm: ")
        assert err.count("\n") == 1
        return status, err.removeprefix("iseradm: ").strip()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    for name in ("STATE", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"RDMACTL_{name}_DIRECTORY", str(tmp_path / name.lower()))
    return Machine(tmp_path, capsys)


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "node", "-l"),
        ("-m", "node", "--loginall=all"),
        ("-m", "discovery", "-t", "st", "-p", "192.0.2.1"),
        ("-m", "discoverydb", "-t", "st", "-p", "192.0.2.1", "-D"),
        ("-m", "discovery", "-t", "isns", "-p", "192.0.2.1"),
        ("-m", "discoverydb", "-t", "isns", "-p", "192.0.2.1", "-D"),
    ],
)
def test_without_the_daemon(machine: Machine, words: Sequence[str]) -> None:
    assert machine.run(*NEW)[0] == 0
    status, sentence = machine.fails(*words)
    assert status == 20
    assert "iserd is not running" in sentence
    assert "start iserd.service" in sentence


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("-m", "fw"), 21),
        (("-m", "discovery", "-t", "slp", "-p", "192.0.2.1"), 7),
        (("-m", "discovery", "-t", "fw"), 21),
        (("-m", "node", "--rescan"), 21),
        (("-m", "host", "-C", "stats"), 12),
        (("-m", "nonsense"), 7),
        (("-m", "node", "-o", "nonsense"), 7),
        (("-k", "0"), 0),
    ],
)
def test_what_cannot_be_done_is_one_sentence(machine: Machine, words: Sequence[str], status: int) -> None:
    assert machine.fails(*words)[0] == status


def test_records_that_cannot_be_used(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    status, sentence = machine.fails("-m", "node")
    assert status == 6
    assert str(tmp_path / "state") in sentence


def test_a_secret_is_shown_to_who_asks_for_it_and_to_nobody_else(machine: Machine, tmp_path: Path) -> None:
    discovery = ("-m", "discoverydb", "-t", "st", "-p", "192.0.2.1")
    outputs = [
        machine.run(*words)
        for words in (
            NEW,
            ("-m", "node", "-o", "update", "-n", PASSWORD, "-v", SECRET, "-n", "node.session.auth.username", "-v", "u"),
            ("-m", "node", "-o", "update", "-n", PASSWORD, "-v", SECRET, "-n", "node.bogus", "-v", "x"),
            ("-m", "node", "-o", "update", "-n", PASSWORD, "-v", f"{SECRET}\nx"),
            ("-m", "node", "-o", "show"),
            ("-m", "node"),
            ("-m", "node", "-P", "1"),
            ("-m", "node", "-l"),
            ("-d", "8", "-m", "node", "-l"),
            (*discovery, "-o", "new"),
            (*discovery, "-o", "update", "-n", "discovery.sendtargets.auth.password", "-v", SECRET),
            discovery,
            (*discovery, "-D"),
        )
    ]
    assert all(SECRET not in text for _, *texts in outputs for text in texts)
    assert f"{PASSWORD} = ********" in outputs[4][1]
    assert SECRET in machine.run("-m", "node", "-o", "show", "-S")[1]
    assert SECRET in machine.run(*discovery, "--show")[1]


def test_a_value_with_a_line_feed_changes_nothing(machine: Machine) -> None:
    machine.run(*NEW)
    words = ("-m", "node", "-o", "update", "-n", "node.session.auth.username", "-v", "a\nnode.startup = automatic")
    status, _, err = machine.run(*words)
    assert status == 7
    assert err.splitlines()[0] == (
        r"iseradm: unknown value format 'a\nnode.startup = automatic' for parameter name 'node.session.auth.username'"
    )
    shown = machine.run("-m", "node", "-o", "show")[1]
    assert "node.startup = manual" in shown
    assert "node.session.auth.username = <empty>" in shown


@pytest.mark.parametrize(("value", "status"), [("None", 0), ("CRC32C,None", 0), ("None,CRC32C", 0), ("None,None", 7)])
def test_digests(machine: Machine, value: str, status: int) -> None:
    machine.run(*NEW)
    words = ("-m", "node", "-o", "update", "-n", "node.conn[0].iscsi.DataDigest", "-v", value)
    assert machine.run(*words)[0] == status


def test_a_record_that_asks_for_too_many_sessions(machine: Machine) -> None:
    machine.run(*NEW)
    machine.run("-m", "node", "-o", "update", "-n", "node.session.nr_sessions", "-v", "2000000000")
    assert machine.fails("-m", "node", "-l") == (7, "default: 2000000000 sessions requested, more than 1024.")


def test_a_name_that_is_not_utf8(machine: Machine) -> None:
    status, sentence = machine.fails("-m", "node", "-o", "new", "-T", "iqn.\udcff", "-p", "192.0.2.1,1")
    assert (status, "UTF-8" in sentence) == (6, True)


def test_an_unforeseen_error_is_one_sentence(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdmactl.records.store.Store.nodes", lambda *_: 1 // 0)
    assert machine.fails("-m", "node") == (1, "internal error (ZeroDivisionError); please report it")
    _, _, err = machine.run("-d", "8", "-m", "node")
    assert "Traceback" in err


def test_the_name_decides_how_it_speaks(machine: Machine) -> None:
    assert machine.run("-V")[1].startswith("iseradm version ")
    assert machine.run("-V", name="iscsiadm")[1] == "iscsiadm version 2.1.8\n"
    assert machine.run("-m", "node", name="iscsiadm")[2] == "iscsiadm: No records found\n"
    assert machine.run("-m", "node", name="anything")[2] == "iseradm: No records found\n"


def start(directory: Path, *words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, without site-packages."""
    root = Path(__file__).parents[2]
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r}); sys.argv[0] = 'iseradm'\n"
        f"from rdmactl.cli.iseradm import main\nstatus = main()\n{code}\nsys.exit(status)"
    )
    environment = os.environ | {
        f"RDMACTL_{name}_DIRECTORY": str(directory / name.lower()) for name in ("STATE", "RUNTIME", "CONFIG")
    }
    command = [sys.executable, "-I", "-S", "-c", program, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


HEAVY = "argparse asyncio dataclasses enum inspect ipaddress json logging re socket subprocess typing".split()


def test_a_list_imports_next_to_nothing(tmp_path: Path) -> None:
    assert start(tmp_path, *NEW).returncode == 0
    code = f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = start(tmp_path, "-m", "node", "-P", "0", code=code)
    assert done.stdout == f"192.0.2.10:3260,1 {TARGET}\n"
    assert done.stderr == "[]\n"


def test_a_word_that_is_not_utf8_comes_back_as_it_was_given(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [os.fsencode(sys.executable), b"-m", b"rdmactl.cli.iseradm", b"-m", b"iface", b"-I", b"\xff" * 65]
    environment = os.environ | {"RDMACTL_STATE_DIRECTORY": str(tmp_path / "state"), "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (7, b"")
    assert done.stdout == b"Invalid iface name " + b"\xff" * 65 + b". Must be from 1 to 64 characters.\n"


def test_nobody_reading_is_no_reason_to_complain(tmp_path: Path) -> None:
    start(tmp_path, *NEW)
    root = Path(__file__).parents[2]
    environment = os.environ | {"RDMACTL_STATE_DIRECTORY": str(tmp_path / "state"), "PYTHONPATH": str(root)}
    command = f"{sys.executable} -m rdmactl.cli.iseradm -m node -o show | true"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
