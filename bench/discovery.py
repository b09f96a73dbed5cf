#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SendTargets of many targets into records, side by side: iseradm with iserd, iscsiadm with iscsid, alternately.

    lab/run --memory 2048 --timeout 3000 -- .venv/bin/python bench/discovery.py

A job is one whole run of `-m discovery -t st`: connection, login, the list in parts, each target printed and recorded.
"new" begins with no records, "again" finds all of them there and resets them, as iscsiadm does. Both programs ask the
same server, a process of its own that has its answers ready, and both keep their records in memory. The peak memory is
that of the front end and of the daemon (VmHWM).

Then 32 discovery records are watched by iserd with one second between questions, once with all servers quick, once with
one that takes 20 s for each answer: how far apart the questions to the other 31 are.

For the lab's virtual machine only: it puts file systems over /etc/iscsi and the records.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sendtargets_server import ADDRESS, FIRST_PORT, serving

from tests.lab.guest import wait_for

BIN = Path(sys.executable).parent
THEIRS, OURS = "/usr/sbin/iscsiadm", str(BIN / "iseradm")
TREE = Path("/etc/iscsi")
STATE = Path("/var/lib/rdmactl")
OUTPUT = Path("/tmp/list")
PORTAL = f"{ADDRESS}:{FIRST_PORT}"
SILENCE_S = 20.0


class Run(NamedTuple):
    """One run of a front end: wall time, and the most memory it had."""

    seconds: float
    peak_kib: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="how often the programs take turns")
    parser.add_argument("--records", type=int, default=32, help="how many discovery records are watched")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they are")
    given = parser.parse_args()
    prepare_host()
    if given.rounds:
        with serving(given.targets):
            print(json.dumps(measure(given.targets, given.rounds)), flush=True)
    print(json.dumps(watch(given.records, given.seconds)), flush=True)
    return 0


def prepare_host() -> None:
    """Names and settings as on a host; no record."""
    subprocess.run(["modprobe", "-qa", "scsi_transport_iscsi", "iscsi_tcp"], check=False)
    for directory in (TREE, STATE, Path("/run/rdmactl"), Path("/run/lock")):
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(directory)], check=True)
    (TREE / "initiatorname.iscsi").write_text("InitiatorName=iqn.2026-11.org.example:host\n")
    (TREE / "iscsid.conf").write_text("node.startup = manual\n")


def measure(targets: int, rounds: int) -> dict[str, object]:
    """Medians, and the largest of the peaks."""
    runs: dict[tuple[str, str], list[Run]] = {(p, j): [] for p in (THEIRS, OURS) for j in ("new", "again")}
    daemons: dict[str, int] = {THEIRS: 0, OURS: 0}
    for _ in range(rounds):
        for program in (THEIRS, OURS):
            empty()
            with daemon_of(program) as pid:
                for job in ("new", "again"):
                    runs[program, job].append(discover(program, targets))
                daemons[program] = max(daemons[program], peak_kib(pid))
            check(program, targets)
    result: dict[str, object] = {"targets": targets, "rounds": rounds}
    for job in ("new", "again"):
        theirs, ours = (statistics.median(run.seconds for run in runs[program, job]) for program in (THEIRS, OURS))
        result[job] = {"iscsiadm_s": round(theirs, 3), "iseradm_s": round(ours, 3), "faster": round(theirs / ours, 1)}
    for name, program, daemon in (("iscsiadm", THEIRS, "iscsid"), ("iseradm", OURS, "iserd")):
        peaks = [run.peak_kib for job in ("new", "again") for run in runs[program, job]]
        result[f"{name}_peak_mib"] = round(max(peaks) / 1024, 1)
        result[f"{daemon}_peak_mib"] = round(daemons[program] / 1024, 1)
    return result


def empty() -> None:
    """No records of either."""
    for name in ("nodes", "send_targets", "static"):
        subprocess.run(["rm", "-rf", str(TREE / name)], check=True)
    for path in STATE.iterdir():
        path.unlink()


def discover(program: str, targets: int) -> Run:
    """One discovery, which must print every target."""
    with OUTPUT.open("wb") as output:
        begin = time.perf_counter()
        pid = os.posix_spawn(
            program,
            [program, "-m", "discovery", "-t", "sendtargets", "-p", PORTAL],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1)],
        )
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - begin
    assert os.waitstatus_to_exitcode(status) == 0, f"{program} ended with {os.waitstatus_to_exitcode(status)}"
    assert OUTPUT.read_bytes().count(b"\n") == targets
    return Run(seconds, usage.ru_maxrss)


def check(program: str, targets: int) -> None:
    """All of it is recorded."""
    listed = subprocess.run([program, "-m", "node"], capture_output=True, check=True).stdout
    recorded = listed.count(b"\n")
    assert recorded == targets, f"{program} has recorded {recorded} of {targets}"


def watch(records: int, seconds: float) -> dict[str, object]:
    """Pauses between the questions to all servers but the first, which is slow the second time."""
    result: dict[str, object] = {"records": records, "poll_s": 1, "seconds": seconds}
    for name, silence_s in (("all_quick", 0.0), ("one_slow", SILENCE_S)):
        empty()
        with serving(0, ports=records, silence_s=silence_s) as questions:
            for number in range(records):
                record = f"-m discoverydb -t sendtargets -p {ADDRESS}:{FIRST_PORT + number} -o"
                pairs = (
                    "-n discovery.sendtargets.discoveryd_poll_inval -v 1 -n discovery.sendtargets.use_discoveryd -v Yes"
                )
                for words in (f"{record} new", f"{record} update {pairs}"):
                    subprocess.run([OURS, *words.split()], check=True, stdout=subprocess.DEVNULL)
            with daemon_of(OURS) as pid:
                time.sleep(seconds)
                result[f"{name}_iserd_peak_mib"] = round(peak_kib(pid) / 1024, 1)
            pauses = sorted(pauses_of(questions))
            result[f"{name}_median_s"] = round(statistics.median(pauses), 2)
            result[f"{name}_p99_s"] = round(pauses[int(0.99 * len(pauses))], 2)
            result[f"{name}_max_s"] = round(pauses[-1], 2)
    return result


def pauses_of(questions: Path) -> Iterator[float]:
    """Seconds from one question to the next, of every server but the first."""
    last: dict[str, float] = {}
    for line in questions.read_text().splitlines():
        port, moment = line.split()
        if port in last and int(port) != FIRST_PORT:
            yield float(moment) - last[port]
        last[port] = float(moment)


@contextmanager
def daemon_of(program: str) -> Iterator[int]:
    """The daemon that belongs to the program, and no other; its process id."""
    command = ["/usr/sbin/iscsid", "-f"] if program == THEIRS else [str(BIN / "iserd")]
    with Path("/tmp/daemon.log").open("ab") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)  # iscsid ends with its group
        try:
            wait_for(lambda: serves(program), command[0])
            yield daemon.pid
        finally:
            daemon.terminate()
            daemon.wait(30)


def serves(program: str) -> bool:
    """Whether the daemon of a program can be asked."""
    if program == THEIRS:
        return "ISCSIADM_ABSTRACT_NAMESPACE" in Path("/proc/net/unix").read_text()
    return subprocess.run([str(BIN / "rdmactl"), "status"], capture_output=True, check=False).returncode == 0


def peak_kib(pid: int) -> int:
    """The most memory a living process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.exit(main())
