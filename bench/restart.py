#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long iwpmd takes from the start of its process to READY, with an empty table and with ten thousand mappings.

The lab measures that on an emulated processor; this does it on the machine's own, which has no RDMA: the daemon's whole
start, with real sockets in a real keeper and a real journal, and a model of the kernel's port mapper client in its
process (whose imports count as well). Each start but the first follows a kill -9. In a network namespace of its own,
because ten thousand ports are a third of those that a host gives away, and for UDP port 3935:

    sudo unshare -n .venv/bin/python bench/restart.py

Prints the median and the worst of each in milliseconds; the cases take turns.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MAPPINGS = 10_000
ROUNDS = 11
JOURNAL = "iwpm.journal"
# The kernel reports 227 at most, and says so with an error when there are more.
REPORTED_BYTES = 16 << 10


def fill(directory: str) -> None:
    """Be a port mapper that dies: claim the ports, record the mappings, leave both behind."""
    from rdmactl.iwpm.claims import ClaimKeeper
    from rdmactl.iwpm.journal import MappingJournal
    from rdmactl.iwpm.table import MappingTable
    from rdmactl.iwpm.vault import open_vaults
    from rdmactl.netlink.sockaddr import SockAddr

    claims = ClaimKeeper(open_vaults(directory), MappingJournal(f"{directory}/{JOURNAL}"))
    lease = claims.lease()
    table = MappingTable(lease)
    for port in range(1, MAPPINGS + 1):
        table.add_listener(SockAddr.parse(f"10.9.0.1:{port}"), map_port=True, now=0.0)
    while claims.unsafe:  # the keeper is given them faster than it takes them
        lease.tidy(table)
    lease.rewrite(table)


def serve(directory: str, written: int) -> None:
    """The daemon, until it is killed. It writes how many mappings and ports it holds when it is ready."""
    import rdmactl.daemons.iwpmd  # noqa: F401 -- all that the daemon imports
    from rdmactl.daemons.runner import Program, run
    from rdmactl.iwpm.claims import ClaimKeeper
    from rdmactl.iwpm.journal import MappingJournal, unpack
    from rdmactl.iwpm.service import PortMapperService
    from rdmactl.iwpm.vault import open_vaults
    from tests.fake.iw_cm import CmId, FakeIwCm

    path = f"{directory}/{JOURNAL}"
    kernel = FakeIwCm()
    with open(path, "ab+") as journal:
        journal.seek(0)
        reported = unpack(journal.read(REPORTED_BYTES))
    kernel.ids = [CmId(state.local, state.mapped) for state in reported]
    keeper = ClaimKeeper(open_vaults(directory), MappingJournal(path))

    def serving() -> None:
        assert keeper.table is not None
        os.write(written, f"{len(keeper.table)} {keeper.held}".encode())

    run(
        lambda: Program(
            name="iwpmd",
            services={"iwpm": lambda: PortMapperService(claims=keeper)},
            exit_status={signal.SIGTERM: 0},
            serving=serving,
            door=kernel.open,
        )
    )


def start(directory: str, mappings: int) -> float:
    """Seconds until a new daemon is ready; then it is killed."""
    reading, writing = os.pipe()
    words = [sys.executable, __file__, "serve", directory, str(writing)]
    environment = {**os.environ, "RDMACTL_RUNTIME_DIRECTORY": directory}
    began = time.monotonic()
    daemon = subprocess.Popen(words, pass_fds=[writing], stderr=subprocess.DEVNULL, env=environment)
    os.close(writing)
    held = os.read(reading, 100).split()
    took_s = time.monotonic() - began
    daemon.kill()
    daemon.wait()
    os.close(reading)
    assert [int(word) for word in held] == [mappings, mappings], f"the daemon holds {held}"
    return took_s


def program(*words: str) -> float:
    """Seconds that a whole run of the interpreter takes."""
    began = time.monotonic()
    subprocess.run([sys.executable, *words], check=True)
    return time.monotonic() - began


def dismiss(directory: str) -> None:
    """End the keeper, which would hold the ports for the next daemon."""
    from rdmactl.iwpm.keeper import QUIT
    from rdmactl.iwpm.vault import KEEPER_SOCKET

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(f"{directory}/{KEEPER_SOCKET}")
        client.send(QUIT)


def report(what: str, times_s: Sequence[float]) -> None:
    print(f"{what:36} {statistics.median(times_s) * 1000:6.0f} ms   worst {max(times_s) * 1000:6.0f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as full:
        subprocess.run([sys.executable, __file__, "fill", full], check=True)
        cases = {
            "an interpreter that does nothing": lambda: program("-c", "pass"),
            "import asyncio": lambda: program("-c", "import asyncio"),
            "the daemon's imports": lambda: program("-c", "import rdmactl.daemons.iwpmd, rdmactl.control.port_mapper"),
            "ready, empty": lambda: start(empty, 0),
            f"ready, {MAPPINGS} mappings": lambda: start(full, MAPPINGS),
        }
        times_s: dict[str, list[float]] = {what: [] for what in cases}
        try:
            for _ in range(ROUNDS):
                for what, measure in cases.items():
                    times_s[what].append(measure())
        finally:
            for directory in (empty, full):
                dismiss(directory)
        for what in cases:
            report(what, times_s[what])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", directory]:
            fill(directory)
        case ["serve", directory, written]:
            serve(directory, int(written))
        case _:
            main()
