#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records side by side: iseradm and the C iscsiadm, the same jobs on the same records, alternately in one run.

Run as root, it makes itself a mount and a network namespace of its own, with the records of both in memory, and touches
nothing of the machine. In a network namespace, and without scsi_transport_iscsi, the daemons cannot run, and their rows
are left out. In the lab they run, each in its turn; an emulated processor makes an interpreter look worse than it is:

    lab/run --timeout 900 -- .venv/bin/python bench/records.py --only daemon

Each job is a whole run of the program as a script starts it, and the wall time counts. It is run once before it is
measured, so that both find what they read in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.lab.guest import wait_for

BIN = Path(sys.executable).parent
THEIRS, OURS = "/usr/sbin/iscsiadm", str(BIN / "iseradm")
PORTAL = "192.0.2.10:3260,1"
IQN = "iqn.2026-11.org.example:disk"
TREE = Path("/etc/iscsi")
STATE = Path("/var/lib/rdmactl")
INSIDE = "RDMACTL_BENCH_INSIDE"
IN_LAB = "LAB" in os.environ


class Job(NamedTuple):
    """`words` are given to both programs; {n} is another number in each run."""

    name: str
    words: str
    records: int
    daemon: bool
    goal: str


SHOW = f"-m node -T {IQN}00007 -p 192.0.2.10"
UPDATE = "-o update -n node.session.queue_depth -v {n}"
JOBS = (
    Job("list 10,000", "-m node", 10_000, False, "5 times"),
    Job("show one of 10,000", SHOW, 10_000, False, "10 times"),
    Job("update a key on 10,000", f"-m node {UPDATE}", 10_000, False, "10 times"),
    Job("new with 10,000", f"-m node -T {IQN}.new{{n}} -p {PORTAL} -o new", 10_000, False, "10 times"),
    Job("new with 10,000, daemon", f"-m node -T {IQN}.new{{n}} -p {PORTAL} -o new", 10_000, True, "below 40 ms"),
    Job("show one of 10, daemon", SHOW, 10, True, "at most 3 times the time, below 40 ms"),
    Job("update one of 10, daemon", f"{SHOW} {UPDATE}", 10, True, "at most 3 times the time, below 40 ms"),
    Job("new with 10, daemon", f"-m node -T {IQN}00007 -p {PORTAL} -o new", 10, True, "at most 3 times, below 40 ms"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often the programs take turns")
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each program in a round")
    parser.add_argument("--only", default="", help="jobs whose name has this text")
    given = parser.parse_args()
    if os.environ.get(INSIDE) is None:
        os.environ[INSIDE] = "yes"
        os.execvp("unshare", ["unshare", "--mount", *([] if IN_LAB else ["--net"]), sys.executable, *sys.argv])
    prepare_host()
    empty = run_times([sys.executable, "-I", "-S", "-c", "pass"], 20)
    print(json.dumps({"job": "an interpreter that does nothing", "median_ms": milliseconds(empty)}), flush=True)
    records = 0
    for job in (job for job in JOBS if given.only in job.name):
        if job.daemon and not IN_LAB:
            print(json.dumps({"job": job.name, "left_out": "the daemons need the lab's kernel"}))
            continue
        if job.records != records:
            records = job.records
            fill(records)
        print(json.dumps(measure(job, given.rounds, given.runs)), flush=True)
    if not given.only:
        print(json.dumps(eight_at_once()), flush=True)
    return 0


def prepare_host() -> None:
    """Names and settings as on a host; no record."""
    subprocess.run(["modprobe", "-qa", "scsi_transport_iscsi", "iscsi_tcp"], check=False)
    for directory in (TREE, STATE, Path("/run/rdmactl"), Path("/run/lock")):
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(directory)], check=True)
    (TREE / "initiatorname.iscsi").write_text("InitiatorName=iqn.2026-11.org.example:host\n")
    (TREE / "iscsid.conf").write_text("node.startup = manual\n")


