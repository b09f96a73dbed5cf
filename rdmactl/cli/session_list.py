# SPDX-License-Identifier: Apache-2.0
"""`rdmactl session list`: the sessions there are, in a line each. Face ring.

The list is the kernel's (sysfs), and is there without a daemon. iscsiadm's own form is `iseradm -m session`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.output import print_json
from rdmactl.initiator import sysfs

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.session.list"

_COLUMNS = ("SID", "TRANSPORT", "PORTAL", "INTERFACE", "STATE", "DISKS", "TARGET")


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(prog="rdmactl session list", description="List sessions to iSCSI and iSER targets.")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """No session is an empty list, and not an error."""
    given = parser().parse_args(words)
    found = _sessions()
    if given.json:
        print_json(SCHEMA, {"sessions": found})
    else:
        print("\n".join(text(found)))
    return 0


def text(sessions: list[dict[str, Any]]) -> list[str]:
    """A table, one line for each session."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for each in sessions:
        disks = ",".join(each["disks"]) or "-"
        portal, iface = each["portal"] or "-", each["iface"] or "default"
        rows.append((str(each["sid"]), each["transport"], portal, iface, each["state"], disks, each["target"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _sessions() -> list[dict[str, Any]]:
    return [
        {
            "sid": view.sid,
            "transport": view.transport,
            "target": view.target,
            "portal": None if view.persistent is None else str(view.persistent),
            "iface": view.iface_name,
            "state": view.connection_text.lower(),
            "disks": [lun.block_device for lun in view.luns() if lun.block_device is not None],
        }
        for view in sysfs.sessions()
    ]
