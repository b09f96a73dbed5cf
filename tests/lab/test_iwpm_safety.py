# SPDX-License-Identifier: Apache-2.0
"""Safe from its own host and from the network: foreign HELLO, addresses served, storms, no ports, no descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmactl.control.client import Client
from rdmactl.iwpm.spares import STOCK
from rdmactl.netlink.message import NETLINK_RDMA
from tests.lab.guest import sh, wait_for
from tests.lab.mapper_world import (
    Listeners,
    Mapper,
    Rping,
    build_listeners,
    is_taken,
    kept,
    ports,
    rping_client,
    set_up,
)

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438  # the same number on all architectures
SO_RCVBUFFORCE = 33

# HELLO, ABI version 4, from a socket of an unprivileged process.
HELLO = """
import os, socket, struct
os.setuid(65534)
s = socket.socket(16, socket.SOCK_RAW, 20); s.bind((0, 0)); pid = s.getsockname()[0]
s.send(struct.pack('=IHHII', 24, 0x0808, 1, 0, pid) + struct.pack('=HHHH', 6, 1, 4, 0))
print(s.recv(8192)[:4].hex())
"""


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    set_up()
    build_listeners()


@pytest.fixture
def mapper() -> Iterator[Mapper]:
    mapper = Mapper()
    yield mapper
    sh("pkill -x rping; pkill -x listeners; true")
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")
    assert mapper.end() == 0, mapper.text()


def counters() -> dict[str, int]:
    with Client("iwpm", deadline_s=30) as client:
        found: dict[str, int] = client.call("io.rdmactl.PortMapper.Status", {})["counters"]
        return found


def descriptors(mapper: Mapper) -> int:
    return len(os.listdir(f"/proc/{mapper.process.pid}/fd"))


def served() -> set[str]:
    """Addresses on which UDP port 3935 is served."""
    words = [line.split()[3] for line in sh("ss -lunH 'sport = 3935'").splitlines()]
    return {word.rpartition(":")[0].partition("%")[0].strip("[]") for word in words}


def test_an_unprivileged_hello_is_noticed_and_taken_back(mapper: Mapper) -> None:
    for number in (1, 2):
        before = mapped(mapper, f"10.9.0.1:{7100 + number}")  # the kernel knows us now
        time.sleep(1.5)  # nothing to wait for: REG_PID a moment after our own is taken for a straggler of it
        sh(f"{sys.executable} - <<'END'\n{HELLO}\nEND")
        after = mapped(mapper, f"10.9.0.1:{7200 + number}")  # in spite of it
        alarm = "another process had taken over"
        wait_for(lambda: mapper.text().count(alarm) == number, "the alarm")  # noqa: B023
        wait_for(lambda: counters()["reports"] > number, "the check")  # noqa: B023
        before.close()
        after.close()
        wait_for(lambda: mapper.mappings() == {}, "the mappings to end")


def mapped(mapper: Mapper, local: str) -> Rping:
    listener = Rping(local)
    wait_for(lambda: mapper.mappings().get(local, local) != local, "the mapping")
    return listener


def test_messages_of_other_processes_are_counted_and_ignored(mapper: Mapper) -> None:
    before = counters()
    local = struct.pack("=H", 2) + struct.pack(">H", 7174) + bytes([10, 9, 0, 1]) + bytes(120)
    body = struct.pack("=HHI", 8, 1, 1) + struct.pack("=HH", 132, 2) + local + struct.pack("=HHI", 8, 3, 0)
    with socket.socket(16, socket.SOCK_RAW, 20) as other:
        other.bind((0, 0))
        message = struct.pack("=IHHII", 16 + len(body), 0x0801, 1, 77, other.getsockname()[0]) + body
        for _ in range(20):
            other.sendto(message, (mapper.process.pid, 0))
    wait_for(lambda: lane_counter("foreign") >= 20, "the count")
    assert mapper.mappings() == {}
    assert counters()["requests"] == before["requests"]


def lane_counter(name: str) -> int:
    with Client("iwpm", deadline_s=30) as client:
        lanes = client.call("io.rdmactl.Daemon.Status", {})["lanes"]
    return int(lanes[0]["counters"][name])


def test_only_addresses_of_iwarp_devices_are_served(mapper: Mapper) -> None:
    """They are followed; with a device whose interface cannot be seen here, all addresses are."""
    loopback = {"127.0.0.1", "::1"}
    sh("ip netns exec rnic rdma link del siw0")
    wait_for(lambda: served() == loopback, "no address but loopback")
    sh("rdma link add siw1 type siw netdev d0")
    wait_for(lambda: served() >= loopback | {"10.9.0.1", "fd09::1"}, "the device's addresses")
    assert served() <= loopback | {
        "10.9.0.1",
        "fd09::1",
        *sh("ip -6 -br address show dev d0").replace("/", " ").split(),
    }
    sh("ip address add 10.9.7.1/24 dev d0")
    wait_for(lambda: "10.9.7.1" in served(), "a new address")
    sh("ip link add link d0 name d0.5 type vlan id 5; ip address add 10.9.5.1/24 dev d0.5; ip link set d0.5 up")
    wait_for(lambda: "10.9.5.1" in served(), "the address of a VLAN")
    sh("ip link add x0 type dummy; ip address add 10.8.0.1/24 dev x0; ip link set x0 up; ip link del d0.5")
    wait_for(lambda: "10.9.5.1" not in served(), "the VLAN to go")
    sh("ip address del 10.9.7.1/24 dev d0")
    wait_for(lambda: "10.9.7.1" not in served(), "the address to go")
    assert "10.8.0.1" not in served()
    sh("rdma link del siw1; ip netns exec rnic rdma link add siw0 type siw netdev va")
    wait_for(lambda: served() & {"0.0.0.0", "*", "::"}, "all addresses")
    listener = Rping("10.9.0.1:7174")
    wait_for(lambda: "10.9.0.1:7174" in mapper.mappings(), "the mapping")
    listener.close()


def test_an_address_goes_while_it_is_mapped(mapper: Mapper) -> None:
    """The adapter may still use the port: it stays claimed until the listener ends; the others see nothing of it."""
    sh("ip address add 10.9.7.1/24 dev d0; ip -n rnic address add 10.9.7.1/24 dev va")
    listener = mapped(mapper, "10.9.7.1:7174")
    before = mapper.mappings()
    sh("ip address del 10.9.7.1/24 dev d0; ip -n rnic address del 10.9.7.1/24 dev va")
    other = mapped(mapper, "10.9.0.1:7175")
    assert rping_client("10.9.0.1:7175")
    assert before.items() <= mapper.mappings().items()
    assert all(is_taken(port) for port in ports(before))
    listener.close()
    wait_for(lambda: set(mapper.mappings()) == {"10.9.0.1:7175"}, "the mapping to end")
    wait_for(lambda: not any(is_taken(port) for port in ports(before)), "its port to be free")
    other.close()


def test_a_lost_multicast_is_noticed(mapper: Mapper) -> None:
    """The kernel asks who is there and finds our socket full: ENOBUFS. It would never ask again."""
    before = mapped(mapper, "10.9.0.1:7174")
    kept_mapping = mapper.mappings()
    sh(f"{sys.executable} - <<'END'\n{HELLO}\nEND")
    with stopped_and_full(mapper):
        unmapped = Rping("10.9.0.1:7175")
        wait_for(lambda: ":7175 " in sh("ip netns exec rnic ss -ltnH"), "the listener")
    wait_for(lambda: counters()["overruns"] >= 1, "the loss to be counted")
    wait_for(lambda: counters()["reports"] > 1, "the check")
    after = mapped(mapper, "10.9.0.1:7176")
    assert kept_mapping.items() <= mapper.mappings().items()
    for listener in (before, unmapped, after):
        listener.close()


def test_a_lost_remove_is_made_good(mapper: Mapper) -> None:
    """A REMOVE that does not fit makes the kernel forget us, and nobody says so: an unmapped listener does."""
    gone = mapped(mapper, "10.9.0.1:7174")
    stay = mapped(mapper, "10.9.0.1:7175")
    with stopped_and_full(mapper):
        gone.close()
    unmapped = Rping("10.9.0.1:7176")
    wait_for(lambda: "10.9.0.1:7176" in mapper.text(), "the alarm", limit_s=150)
    wait_for(lambda: "10.9.0.1:7174" not in mapper.mappings(), "what is gone to be dropped")
    after = mapped(mapper, "10.9.0.1:7177")
    assert "10.9.0.1:7175" in mapper.mappings()
    for listener in (stay, unmapped, after):
        listener.close()


@contextlib.contextmanager
def stopped_and_full(mapper: Mapper) -> Iterator[None]:
    """The daemon does not run, and nothing more fits into its socket."""
    os.kill(mapper.process.pid, signal.SIGSTOP)
    with (
        its_socket(mapper.process.pid) as sock,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_RDMA) as other,
    ):
        usual = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        other.bind((0, 0))
        message = struct.pack("=IHHII", 20, 0x0801, 1, 0, other.getsockname()[0]) + bytes(4)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(message, socket.MSG_DONTWAIT, (mapper.process.pid, 0))
        yield
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, usual // 2)
    os.kill(mapper.process.pid, signal.SIGCONT)


def its_socket(pid: int) -> socket.socket:
    """The daemon's own socket for NETLINK_RDMA, shared with it."""
    pidfd = os.pidfd_open(pid)
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{entry}").startswith("socket:"):
                sock = socket.socket(fileno=LIBC.syscall(PIDFD_GETFD, pidfd, int(entry), 0))
                if (sock.family, sock.proto) == (socket.AF_NETLINK, NETLINK_RDMA):
                    return sock
                sock.close()
    finally:
        os.close(pidfd)
    raise AssertionError("iwpmd has no such socket")


