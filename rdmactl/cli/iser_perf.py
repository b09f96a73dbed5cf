# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iser perf ADDR[:PORT]/NAME`: how fast a target's logical unit is over iSER. Face ring.

It reads, unless the unit whose data may go is named twice. The target moves real data by RDMA; no block device and no
file system is between. Not here: measuring (`rdmactl.rdmacm.perf`).
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rdmactl.cli.iser_options import add_options, failure_of, question, report_json, summary_line
from rdmactl.cli.output import print_json
from rdmactl.errors import LocalError
from rdmactl.rdmacm.client import SyncWorker
from rdmactl.rdmacm.report import Measured, Plan

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "plan_of", "run", "text"]

SCHEMA = "rdmactl.iser.perf"

_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20}
_LUN_MAX = 0x3FFF


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl iser perf",
        description="Log in to an iSER target and read blocks of a logical unit for some time, at a queue depth; print "
        "commands per second, bandwidth and latency. Without a name, the only target of the portal is taken.",
    )
    add_options(words)
    words.add_argument("-l", "--lun", type=_lun, metavar="N", help="the logical unit (0)")
    words.add_argument("-q", "--queue-depth", type=int, default=16, metavar="N", help="commands under way (16)")
    words.add_argument("-b", "--block-size", type=_bytes, default=4096, metavar="BYTES", help="of each command (4K)")
    words.add_argument("-d", "--duration", type=float, default=5.0, metavar="S", help="seconds (5)")
    words.add_argument("--sequential", action="store_true", help="one block behind the other; default: at random")
    words.add_argument("--write", action="store_true", help="write: destroys data of the unit; needs the next one")
    words.add_argument(
        "--overwrite-lun", type=_lun, metavar="N", help="the unit again, named to confirm that it may be overwritten"
    )
    return words


def run(words: list[str]) -> int:
    """Do it; progress goes to standard error once a second, unless JSON is wanted."""
    given = parser().parse_args(words)
    plan = plan_of(given)
    with SyncWorker() as worker:
        report = worker.perf(question(given), plan, _ignore if given.json else _progress)
    if given.json:
        print_json(SCHEMA, report_json(report) | {"plan": plan._asdict(), "result": _json(report.measured)})
    elif report.measured is not None:
        print(summary_line(report, f"{'wrote' if plan.write else 'read'} LUN {plan.lun}"))
        print("\n".join(text(report.measured)))
    failure_of(report)
    return 0


def plan_of(given: argparse.Namespace) -> Plan:
    """The plan in the words. LocalError when a unit would be written that was not named twice."""
    if given.write and (given.lun is None or given.lun != given.overwrite_lun):
        raise LocalError(
            "--write overwrites a logical unit: it has to be named twice, the same",
            hint="--write --lun N --overwrite-lun N",
        )
    if given.overwrite_lun is not None and not given.write:
        raise LocalError("--overwrite-lun without --write means nothing")
    plan = Plan(given.lun or 0, given.queue_depth, given.block_size, given.duration, given.write, given.sequential)
    if not (1 <= plan.depth <= 128 and plan.duration_s > 0):
        raise LocalError("the queue depth must be from 1 to 128, the duration above 0")
    return plan


def text(measured: Measured) -> list[str]:
    """What was measured, for people."""
    latency = "  ".join(f"{name} {seconds * 1000:.2f}" for name, seconds in measured.latency_s)
    return [
        f"  {_rate(measured)}, {measured.commands} commands in {measured.seconds:.2f} s",
        f"  latency ms: {latency}",
    ]


def _progress(measured: Measured) -> None:
    print(f"{measured.seconds:5.0f} s  {_rate(measured)}", file=sys.stderr, flush=True)


def _ignore(measured: Measured) -> None:
    return


def _rate(measured: Measured) -> str:
    return f"{measured.iops:.0f} IOPS, {measured.bytes_per_s / 1e6:.2f} MB/s"


def _json(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "commands": measured.commands,
        "bytes": measured.moved_bytes,
        "seconds": measured.seconds,
        "iops": measured.iops,
        "bytes_per_s": measured.bytes_per_s,
        "latency_s": dict(measured.latency_s),
    }


def _lun(word: str) -> int:
    number = int(word)
    if not 0 <= number <= _LUN_MAX:
        raise argparse.ArgumentTypeError(f"must be from 0 to {_LUN_MAX}")
    return number


def _bytes(word: str) -> int:
    suffix = word[-1:].upper() if word[-1:].upper() in ("K", "M") else ""
    return int(word[: len(word) - len(suffix)]) * _SUFFIXES[suffix]
