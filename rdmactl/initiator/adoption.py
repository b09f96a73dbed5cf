# SPDX-License-Identifier: Apache-2.0
"""What to do with a session found in the kernel when the daemon starts. Shell ring, no I/O of its own.

Sessions and their I/O live on without a daemon, so that a running session is left exactly as it is. What an
interrupted login or logout has left behind is finished, but only when its maker is gone: a program such as iscsistart
may be at work.

Not here: doing it (`service.py`).
"""

from __future__ import annotations

import os
from enum import Enum

from rdmactl.initiator.sysfs import SessionView

__all__ = ["Adoption", "judge", "maker_lives"]

_PID_BITS = 22  # of a netlink port id; what lies above tells sockets of one process apart


class Adoption(Enum):
    """The verdict."""

    LEAVE = "which another program looks after"
    WATCH = "running"
    RECOVER = "without a connection"
    REMOVE = "half made or half removed"


def judge(view: SessionView, maker_is_alive: bool) -> Adoption:
    """One session's verdict."""
    unbound = view.target_state in ("UNBINDING", "UNBOUND")
    running = view.state == "LOGGED_IN" and view.connection_state == "up"
    if view.flash:
        return Adoption.LEAVE
    if running and not unbound:
        return Adoption.WATCH
    if view.lost and not unbound and view.connection_state is not None and view.state != "LOGGED_IN":
        return Adoption.RECOVER
    if view.state == "LOGGED_IN" and view.connection_state == "failed" and not unbound:
        return Adoption.RECOVER
    return Adoption.LEAVE if maker_is_alive else Adoption.REMOVE


def maker_lives(view: SessionView) -> bool:
    """Whether the process that made a session still runs, somebody other than this one; True when nobody can tell."""
    if view.creator is None or view.creator <= 0:
        return True
    pid = view.creator & ((1 << _PID_BITS) - 1)
    return pid != os.getpid() and os.path.isdir(f"/proc/{pid}")
