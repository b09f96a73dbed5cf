# SPDX-License-Identifier: Apache-2.0
"""iwpmd on a real kernel, one host: the common scenarios, signals, and rdma-core's iwpmd as predecessor."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from rdmactl.control.client import Client
from tests.lab.guest import sh, wait_for
from tests.lab.mapper_world import C_IWPMD, ROOT, Mapper, RealWorld, Rping, rping_client, set_up, stop_keeper
from tests.scenarios.iwpm import SCENARIOS, Scenario, settle

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    set_up()


@pytest.fixture
def world() -> Iterator[RealWorld]:
    world = RealWorld()
    yield world
    sh("pkill -x rping || true")
    settle(lambda: world.mappings() == {}, "all mappings to end")
    assert world.mapper.end() == 0, world.mapper.text()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(world: RealWorld, scenario: Scenario) -> None:
    scenario(world)


def test_the_remote_address_is_the_real_one(world: RealWorld) -> None:
    """REMOTE_INFO is there before the connection, once, and is consumed: nothing is left in the kernel."""
    sh("""
        mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
        echo 'module iw_cm +p' > /sys/kernel/debug/dynamic_debug/control
        dmesg --clear
    """)
    listener = world.listen("10.9.0.1:7174")
    assert world.connect(listener.local)
    told = re.findall(r"\] remote_info: Remote sockaddr: IPV4 (.*)", sh("dmesg"))
    found = re.findall(r"\] get_remote_info: Remote sockaddr: IPV4 (.*)", sh("dmesg"))
    assert len(told) == 1
    assert found == told
    with Client("iwpm", deadline_s=10) as client:
        counters = client.call("io.rdmactl.PortMapper.Status", {})["counters"]
    assert (counters["peer_accepts"], counters["kernel_refused"]) == (1, 0)
    listener.close()


def test_sigusr1(world: RealWorld) -> None:
    """The lines programs know, newest mapping first."""
    first = world.listen("10.9.0.1:7174")
    second = world.listen("[fd09::1]:7175")
    world.mapper.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "Mapping #1" in world.mapper.text(), "the dump")
    lines = re.sub(r"(?m)^.*iwpmd(\[\d+\])?: ", "", world.mapper.text())
    mapped = world.mappings()
    ports = [int(mapped[local].rpartition(":")[2]) for local in (second.local, first.local)]
    assert lines[lines.index("iwpm_signal") :].splitlines()[:8] == [
        "iwpm_signal_handler: Received SIGUSR1 signal",
        "print_iwpm_mapped_ports:",
        "Mapping #0",
        "Local address IPV6 fd09::1:7175(0x1C07)",
        f"Mapped address IPV6 fd09::1:{ports[0]}(0x{ports[0]:04X})",
        "Mapping #1",
        "Local address IPV4 10.9.0.1:7174(0x1C06)",
        f"Mapped address IPV4 10.9.0.1:{ports[1]}(0x{ports[1]:04X})",
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 1)])
def test_signals_that_end_it(number: signal.Signals, status: int) -> None:
    assert Mapper().end(number) == status


def test_a_second_one_is_refused(world: RealWorld) -> None:
    """By name, and the first one is not disturbed; so is ours while rdma-core's runs."""
    done = subprocess.run(
        [sys.executable, "-m", "rdmactl.daemons.iwpmd", "--systemd"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert str(world.mapper.process.pid).encode() in done.stderr
    world.listen("10.9.0.1:7174").close()


def test_rdma_cores_is_succeeded() -> None:
    """Live mappings of rdma-core's iwpmd are taken over with their ports, and the other way round."""
    predecessor = Mapper(C_IWPMD)
    listener = Rping("10.9.0.1:7174")
    wait_for(lambda: sh("ip netns exec rnic ss -ltnH").strip(), "the listener")
    predecessor.end(signal.SIGKILL)
    ours = Mapper()
    assert list(ours.mappings()) == ["10.9.0.1:7174"]
    port = int(ours.mappings()["10.9.0.1:7174"].rpartition(":")[2])
    assert f":{port} " in sh("ip netns exec rnic ss -ltnH")
    assert rping_client("10.9.0.1:7174")
    ours.end(signal.SIGKILL)
    stop_keeper()  # as the manual page says: it would keep the ports from a successor that does not know it
    successor = Mapper(C_IWPMD)
    assert rping_client("10.9.0.1:7174")
    listener.close()
    successor.end()


def test_a_foreign_namespace_is_refused() -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", "rnic", sys.executable, "-m", "rdmactl.daemons.iwpmd", "--systemd"],
        cwd=ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"namespace" in done.stderr


def test_a_pause_is_noticed(world: RealWorld) -> None:
    """Stopped during a listen, for longer than the kernel waits: nothing is answered late, and all agree afterwards."""
    kept = world.listen("10.9.0.1:7174")
    before = world.mappings()
    os.kill(world.mapper.process.pid, signal.SIGSTOP)
    unmapped = Rping("10.9.0.1:7177")
    time.sleep(12)  # the kernel's own limit is 10 s: nothing can be waited for, and nothing shortens it
    os.kill(world.mapper.process.pid, signal.SIGCONT)
    wait_for(lambda: "did not run for" in world.mapper.text(), "the pause to be noticed")
    wait_for(lambda: "10.9.0.1:7177" in world.mappings(), "the kernel's record of the unmapped listener")
    assert world.mappings() == {**before, "10.9.0.1:7177": "10.9.0.1:7177"}
    assert world.connect("10.9.0.1:7177")
    assert world.connect("10.9.0.1:7174")
    kept.close()
    unmapped.close()


def test_a_flood_of_requests_and_garbage(world: RealWorld) -> None:
    """One source asks ten thousand times and sends all kinds of garbage: others are served, the kernel is spared."""
    sh("ip address add 10.9.0.9/32 dev d0 2>/dev/null || true")
    listener = world.listen("10.9.0.1:7174")
    request = bytes.fromhex("0400a0281c061389") + bytes(8) + bytes([10, 9, 0, 9]) + bytes(12)
    request += bytes([10, 9, 0, 1]) + bytes(12) + bytes([10, 9, 0, 9]) + bytes(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("10.9.0.9", 0))
        for length in range(70):
            for first in range(256):
                peer.sendto((bytes([first]) + request[1:] + bytes(10))[:length], ("10.9.0.1", 3935))
        for handle in range(10_000):
            peer.sendto(request[:8] + handle.to_bytes(8, "big") + request[16:], ("10.9.0.1", 3935))
        assert world.connect(listener.local)
    with Client("iwpm", deadline_s=10) as client:
        counters = client.call("io.rdmactl.PortMapper.Status", {})["counters"]
    assert counters["peer_dropped"] > 0
    assert counters["peer_limited"] + counters["peer_denied"] > 0
    assert counters["peer_accepts"] < 500  # those of one source in these seconds, and the connection's
    assert world.mapper.text().count("datagrams dropped by the kernel") == 1
    listener.close()