def test_a_storm_leaves_nothing(mapper: Mapper) -> None:
    """Thousands of listeners, refused ones among them, garbage on UDP: descriptors and table are as before."""
    Listeners(10).close()  # what is claimed in advance is there now
    wait_for(lambda: mapper.mappings() == {}, "the first listeners to end")
    before = descriptors(mapper)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for first in range(256):
            for length in (0, 47, 48, 64, 65, 1400):
                peer.sendto((bytes([first]) * length), ("10.9.0.1", 3935))
    for _ in range(3):
        listeners = Listeners(500)
        listeners.move(500)
        listeners.said("moved")
        listeners.close()
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")
    wait_for(lambda: abs(descriptors(mapper) - before) <= 10, "all descriptors to be closed")
    wait_for(lambda: len(kept()) <= STOCK, "the keeper to let go")


def test_no_port_is_free(mapper: Mapper) -> None:
    """The kernel is told at once, the application goes on unmapped, and the daemon with it."""
    usual = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    sh("echo 40000 40019 > /proc/sys/net/ipv4/ip_local_port_range")
    listeners = Listeners(STOCK + 60)
    assert counters()["claim_failures"] >= 40
    assert counters()["refusals"] >= 40
    listeners.close()
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(usual)
    listeners = Listeners(60)
    assert len(mapper.mappings()) == 60
    assert all(local != mapped for local, mapped in mapper.mappings().items())
    listeners.close()


