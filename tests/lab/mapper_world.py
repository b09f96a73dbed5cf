# SPDX-License-Identifier: Apache-2.0
"""iwpmd on a real kernel with a soft-iWARP that uses mapped ports: the real `tests.scenarios.iwpm.World`.

For the lab's virtual machine only. The adapter's TCP stack is the network namespace `rnic`, with the same address as
the host: a port that is claimed on the host and one that is listened on by the adapter are then two things, as with
hardware.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rdmactl.control.client import Client
from rdmactl.errors import RdmactlError
from rdmactl.iwpm import keeper
from tests.lab.guest import HOST, here, sh, there, wait_for

ROOT = Path(__file__).resolve().parents[2]
C_IWPMD = "/usr/sbin/iwpmd"
KEEPER = "/run/rdmactl/iwpm-keeper.sock"
IN_RNIC = ("ip", "netns", "exec", "rnic")


def set_up() -> None:
    """One host: 10.9.0.1 and fd09::1 on the host's stack (d0) and on the adapter's (va, in namespace rnic)."""
    sh("""
        siw map
        modprobe -a dummy veth
        ip link set lo up
        ip link add d0 type dummy
        ip address add 10.9.0.1/24 dev d0; ip address add fd09::1/64 dev d0 nodad; ip link set d0 up
        ip netns add rnic; ip link add va type veth peer name vb; ip link set va netns rnic; ip link set vb up
        ip -n rnic address add 10.9.0.1/24 dev va; ip -n rnic address add fd09::1/64 dev va nodad
        ip -n rnic link set va up; ip -n rnic link set lo up
        ip netns exec rnic rdma link add siw0 type siw netdev va
    """)


class Mapper:
    """An iwpmd process, ours or rdma-core's. `log` is its standard error."""

    def __init__(self, command: str = "") -> None:
        words = [command] if command else [sys.executable, "-m", "rdmactl.daemons.iwpmd"]
        self.log = Path(f"/tmp/iwpmd-{time.monotonic_ns()}.log")
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*words, "--systemd"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(_udp_is_open if command else self.is_ready, "iwpmd to be ready")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"iwpmd ended: {self.text()}"
        try:
            with Client("iwpm", deadline_s=10) as client:
                return all(lane["ready"] for lane in client.call("io.rdmactl.Daemon.Status", {})["lanes"])
        except RdmactlError:
            return False

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def mappings(self) -> dict[str, str]:
        with Client("iwpm", deadline_s=10) as client:
            found = list_mappings(client)
        return {item["local"]: item["mapped"] for item in found}

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=30)


def list_mappings(client: Client) -> list[dict[str, Any]]:
    """What `iwpmctl list` asks for."""
    parts = client.more("io.rdmactl.PortMapper.List", deadline_each=True)
    return [mapping for part in parts for mapping in part["mappings"]]


def _udp_is_open() -> bool:
    return ":0F5F" in Path("/proc/net/udp").read_text()


