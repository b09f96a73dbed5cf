# SPDX-License-Identifier: Apache-2.0
"""What a daemon tells systemd: ready, stopping, alive. Face ring.

The one door to sd_notify(3), through systemd-python. Without NOTIFY_SOCKET (no systemd) every call does nothing.
Not here: logging (`logs.py`).
"""

from __future__ import annotations

import logging
import os

__all__ = ["tell", "watchdog_interval_s"]

_log = logging.getLogger(__name__)


def tell(*assignments: str) -> None:
    """Send assignments such as `READY=1`; see sd_notify(3)."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    try:
        from systemd.daemon import notify
    except ImportError:
        _log.warning("systemd waits for a notification, but python3-systemd is not installed")
        return
    notify("\n".join(assignments))


def watchdog_interval_s() -> float | None:
    """How often systemd wants a sign of life: half of WATCHDOG_USEC, if it is meant for this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
