# SPDX-License-Identifier: Apache-2.0
"""`--wait-devices[=N]`, which iscsiadm does not have: name the disks of the sessions a login was about. Face ring.

The daemon answers a login when the disks it found are there; this waits for what comes later as well (a LUN that is
mapped at this moment, a session that was there before), until there are N disks, or one per session.
"""

from __future__ import annotations

import os
import time

from rdmactl.cli.iseradm_login import session_text
from rdmactl.cli.iseradm_portal import read_portal, sessions_matching
from rdmactl.errors import DeadlineExceeded, LocalError
from rdmactl.initiator import sysfs
from rdmactl.records.operations import Selection

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.sysfs import LunView

__all__ = ["OPTION", "name_devices", "take"]

OPTION = "--wait-devices"

_LIMIT_S = 60.0
_FIRST_POLL_S = 0.01
_LONGEST_POLL_S = 0.5
_DEVICES_MAX = 65536


def take(words: list[str]) -> tuple[int | None, list[str]]:
    """The number asked for (0: one per session; None: the option is not there), and the other words. LocalError."""
    wanted: int | None = None
    rest = []
    for word in words:
        name, equals, text = word.partition("=")
        if name != OPTION:
            rest.append(word)
        elif not equals:
            wanted = 0
        elif text.isascii() and text.isdigit() and 0 < int(text) <= _DEVICES_MAX:
            wanted = int(text)
        else:
            raise LocalError(f"{OPTION} takes a number from 1 to {_DEVICES_MAX}, not {text or 'nothing'}")
    return wanted, rest


def name_devices(arguments: Arguments, wanted: int, root: str = "/sys", dev: str = "/dev") -> int:
    """Wait, and print a line for each disk; the status. DeadlineExceeded when not all come."""
    end, pause_s = time.monotonic() + _LIMIT_S, _FIRST_POLL_S
    while True:
        sessions = sessions_matching(sysfs.sessions(root), _selection(arguments))
        found = [(lun, session) for session in sessions for lun in session.luns() if _has_node(lun, dev)]
        ready = len(found) >= wanted if wanted else {session.sid for _, session in found} >= {s.sid for s in sessions}
        if ready:
            break
        if time.monotonic() >= end:
            raise DeadlineExceeded(
                f"{len(found)} of {wanted or len(sessions)} block devices are there after {_LIMIT_S:g} s",
                hint="does the target export a LUN to this initiator? iseradm -m session -P 3 shows what there is",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_POLL_S)
    for lun, session in found:
        print(f"Device {dev}/{lun.block_device}: LUN {lun.lun} of {session_text(session)}")
    return 0


def _has_node(lun: LunView, dev: str) -> bool:
    return lun.block_device is not None and os.path.exists(f"{dev}/{lun.block_device}")


def _selection(arguments: Arguments) -> Selection:
    iface = arguments.ifaces[-1] if len(arguments.ifaces) == 1 else None
    portal = read_portal(arguments.portal) if arguments.portal else None
    if portal is None:
        return Selection(arguments.target, iface=iface)
    return Selection(arguments.target, portal.address, portal.port, iface)
