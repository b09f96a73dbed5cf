# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iser ping ADDR[:PORT][/NAME]...`: is there an iSER target, and what takes how long. Face ring.

Of a portal, one ping is a whole discovery: connect, login, list of targets, logout. Of a target it is a session: login,
a few NOPs, logout. They run in a worker process, which is started before anything else here, because that is what takes
longest, and which asks all that are named side by side. A bare connection is never made: some targets then refuse all
others for seconds.
Not here: doing it (`rdmactl.rdmacm.operations`), its report's fields (`rdmactl.rdmacm.report`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.iser_options import add_options, failure_of, questions, report_json, summary_line, trace_lines
from rdmactl.cli.output import print_json
from rdmactl.rdmacm.client import SyncWorker
from rdmactl.rdmacm.latency import percentile

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rdmactl.rdmacm.report import Question, Report

__all__ = ["parser", "run", "summary", "text"]

SCHEMA = "rdmactl.iser.ping"

_COUNT_MAX = 1000
_NOPS = 10
_PERCENTILES = (("min", 0), ("median", 50), ("p99", 99))


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl iser ping",
        description="Connect to an iSER portal, log in for discovery, ask for its targets, log out, and print the time "
        "of each step in milliseconds. With a target's name, or --nops: log in to the target, and time NOPs there and "
        "back. Nothing is logged in afterwards, and no device is held.",
    )
    add_options(words, several=True)
    words.add_argument("-c", "--count", type=_number, default=1, metavar="N", help="this many times (1)")
    words.add_argument("--nops", type=_number, metavar="N", help="NOPs in each session (10)")
    words.add_argument("-v", "--verbose", action="store_true", help="print what was negotiated")
    return words


def run(words: list[str]) -> int:
    """Do it. Ends with the first failure's error when not every ping was answered."""
    given = parser().parse_intermixed_args(words)
    reports = []

    def show(_: int, report: Report) -> None:
        if not given.json:
            print("\n".join(text(report, verbose=given.verbose)), flush=True)

    with SyncWorker() as worker:
        asked = questions(given)
        for _ in range(given.count):
            reports += _ask(worker, asked, given.nops, show)
    if given.json:
        print_json(SCHEMA, {"portal": str(asked[0].portal), "pings": [_json(report) for report in reports]})
    elif len(reports) > 1:
        print(summary(reports))
    for report in reports:
        failure_of(report)
    return 0


def text(report: Report, *, verbose: bool = False) -> list[str]:
    """One ping for people."""
    lines = [summary_line(report, _outcome(report)), *trace_lines(report)]
    if report.pings:
        times = "  ".join(f"{name} {percentile(report.pings, p) * 1000:.2f}" for name, p in _PERCENTILES)
        lines.append(f"  {len(report.pings)} NOPs: {times}")
    if verbose:
        lines += [f"  {name}: {_value(value)}" for name, value in report.negotiated if value is not None]
    return lines


def summary(reports: list[Report]) -> str:
    """All pings in one line."""
    times = [report.total_s * 1000 for report in reports if report.error is None]
    line = f"{len(times)} of {len(reports)} answered"
    if times:
        line += f"; min/avg/max {min(times):.1f}/{sum(times) / len(times):.1f}/{max(times):.1f} ms"
    return line


def _ask(
    worker: SyncWorker, asked: list[Question], nops: int | None, show: Callable[[int, Report], None]
) -> list[Report]:
    """Ping all, those of one kind side by side; the reports in the order of the words."""
    portals = [question for question in asked if not question.target and nops is None]
    targets = [question for question in asked if question.target or nops is not None]
    found = iter(worker.discover_many(portals, show) if portals else ())
    logged_in = iter(worker.ping_many(targets, _NOPS if nops is None else nops, show) if targets else ())
    return [next(logged_in if question.target or nops is not None else found) for question in asked]


def _outcome(report: Report) -> str:
    if report.error is not None:
        return f"failed ({report.error.code})"
    if report.target:
        return "logged in and out"
    count = len(report.targets)
    return f"{count} target{'' if count == 1 else 's'}"


def _value(value: int | bool | str) -> str:
    """As iSCSI writes it; a target's own text never reaches the terminal as it is."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _json(report: Report) -> dict[str, Any]:
    targets = [
        {
            "name": target.name,
            "portals": [{"address": at.address, "port": at.port, "tpgt": tpgt} for at, tpgt in target.portals],
        }
        for target in report.targets
    ]
    nops = {name: percentile(report.pings, p) for name, p in _PERCENTILES} if report.pings else None
    return report_json(report) | {"targets": targets, "nops": list(report.pings), "nop_seconds": nops}


def _number(word: str) -> int:
    count = int(word)
    if not 1 <= count <= _COUNT_MAX:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_COUNT_MAX}")
    return count