class Rping:
    """`rping -s` in the adapter's namespace, or elsewhere: `inside` are the words that lead there."""

    def __init__(self, local: str, inside: tuple[str, ...] = IN_RNIC) -> None:
        self.local = local
        host, _, port = local.rpartition(":")
        words = ["rping", "-s", "-P", "-a", host.strip("[]"), "-p", port]
        self.process = subprocess.Popen(
            [*inside, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def rping_client(remote: str, *, inside: tuple[str, ...] = IN_RNIC, limit_s: float = 40) -> bool:
    """Two pings to `remote`; whether they came back. After a refusal rping would wait for ever.

    rping gives address and route 2 s each, which is little on a busy machine: it is asked again until they are found.
    """
    end = time.monotonic() + 3 * limit_s
    while True:
        answered, said = _rping_once(remote, inside, limit_s)
        if not answered:
            print(f"rping to {remote}: {said or 'silent until killed'}")
        unresolved = "ADDR_ERROR" in said or "ROUTE_ERROR" in said
        if answered or not unresolved or time.monotonic() > end:
            return answered


def _rping_once(remote: str, inside: tuple[str, ...], limit_s: float) -> tuple[bool, str]:
    host, _, port = remote.rpartition(":")
    words = ["stdbuf", "-oL", "-eL", "rping", "-c", "-a", host.strip("[]"), "-p", port, "-C", "2"]
    with subprocess.Popen(
        [*inside, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        end = time.monotonic() + limit_s
        said = b""
        while process.poll() is None:
            with contextlib.suppress(BlockingIOError):
                said += process.stdout.read() or b""
            if b"error" in said or time.monotonic() > end:
                process.kill()
                return False, said.decode(errors="replace")
            time.sleep(0.02)
        said += process.stdout.read() or b""
        return process.returncode == 0, said.decode(errors="replace")


class RealWorld:
    """The host of `set_up`, with our iwpmd."""

    host, host6 = "10.9.0.1", "[fd09::1]"

    def __init__(self) -> None:
        self.mapper = Mapper()

    def listen(self, local: str) -> Rping:
        listener = Rping(local)
        wait_for(lambda: local in self.mappings(), f"{local} to be mapped")
        return listener

    def connect(self, remote: str) -> bool:
        return rping_client(remote)

    def mappings(self) -> dict[str, str]:
        return self.mapper.mappings()

    def claimed(self, port: int) -> bool:
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return True
            return False

    def restart(self) -> None:
        self.mapper.end(signal.SIGKILL)
        self.mapper = Mapper()


def build_listeners() -> None:
    sh("gcc -O2 -o /tmp/listeners tests/lab/listeners.c -lrdmacm")


class Listeners:
    """`count` listeners of one process, on ports from `first`; `move` ends the oldest ones and makes as many new."""

    def __init__(self, count: int, first: int = 10000) -> None:
        self.process = subprocess.Popen(
            [*IN_RNIC, "/tmp/listeners", "10.9.0.1", str(first), str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self.said("ready")

    def said(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def move(self, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(120) == 0


def kept() -> set[int]:
    """The ports the keeper holds."""
    ports = set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(30)
        client.connect(KEEPER)
        client.send(keeper.LIST)
        while True:
            data, descriptors, _, _ = socket.recv_fds(client, keeper.DATAGRAM_BYTES, keeper.BATCH)
            for descriptor in descriptors:
                os.close(descriptor)
            if data == keeper.END:
                return ports
            ports |= {int.from_bytes(data[at + 2 : at + 4], "big") for at in range(1, len(data), keeper.NAME_BYTES)}


def ports(mappings: dict[str, str]) -> set[int]:
    return {int(mapped.rpartition(":")[2]) for mapped in mappings.values()}


def stop_keeper() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(KEEPER)
        client.send(keeper.QUIT)
    wait_for(lambda: not Path(KEEPER).exists(), "the end of the keeper")


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return True
    return False


LISTENERS = ("10.9.0.2:7174", "[fd09::2]:7175")


def interoperate(name: str, active: str, passive: str, inside: tuple[str, ...] = IN_RNIC) -> None:
    """Host A's mapper is `active`, B's is `passive` ("": ours); A connects to B over IPv4 and IPv6, then B's mapper is
    killed and started again, and A connects once more. Both hosts call this.

    Ours is ready only when it has its mappings, so between two of ours the first attempt has to succeed. rdma-core's
    opens its UDP port first and refuses what it does not know yet, and a connection that it asked for was seen to stay
    silent: with it on either side there are several attempts.
    """

    def connect() -> None:
        for remote in LISTENERS:
            ping = functools.partial(rping_client, remote, inside=inside)
            if active or passive:
                wait_for(ping, f"an answer of {remote}", limit_s=120)
            else:
                assert ping(), f"{remote}: {mapper.text()}\n{sh('dmesg | tail -40')}"

    if HOST == "B":
        mapper = Mapper(passive)
        in_stack = " ".join((*inside, "ss -ltnH"))
        wait_for(lambda: not sh(in_stack).strip(), "earlier listeners to be gone")
        listeners = [Rping(local, inside) for local in LISTENERS]
        wait_for(lambda: len(sh(in_stack).splitlines()) >= len(LISTENERS), "the listeners")
        here(f"{name}-listening")
        there(f"{name}-connected")
        mapper.end(signal.SIGKILL)
        mapper = Mapper(passive)
        here(f"{name}-restarted")
        there(f"{name}-done")
        for listener in listeners:
            listener.close()
        mapper.end()
    else:
        mapper = Mapper(active)
        there(f"{name}-listening")
        connect()
        here(f"{name}-connected")
        there(f"{name}-restarted")
        connect()
        here(f"{name}-done")
        mapper.end()
