# SPDX-License-Identifier: Apache-2.0
"""Passwords: given without a command line, and found nowhere but where they belong.

The commands here run as programs of their own, with a secret; afterwards everything they wrote is searched for it. The
rest of the suite is searched as well: tests/conftest.py does it with what every test printed and logged.
"""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.records.model import Secret
from rdmactl.records.store import NodeId, Store

SECRET = "suite-secret-4711"
NODE = ["-m", "node", "-T", "iqn.a", "-p", "192.0.2.1:3260,1"]
KEY = "node.session.auth.password"

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMACTL_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RDMACTL_RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("RDMACTL_CONFIG_DIRECTORY", str(tmp_path / "etc"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/chap").write_text(f"{SECRET}\n")
    assert run(Context("iscsiadm"), [*NODE, "-o", "new"]) == 0


def stored() -> object:
    with Store() as store:
        record = store.node(NodeId("iqn.a", "192.0.2.1", 3260, 1, "default"))
        assert record is not None
        return record.get(KEY)


@pytest.mark.parametrize("given", ["stdin", "file:{0}/credentials/chap", "credential:chap"])
@pytest.mark.parametrize("before", [True, False])
def test_a_value_from_elsewhere(
    given: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{SECRET}\nmore\n".encode())))
    source = ["--from", given.format(tmp_path)]
    name = ["-n", KEY]
    words = [*NODE, "-o", "update", *(source + name if before else name + source)]
    capsys.readouterr()
    assert run(Context("iseradm"), words) == 0
    assert capsys.readouterr() == ("", "")
    assert stored() == Secret(SECRET)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("file:/nonexistent/file", "Could not read a value from file:/nonexistent/file: No such file or directory."),
        ("file:/", "Could not read a value from file:/: Is a directory."),
        ("file:/dev/null", "There is no value in file:/dev/null."),
        ("file:/dev/zero", "The value in file:/dev/zero is too long."),
        ("credential:../etc/x", "../etc/x is no name of a credential."),
        ("credential:none", "Could not read a value from credential:none: No such file or directory."),
        ("file:", "Can not take a value from 'file:'. Use stdin, file:PATH or credential:NAME."),
        ("tty", "Can not take a value from 'tty'. Use stdin, file:PATH or credential:NAME."),
    ],
)
def test_a_source_without_a_value(source: str, sentence: str, capsys: Output) -> None:
    capsys.readouterr()
    assert run(Context("iseradm"), [*NODE, "-o", "update", "-n", KEY, "--from", source]) == 7
    assert capsys.readouterr() == ("", f"iseradm: {sentence}\n")


def test_without_credentials_of_systemd(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert run(Context("iseradm"), [*NODE, "-o", "update", "-n", KEY, "--from", "credential:chap"]) == 7
    assert "systemd has not passed any" in capsys.readouterr().err


def test_modes_without_values_refuse_it_and_abbreviations_mean_what_they_meant(capsys: Output) -> None:
    assert run(Context("iseradm"), ["-m", "fw", "--discover", "--from", "stdin"]) == 7
    assert run(Context("iseradm"), [*NODE, "-o", "update", "-n", KEY, "--va", "x"]) == 0
    assert stored() == Secret("x")
    capsys.readouterr()
    assert run(Context("iseradm"), ["-m", "node", "-f", "stdin"]) == 7
    assert "invalid option -- 'f'" in capsys.readouterr().err


DISCOVERY = ["-m", "discoverydb", "-t", "st", "-p", "192.0.2.1"]
COMMANDS = [
    [*NODE, "-o", "update", "-n", KEY, "--from", "credential:chap", "-n", f"{KEY}_in", "--from", "credential:chap"],
    [*NODE, "-o", "update", "-n", "node.session.auth.password.", "--from", "credential:chap"],
    [*NODE, "-o", "update", "-n", "node.session.auth.authmethod", "-v", "CHAP", "-n", KEY, "--from", "credential:chap"],
    [*NODE],
    [*NODE, "-d", "8", "-o", "show"],
    [*NODE, "-d", "8", "--login"],
    ["-m", "discoverydb", "-t", "st", "-p", "192.0.2.1", "-o", "new"],
    [*DISCOVERY, "-o", "update", "-n", "discovery.sendtargets.auth.password", "--from", "credential:chap"],
    ["-m", "discoverydb", "-t", "st", "-p", "192.0.2.1"],
    ["-m", "discoverydb", "-t", "st", "-p", "192.0.2.1", "-D"],
    ["-m", "iface", "-I", "eth-a", "-o", "new"],
    ["-m", "iface", "-I", "eth-a", "-o", "update", "-n", "iface.password", "--from", "credential:chap"],
    ["-m", "session", "-P", "3"],
    ["-m", "node", "-L", "all"],
]


def titles(stop: threading.Event, seen: set[bytes]) -> None:
    """Collect the command lines of all processes, as anybody could, until told to stop."""
    while not stop.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes())
            except OSError:
                continue


@pytest.mark.slow
def test_a_secret_is_nowhere_but_in_its_table(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/rdmactl.toml").write_text(f'[records]\nmirror = "{tmp_path}/mirror"\n')
    environment = {
        **os.environ,
        "RDMACTL_SETTINGS_DIRECTORY": str(tmp_path / "settings"),
        "RDMACTL_TRACE": str(tmp_path / "trace"),
    }
    stop = threading.Event()
    seen: set[bytes] = set()
    watcher = threading.Thread(target=titles, args=(stop, seen))
    watcher.start()
    written = []
    try:
        for name in ("iseradm", "rdmactl"):
            module = [sys.executable, "-m", f"rdmactl.cli.{name}"]
            words = COMMANDS if name == "iseradm" else [["records", "check"], ["records", "export", f"{tmp_path}/out"]]
            for command in words:
                done = subprocess.run([*module, *command], env=environment, capture_output=True, text=True, check=False)
                written.append(done.stdout + done.stderr)
                assert "internal error" not in done.stderr
                assert "Traceback" not in done.stderr
    finally:
        stop.set()
        watcher.join()
    assert stored() == Secret(SECRET)  # else there would be nothing to find
    everything = "\n".join(written)
    assert "node.session.auth.password = ********" in everything
    assert SECRET not in everything
    assert any(b"rdmactl.cli.iseradm" in title for title in seen)
    assert not any(SECRET.encode() in title for title in seen if b"pytest" not in title)
    assert secret_rows(tmp_path / "state/records.db") == {"secrets"}
    for path in tmp_path.rglob("*"):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            place = path.relative_to(tmp_path).parts[0]
            # The tree of files has passwords where open-iscsi has them; it is for root alone, like the database.
            assert place in ("state", "mirror", "out", "credentials"), path
            assert place == "credentials" or path.stat().st_mode & 0o077 == 0, path


def secret_rows(path: Path) -> set[str]:
    """The tables that have the secret in any column."""
    database = sqlite3.connect(path)
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {table for table in tables if SECRET in repr(database.execute(f"SELECT * FROM {table}").fetchall())}
    database.close()
    return found
