# SPDX-License-Identifier: Apache-2.0
"""Rescanning sessions: what is written where, what fails, and that it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rdmactl.cli import iseradm_rescan
from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.initiator import sysfs
from tests.fake.iscsi_sysfs import FakeSysfs

pytestmark = pytest.mark.fake


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sessions 1 and 2, with two LUNs and one. The records are none of this machine's."""
    monkeypatch.setenv("RDMACTL_STATE_DIRECTORY", str(tmp_path / "state"))
    fake = FakeSysfs(tmp_path)
    for sid, luns in ((1, 2), (2, 1)):
        fake.add_session("tcp", sid, sid)
        fake.add_connection(sid, sid)
        fake.set_session(sid, targetname=f"iqn.x:{sid}", state="LOGGED_IN")
        fake.set_connection(sid, state="up", persistent_address="192.0.2.1", persistent_port="3260")
        for lun in range(luns):
            fake.add_lun(sid, sid, lun, f"sd{sid}{lun}")
    return tmp_path


def rescan(root: Path, *words: str) -> int:
    return run(Context("iseradm", sysfs=str(root)), ["-m", "session", *words, "-R"])


def written(root: Path, sid: int) -> list[str | None]:
    view = sysfs.session(sid, str(root))
    assert view is not None
    scan = f"{root}/class/scsi_host/host{sid}/scan"
    return [sysfs.read(f"{lun.path}/rescan") for lun in view.luns()] + [sysfs.read(scan)]


def prepare(root: Path) -> None:
    """The attribute of each LUN; sysfs makes it, and a writer never does."""
    for sid in (1, 2):
        view = sysfs.session(sid, str(root))
        assert view is not None
        for lun in view.luns():
            Path(lun.path, "rescan").touch()


def test_every_disk_is_read_again_and_the_host_scanned(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(root)
    assert rescan(root) == 0
    assert written(root, 1) == ["1", "1", "- - -"]
    assert written(root, 2) == ["1", "- - -"]
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "Rescanning session [sid: 1, target: iqn.x:1, portal: 192.0.2.1,3260]",
        "Rescanning session [sid: 2, target: iqn.x:2, portal: 192.0.2.1,3260]",
    ]


def test_one_session(root: Path) -> None:
    prepare(root)
    assert rescan(root, "-r", "2") == 0
    assert written(root, 1) == ["", "", ""]
    assert written(root, 2) == ["1", "- - -"]


def test_what_the_kernel_refuses_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(root)
    scan = root / "class/scsi_host/host1/scan"
    scan.unlink()
    scan.mkdir()
    assert rescan(root) == 1
    assert capsys.readouterr().err == f"iseradm: Could not rescan session 1: {os.strerror(21)}\n"
    assert written(root, 2) == ["1", "- - -"]


def test_a_rescan_that_does_not_end_is_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(iseradm_rescan, "DEADLINE_S", 0.05)
    monkeypatch.setattr(iseradm_rescan, "_rescan", lambda _: time.sleep(1))
    assert rescan(root, "-r", "1") == 33
    assert "within 0.05 s" in capsys.readouterr().err
