# SPDX-License-Identifier: Apache-2.0
"""`rdmactl session release`: give claims to sessions up; the last one to go logs a session out. Face ring.

Without numbers it is about all sessions that the name claims: how a unit ends what it has started, and nothing else.
Disks in use keep their session unless it is forced.
Not here: what a claim is (`rdmactl.initiator.claims`).
"""

from __future__ import annotations

import argparse
import os

from rdmactl.cli.iseradm_login import CLAIM_VARIABLE
from rdmactl.cli.session_outcomes import outcomes
from rdmactl.control.client import Client
from rdmactl.errors import LocalError

__all__ = ["parser", "run"]


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl session release", description="Give claims to sessions up; the last one to go logs a session out."
    )
    words.add_argument("sid", type=int, nargs="*", help="the sessions' numbers; without any: all that NAME claims")
    whose = words.add_mutually_exclusive_group()
    whose.add_argument("-c", "--claim", metavar="NAME", help=f"whose claim (${CLAIM_VARIABLE}, else administrator)")
    whose.add_argument("-e", "--everybody", action="store_true", help="all claims: log out whoever wants the session")
    words.add_argument("-f", "--force", action="store_true", help="also when disks are mounted or held")
    words.add_argument("-t", "--timeout", type=float, default=120.0, metavar="S", help="seconds for each session (120)")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Status 1 when a session could not be released; the reasons are printed. LocalError: nobody is meant."""
    given = parser().parse_args(words)
    claim = given.claim or os.environ.get(CLAIM_VARIABLE)
    if not given.sid and (given.everybody or not claim):
        raise LocalError("no session is named", hint="name sessions by number, or with --claim all those of a name")
    claim = claim or "administrator"
    sids = given.sid or _claimed(claim, given.timeout)
    how = {"claim": claim, "everybody": given.everybody, "safe": not given.force, "deadline_s": given.timeout}
    return outcomes("release", "Logout", sids, how, given.timeout, as_json=given.json)


def _claimed(claim: str, deadline_s: float) -> list[int]:
    with Client("initiator", deadline_s=deadline_s) as client:
        sessions = client.call("io.rdmactl.Initiator.Sessions", {})["sessions"]
    return [each["sid"] for each in sessions if claim in each["claims"]]
