# SPDX-License-Identifier: Apache-2.0
"""LUNs of a session: find them, wait until disks are there or gone. Shell ring; all of it blocks: run it in a worker.

A scan waits for the target's answers, and for a recovery should the connection fail meanwhile: from the service's own
loop it would wait for itself.

Not here: whether a session shall be scanned (`service.py`).
Defined by drivers/scsi/scsi_sysfs.c (scan, queue_depth, rescan, state) and drivers/scsi/sd.c (which types get a disk).
"""

from __future__ import annotations

import os
import time

from rdmactl.initiator import sysfs
from rdmactl.initiator.io_flusher import unmarked
from rdmactl.initiator.sysfs import LunView

__all__ = ["host_gone", "revive", "scan"]

_ALL = "- - -"  # channel, target, LUN
_DISK_TYPES = ("0", "7", "14", "20")  # SCSI peripheral types sd drives: disk, optical, RBC, host-managed zones
_FIRST_POLL_S = 0.002
_LONGEST_POLL_S = 0.1


def scan(sid: int, queue_depth: int, root: str = "/sys", dev: str = "/dev", *, disks_s: float = 0.0) -> list[str]:
    """Scan a session for all its LUNs, set their queue depth, and wait up to `disks_s` for the disks' block devices;
    sentences about what did not work.

    A queue depth beyond what the host can queue is refused by the kernel (EINVAL); the device keeps its own then.
    """
    host_no = sysfs.session_host(sid, root)
    if host_no is None:
        return [f"session {sid} went away before it could be scanned"]
    notes: list[str] = []
    try:
        with unmarked():
            sysfs.write(f"{root}/class/scsi_host/host{host_no}/scan", _ALL)
    except OSError as error:
        return [f"session {sid} could not be scanned: {error.strerror}"]
    luns = sysfs.session_luns(sid, root)
    for lun in luns if queue_depth else []:
        if sysfs.read(f"{lun.path}/queue_depth") != str(queue_depth):
            note = _try_write(f"{lun.path}/queue_depth", str(queue_depth))
            notes += [f"LUN {lun.lun} of session {sid}: queue depth {queue_depth} was refused: {note}"] if note else []
    return notes + _missing_disks(sid, luns, disks_s, dev) if disks_s else notes


def _missing_disks(sid: int, luns: list[LunView], wait_s: float, dev: str) -> list[str]:
    """Wait until each disk LUN of a session has its block device and /dev node; the LUNs that have none, as sentences.

    The disk driver probes in the background, so that they appear some milliseconds after the scan.
    """
    end = time.monotonic() + wait_s
    pause_s = _FIRST_POLL_S
    missing = [lun for lun in luns if lun.state == "running" and sysfs.read(f"{lun.path}/type") in _DISK_TYPES]
    while missing := [lun for lun in missing if not _there(lun, dev)]:
        if time.monotonic() >= end:
            return [f"LUN {lun.lun} of session {sid} has no block device after {wait_s:g} s" for lun in missing]
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_POLL_S)
    return []


def revive(sid: int, root: str = "/sys") -> list[str]:
    """After a relogin: bring disks back that error handling has taken offline, and read their sizes again.

    The kernel itself restores "transport-offline"; "running" may be written only while it is "offline".
    """
    notes = []
    for lun in sysfs.session_luns(sid, root):
        if lun.state == "offline":
            note = _try_write(f"{lun.path}/state", "running")
            notes += [f"LUN {lun.lun} of session {sid} stays offline: {note}"] if note else []
        with unmarked():
            _try_write(f"{lun.path}/rescan", "1")
    return notes


def host_gone(host_no: int, wait_s: float, root: str = "/sys") -> bool:
    """Wait until a host has left sysfs: that of an iser session does so a little after the session's last event."""
    end = time.monotonic() + wait_s
    pause_s = _FIRST_POLL_S
    while os.path.isdir(f"{root}/class/iscsi_host/host{host_no}"):
        if time.monotonic() >= end:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_POLL_S)
    return True


def _there(lun: LunView, dev: str) -> bool:
    """The driver may have taken it since it was listed, and it may have gone: nobody waits for what is not there."""
    if not os.path.exists(lun.path):
        return True
    return any(os.path.exists(f"{dev}/{name}") for name in sysfs.names(f"{lun.path}/block"))


def _try_write(path: str, value: str) -> str | None:
    try:
        sysfs.write(path, value)
    except OSError as error:
        return error.strerror or str(error)
    return None
