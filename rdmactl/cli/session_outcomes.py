# SPDX-License-Identifier: Apache-2.0
"""A call of the daemon about several sessions, and a line about each. Face ring.

Not here: the words of the commands (`session_claim.py`, `session_release.py`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rdmactl.cli.output import print_json
from rdmactl.control.client import Client

if TYPE_CHECKING:
    from typing import Any

__all__ = ["outcomes"]

_AT_ONCE = 64  # sessions the daemon works on at a time, as far as its answer's time goes


def outcomes(
    verb: str, method: str, sids: list[int], how: dict[str, Any], each_s: float, *, as_json: bool = False
) -> int:
    """Call a method of io.rdmactl.Initiator with `sids`; 1 when it failed for one of them."""
    found: list[dict[str, Any]] = []
    if sids:
        deadline_s = each_s * (1 + len(sids) // _AT_ONCE) + 5.0
        with Client("initiator", deadline_s=deadline_s) as client:
            answers = [
                reply["outcome"] for reply in client.more(f"io.rdmactl.Initiator.{method}", {"sids": sids, **how})
            ]
        found = [_outcome(sids[each["index"]], each) for each in sorted(answers, key=lambda each: int(each["index"]))]
    if as_json:
        print_json(f"rdmactl.session.{verb}", {"sessions": found})
    else:
        for each in found:
            _print(verb, each)
    return int(any(each["error"] for each in found))


def _outcome(sid: int, wire: dict[str, Any]) -> dict[str, Any]:
    failure = wire["failure"]
    error = None
    if failure is not None:
        error = "; ".join(part for part in (failure["message"], failure["hint"]) if part)
    return {"sid": sid, "claims": wire["claims"], "error": error}


def _print(verb: str, each: dict[str, Any]) -> None:
    if each["error"]:
        sys.stdout.flush()
        print(f"rdmactl: {each['error']}", file=sys.stderr)
    elif each["claims"]:
        print(f"session {each['sid']} stays, claimed by {', '.join(each['claims'])}")
    else:
        print(f"session {each['sid']} is logged out")
