# SPDX-License-Identifier: Apache-2.0
"""`rdmactl discovery status`: the discovery records the daemon watches, and how that goes. Face ring.

Which records are watched is a setting of each (`use_discoveryd`); iseradm(8), mode discoverydb, changes it.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from rdmactl.cli.output import print_json
from rdmactl.control.client import Client

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.discovery.status"

_METHOD = "io.rdmactl.Discovery.List"


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl discovery status", description="Say how the discovery records under watch are doing."
    )
    words.add_argument("-t", "--timeout", type=float, default=10.0, metavar="S", help="seconds for the daemon (10)")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """No record under watch is an empty list, and not an error."""
    given = parser().parse_args(words)
    with Client("initiator", deadline_s=given.timeout) as client:
        watches: list[dict[str, Any]] = client.call(_METHOD, {})["watches"]
    if given.json:
        print_json(SCHEMA, {"watches": watches})
    else:
        for each in watches:
            print("\n".join(text(each, time.time())))
    return 0


def text(watch: dict[str, Any], now_s: float) -> list[str]:
    """A line for the record, and one for each thing worth knowing."""
    lines = [f"{watch['address']}:{watch['port']} via {watch['type']}: {_found(watch)}"]
    if watch["answered_at_s"] is not None:
        whole = "" if watch["whole"] else ", not whole: nothing is taken for gone"
        lines.append(f"  answered {max(0.0, now_s - watch['answered_at_s']):.0f} s ago{whole}")
    if watch["last_error"]:
        times = f" ({watch['failures']} times)" if watch["failures"] else ""
        lines.append(f"  no answer{times}: {watch['last_error']}")
    lines.append(f"  {_next(watch)}")
    return lines


def _found(watch: dict[str, Any]) -> str:
    parts = [f"{watch['places']} {'place' if watch['places'] == 1 else 'places'}"]
    if watch["missing"]:
        parts.append(f"{watch['missing']} of them missing")
    if watch["logins"]:
        parts.append(f"{watch['logins']} being logged in to")
    return ", ".join(parts)


def _next(watch: dict[str, Any]) -> str:
    if watch["next_in_s"] is None:
        return "asks no more"
    what = "listens to the server, and asks" if watch["listening"] else "asks"
    return f"{what} again in {watch['next_in_s']:.0f} s"
