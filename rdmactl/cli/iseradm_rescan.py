# SPDX-License-Identifier: Apache-2.0
"""`iseradm --rescan`: have the kernel read the disks of sessions again, and look for new LUNs. Face ring.

The kernel works while we write to sysfs, and waits for targets, for a recovery even: so each session has a child
process, all of them run at once, and the whole has a deadline. No daemon is needed. LUNs that have gone are kept.
"""

from __future__ import annotations

import os
import sys
import time

from rdmactl.cli.iseradm_login import session_text
from rdmactl.initiator import sysfs

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdmactl.cli.iseradm_context import Context
    from rdmactl.initiator.sysfs import SessionView

__all__ = ["rescan"]

DEADLINE_S = 180.0
"""Longer than the default time for which a lost session waits (120 s), which a rescan waits out."""

_POLL_S = 0.005
_FAILED = 1
_LATE = 33


def rescan(context: Context, sessions: Sequence[SessionView]) -> int:
    """Rescan all of them; the first failure's status."""
    children = {}
    for session in sessions:
        print(f"Rescanning session {session_text(session)}", flush=True)
        children[_in_child(session)] = session
    return _wait(context, children)


def _in_child(session: SessionView) -> int:
    """The child's process id; the child ends with the errno of what failed, or 0."""
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        os._exit(_rescan(session))
    finally:
        os._exit(_FAILED)


def _rescan(session: SessionView) -> int:
    try:
        for lun in session.luns():
            sysfs.write(f"{lun.path}/rescan", "1")
        sysfs.write(f"{session.root}/class/scsi_host/host{session.host_no}/scan", "- - -")
    except FileNotFoundError:  # it ended meanwhile
        return 0
    except OSError as error:
        return error.errno or _FAILED
    return 0


def _wait(context: Context, children: dict[int, SessionView]) -> int:
    status = 0
    end = time.monotonic() + DEADLINE_S
    while children and time.monotonic() < end:
        for child in tuple(children):
            ended, code = os.waitpid(child, os.WNOHANG)
            if ended:
                session = children.pop(child)
                failed = os.waitstatus_to_exitcode(code)
                if failed:
                    reason = os.strerror(failed) if failed > 0 else "the child was killed"
                    context.error(f"Could not rescan session {session.sid}: {reason}")
                    status = status or _FAILED
        if children:
            time.sleep(_POLL_S)
    for session in children.values():
        context.error(f"Could not rescan session {session.sid} within {DEADLINE_S:g} s; the kernel goes on with it")
        status = status or _LATE
    return status
