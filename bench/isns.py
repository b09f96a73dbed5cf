#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""iSNS discoveries into records, side by side: iseradm with iserd, iscsiadm with iscsid, alternately, asking isnsd.

    lab/run --timeout 900 -- .venv/bin/python bench/isns.py

A job is one whole run of `-m discovery -t isns`, with no records before it. isnsd cannot say more than 8 kB at once, so
that a long list has to be asked for in another way, or the discovery fails: status and number of targets tell.

For the lab's virtual machine only: it puts file systems over /etc/iscsi and the records.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from discovery import OURS, THEIRS, TREE, daemon_of, empty, prepare_host

from tests.lab.guest import sh
from tests.lab.isns_world import Administrator, start_isnsd

ADDRESS = "10.9.0.1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[40, 200])
    parser.add_argument("--rounds", type=int, default=5, help="how often the programs take turns")
    given = parser.parse_args()
    prepare_host()
    sh(f"ip address replace {ADDRESS}/32 dev lo")
    for targets in given.targets:
        with tempfile.TemporaryDirectory() as directory:
            server = start_isnsd(Path(directory), period_s=3600)  # what is not refreshed must outlive the runs
            try:
                register(targets)
                print(json.dumps(measure(targets, given.rounds)), flush=True)
            finally:
                server.kill()
                server.wait()
    return 0


def register(targets: int) -> None:
    """Targets with one portal each."""
    names = [f"iqn.2026-11.org.example:disk{number:04}" for number in range(targets)]
    administrator = Administrator(names[0])
    administrator.register(names, ADDRESS, 3260)
    administrator.close()


def measure(targets: int, rounds: int) -> dict[str, object]:
    """Medians and statuses."""
    runs: dict[str, list[tuple[float, int, int]]] = {THEIRS: [], OURS: []}
    for _ in range(rounds):
        for program, done in runs.items():
            empty()
            shutil.rmtree(TREE / "isns", ignore_errors=True)
            with daemon_of(program):
                done.append(discover(program))
    result: dict[str, object] = {"targets": targets, "rounds": rounds}
    for name, program in (("iscsiadm", THEIRS), ("iseradm", OURS)):
        seconds, statuses, counts = zip(*runs[program], strict=True)
        result[f"{name}_s"] = round(statistics.median(seconds), 3)
        result[f"{name}_status"], result[f"{name}_targets"] = max(statuses), min(counts)
    return result


def discover(program: str) -> tuple[float, int, int]:
    """(seconds, status, targets printed) of one discovery."""
    begin = time.perf_counter()
    done = subprocess.run(
        [program, "-m", "discovery", "-t", "isns", "-p", ADDRESS], capture_output=True, text=True, check=False
    )
    return time.perf_counter() - begin, done.returncode, done.stdout.count("\n")


if __name__ == "__main__":
    sys.exit(main())
