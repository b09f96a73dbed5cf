# SPDX-License-Identifier: Apache-2.0
"""`rdmactl session history`: what has happened to each session, when, and for how long. Face ring.

Not here: the timelines themselves, which are the daemon's (method io.rdmactl.Initiator.History).
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from rdmactl.cli.output import print_json
from rdmactl.control.client import Client
from rdmactl.errors import LocalError

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.session.history"

_METHOD = "io.rdmactl.Initiator.History"
_DAY_S, _HOUR_S, _MINUTE_S = 86400, 3600, 60


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(prog="rdmactl session history", description="Tell what has happened to sessions.")
    words.add_argument("sid", type=int, nargs="?", help="only this session; also one of the last that have ended")
    words.add_argument("-t", "--timeout", type=float, default=10.0, metavar="S", help="seconds for the daemon (10)")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """LocalError when the session asked for is not known."""
    given = parser().parse_args(words)
    with Client("initiator", deadline_s=given.timeout) as client:
        sessions: list[dict[str, Any]] = client.call(_METHOD, {})["sessions"]
    found = [each for each in sessions if given.sid in (None, each["sid"])]
    if given.sid is not None and not found:
        raise LocalError(f"no session {given.sid} is known", hint="rdmactl session list names those there are")
    if given.json:
        print_json(SCHEMA, {"sessions": found})
    elif found:
        print("\n".join(text(found)))
    return 0


def text(sessions: list[dict[str, Any]]) -> list[str]:
    """Per session a head line, and one line for each moment: when, for how long, state, attempts, reason."""
    lines = []
    for each in sessions:
        ended = " (ended)" if each["ended_s"] is not None else ""
        whose = f", claimed by {', '.join(each['claims'])}" if each["claims"] and not ended else ""
        lines.append(f"session {each['sid']}: {each['target']} at {each['address']}:{each['port']}{whose}{ended}")
        ends = [moment["at_s"] for moment in each["moments"][1:]] + [each["ended_s"]]
        lines += [_line(moment, end) for moment, end in zip(each["moments"], ends, strict=True)]
    return lines


def _line(moment: dict[str, Any], end_s: float | None) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment["at_s"]))
    lasted = "now" if end_s is None else _duration(end_s - moment["at_s"])
    attempts = f" [{moment['attempts']} attempts]" if moment["attempts"] else ""
    reason = f": {moment['reason']}" if moment["reason"] else ""
    return f"  {when}  {lasted:>8}  {moment['state']}{attempts}{reason}"


def _duration(seconds: float) -> str:
    for unit_s, name, smaller_s, smaller in ((_DAY_S, "d", _HOUR_S, "h"), (_HOUR_S, "h", _MINUTE_S, "m")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)}{name}{int(seconds % unit_s // smaller_s)}{smaller}"
    return f"{seconds:.1f}s" if seconds < _MINUTE_S else f"{int(seconds // _MINUTE_S)}m{int(seconds % _MINUTE_S)}s"
