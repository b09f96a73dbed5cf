# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iser ping ADDR[:PORT]`: is there an iSER target, and what takes how long. Face ring.

One ping is a whole discovery: connect, login, list of targets, logout. It runs in a worker process, which is started
before anything else here, because that is what takes longest.
Not here: the discovery (`rdmactl.rdmacm.discovery`), its report's fields (`rdmactl.rdmacm.report`).
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rdmactl.cli.output import error_json, print_json
from rdmactl.errors import StoreError
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.client import SyncWorker
from rdmactl.rdmacm.report import Question, Report

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "run", "summary", "text"]

SCHEMA = "rdmactl.iser.ping"

_TIMEOUT_S = 10.0
_COUNT_MAX = 1000

_ANONYMOUS = "iqn.2026-11.io.rdmactl:ping"
"""For users who may not read the host's own name; a portal that lists targets by initiator shows it fewer."""


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl iser ping",
        description="Connect to an iSER portal, log in for discovery, ask for its targets, log out, and print the time "
        "of each step in milliseconds. Nothing is logged in afterwards, and no device is held.",
    )
    words.add_argument(
        "portal", metavar="ADDR[:PORT]", help="address or name, [IPv6]:port; the port is 3260 if left out"
    )
    words.add_argument("-c", "--count", type=_count, default=1, metavar="N", help="this many times (1)")
    words.add_argument("-t", "--timeout", type=_seconds, default=_TIMEOUT_S, metavar="S", help="seconds for each (10)")
    words.add_argument("-s", "--source", default="", metavar="ADDR", help="leave from this address of this host")
    words.add_argument("-n", "--initiator-name", metavar="NAME", help="who to be; default: this host's name")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Do it. Ends with the first failure's error when not every ping was answered."""
    given = parser().parse_args(words)
    portal = Portal.parse(given.portal)
    reports = []
    with SyncWorker() as worker:
        question = Question(portal, given.initiator_name or _own_name(), given.timeout, given.source)
        for _ in range(given.count):
            report = worker.discover(question)
            reports.append(report)
            if not given.json:
                print("\n".join(text(portal, report)), flush=True)
    if given.json:
        print_json(SCHEMA, {"portal": str(portal), "pings": [_json(report) for report in reports]})
    elif given.count > 1:
        print(summary(reports))
    failure = next((report.error for report in reports if report.error is not None), None)
    if failure is not None:
        raise failure
    return 0


def text(portal: Portal, report: Report) -> list[str]:
    """One ping for people."""
    if report.error is None:
        count = len(report.targets)
        outcome = f"{count} target{'' if count == 1 else 's'}"
    else:
        outcome = f"failed ({report.error.code})"
    via = f" over {report.transport} ({report.device}, from {report.local})" if report.device else ""
    steps = "  ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in report.steps)
    lines = [f"{portal}: {outcome} in {report.total_s * 1000:.1f} ms{via}"]
    return [*lines, f"  {steps}"] if steps else lines


def summary(reports: list[Report]) -> str:
    """All pings in one line."""
    times = [report.total_s * 1000 for report in reports if report.error is None]
    line = f"{len(times)} of {len(reports)} answered"
    if times:
        line += f"; min/avg/max {min(times):.1f}/{sum(times) / len(times):.1f}/{max(times):.1f} ms"
    return line


def _own_name() -> str:
    from rdmactl.records.conf import initiator_name

    try:
        name = initiator_name()
    except StoreError:
        name = None
    if name is None:
        print(f"rdmactl: this host's initiator name cannot be read; asking as {_ANONYMOUS}", file=sys.stderr)
    return name or _ANONYMOUS


def _json(report: Report) -> dict[str, Any]:
    targets = [
        {
            "name": target.name,
            "portals": [{"address": at.address, "port": at.port, "tpgt": tpgt} for at, tpgt in target.portals],
        }
        for target in report.targets
    ]
    return {
        "ok": report.error is None,
        "total_s": report.total_s,
        "steps": [{"name": name, "seconds": seconds} for name, seconds in report.steps],
        "device": report.device,
        "transport": report.transport,
        "local": report.local,
        "targets": targets,
        "error": error_json(report.error) if report.error else None,
    }


def _count(word: str) -> int:
    count = int(word)
    if not 1 <= count <= _COUNT_MAX:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_COUNT_MAX}")
    return count


def _seconds(word: str) -> float:
    seconds = float(word)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be from 0.05 to 3600 seconds")
    return seconds