def fill(count: int) -> None:
    """The same records for both."""
    for name in ("nodes", "static", "send_targets"):
        subprocess.run(["rm", "-rf", str(TREE / name)], check=True)
    for path in STATE.iterdir():
        path.unlink()
    subprocess.run([THEIRS, *f"-m node -T {IQN}00000 -p {PORTAL} -o new".split()], check=True, capture_output=True)
    directory = "192.0.2.10,3260,1"
    text = (TREE / f"nodes/{IQN}00000" / directory / "default").read_text()
    for number in range(1, count):
        target = f"{IQN}{number:05}"
        portal = TREE / "nodes" / target / directory
        portal.mkdir(parents=True)
        (portal / "default").write_text(text.replace(f"{IQN}00000", target))
        (TREE / f"static/{target},{directory},default").symlink_to(portal)
    subprocess.run([str(BIN / "rdmactl"), "records", "import", str(TREE)], check=True, capture_output=True)


def measure(job: Job, rounds: int, runs: int) -> dict[str, object]:
    """Medians over all rounds."""
    number = iter(range(1, 1 << 30))
    times: dict[str, list[float]] = {THEIRS: [], OURS: []}
    for _ in range(rounds):
        for program in (THEIRS, OURS):
            with daemon_of(program) if job.daemon else nothing():
                words = lambda program=program: [program, *job.words.format(n=next(number)).split()]  # noqa: E731
                subprocess.run(words(), capture_output=True, check=True)
                times[program] += [run_time(words()) for _ in range(runs)]
    theirs, ours = (statistics.median(times[program]) for program in (THEIRS, OURS))
    return {
        "job": job.name,
        "iscsiadm_ms": milliseconds(times[THEIRS]),
        "iseradm_ms": milliseconds(times[OURS]),
        "times_faster": round(theirs / ours, 2),
        "goal": job.goal,
    }


def eight_at_once() -> dict[str, object]:
    """Eight processes update five times each, every one its own record; what is there afterwards, and failures."""
    turns = 5
    result: dict[str, object] = {"job": "8 processes, 5 updates each"}
    for name, program in (("iscsiadm", THEIRS), ("iseradm", OURS)):
        script = (
            f"for turn in $(seq {turns}); do {program} -m node -T {IQN}0000$0 -o update"
            " -n node.session.queue_depth -v $turn || exit 1; done"
        )
        began = time.perf_counter()
        processes = [subprocess.Popen(["bash", "-c", script, str(number)]) for number in range(8)]
        failures = sum(process.wait() != 0 for process in processes)
        result[f"{name}_ms"] = round((time.perf_counter() - began) * 1000)
        shown = subprocess.run([program, "-m", "node", "-o", "show"], capture_output=True, text=True, check=True).stdout
        result[f"{name}_lost"] = 8 - shown.count(f"node.session.queue_depth = {turns}\n")
        result[f"{name}_failures"] = failures
    return result


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def daemon_of(program: str) -> Iterator[None]:
    """The daemon that belongs to the program, and no other."""
    command = ["/usr/sbin/iscsid", "-f"] if program == THEIRS else [str(BIN / "iserd")]
    ready: Callable[[], bool] = lambda: os.path.exists("/run/rdmactl/initiator.sock")  # noqa: E731
    if program == THEIRS:
        ready = lambda: "ISCSIADM_ABSTRACT_NAMESPACE" in Path("/proc/net/unix").read_text()  # noqa: E731
    with tempfile.TemporaryFile() as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)  # iscsid ends with its group
        try:
            wait_for(ready, command[0])
            yield
        finally:
            daemon.terminate()
            daemon.wait(30)


def run_times(command: list[str], count: int) -> list[float]:
    return [run_time(command) for _ in range(count)]


def run_time(command: list[str]) -> float:
    """Seconds of one run, which must succeed."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def milliseconds(times: list[float]) -> float:
    return round(statistics.median(times) * 1000, 2)


if __name__ == "__main__":
    sys.exit(main())
