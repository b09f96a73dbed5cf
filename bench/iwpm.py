#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The port mappers side by side: how fast the kernel gets its ports, from ours and from rdma-core's.

Runs inside the lab, best in virtual time (rates then repeat within about a percent; they are not those of any real
machine, only the ratios mean something). Both daemons serve the same program (`listen.c`), one after the other, on
soft-iWARP that asks for mapped ports. Prints each result as JSON, and then the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
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
PATIENCE_S = 3600.0  # virtual time jumps while the machine waits for its disk
OURS = [str(Path(sys.executable).parent / "iwpmd"), "--systemd"]
# The peer is measured with the descriptor limit its own unit file gives it.
THEIRS = ["prlimit", "--nofile=102400", "/usr/sbin/iwpmd", "--systemd"]
DAEMONS: dict[str, list[str] | None] = {"none": None, "rdmactl": OURS, "rdma-core": THEIRS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--live", default="100,1000,5000,10000", help="numbers of live mappings")
    parser.add_argument("--samples", type=int, default=1000, help="listens and releases measured at each")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    program = build()
    results: list[dict[str, Any]] = []
    for live in map(int, arguments.live.split(",")):
        for _ in range(arguments.rounds):
            for name, command in DAEMONS.items():
                results.append({"daemon": name, **measure(program, command, live, arguments.samples)})
                print(json.dumps(results[-1]), flush=True)
    report(results)
    return 0


def build() -> Path:
    program = Path(tempfile.mkdtemp()) / "listen"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "listen.c"), "-lrdmacm"], check=True)
    return program


def measure(program: Path, command: list[str] | None, live: int, samples: int) -> dict[str, Any]:
    """One run of the program under one daemon; its rates, and the daemon's memory when it is through."""
    # The kernel keeps every request it has had answered, and walks through them, until iw_cm is unloaded.
    sh(f"siw map; link siw0 siw dummy0 {ADDRESS}/24", timeout_s=PATIENCE_S)
    daemon = None
    if command is not None:
        daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(is_serving, "the daemon")
        # One listen registers the device with the daemon; it is not what is measured.
        subprocess.run([str(program), ADDRESS, "0", "50"], check=True, stdout=subprocess.DEVNULL)
    said = subprocess.run([str(program), ADDRESS, str(live), str(samples)], check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, Any] = json.loads(said)
    result["rss_kib"] = peak_rss_kib(daemon)
    if daemon is not None:
        daemon.terminate()
        daemon.wait(60)
        wait_for(lambda: not is_bound(), "the end of the daemon")
    sh("rdma link delete siw0; ip link delete dummy0; rmmod siw rdma_ucm rdma_cm iw_cm", timeout_s=PATIENCE_S)
    return result


def is_bound() -> bool:
    """Whether somebody has the port mappers' UDP port."""
    return ":0F5F " in Path("/proc/net/udp").read_text() + Path("/proc/net/udp6").read_text()


def is_serving() -> bool:
    """Bound, and it has had time to say HELLO."""
    bound = is_bound()
    if bound:
        time.sleep(1)
    return bound


def peak_rss_kib(daemon: subprocess.Popen[bytes] | None) -> int:
    if daemon is None:
        return 0
    text = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])


COLUMNS = {
    "listens/s": "listens_per_s", "releases/s": "releases_per_s", "p50 us": "p50_us", "p99 us": "p99_us",
    "RSS KiB": "rss_kib",
}  # fmt: skip


def report(results: list[dict[str, Any]]) -> None:
    """A table of medians, and ours divided by theirs."""
    print("\n| live | daemon | " + " | ".join(COLUMNS) + " |")
    print("|---:|---|" + "---:|" * len(COLUMNS))
    for live in sorted({result["live"] for result in results}):
        medians = {}
        for name in DAEMONS:
            mine = [result for result in results if result["live"] == live and result["daemon"] == name]
            medians[name] = [statistics.median(result[key] for result in mine) for key in COLUMNS.values()]
            print(f"| {live} | {name} | " + " | ".join(f"{value:.0f}" for value in medians[name]) + " |")
        ratios = zip(medians["rdmactl"], medians["rdma-core"], strict=True)
        print(f"| {live} | ratio | " + " | ".join(f"{ours / theirs:.2f}" for ours, theirs in ratios) + " |")


if __name__ == "__main__":
    sys.exit(main())
