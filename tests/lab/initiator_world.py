# SPDX-License-Identifier: Apache-2.0
"""The initiator service on this machine's kernel, with a LIO target on soft-RoCE: the real `World`.

For the lab's virtual machine only: it loads modules, makes network devices and a target.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rdmactl.initiator import sysfs
from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.dispatcher import Dispatcher
from tests.lab.guest import sh

DEADLINE_S = 90.0
TARGET = "iqn.2026-11.test:t0"
ADDRESS = "10.9.0.1"
ISER = Portal(ADDRESS, 3260)
TCP = Portal(ADDRESS, 3261)
GROUP = Path(f"/sys/kernel/config/target/iscsi/{TARGET}/tpgt_1")


def set_up() -> None:
    """One target with one disk: iSER on port 3260, TCP on 3261."""
    sh(f"""
        link rxe0 rxe dummy0 {ADDRESS}/24
        target {TARGET} {ADDRESS}:{ISER.port} iser
        target {TARGET} {ADDRESS}:{TCP.port} tcp
    """)


def attribute(name: str, value: str) -> None:
    """One attribute of the target's portal group, below tpgt_1. No newline: LIO would take it for a part of names."""
    (GROUP / name).write_text(value)


def second_portal(address: str, port: int, transport: str) -> None:
    """One more portal of the target, on an IPv6 address of its own."""
    sh(f"ip address replace {address}/64 dev dummy0 nodad; target {TARGET} '[{address}]:{port}' {transport}")


def no_portal(address: str, port: int) -> None:
    """Take it away again."""
    (GROUP / "np" / f"[{address}]:{port}").rmdir()


class RealWorld:
    """See `tests.initiator_scenarios.World`."""

    root = "/sys"
    target = TARGET
    settle_s = 45.0
    patience_s = 2.0
    login_tries = 8

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await self._start()
            try:
                await scenario()
            finally:
                await self.dispatcher.stop(DEADLINE_S)

        asyncio.run(main())

    async def _start(self) -> None:
        self.dispatcher.add("initiator", InitiatorService)
        await self.dispatcher.start(DEADLINE_S)
        await self.dispatcher.wait_ready(DEADLINE_S)

    async def call(self, function: Callable[[InitiatorService], Awaitable[Any]]) -> Any:
        return await self.dispatcher.call("initiator", function, deadline_s=DEADLINE_S)

    async def restart(self) -> None:
        await self.dispatcher.stop(DEADLINE_S)
        self.dispatcher = Dispatcher()
        await self._start()

    def portal(self, transport: str) -> Portal:
        return TCP if transport == "tcp" else ISER

    def refused(self, transport: str) -> Portal:
        return Portal(ADDRESS, 3999)

    def break_connection(self, sid: int) -> None:
        """The target throws everybody out, and takes them again."""
        attribute("enable", "0")
        attribute("enable", "1")

    def leftovers(self) -> list[str]:
        left = [f"session {found.sid}" for found in sysfs.sessions()]
        left += [f"host {found.host_no}" for found in sysfs.hosts()]
        return left + [f"endpoint {number}" for number in sysfs.endpoints()]


class Relay:
    """A TCP relay in front of a target, which can stop passing anything on without closing a connection."""

    def __init__(self, to: Portal) -> None:
        self._to = to
        self._gates: list[asyncio.Event] = []
        self._pumps: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, self._to.address, 0)
        self.portal = Portal(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()

    def fall_silent(self) -> None:
        """The connections there are; new ones work."""
        for gate in self._gates:
            gate.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._to.address, self._to.port)
        gate = asyncio.Event()
        gate.set()
        self._gates.append(gate)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._pumps.append(asyncio.ensure_future(self._pump(source, sink, gate)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        while data := await source.read(65536):
            await gate.wait()
            sink.write(data)
        sink.close()


def kernel_stumbled() -> list[str]:
    """Lines of the kernel log that must not be there."""
    words = ("BUG:", "Oops", "WARNING:", "general protection", "refcount_t", "use-after-free")
    return [
        line for line in subprocess.check_output(["dmesg"], text=True).splitlines() if any(w in line for w in words)
    ]


def disk_of(sid: int) -> str:
    """/dev node of the only disk of a session."""
    found = sysfs.session(sid)
    assert found is not None
    (lun,) = found.luns()
    assert lun.block_device is not None
    assert os.path.exists(f"/dev/{lun.block_device}")
    return f"/dev/{lun.block_device}"


def write_and_read(disk: str) -> bool:
    """Whether a block of a disk comes back as it was written, from the target and not from the page cache."""
    block = os.urandom(4096)
    with open(disk, "r+b", buffering=0) as device:
        device.write(block)
        os.fsync(device.fileno())
    sh(f"blockdev --flushbufs {disk}")
    with open(disk, "rb", buffering=0) as device:
        return device.read(len(block)) == block
