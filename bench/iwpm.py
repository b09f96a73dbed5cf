#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The port mappers side by side: how fast the kernel gets its ports, from ours and from rdma-core's.

Runs inside the lab, best in virtual time (rates then repeat within about a percent; they are not those of any real
machine, only the ratios mean something). Both daemons serve the same program (`listen.c`), one after the other, several
times over, on soft-iWARP that asks for mapped ports.
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.lab.guest import sh, wait_for  # noqa: E402

ADDRESS = "10.9.0.1"
OURS = [str(Path(sys.executable).parent / "iwpmd"), "--systemd"]
# The peer is measured with the descriptor limit its own unit file gives it.
THEIRS = ["prlimit", "--nofile=102400", "/usr/sbin/iwpmd", "--systemd"]
DAEMONS: dict[str, list[str] | None] = {"none": None, "rdmactl": OURS, "rdma-core": THEIRS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", default="100,1000", help="numbers of live mappings")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    program = build()
    sh(f"siw map; link siw0 siw dummy0 {ADDRESS}/24")
    results: list[dict[str, Any]] = []
    for count in map(int, arguments.counts.split(",")):
        for _ in range(arguments.rounds):
            for name, command in DAEMONS.items():
                results.append({"daemon": name, **measure(program, command, count)})
                print(json.dumps(results[-1]), flush=True)
    report(results)
    return 0


def build() -> Path:
    program = Path(tempfile.mkdtemp()) / "listen"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "listen.c"), "-lrdmacm"], check=True)
    return program


def measure(program: Path, command: list[str] | None, count: int) -> dict[str, Any]:
    """One run of the program under one daemon; its rates, and the daemon's memory and processor time."""
    daemon = None
    if command is not None:
        daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(lambda: is_serving(), "the daemon")
        # One listen registers the device with the daemon; it is not what is measured.
        subprocess.run([str(program), ADDRESS, "10"], check=True, stdout=subprocess.DEVNULL)
    before = processor_time_s(daemon)
    said = subprocess.run([str(program), ADDRESS, str(count)], check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, Any] = json.loads(said)
    result["daemon_cpu_us_per_listen"] = round((processor_time_s(daemon) - before) / count * 1e6, 1)
    result["daemon_rss_kib"] = rss_kib(daemon)
    if daemon is not None:
        daemon.terminate()
        daemon.wait(20)
        wait_for(lambda: not is_serving(), "the end of the daemon")
    return result


def is_serving() -> bool:
    """Registered with the kernel: the port mapper's UDP port is bound, and it has had time to say HELLO."""
    bound = ":0F5F " in Path("/proc/net/udp").read_text()
    if bound:
        time.sleep(0.2)
    return bound


def processor_time_s(daemon: subprocess.Popen[bytes] | None) -> float:
    if daemon is None:
        return 0.0
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(daemon: subprocess.Popen[bytes] | None) -> int:
    if daemon is None:
        return 0
    text = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


COLUMNS = {
    "listens/s": "mean_listens_per_s", "p50 us": "p50_us", "p99 us": "p99_us", "destroys/s": "destroys_per_s",
    "RSS KiB": "daemon_rss_kib",
}  # fmt: skip


def report(results: list[dict[str, Any]]) -> None:
    """A table of medians, and ours divided by theirs."""
    print(f"\n{'mappings':>8} {'daemon':>10}" + "".join(f" {title:>11}" for title in COLUMNS))
    for count in sorted({result["n"] for result in results}):
        medians = {}
        for name in DAEMONS:
            mine = [result for result in results if result["n"] == count and result["daemon"] == name]
            medians[name] = [statistics.median(result[key] for result in mine) for key in COLUMNS.values()]
            print(f"{count:>8} {name:>10}" + "".join(f" {value:>11.1f}" for value in medians[name]))
        ratios = zip(medians["rdmactl"], medians["rdma-core"], strict=True)
        print(f"{count:>8} {'ratio':>10}" + "".join(f" {ours / theirs:>11.2f}" for ours, theirs in ratios))


if __name__ == "__main__":
    sys.exit(main())
