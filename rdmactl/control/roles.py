# SPDX-License-Identifier: Apache-2.0
"""One process per kernel role: claiming a role, and naming whoever has it already. Shell ring.

The kernel speaks to one port mapper and one iSCSI daemon. Two of them do not fail, they race; so a role is claimed with
a file lock before anything is opened, and a running C `iwpmd` or `iscsid` is refused by name.
How they are found: iwpmd owns UDP port 3935 (/proc/net/udp, udp6), iscsid the abstract Unix socket
ISCSIADM_ABSTRACT_NAMESPACE (/proc/net/unix); systemd owns the latter alone while iscsid.socket waits for a caller.
Not here: what a role does, and the control socket (`server.py`, which asks for the lock as proof).
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from rdmactl.control.client import DAEMONS, runtime_directory
from rdmactl.errors import LocalError, Unavailable

__all__ = ["RoleLock", "claim_role"]

IWPM_UDP_PORT = 3935
ISCSID_SOCKET = "@ISCSIADM_ABSTRACT_NAMESPACE"

_SOCKET_ACTIVATOR = 1  # systemd's pid


class RoleLock:
    """A role held by this process, until `release` or the end of the process; a context manager."""

    def __init__(self, role: str, directory: Path, descriptor: int) -> None:
        self.role = role
        self.directory = directory
        self._descriptor: int | None = descriptor

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the role go. The lock file stays: removing it would race with the next claim."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def claim_role(role: str, *, directory: str | None = None, proc: str = "/proc") -> RoleLock:
    """Claim "iwpm" or "initiator" for this process.

    Raises Unavailable("role-taken") naming the program that has it, its pid and the remedy, and
    Unavailable("access-denied") when the runtime directory cannot be written.
    """
    if role not in DAEMONS:
        raise LocalError(f"there is no role {role}: choose one of {', '.join(DAEMONS)}")
    where = Path(directory or runtime_directory())
    lock = RoleLock(role, where, _open_lock(role, where))
    try:
        _refuse_other_programs(role, Path(proc))
    except BaseException:
        lock.release()
        raise
    return lock


def _open_lock(role: str, directory: Path) -> int:
    path = directory / f"{role}.lock"
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        # For the owner only: whoever can open the file could hold the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(
            f"cannot claim the role {role}: {path}: {error.strerror}", hint="run as root", code="access-denied"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise Unavailable(
            f"the role {role} is taken by another process of rdmactl, pid {holder}",
            hint=f"systemctl stop rdmactld {DAEMONS[role]}",
            code="role-taken",
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _refuse_other_programs(role: str, proc: Path) -> None:
    if role == "iwpm":
        _refuse("iwpmd of rdma-core", "systemctl disable --now iwpmd", _iwpmd_sockets(proc), proc)
    else:
        _refuse("iscsid of open-iscsi", "systemctl disable --now iscsid.socket iscsid", _iscsid_sockets(proc), proc)


def _refuse(program: str, remedy: str, inodes: Iterable[int], proc: Path) -> None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return
    owners = sorted(_owners(wanted, proc))
    if owners and owners[0] == _SOCKET_ACTIVATOR and len(owners) == 1:
        program = f"systemd on behalf of {program}"
    who = ", ".join(f"pid {pid}" for pid in owners) or "pid not visible"
    raise Unavailable(f"the role is taken by {program} ({who})", hint=remedy, code="role-taken")


def _iwpmd_sockets(proc: Path) -> Iterator[int]:
    """Inodes of the UDP sockets on the port mapper's port, whatever their address."""
    for table in ("udp", "udp6"):
        for fields in _table(proc / "net" / table):
            if len(fields) > 9 and fields[1].rpartition(":")[2] == f"{IWPM_UDP_PORT:04X}":
                yield int(fields[9])


def _iscsid_sockets(proc: Path) -> Iterator[int]:
    """Inodes of the sockets listening on iscsid's abstract name; accepted connections carry the name as well."""
    for fields in _table(proc / "net" / "unix"):
        if len(fields) > 7 and fields[7].rstrip("@") == ISCSID_SOCKET:
            yield int(fields[6])


def _table(path: Path) -> Iterator[list[str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:  # no such protocol in this kernel: nobody uses it
        return
    yield from (line.split() for line in lines[1:])


def _owners(wanted: set[str], proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdigit() and _has_one_of(entry / "fd", wanted):
            yield int(entry.name)


def _has_one_of(directory: Path, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(descriptor) in wanted for descriptor in directory.iterdir())
    except OSError:  # the process has ended, or is not ours to look at
        return False
