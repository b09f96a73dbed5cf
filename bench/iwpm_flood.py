#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long the kernel waits for its ports while 20,000 datagrams a second come to UDP port 3935, and without them.

Runs inside the lab, in virtual time: sender, kernel and port mapper share one processor, and what the flood costs the
kernel itself is in the figures; hence the line without a port mapper. Each figure is the time of rdma_listen(3), one
ADD_MAPPING that waits for its answer.
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
RATE = 20_000
P99_LIMIT_MS = 50.0
FLOODS = ("none", "garbage", "valid")
DAEMONS: dict[str, list[str] | None] = {
    "none": None,
    "rdmactl": [str(Path(sys.executable).parent / "iwpmd"), "--systemd"],
    # The peer is measured with the descriptor limit its own unit file gives it.
    "rdma-core": ["prlimit", "--nofile=102400", "/usr/sbin/iwpmd", "--systemd"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listens", type=int, default=500, help="listens measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=RATE, help="datagrams a second")
    arguments = parser.parse_args()
    programs = Path(tempfile.mkdtemp())
    for name, library in (("listen", "-lrdmacm"), ("flood", "-lc")):
        subprocess.run(["gcc", "-O2", "-o", str(programs / name), str(HERE / f"{name}.c"), library], check=True)
    sh(f"siw map; link siw0 siw dummy0 {ADDRESS}/24; ip link set lo up")
    results: list[dict[str, Any]] = []
    for daemon, command in DAEMONS.items():
        process = start(command)
        listen(programs, 50)  # registers the device with the daemon
        for _ in range(arguments.rounds):
            for flood in FLOODS:
                results.append({"daemon": daemon, "flood": flood, **measure(programs, flood, arguments)})
                print(json.dumps(results[-1]), flush=True)
        if process is not None:
            process.terminate()
            process.wait(60)
    report(results)
    return 0


def start(command: list[str] | None) -> subprocess.Popen[bytes] | None:
    if command is None:
        return None
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: ":0F5F " in Path("/proc/net/udp").read_text(), "the daemon")
    time.sleep(1)  # its first exchange with the kernel
    return process


def listen(programs: Path, count: int) -> dict[str, Any]:
    done = subprocess.run([str(programs / "listen"), ADDRESS, "0", str(count)], check=True, stdout=subprocess.PIPE)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def measure(programs: Path, flood: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if flood == "none":
        return {"datagrams_per_s": 0, **listen(programs, arguments.listens)}
    words = [str(programs / "flood"), ADDRESS, str(arguments.rate), flood]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sender:
        time.sleep(0.5)  # the flood is under way
        found = listen(programs, arguments.listens)
        sender.terminate()
        assert sender.stdout is not None
        return {"datagrams_per_s": int(sender.stdout.read()), **found}


def report(results: list[dict[str, Any]]) -> None:
    """A table of medians."""
    print(f"\n{'daemon':>10} {'flood':>8} {'sent/s':>8} {'listens/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for daemon, flood in dict.fromkeys((result["daemon"], result["flood"]) for result in results):
        mine = [result for result in results if (result["daemon"], result["flood"]) == (daemon, flood)]
        rate, listens, p50, p99 = (
            statistics.median(result[key] for result in mine)
            for key in ("datagrams_per_s", "listens_per_s", "p50_us", "p99_us")
        )
        verdict = "" if daemon != "rdmactl" else " ok" if p99 / 1000 <= P99_LIMIT_MS else f" above {P99_LIMIT_MS:g} ms"
        print(f"{daemon:>10} {flood:>8} {rate:>8.0f} {listens:>10.0f} {p50 / 1000:>8.2f} {p99 / 1000:>8.2f}{verdict}")


if __name__ == "__main__":
    sys.exit(main())
