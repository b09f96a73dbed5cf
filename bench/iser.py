#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""iSER in user space side by side with the kernel's initiator, in one machine, on one LIO target.

    lab/run --timeout 900 -- .venv/bin/python bench/iser.py

What is measured, on soft-RoCE and on soft-iWARP, us and the peer alternately:

    discovery  one portal: open-iscsi's `iscsiadm -m discovery -I iser` through iscsid, which makes a session of the
               kernel for it; what a program sees that asks iserd, just now or after a while, or uses the API itself;
               the whole programs `iseradm -m discovery -I iser` and `rdmactl iser ping`; and an interpreter that does
               nothing, below which no program in Python comes
    far        the same through a network that takes 2 ms (soft-iWARP), where iscsiadm has to wait for the connection
    probes     `rdmactl iser ping` of one portal and of 64 portals; the same with one of 64 silent
    reads      4 KiB at random at a queue depth of 16 for some seconds: `rdmactl iser perf`, and direct reads of the
               block device that a login through the kernel has made (direct_io.c); libiscsi's iscsi-perf where it is

Results as JSON, one line each, then the ratios.
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
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

from sessions import Ours, Theirs, Tools  # noqa: E402

from rdmactl.control.client import Client  # noqa: E402
from rdmactl.initiator import sysfs  # noqa: E402
from rdmactl.rdmacm.worker import IDLE_S  # noqa: E402
from rdmactl.records import operations  # noqa: E402
from rdmactl.records.model import wire_record  # noqa: E402
from rdmactl.records.store import Store  # noqa: E402
from tests.lab import iser_world as world  # noqa: E402
from tests.lab.guest import sh, wait_for  # noqa: E402

ME = world.ME
PORTALS = 64
DEPTH, BLOCK_BYTES = 16, 4096
THEIR_DISCOVERY = "iscsiadm -m discovery -I iser"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="discovery,far,reads,probes", help="some of these, with commas between")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of reads")
    parser.add_argument("--iscsi-perf", default="iscsi-perf", help="libiscsi's program")
    arguments = parser.parse_args()
    world.set_up()
    sh("modprobe -a ib_iser iscsi_tcp")
    program = build()
    for address, (device, _) in world.DEVICES.items():
        world.rdmactl("iser", "ping", address, "-n", ME)
        if "discovery" in arguments.only:
            discovery(device, address, arguments.rounds)
        if "reads" in arguments.only:
            reads(device, address, program, arguments)
    if "far" in arguments.only:
        sh("modprobe sch_netem; tc qdisc add dev lo root netem delay 1ms")  # there and back
        discovery("siw0, far", world.SIW, arguments.rounds)
        sh("tc qdisc delete dev lo root")
    if "probes" in arguments.only:
        probes(arguments.rounds)
    return 0


def build() -> Path:
    program = Path(tempfile.mkdtemp()) / "direct_io"
    subprocess.run(["gcc", "-O2", "-pthread", "-o", str(program), str(HERE / "direct_io.c")], check=True)
    return program


def say(what: str, device: str, **result: Any) -> None:
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
    print(json.dumps({"what": what, "device": device, **rounded}), flush=True)


def timed(action: Any) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def ping(*words: str) -> world.Done:
    return world.rdmactl("iser", "ping", "-n", ME, *words, limit_s=300)


def discover(tools: Tools, address: str) -> None:
    done = tools.run("-m", "discovery", "-t", "st", "-p", f"{address}:3260", "-I", "iser")
    assert done.returncode == 0, done.stderr


def discovery(device: str, address: str, rounds: int) -> None:
    """One daemon after the other, because two cannot share the kernel; the rest goes with the rounds of either."""
    found: dict[str, list[float]] = {}
    record = wanted(address)

    def took(program: str, seconds: float) -> None:
        found.setdefault(program, []).append(seconds)

    for tools in (Theirs(), Ours()):
        tools.start()
        wait_for(tools.answers, f"{tools.name}'s daemon")
        discover(tools, address)
        for _ in range(rounds):
            took(
                f"{Path(tools.client[0]).name} -m discovery -I iser",
                timed(lambda tools=tools: discover(tools, address)),
            )
            took("an interpreter that does nothing", timed(lambda: subprocess.run([sys.executable, "-c", ""])))
            done = ping(address, "-j")
            assert done.status == 0, done.error
            took("rdmactl iser ping", done.seconds)
            if isinstance(tools, Ours):
                time.sleep(IDLE_S + 1.0)
                took("iserd, worker ready", timed(lambda tools=tools: ask_daemon(tools, record)))
                took("iserd, again", timed(lambda tools=tools: ask_daemon(tools, record)))
        tools.kill()
    first, *again = in_process(address, rounds)
    found |= {"in a process, first": [first], "in a process, again": again}
    theirs = statistics.median(found[THEIR_DISCOVERY])
    for program, times in found.items():
        median = statistics.median(times)
        say("discovery", device, program=program, median_s=median, min_s=min(times), times_faster=theirs / median)


