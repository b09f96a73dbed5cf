# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iser ping` over an adapter that uses mapped ports tells the port that is used on the wire.

Both hosts run this file. A connects (10.9.0.1), on B (10.9.0.2) a scripted target listens: LIO could only do so where
the kernel's own network is, and the adapter has one of its own here. Run as a program, this is that target.
"""

# lab: --hosts 2

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from rdmactl.errors import RdmactlError
from rdmactl.iscsi.iser import PRIVATE_DATA, unwrap, wrap
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.endpoint import DISCOVERY
from rdmactl.rdmacm.listener import Listener
from tests.fake.target import FakeTarget, TargetScript
from tests.lab.guest import HOST, here, sh, there
from tests.lab.mapper_world import IN_RNIC, Mapper

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RDMACTL = str(Path(sys.executable).parent / "rdmactl")
SCRIPT = TargetScript(targets={"iqn.2026-11.test:scripted": []})
SIZES = DISCOVERY._replace(send_bytes=DISCOVERY.receive_bytes)


async def serve() -> None:
    """Be the target, for one connection."""
    channel = EventChannel()
    listener = Listener(channel, SockAddr.parse("10.9.0.2:3260"), sizes=SIZES)
    print("listening", flush=True)
    connection, target = await listener.request(), FakeTarget(SCRIPT)
    await connection.accept(PRIVATE_DATA)
    with contextlib.suppress(RdmactlError):
        while True:
            for answer in target.receive(unwrap(await connection.receive())):
                await connection.send(wrap(answer))
    await connection.close()
    listener.close()


def test_the_port_on_the_wire_is_told() -> None:
    sh("siw map; ip link set lo up; two_stacks; modprobe rdma_ucm")
    mapper = Mapper()
    if HOST == "B":
        words = [*IN_RNIC, sys.executable, "-m", "tests.lab.test_iser_port_mapper"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as target:
            assert target.stdout is not None
            assert target.stdout.readline() == "listening\n"
            here("target-ready")
            there("ping-done")
            target.terminate()
    else:
        there("target-ready")
        words = [*IN_RNIC, RDMACTL, "iser", "ping", "10.9.0.2", "-n", "iqn.2026-11.test:me", "-t", "30"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=90)
        here("ping-done")
        assert done.returncode == 0, done.stderr
        (told,) = (line for line in done.stdout.splitlines() if line.startswith("  port mapper "))
        asked, local, _, mapped, *_ = told.removeprefix("  port mapper ").split()
        assert asked == "asked:"
        assert local.startswith("10.9.0.1:")
        assert mapped.startswith("10.9.0.1:")
        assert mapped != local
    mapper.end()


if __name__ == "__main__":
    asyncio.run(serve())
