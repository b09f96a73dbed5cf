# SPDX-License-Identifier: Apache-2.0
"""The initiator service on the fake kernel and a fake target: the fake `World` of tests/initiator_scenarios.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.message import NETLINK_KOBJECT_UEVENT, NETLINK_ROUTE, build
from rdmactl.netlink.ports import ChannelSpec
from rdmactl.netlink.route import RTM_NEWADDR, RTNLGRP_IPV4_IFADDR
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.netlink.uevent import GROUP_KERNEL
from tests import iscsi_class_contract as contract
from tests.fake.iscsi_sysfs import FakeSysfs
from tests.fake.kernel import FakeKernel, FakeKernels, FakeSocket
from tests.fake.scsi_transport_iscsi import HANDLES, FakeIscsiClass, FakePortal
from tests.fake.target import FakeTarget, TargetScript

DEADLINE_S = 20.0
ISER_PORTAL = Portal("10.9.0.1", 3260)


class FakeWorld:
    """One target, reachable over both transports. TCP connections are real ones, on loopback, but carry nothing."""

    settle_s = 10.0
    patience_s = 0.1
    login_tries = 1
    target = "iqn.2005-03.org.example:t1"

    def __init__(self, directory: Path, script: TargetScript | None = None) -> None:
        self.tree = FakeSysfs(directory)
        self.root = str(directory)
        self.kernel = FakeIscsiClass(self.tree)
        self.script = script or TargetScript()
        self.connections: list[FakeTarget] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = socket.create_server(("127.0.0.1", 0))
        self._tcp = Portal(*self._listener.getsockname())
        self._refused = Portal(*self._closed.getsockname())
        self._closed.close()
        self._others: list[socket.socket] = []
        self.iser, self.tcp = FakePortal(self._peer), FakePortal(self._peer)
        self.kernel.portals[self._tcp] = self.tcp
        self.kernel.portals[ISER_PORTAL] = self.iser
        self.routes = FakeRoutes()
        self.runtime = f"{directory}/run"
        self.moves: list[tuple[LoginRequest, Portal]] = []  # what the records were told
        self.devices = FakeDevices()
        self.door = FakeKernels(self.kernel, self.routes, self.devices).open
        self.dispatcher = Dispatcher(self.door)

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await self._start()
            try:
                await scenario()
            finally:
                await self.dispatcher.stop(DEADLINE_S)

        try:
            asyncio.run(main())
        finally:
            for listener in (self._listener, *self._others):
                listener.close()
        assert self.kernel.violations == []

    async def _start(self) -> None:
        self.dispatcher.add("initiator", self._service)
        await self.dispatcher.start(DEADLINE_S)
        await self.dispatcher.wait_ready(DEADLINE_S)

    def _service(self) -> InitiatorService:
        return InitiatorService(
            self.root,
            runtime=self.runtime,
            record_moved=self._record_moved,
            ready_transport=lambda name, _: HANDLES[name],
        )

    def _record_moved(self, request: LoginRequest, home: Portal) -> bool:
        self.moves.append((request, home))
        return True

    async def call(self, function: Callable[[InitiatorService], Awaitable[Any]]) -> Any:
        return await self.dispatcher.call("initiator", function, deadline_s=DEADLINE_S)

    async def restart(self) -> None:
        await self.dispatcher.stop(DEADLINE_S)
        self.dispatcher = Dispatcher(self.door)
        await self._start()

    def portal(self, transport: str) -> Portal:
        return self._tcp if transport == "tcp" else ISER_PORTAL

    def add_portal(self, transport: str) -> Portal:
        """One more portal of the target."""
        portal = Portal("10.9.0.2", 3260)
        if transport == "tcp":
            self._others.append(socket.create_server(("127.0.0.1", 0)))
            portal = Portal(*self._others[-1].getsockname())
        self.kernel.portals[portal] = FakePortal(self._peer)
        return portal

    @contextlib.contextmanager
    def as_somebody_else(self) -> Iterator[contract.Class]:
        """Requests to the kernel from outside the service; what they make stays."""
        yield contract.Class(FakePlace(self.kernel, self._listener))

    def refused(self, transport: str) -> Portal:
        return self._refused if transport == "tcp" else Portal("10.9.0.99", 3260)

    def break_connection(self, sid: int) -> None:
        self.kernel.fail(sid, 1011)

    def leftovers(self) -> list[str]:
        left = [f"session {found.sid}" for found in sysfs.sessions(self.root)]
        left += [f"host {found.host_no}" for found in sysfs.hosts(self.root)]
        return left + [f"endpoint {number}" for number in self.kernel.endpoints]

    def _peer(self) -> FakeTarget:
        target = FakeTarget(self.script)
        self.connections.append(target)
        return target


class FakeRoutes(FakeKernel):
    """NETLINK_ROUTE, of which only news are wanted here."""

    family = NETLINK_ROUTE

    def address_comes(self) -> None:
        """RTM_NEWADDR, on the group of IPv4 addresses."""
        self.multicast(RTNLGRP_IPV4_IFADDR, build(RTM_NEWADDR, bytes(8), flags=0))


class FakeDevices(FakeKernel):
    """NETLINK_KOBJECT_UEVENT: devices that come and go."""

    family = NETLINK_KOBJECT_UEVENT

    def event(self, action: str, subsystem: str) -> None:
        """Of a device of some subsystem."""
        path = f"/devices/virtual/{subsystem}/rxe0"
        text = f"{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0SEQNUM=7\0"
        self.multicast(GROUP_KERNEL, text.encode())


class SilentTarget:
    """Takes everything and answers nothing."""

    closed = False

    def receive(self, pdu: object) -> list[object]:
        return []


class FakePlace:
    """A `Place` of tests/iscsi_class_contract.py."""

    def __init__(self, kernel: FakeIscsiClass, listener: socket.socket) -> None:
        self.root = str(kernel.sysfs.root)
        self._kernel = kernel
        self._listener = listener
        kernel.portals.setdefault(("10.9.0.1", 3260), FakePortal(SilentTarget))
        kernel.portals[("10.9.0.77", 3260)] = FakePortal(SilentTarget, mode="silent")
        kernel.portals.setdefault(listener.getsockname(), FakePortal(SilentTarget))

    def door(self, spec: ChannelSpec) -> FakeSocket:
        return self._kernel.open(spec)

    def handle(self, transport: str) -> int:
        return HANDLES[transport]

    def iser_portal(self) -> SockAddr:
        return SockAddr.parse("10.9.0.1:3260")

    def iser_refused(self) -> SockAddr:
        return SockAddr.parse("10.9.0.1:3999")

    def iser_silent(self) -> SockAddr:
        return SockAddr.parse("10.9.0.77:3260")

    def listener(self) -> socket.socket:
        return self._listener
