# SPDX-License-Identifier: Apache-2.0
"""The initiator on the fake kernel in situations that a real one makes too rarely or too slowly: hundreds of sessions
lost together, scans that do not end, a transport module that is loaded anew, another network namespace.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdmactl.daemons.initiator_role import initiator
from rdmactl.initiator import scan, sysfs
from rdmactl.initiator.api import SessionStatus
from rdmactl.initiator.connect import resolve
from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink import iscsi
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.netlink.workers import LIMIT
from tests.fake.initiator_bench import FakeWorld
from tests.fake.scsi_transport_iscsi import CAPS
from tests.initiator_scenarios import FAST, eventually, failure, login, logout, recovered, request

pytestmark = pytest.mark.fake

MANY = 300
AT_ONCE = 25
MANY_S = 300.0
NO_MAKER = "4194303"  # a process that does not exist
UEVENT_MESSAGE_BYTES = 72
STORAGE_BYTES = 128
MANUAL = replace(FAST, scan="manual")


async def statuses(world: FakeWorld) -> list[SessionStatus]:
    async def ask(service: InitiatorService) -> list[SessionStatus]:
        return service.status()

    found: list[SessionStatus] = await world.call(ask)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("events", ["told", "lost"])
def test_three_hundred_sessions_lose_their_path_together(tmp_path: Path, events: str) -> None:
    """Checklist 47: none is forgotten, also when the kernel's events did not fit into the socket's buffer."""
    world = FakeWorld(tmp_path)
    wanted = [replace(request(world, "iser", MANUAL), iface_name=f"i{number}") for number in range(MANY)]

    async def scenario() -> None:
        sids: list[int] = []
        while len(sids) < MANY:
            some = wanted[len(sids) : len(sids) + AT_ONCE]
            sids += await asyncio.gather(*(login(world, each) for each in some))
        world.kernel.lose_events = events == "lost"
        for sid in sids:
            world.break_connection(sid)
        if events == "lost":
            world.kernel.lose_events = False
            world.kernel.overrun()
        end = time.monotonic() + MANY_S
        while {(each.phase, each.recoveries) for each in await statuses(world)} != {("logged in", 1)}:
            assert time.monotonic() < end, "not all of them come back"
            await asyncio.sleep(0.05)
        assert {view.sid for view in sysfs.sessions(world.root)} == set(sids)
        assert {view.connection_text for view in sysfs.sessions(world.root)} == {"LOGGED IN"}
        assert sorted(world.kernel.endpoints) == list(range(1, MANY + 1))  # no number is lost

    world.run(scenario)


class HeldScans:
    """Scans that begin, and end when the test lets them."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Event()

    def __call__(self, *_: object, **__: object) -> list[str]:
        self.begun += 1
        self.go_on.wait(60)
        return []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldScans]:
    scans = HeldScans()
    monkeypatch.setattr(scan, "scan", scans)
    yield scans
    scans.go_on.set()


@pytest.fixture
def name_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """`array.example` is this machine."""
    ask: Callable[..., Any] = socket.getaddrinfo

    def answer(host: str, *where: Any, **options: int) -> Any:
        if host == "array.example" and not options.get("flags", 0) & socket.AI_NUMERICHOST:
            return ask("127.0.0.1", *where, **options | {"flags": socket.AI_NUMERICHOST})
        return ask(host, *where, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize("address", ["127.0.0.1", "array.example"])
def test_scans_that_do_not_end_delay_nobody_else(
    tmp_path: Path, held: HeldScans, name_service: None, address: str
) -> None:
    """Checklist 50: as many as there may be, each waiting for a target that is away. Another session is brought back,
    also when its portal has a name, and is logged out."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        portal = Portal(address, world.portal("tcp").port)
        near = await login(world, replace(request(world, "tcp", MANUAL), portal=portal))
        wanted = [replace(request(world, "iser"), iface_name=f"i{number}") for number in range(LIMIT + 1)]
        scanning = [asyncio.ensure_future(login(world, each)) for each in wanted]
        await eventually(world, lambda: held.begun == LIMIT, "the scans do not begin")
        world.break_connection(near)
        await recovered(world, sid=near)
        await logout(world, near)
        assert not any(task.done() for task in scanning)
        held.go_on.set()
        for sid in await asyncio.gather(*scanning):
            await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_a_transport_that_is_loaded_again_has_another_handle(tmp_path: Path, transport: str) -> None:
    """Checklist 7: even while a login is being tried again."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        world.kernel.handles[transport] += 0x10000  # the module has gone, and its handle is still shown
        attempt = asyncio.ensure_future(login(world, request(world, transport, FAST)))
        await eventually(world, lambda: world.kernel.unknown_handles, "no attempt")
        world.tree.add_transport(transport, world.kernel.handles[transport], CAPS[transport])
        await logout(world, await attempt)
        assert world.leftovers() == []

    world.run(scenario)


def test_outside_the_initial_network_namespace(tmp_path: Path) -> None:
    """Checklist 1: one attempt, and one sentence."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        world.kernel.initial_netns = False
        error = await failure(world, request(world, "tcp", FAST))
        assert "initial network namespace" in error.message
        assert "--net=host" in (error.hint or "")

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_an_interrupted_logout_is_finished_at_start(tmp_path: Path, transport: str) -> None:
    """Checklist 46: its disks are gone already, and so is whoever removed them."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        await world.dispatcher.stop(world.settle_s)
        with world.as_somebody_else() as raw:
            assert raw.code(iscsi.unbind_session(world.kernel.handles[transport], sid)) == 0
        world.tree.set_session(sid, creator=NO_MAKER)
        await world.restart()
        await eventually(world, lambda: world.leftovers() == [], "it stays half removed")

    world.run(scenario)


def test_the_scope_of_an_address_reaches_the_kernel() -> None:
    """Checklist 56: a link-local address with its network device, as sin6_scope_id in EP_CONNECT."""
    no_lane: Any = None  # an address is read on the spot
    (address,) = asyncio.run(resolve(no_lane, Portal("fe80::1%lo"), 1.0))
    loopback = socket.inet_pton(socket.AF_INET6, "fe80::1")
    assert address == SockAddr(socket.AF_INET6, 3260, loopback, socket.if_nametoindex("lo"))
    request = iscsi.ep_connect(1, address.pack())
    assert SockAddr.unpack(request[UEVENT_MESSAGE_BYTES:].ljust(STORAGE_BYTES, b"\0")) == address


def test_threads_that_hang_in_a_scan_count_after_a_restart_of_the_service() -> None:
    new_service = initiator()
    assert new_service()._scans is new_service()._scans  # type: ignore[attr-defined]