def test_no_descriptor_is_left(mapper: Mapper) -> None:
    """Some are held back, so that the daemon can still be asked; afterwards all is as before."""
    limit = descriptors(mapper) + 100
    usual = resource.prlimit(mapper.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mapper.process.pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
    listeners = Listeners(200 + STOCK)
    assert counters()["claim_failures"] >= 90
    resource.prlimit(mapper.process.pid, resource.RLIMIT_NOFILE, usual)
    listeners.close()
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")
    listeners = Listeners(200)
    assert len([local for local, mapped in mapper.mappings().items() if local != mapped]) == 200
    listeners.close()


def test_what_ends_during_a_pause_is_not_left_over(mapper: Mapper) -> None:
    """Stopped while hundreds of listeners end: all of that is heard of afterwards."""
    listeners = Listeners(200)
    os.kill(mapper.process.pid, signal.SIGSTOP)
    assert listeners.process.stdin is not None
    listeners.process.stdin.close()
    os.kill(mapper.process.pid, signal.SIGCONT)
    assert listeners.process.wait(120) == 0
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")


def test_rdma_cores_mapper_is_refused_while_ours_runs(mapper: Mapper) -> None:
    """It wants UDP port 3935 on all addresses; loopback is always ours."""
    done = subprocess.run(["/usr/sbin/iwpmd", "--systemd"], timeout=60, check=False, capture_output=True)
    assert done.returncode == 1
    listener = Rping("10.9.0.1:7174")
    wait_for(lambda: "10.9.0.1:7174" in mapper.mappings(), "the mapping")
    listener.close()
