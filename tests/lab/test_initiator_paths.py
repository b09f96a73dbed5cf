# SPDX-License-Identifier: Apache-2.0
# lab: --hosts 2 --timeout 900
"""Sessions between two hosts whose path breaks and comes back, under I/O that is verified: no operation fails.

A is the target, B the initiator, each with soft-RoCE on eth0. What breaks breaks on B; the target's restart is A's.

Soft-RoCE sends without a route as well, so that one is for TCP alone. After its link was down under a connection
nobody gets another until the device is made anew (docs/recovery.md): what mends the link does that.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest

from rdmactl.initiator import sysfs
from tests.initiator_scenarios import FAST, eventually, login, logout, recovered, request
from tests.lab import initiator_world as lab
from tests.lab.guest import HOST, here, sh, there
from tests.lab.initiator_world import RealWorld

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TARGETS_SIDE = pytest.mark.skipif(HOST == "B", reason="this host is the initiator")
INITIATORS_SIDE = pytest.mark.skipif(HOST == "A", reason="this host is the target")
TRANSPORTS = ("tcp", "iser")
NETWORK = "10.9.0.0/24"
REMAKE = "rdma link delete rxe0; rdma link add rxe0 type rxe netdev eth0"
WHOLE_FILE_S = 850
# The kernel notices a silent path by its own NOPs; what waits meanwhile waits for long enough.
SETTINGS = replace(FAST, initial_login_retry_max=8, login_timeout_s=10.0, noop_out_interval_s=2, noop_out_timeout_s=2)

WAYS = {
    "other address": ("ip address del 10.9.0.2/24 dev eth0", "ip address add 10.9.0.3/24 dev eth0"),
    "route": (f"ip route del {NETWORK}", f"ip route add {NETWORK} dev eth0 src 10.9.0.2"),
    "link": ("ip link set eth0 down", "ip link set eth0 up"),
    "link and RDMA device": ("ip link set eth0 down", f"ip link set eth0 up; {REMAKE}"),
    "RDMA device": ("rdma link delete rxe0", "rdma link add rxe0 type rxe netdev eth0"),
}


class FarWorld(RealWorld):
    """As the real one, and the path may take its time."""

    settle_s = 120.0


@pytest.fixture(scope="module", autouse=True)
def hosts() -> None:
    number = 1 if HOST == "A" else 2
    sh(f"modprobe virtio_net; wait_for 10 'ip link show eth0'; link rxe0 rxe eth0 10.9.0.{number}/24")
    if HOST == "A":
        sh(f"""
            target {lab.TARGET} {lab.ADDRESS}:{lab.ISER.port} iser
            target {lab.TARGET} {lab.ADDRESS}:{lab.TCP.port} tcp
        """)
        here("serves")
    else:
        sh("modprobe -a ib_iser iscsi_tcp sd_mod")
        there("serves")


@TARGETS_SIDE
def test_the_target_serves_and_is_restarted() -> None:
    for transport in TRANSPORTS:
        there(f"off-{transport}", limit_s=WHOLE_FILE_S)
        lab.attribute("enable", "0")
        here(f"is-off-{transport}")
        there(f"on-{transport}", limit_s=WHOLE_FILE_S)
        lab.attribute("enable", "1")
        here(f"is-on-{transport}")
    there("end", limit_s=WHOLE_FILE_S)


class Checker:
    """Verified I/O on the disk of a session."""

    def __init__(self, sid: int) -> None:
        command = [sys.executable, "-m", "tests.lab.verified_io", lab.disk_of(sid), str(sid)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "running\n"

    def end(self) -> str:
        assert self._process.poll() is None, "I/O failed"
        self._process.terminate()
        said, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0
        return said.strip()


async def outlives(world: RealWorld, transport: str, breaks: str, mends: str) -> None:
    """A session that is lost by `breaks` comes back with `mends`, and whoever does I/O has only waited."""
    sid = await login(world, request(world, transport, SETTINGS))
    checker = Checker(sid)
    await asyncio.to_thread(sh, breaks)
    try:
        await eventually(world, lambda: _state(sid) == "FAILED", "the loss is not noticed")
    finally:  # whatever happens here, the next test finds a path
        await asyncio.to_thread(sh, mends)
    await recovered(world)
    said = await asyncio.to_thread(checker.end)
    print(f"{transport}: {said}")
    await logout(world, sid)
    await eventually(world, lambda: world.leftovers() == [], "something is left")


def _state(sid: int) -> str | None:
    found = sysfs.session(sid)
    return None if found is None else found.state


@INITIATORS_SIDE
@pytest.mark.parametrize(
    ("way", "transport"),
    [
        ("other address", "tcp"),
        ("other address", "iser"),
        ("route", "tcp"),
        ("link", "tcp"),
        ("link and RDMA device", "iser"),
        ("RDMA device", "iser"),
    ],
)
def test_the_path_goes_and_comes(way: str, transport: str) -> None:
    world = FarWorld()
    world.run(lambda: outlives(world, transport, *WAYS[way]))
    sh("ip address flush dev eth0; ip address add 10.9.0.2/24 dev eth0")


@INITIATORS_SIDE
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_target_restarts(transport: str) -> None:
    share = 'touch "$LAB_SHARE/at-B-{0}-{1}"; wait_for 60 "[ -e $LAB_SHARE/at-A-is-{0}-{1} ]"'
    world = FarWorld()
    world.run(lambda: outlives(world, transport, share.format("off", transport), share.format("on", transport)))


@INITIATORS_SIDE
def test_the_target_may_go() -> None:
    assert lab.kernel_stumbled() == []
    here("end")
