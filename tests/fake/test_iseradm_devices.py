# SPDX-License-Identifier: Apache-2.0
"""--wait-devices: under our own name it waits and names disks; called as iscsiadm it is as unknown as ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmactl.cli import iseradm_devices
from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.cli.iseradm_devices import name_devices, take
from rdmactl.cli.iseradm_grammar import Arguments
from rdmactl.errors import DeadlineExceeded, LocalError
from tests.fake.iscsi_sysfs import FakeSysfs

pytestmark = pytest.mark.fake

TARGET = "iqn.2026-11.test:t0"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """One session with two disks, of which the second has no node in /dev yet."""
    tree = FakeSysfs(tmp_path / "sys")
    tree.add_session("tcp", 3, 8)
    tree.add_connection(3, 8)
    tree.set_session(3, targetname=TARGET, state="LOGGED_IN")
    tree.set_connection(3, persistent_address="192.0.2.1", persistent_port="3260", state="up")
    tree.add_lun(3, 8, 0, "sda")
    tree.add_lun(3, 8, 1, "sdb")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sda").touch()
    return tmp_path


def arguments(target: str | None = TARGET) -> Arguments:
    given = Arguments()
    given.target = target
    return given


def named(host: Path, wanted: int, given: Arguments) -> int:
    return name_devices(given, wanted, str(host / "sys"), str(host / "dev"))


def test_names_the_disks_there_are(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert named(host, 0, arguments()) == 0
    assert capsys.readouterr().out == (
        f"Device {host}/dev/sda: LUN 0 of [sid: 3, target: {TARGET}, portal: 192.0.2.1,3260]\n"
    )


def test_waits_for_as_many_as_asked(
    host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: (host / "dev/sdb").touch())
    assert named(host, 2, arguments(None)) == 0
    assert capsys.readouterr().out.count("Device") == 2


def test_gives_up(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iseradm_devices, "_LIMIT_S", 0.0)
    with pytest.raises(DeadlineExceeded, match="1 of 3 block devices"):
        named(host, 3, arguments())


def test_sessions_of_other_targets_do_not_count(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert named(host, 0, arguments("iqn.2026-11.test:other")) == 0
    assert capsys.readouterr().out == ""


def test_the_word_is_taken_out() -> None:
    assert take(["-m", "node", "-l"]) == (None, ["-m", "node", "-l"])
    assert take(["-m", "node", "--wait-devices", "-l"]) == (0, ["-m", "node", "-l"])
    assert take(["--wait-devices=4", "-l"]) == (4, ["-l"])


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "99999999", "\u0663"])
def test_a_number_that_is_none(text: str) -> None:
    with pytest.raises(LocalError, match="takes a number"):
        take([f"--wait-devices={text}"])


def test_iscsiadm_does_not_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(Context("iscsiadm", sysfs=str(tmp_path)), ["-m", "node", "-l", "--wait-devices"])
    assert status == 7
    assert "unrecognized option '--wait-devices'" in capsys.readouterr().err
