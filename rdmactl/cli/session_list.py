# SPDX-License-Identifier: Apache-2.0
"""`rdmactl session list`: the sessions there are, in a line each. Face ring.

The list is the kernel's (sysfs), and is there without a daemon. Who claims a session, only the daemon knows: without
one, nobody is named. iscsiadm's own form is `iseradm -m session`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.output import print_json
from rdmactl.control.client import Client
from rdmactl.errors import RdmactlError
from rdmactl.initiator import sysfs

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.session.list"

_COLUMNS = ("SID", "TRANSPORT", "PORTAL", "INTERFACE", "STATE", "CLAIMED BY", "DISKS", "TARGET")
_DAEMON_S = 5.0


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
        portal, iface, claims = each["portal"] or "-", each["iface"] or "default", ",".join(each["claims"] or []) or "-"
        rows.append((str(each["sid"]), each["transport"], portal, iface, each["state"], claims, disks, each["target"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _claims() -> dict[int, list[str]]:
    """By session; none when there is no daemon to ask."""
    try:
        with Client("initiator", deadline_s=_DAEMON_S) as client:
            told = client.call("io.rdmactl.Initiator.Sessions", {})["sessions"]
    except RdmactlError:
        return {}
    return {each["sid"]: each["claims"] for each in told}


def _sessions() -> list[dict[str, Any]]:
    claims = _claims()
    return [
        {
            "sid": view.sid,
            "transport": view.transport,
            "target": view.target,
            "portal": None if view.persistent is None else str(view.persistent),
            "iface": view.iface_name,
            "state": view.connection_text.lower(),
            "claims": claims.get(view.sid),
            "disks": [lun.block_device for lun in view.luns() if lun.block_device is not None],
        }
        for view in sysfs.sessions()
    ]
