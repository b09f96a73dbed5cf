# SPDX-License-Identifier: Apache-2.0
"""`rdmactl session claim`: keep sessions that are there, whoever logs out of them. Face ring.

Not here: what a claim is (`rdmactl.initiator.claims`).
"""

from __future__ import annotations

import argparse
import os

from rdmactl.cli.iseradm_login import CLAIM_VARIABLE
from rdmactl.cli.session_outcomes import outcomes

__all__ = ["parser", "run"]


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl session claim", description="Keep sessions, whoever logs out of them."
    )
    words.add_argument("sid", type=int, nargs="+", help="the sessions' numbers")
    words.add_argument("-c", "--claim", metavar="NAME", help=f"in whose name (${CLAIM_VARIABLE}, else administrator)")
    words.add_argument("-t", "--timeout", type=float, default=10.0, metavar="S", help="seconds for the daemon (10)")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Status 1 when a session could not be claimed; the reasons are printed."""
    given = parser().parse_args(words)
    claim = given.claim or os.environ.get(CLAIM_VARIABLE) or "administrator"
    return outcomes("claim", "Claim", given.sid, {"claim": claim}, given.timeout, as_json=given.json)
