# SPDX-License-Identifier: Apache-2.0
"""Who uses the disks of a session: mounted file systems, swap, device mapper and md on top. Shell ring.

For `iscsid.safe_logout = Yes`: a session in use is not logged out. What a mounted file system is on is told by device
number, so it does not matter by which name it was mounted; holders are followed all the way up.
Not here: when that matters (`service.py`). Defined by proc(5), mountinfo and swaps; sysfs, block/*/holders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from rdmactl.initiator import sysfs
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure

__all__ = ["refuse_if_used", "users"]

_HEADER_LINES = 1
_LEVELS_MAX = 16  # of device mapper upon device mapper


def refuse_if_used(sid: int, root: str = "/sys", proc: str = "/proc") -> None:
    """IscsiFailure (28) when somebody uses the session's disks; it names them all."""
    found = users(sid, root, proc)
    if found:
        raise IscsiFailure(
            IscsiErr.BUSY,
            f"session {sid} is in use: {', '.join(found)}",
            hint="unmount and release them first",
        )


def users(sid: int, root: str = "/sys", proc: str = "/proc") -> list[str]:
    """What keeps the session's disks in use, each as "sda1 is mounted on /srv"; empty when nothing does."""
    session = sysfs.session(sid, root)
    if session is None:
        return []
    mounts, swaps = dict(_mounts(proc)), set(_swaps(proc))
    found: list[str] = []
    for lun in session.luns():
        if lun.block_device is not None:
            found.extend(_of_device(f"{lun.path}/block/{lun.block_device}", root, mounts, swaps))
    return list(dict.fromkeys(found))


def _of_device(path: str, root: str, mounts: dict[str, str], swaps: set[str], level: int = 0) -> Iterator[str]:
    """The uses of a block device, of its partitions, and of everything that holds one of them."""
    name = os.path.basename(path)
    number = sysfs.read(f"{path}/dev")
    if number in mounts:
        yield f"{name} is mounted on {mounts[number]}"
    if name in swaps:
        yield f"{name} is swap space"
    for holder in sysfs.names(f"{path}/holders"):
        yield f"{name} is held by {_title(holder, root)}"
        if level < _LEVELS_MAX:
            yield from _of_device(f"{root}/class/block/{holder}", root, mounts, swaps, level + 1)
    for part in sysfs.names(path):
        if part.startswith(name) and os.path.exists(f"{path}/{part}/partition"):
            yield from _of_device(f"{path}/{part}", root, mounts, swaps, level)


def _title(device: str, root: str) -> str:
    """A device mapper device by the name people gave it."""
    name = sysfs.read(f"{root}/class/block/{device}/dm/name")
    return f"{device} ({name})" if name else device


def _mounts(proc: str) -> Iterator[tuple[str, str]]:
    """(device number, where) of every mount this process sees."""
    for line in _lines(f"{proc}/self/mountinfo"):
        fields = line.split()
        if len(fields) > 4:
            yield fields[2], fields[4].replace("\\040", " ")


def _swaps(proc: str) -> Iterator[str]:
    for line in list(_lines(f"{proc}/swaps"))[_HEADER_LINES:]:
        path = line.split()[0] if line.split() else ""
        if path.startswith("/dev/"):
            yield os.path.basename(sysfs.followed(path) or path)


def _lines(path: str) -> Iterable[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
