#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long the kernel waits for its ports while somebody floods UDP port 3935, and the same without a flood.

Runs inside the lab with two hosts, in real time: host B sends 20,000 datagrams a second (or as many as it can, which is
printed), host A listens and measures each rdma_listen(3), which is one ADD_MAPPING that waits for its answer. Kinds of
flood: garbage (random lengths and bytes) and valid (well-formed REQUESTs).
Emulated processors exaggerate: the flood's own cost in the guest's kernel is in the figures, which is
why the program is also measured without a port mapper.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.lab.guest import HOST, here, sh, there, wait_for  # noqa: E402

A, B = "10.9.0.1", "10.9.0.2"
KINDS = ("none", "garbage", "valid")
RATE = 20_000
P99_LIMIT_MS = 50.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listens", type=int, default=400, help="listens measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--daemons", default="none,rdmactl,rdma-core")
    arguments = parser.parse_args()
    sh(f"siw map; link siw0 siw eth1 {A if HOST == 'A' else B}/24; ip link set lo up")
    here("up")
    there("up")
    runs = [
        (daemon, kind, round_)
        for daemon in arguments.daemons.split(",")
        for round_ in range(arguments.rounds)
        for kind in KINDS
    ]
    if HOST == "B":
        for run in runs:
            flood("-".join(map(str, run)), run[1])
    else:
        measure_all(runs, arguments.listens)
    return 0


def flood(name: str, kind: str) -> None:
    there(f"{name}-ready", limit_s=300)
    sent, started = 0, time.monotonic()
    datagrams = payloads(kind)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.connect((A, 3935))
        door.setblocking(False)
        here(f"{name}-flooding")
        at = Path(os.environ.get("LAB_SHARE", "/tmp/lab")) / f"at-A-{name}-measured"
        while not at.exists():
            behind = int((time.monotonic() - started) * RATE) - sent
            for index in range(min(behind, 500) if datagrams else 0):
                try:
                    door.send(datagrams[(sent + index) % len(datagrams)])
                except OSError:
                    break
            sent += max(0, min(behind, 500))
            if not datagrams or behind < 50:
                time.sleep(0.005)
    rate = sent / (time.monotonic() - started)
    (Path(os.environ.get("LAB_SHARE", "/tmp/lab")) / f"rate-{name}").write_text(f"{rate if datagrams else 0:.0f}")
    here(f"{name}-stopped")


def payloads(kind: str) -> list[bytes]:
    chance = random.Random(1)
    if kind == "garbage":
        return [chance.randbytes(chance.choice((0, 1, 47, 48, 63, 64, 65, 200, 1400))) for _ in range(2000)]
    if kind == "valid":
        cp = socket.inet_aton(B) + bytes(12)
        return [
            bytes.fromhex("0400a0281c061389") + handle.to_bytes(8, "big") + cp + socket.inet_aton(A) + bytes(12) + cp
            for handle in range(1, 20_000)
        ]
    return []


def measure_all(runs: list[tuple[str, str, int]], listens: int) -> None:
    program = Path(tempfile.mkdtemp()) / "listen"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "listen.c"), "-lrdmacm"], check=True)
    results = []
    daemon: subprocess.Popen[bytes] | None = None
    running = ""
    for run in runs:
        if run[0] != running:
            daemon, running = replace(daemon, run[0]), run[0]
            subprocess.run([str(program), A, "0", "50"], check=True, stdout=subprocess.DEVNULL)
        name = "-".join(map(str, run))
        here(f"{name}-ready")
        there(f"{name}-flooding", limit_s=300)
        said = json.loads(
            subprocess.run([str(program), A, "0", str(listens)], check=True, stdout=subprocess.PIPE).stdout
        )
        here(f"{name}-measured")
        there(f"{name}-stopped", limit_s=300)
        rate = int((Path(os.environ.get("LAB_SHARE", "/tmp/lab")) / f"rate-{name}").read_text())
        results.append({"daemon": run[0], "flood": run[1], "datagrams_per_s": rate, **said})
        print(json.dumps(results[-1]), flush=True)
    replace(daemon, "none")
    report(results)


def replace(daemon: subprocess.Popen[bytes] | None, name: str) -> subprocess.Popen[bytes] | None:
    if daemon is not None:
        daemon.terminate()
        daemon.wait(30)
    if name == "none":
        return None
    own = [str(Path(sys.executable).parent / "iwpmd"), "--systemd"]
    command = own if name == "rdmactl" else ["prlimit", "--nofile=102400", "/usr/sbin/iwpmd", "--systemd"]
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: ":0F5F " in Path("/proc/net/udp").read_text(), "the daemon")
    time.sleep(3)  # rdma-core's does not say when it serves
    return daemon


def report(results: list[dict[str, object]]) -> None:
    print(f"\n{'daemon':>10} {'flood':>8} {'sent/s':>8} {'listens/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for daemon, kind in dict.fromkeys((result["daemon"], result["flood"]) for result in results):
        mine = [result for result in results if (result["daemon"], result["flood"]) == (daemon, kind)]
        rate, listens, p50, p99 = (
            statistics.median(float(str(result[key])) for result in mine)
            for key in ("datagrams_per_s", "listens_per_s", "p50_us", "p99_us")
        )
        verdict = "" if daemon != "rdmactl" else " ok" if p99 / 1000 <= P99_LIMIT_MS else f" above {P99_LIMIT_MS:g} ms"
        print(
            f"{daemon:>10} {kind:>8} {rate:>8.0f} {listens:>10.0f} {p50 / 1000:>8.2f} {p99 / 1000:>8.2f}{verdict}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
