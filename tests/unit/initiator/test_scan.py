# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.scan on a tree of files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rdmactl.initiator import scan
from tests.fake.iscsi_sysfs import FakeSysfs


@pytest.fixture
def tree(tmp_path: Path) -> FakeSysfs:
    tree = FakeSysfs(tmp_path / "sys")
    tree.add_session("tcp", 1, 6)
    tree.add_connection(1, 6)
    (tmp_path / "dev").mkdir()
    return tree


def lun(tree: FakeSysfs, number: int) -> Path:
    return tree.host_device(6) / "session1/target6:0:0" / f"6:0:0:{number}"


def test_scans_for_everything_and_sets_the_queue_depth(tree: FakeSysfs) -> None:
    tree.add_lun(1, 6, 0, "sda")
    assert scan.scan(1, 17, str(tree.root)) == []
    assert (tree.root / "class/scsi_host/host6/scan").read_text() == "- - -\n"
    assert (lun(tree, 0) / "queue_depth").read_text() == "17\n"


def test_a_queue_depth_that_is_refused_is_told(tree: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.add_lun(1, 6, 3, "sda")
    (lun(tree, 3) / "queue_depth").unlink()
    (note,) = scan.scan(1, 500, str(tree.root))
    assert "LUN 3 of session 1: queue depth 500 was refused" in note


def test_a_session_that_is_gone(tree: FakeSysfs) -> None:
    assert scan.scan(9, 0, str(tree.root)) == ["session 9 went away before it could be scanned"]


def test_waits_until_the_disk_and_its_node_are_there(tree: FakeSysfs, tmp_path: Path) -> None:
    tree.add_lun(1, 6, 0, None)

    def appear() -> None:
        tree.write(lun(tree, 0) / "block/sda", {"size": "1"})
        (tmp_path / "dev/sda").touch()

    timer = threading.Timer(0.02, appear)
    timer.start()
    assert scan.scan(1, 0, str(tree.root), str(tmp_path / "dev"), disks_s=20.0) == []
    timer.join()
    assert (tmp_path / "dev/sda").exists()


def test_a_disk_that_never_comes_is_told(tree: FakeSysfs, tmp_path: Path) -> None:
    tree.add_lun(1, 6, 4, None)
    (note,) = scan.scan(1, 0, str(tree.root), str(tmp_path / "dev"), disks_s=0.01)
    assert note == "LUN 4 of session 1 has no block device after 0.01 s"


def test_tapes_and_dead_disks_are_not_waited_for(tree: FakeSysfs, tmp_path: Path) -> None:
    tree.add_lun(1, 6, 0, None)
    tree.write(lun(tree, 0), {"type": "1"})
    tree.add_lun(1, 6, 1, None)
    tree.write(lun(tree, 1), {"state": "offline"})
    assert scan.scan(1, 0, str(tree.root), str(tmp_path / "dev"), disks_s=0.001) == []


def test_offline_disks_are_set_running_and_blocked_ones_left_alone(tree: FakeSysfs) -> None:
    for number, state in enumerate(("offline", "blocked", "running")):
        tree.add_lun(1, 6, number, "sda")
        tree.write(lun(tree, number), {"state": state, "rescan": ""})
    assert scan.revive(1, str(tree.root)) == []
    assert [(lun(tree, number) / "state").read_text().strip() for number in range(3)] == [
        "running",
        "blocked",
        "running",
    ]
    assert all((lun(tree, number) / "rescan").read_text() == "1\n" for number in range(3))


def test_waits_for_a_host_to_go(tree: FakeSysfs) -> None:
    assert not scan.host_gone(6, 0.0, str(tree.root))
    tree.remove_connection(1, 6)
    tree.remove_session(1, 6)
    assert scan.host_gone(6, 0.0, str(tree.root))
