# SPDX-License-Identifier: Apache-2.0
"""Claiming a role: one process per role, and the C programs are refused by name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rdmactl.control.roles import ISCSID_SOCKET, IWPM_UDP_PORT, RoleLock, claim_role
from rdmactl.errors import LocalError, Unavailable

UDP_HEAD = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer"
)
UNIX_HEAD = "Num       RefCount Protocol Flags    Type St Inode Path"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with nobody on any socket."""
    root = tmp_path / "proc"
    (root / "net").mkdir(parents=True)
    (root / "net" / "udp").write_text(UDP_HEAD + "\n")
    (root / "net" / "unix").write_text(UNIX_HEAD + "\n")
    return root


def process(proc: Path, pid: int, inode: int) -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "fd" / "3").symlink_to(f"socket:[{inode}]")


def claim(role: str, tmp_path: Path, proc: Path) -> RoleLock:
    return claim_role(role, directory=str(tmp_path / "run"), proc=str(proc))


def test_a_role_is_held_once_and_can_be_claimed_again(tmp_path: Path, proc: Path) -> None:
    with claim("iwpm", tmp_path, proc) as lock:
        assert lock.held
        with pytest.raises(Unavailable, match=f"pid {os.getpid()}") as raised:
            claim("iwpm", tmp_path, proc)
        assert raised.value.code == "role-taken"
        claim("initiator", tmp_path, proc).release()
    claim("iwpm", tmp_path, proc).release()


def test_nobody_else_can_hold_the_lock(tmp_path: Path, proc: Path) -> None:
    with claim("iwpm", tmp_path, proc):
        assert (tmp_path / "run" / "iwpm.lock").stat().st_mode & 0o777 == 0o600


def test_the_iwpmd_of_rdma_core_is_named(tmp_path: Path, proc: Path) -> None:
    line = f"  1: 00000000:{IWPM_UDP_PORT:04X} 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4711 2 0 0"
    (proc / "net" / "udp6").write_text(UDP_HEAD + "\n" + line + "\n")
    process(proc, 812, 4711)
    with pytest.raises(Unavailable, match=r"iwpmd of rdma-core \(pid 812\)") as raised:
        claim("iwpm", tmp_path, proc)
    assert raised.value.hint == "systemctl disable --now iwpmd"
    claim("initiator", tmp_path, proc).release()


@pytest.mark.parametrize(("pid", "who"), [(77, "iscsid of open-iscsi"), (1, "systemd on behalf of iscsid")])
def test_the_iscsid_of_open_iscsi_is_named(tmp_path: Path, proc: Path, pid: int, who: str) -> None:
    line = f"0000000000000000: 00000002 00000000 00010000 0001 01 99 {ISCSID_SOCKET}@@@"
    (proc / "net" / "unix").write_text(UNIX_HEAD + "\n" + line + "\n")
    process(proc, pid, 99)
    with pytest.raises(Unavailable, match=f"{who}.*pid {pid}"):
        claim("initiator", tmp_path, proc)
    claim("iwpm", tmp_path, proc).release()


def test_a_refused_claim_leaves_the_role_free(tmp_path: Path, proc: Path) -> None:
    line = f"0: 00000002 00000000 00010000 0001 01 99 {ISCSID_SOCKET}"
    (proc / "net" / "unix").write_text(UNIX_HEAD + "\n" + line + "\n")
    with pytest.raises(Unavailable, match="pid not visible"):
        claim("initiator", tmp_path, proc)
    (proc / "net" / "unix").write_text(UNIX_HEAD + "\n")
    claim("initiator", tmp_path, proc).release()


def test_the_real_proc_shows_a_real_socket(tmp_path: Path) -> None:
    """The parser against this kernel's own tables, with our own process as the culprit."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind("\0" + ISCSID_SOCKET[1:])
        except OSError:
            pytest.skip("an iscsid runs on this machine")
        listener.listen(1)
        with pytest.raises(Unavailable, match=f"pid {os.getpid()}"):
            claim_role("initiator", directory=str(tmp_path))


def test_without_permission(tmp_path: Path, proc: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(Unavailable, match="run as root") as raised:
        claim("iwpm", tmp_path, proc)
    assert raised.value.code == "access-denied"


def test_unknown_role(tmp_path: Path, proc: Path) -> None:
    with pytest.raises(LocalError):
        claim("nobody", tmp_path, proc)
