# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.usage: mounts, swap and holders of a session's disks, over trees of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdmactl.initiator.usage import refuse_if_used, users
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from tests.fake.iscsi_sysfs import FakeSysfs

SID, HOST_NO = 3, 6


class Machine:
    """A session with the disk sda, a partition sda1, and nothing in use."""

    def __init__(self, directory: Path) -> None:
        self.proc, self.root = directory / "proc", directory / "sys"
        (self.proc / "self").mkdir(parents=True)
        self.tree = FakeSysfs(self.root)
        self.tree.add_session("tcp", SID, HOST_NO)
        self.tree.add_lun(SID, HOST_NO, 0, "sda")
        self.disk = self.tree.host_device(HOST_NO) / f"session{SID}/target{HOST_NO}:0:0/{HOST_NO}:0:0:0/block/sda"
        self.tree.write(self.disk, {"dev": "8:0"})
        self.tree.write(self.disk / "sda1", {"dev": "8:1", "partition": "1"})

    def mount(self, *lines: str) -> None:
        (self.proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in lines))

    def hold(self, below: Path, name: str, number: str, title: str) -> Path:
        """A device mapper device upon `below`."""
        device = self.root / "class/block" / name
        self.tree.write(device, {"dev": number})
        self.tree.write(device / "dm", {"name": title})
        (below / "holders" / name).mkdir(parents=True)
        return device

    def users(self) -> list[str]:
        return users(SID, str(self.root), str(self.proc))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_in_use(machine: Machine) -> None:
    machine.mount("21 1 8:16 / / rw - ext4 /dev/sdb rw")
    assert machine.users() == []


def test_a_disk_and_its_partition_are_mounted(machine: Machine) -> None:
    machine.mount(
        "21 1 8:0 / /srv/my\\040disk rw - ext4 /dev/sda rw", "22 1 8:1 / /boot rw - ext4 /dev/disk/by-label/x rw"
    )
    assert machine.users() == ["sda is mounted on /srv/my disk", "sda1 is mounted on /boot"]


def test_what_is_mounted_three_levels_up(machine: Machine) -> None:
    multipath = machine.hold(machine.disk, "dm-0", "252:0", "mpatha")
    machine.hold(multipath, "dm-1", "252:1", "vg-data")
    machine.mount("21 1 252:1 / /data rw - xfs /dev/mapper/vg-data rw")
    assert machine.users() == [
        "sda is held by dm-0 (mpatha)",
        "dm-0 is held by dm-1 (vg-data)",
        "dm-1 is mounted on /data",
    ]


def test_swap(machine: Machine) -> None:
    (machine.proc / "swaps").write_text(
        "Filename Type Size Used Priority\n/dev/sda1 partition 1 0 -2\n/file f 1 0 -3\n"
    )
    assert machine.users() == ["sda1 is swap space"]


def test_swap_that_is_switched_off_while_its_name_is_followed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = Path("/dev/shm") / f"swap-{tmp_path.name}-{os.getpid()}"
    (machine.proc / "swaps").write_text(f"Filename Type Size Used Priority\n{swap} partition 1 0 -2\n")
    followed = os.readlink

    def vanish(path: str, **rest: int) -> str:
        if path == str(swap):
            swap.unlink()
        return followed(path, **rest)

    swap.symlink_to("/dev/sda1")
    monkeypatch.setattr(os, "readlink", vanish)
    assert machine.users() == []
    assert not swap.is_symlink()


def test_a_session_that_is_gone(machine: Machine) -> None:
    assert users(99, str(machine.root), str(machine.proc)) == []


def test_what_is_in_use_is_refused_with_all_its_uses(machine: Machine) -> None:
    refuse_if_used(SID, str(machine.root), str(machine.proc))
    (machine.proc / "swaps").write_text("Filename Type Size Used Priority\n/dev/sda1 partition 1 0 -2\n")
    machine.mount("21 1 8:0 / /srv rw - ext4 /dev/sda rw")
    with pytest.raises(IscsiFailure, match="session 3 is in use: sda is mounted on /srv, sda1 is swap space") as caught:
        refuse_if_used(SID, str(machine.root), str(machine.proc))
    assert caught.value.err is IscsiErr.BUSY