def wanted(address: str) -> dict[str, str]:
    """What iserd is asked with: the records of the discovery and of the interface."""
    with tempfile.TemporaryDirectory() as directory, Store(directory) as store:
        iface = operations.iface_record(store, "iser")
    assert iface is not None
    return wire_record({**iface, **operations.discovery_record("sendtargets", address, 3260, [])})


def ask_daemon(tools: Tools, record: dict[str, str]) -> None:
    """What a program does that asks iserd."""
    with Client("initiator", directory=tools.environment["RDMACTL_RUNTIME_DIRECTORY"]) as client:
        assert client.call("io.rdmactl.Initiator.Discover", {"record": record, "deadline_s": 30.0})["targets"]


def in_process(address: str, rounds: int) -> list[float]:
    """What a program does that uses the API: seconds of discoveries one after the other, the first opens the device."""
    program = (
        "import asyncio, time\n"
        "from rdmactl.iser import Initiator\n"
        "async def main():\n"
        f"    async with Initiator({ME!r}) as initiator:\n"
        f"        for _ in range({rounds + 1}):\n"
        "            begin = time.monotonic()\n"
        f"            assert await initiator.discover({address!r})\n"
        "            print(time.monotonic() - begin)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.splitlines()]


def probes(rounds: int) -> None:
    """64 portals of one target, each at an address of its own; then one more address that nobody has."""
    addresses = [f"10.9.0.{number}" for number in range(1, PORTALS + 1)]
    sh(
        "\n".join(
            f"ip address add {address}/24 dev d0 nodad; target {world.TARGET} {address}:3260 iser"
            for address in addresses[1:]
        ),
        timeout_s=300,
    )
    ping(*addresses)  # LIO makes ready what it keeps
    one = [ping(addresses[0], "-j") for _ in range(rounds)]
    all_of_them = [ping(*addresses, "-j") for _ in range(rounds)]
    assert all(done.status == 0 for done in one + all_of_them), [done.error for done in all_of_them]
    first, rest = (statistics.median(done.seconds for done in each) for each in (one, all_of_them))
    say("probes", "rxe0", one_s=first, all_s=rest, portals=PORTALS, ratio=rest / first)
    silent = ping(*addresses[:31], "10.9.0.200", *addresses[31:63], "-t", "3", "-j")
    pings = silent.json()["pings"]
    say(
        "probes, one silent", "rxe0",
        all_s=silent.seconds, answered=sum(each["ok"] for each in pings),
        slowest_answered_s=max(each["total_s"] for each in pings if each["ok"]),
        silent_s=max(each["total_s"] for each in pings if not each["ok"]),
    )  # fmt: skip


def reads(device: str, address: str, program: Path, arguments: argparse.Namespace) -> None:
    tools = Ours()
    tools.start()
    wait_for(tools.answers, "iserd")
    discover(tools, address)
    node = ("-m", "node", "-T", world.TARGET, "-p", f"{address}:3260", "-I", "iser")
    assert tools.run(*node, "-l").returncode == 0
    (view,) = sysfs.sessions()
    (lun,) = view.luns()
    found: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        words = [str(program), f"/dev/{lun.block_device}", str(DEPTH), str(BLOCK_BYTES), str(arguments.seconds)]
        kernel = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        found.setdefault("kernel initiator", []).append(kernel["iops"])
        ours = world.rdmactl(
            "iser", "perf", f"{address}/{world.TARGET}", "-n", ME, "-j",
            "-q", str(DEPTH), "-b", str(BLOCK_BYTES), "-d", str(arguments.seconds),
        )  # fmt: skip
        assert ours.status == 0, ours.error
        found.setdefault("rdmactl iser perf", []).append(ours.json()["result"]["iops"])
        if shutil.which(arguments.iscsi_perf):
            found.setdefault("iscsi-perf", []).append(iscsi_perf(address, arguments))
    assert tools.run(*node, "-u").returncode == 0
    tools.kill()
    for name, rates in found.items():
        say("reads", device, program=name, median_iops=statistics.median(rates), max_iops=max(rates))
    kernel_iops = statistics.median(found["kernel initiator"])
    say("reads, kernel / ours", device, ratio=kernel_iops / statistics.median(found["rdmactl iser perf"]))


def iscsi_perf(address: str, arguments: argparse.Namespace) -> float:
    """Its last line that has a rate. It reads in order by default; -r makes it random."""
    url = f"iser://{address}:3260/{world.TARGET}/0"
    seconds = str(max(1, int(arguments.seconds)))
    words = [arguments.iscsi_perf, "-i", ME, "-m", str(DEPTH), "-b", str(BLOCK_BYTES // 512), "-t", seconds, "-r", url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    rates = [word for word in done.stdout.replace("\r", "\n").split("\n") if "iops" in word]
    if done.returncode or not rates:
        print(f"iscsi-perf: {done.stdout[-300:]} {done.stderr[-300:]}", file=sys.stderr)
        return 0.0
    print(rates[-1], file=sys.stderr)
    return float(rates[-1].split("iops average")[1].split()[0].strip("(")) if "iops average" in rates[-1] else 0.0


if __name__ == "__main__":
    sys.exit(main())
