# SPDX-License-Identifier: Apache-2.0
"""Sessions on a real kernel when targets go away, daemons die and many log in at once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import LoginRequest
from rdmactl.iscsi.portal import Portal
from tests.initiator_scenarios import FAST, eventually, login, logout, recovered, request
from tests.lab import initiator_world as lab
from tests.lab.guest import sh
from tests.lab.initiator_world import RealWorld

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

MANY = 24

transports = pytest.mark.parametrize("transport", ["tcp", "iser"])


@pytest.fixture(scope="module", autouse=True)
def target() -> None:
    lab.set_up()


@pytest.fixture(autouse=True)
def healthy_kernel() -> Iterator[None]:
    before = lab.kernel_stumbled()
    yield
    assert lab.kernel_stumbled() == before


@pytest.fixture
def world() -> RealWorld:
    return RealWorld()


def state(sid: int) -> str | None:
    found = sysfs.session(sid)
    return None if found is None else found.state


@transports
def test_io_waits_for_the_target_to_come_back(world: RealWorld, transport: str) -> None:
    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        disk = lab.disk_of(sid)
        lab.attribute("enable", "0")
        await eventually(world, lambda: state(sid) == "FAILED", "the loss is not noticed")
        writing = asyncio.ensure_future(asyncio.to_thread(lab.write_and_read, disk))
        await asyncio.sleep(1.0)
        assert not writing.done()
        lab.attribute("enable", "1")
        assert await asyncio.wait_for(writing, world.settle_s)
        assert state(sid) == "LOGGED_IN"
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


@transports
def test_a_session_comes_back_even_after_its_time_was_up(world: RealWorld, transport: str) -> None:
    """After replacement_timeout the kernel fails all I/O; a later login brings session and disk back."""

    async def scenario() -> None:
        sid = await login(world, request(world, transport, replace(FAST, replacement_timeout_s=1)))
        disk = lab.disk_of(sid)
        lab.attribute("enable", "0")
        await eventually(world, lambda: state(sid) == "FREE", "the kernel does not give up")
        found = sysfs.session(sid)
        assert found is not None
        assert [lun.state for lun in found.luns()] == ["transport-offline"]
        lab.attribute("enable", "1")
        await eventually(world, lambda: state(sid) == "LOGGED_IN", "the session does not come back")
        assert await asyncio.to_thread(lab.write_and_read, disk)
        await logout(world, sid)

    world.run(scenario)


@transports
def test_recoveries_use_up_nothing(world: RealWorld, transport: str) -> None:
    """Checklist 33: an endpoint's number is free again after each recovery."""

    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        for count in range(1, 4):
            world.break_connection(sid)
            await recovered(world, count)
        assert len(sysfs.endpoints()) == (1 if transport == "iser" else 0)
        assert max(sysfs.endpoints(), default=1) == 1
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


@transports
def test_logout_while_the_target_is_away(world: RealWorld, transport: str) -> None:
    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        lab.attribute("enable", "0")
        try:
            await eventually(world, lambda: state(sid) == "FAILED", "the loss is not noticed")
            begin = time.monotonic()
            await logout(world, sid)
            assert time.monotonic() - begin < 15
        finally:
            lab.attribute("enable", "1")
        assert world.leftovers() == []

    world.run(scenario)


@transports
def test_io_does_not_notice_that_the_daemon_is_killed(world: RealWorld, transport: str) -> None:
    """Checklist 45: kill -9, and a new one takes over without touching the connection."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lab.login_and_stay", transport], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        sid = int(other.stdout.readline())
        disk = lab.disk_of(sid)
        writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={disk}", "bs=64k", "oflag=direct", "count=200"])
        other.send_signal(signal.SIGKILL)

    async def scenario() -> None:
        found = sysfs.session(sid)
        assert found is not None
        assert found.connection_text == "LOGGED IN"
        assert await asyncio.to_thread(writer.wait, 60) == 0
        assert lab.write_and_read(disk)
        assert state(sid) == "LOGGED_IN"
        await logout(world, sid)
        assert sysfs.sessions() == []

    world.run(scenario)


@transports
def test_an_adopted_session_is_brought_back(world: RealWorld, transport: str) -> None:
    """The new instance does not know the endpoint's number, and must not lose it all the same."""

    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        await world.restart()
        world.break_connection(sid)
        await recovered(world)
        assert lab.write_and_read(lab.disk_of(sid))
        await logout(world, sid)
        assert world.leftovers() == []
        again = await login(world, request(world, transport))
        assert max(sysfs.endpoints(), default=1) == 1  # the lowest number is free
        await logout(world, again)

    world.run(scenario)


def test_a_login_killed_half_way_is_cleared_away(world: RealWorld) -> None:
    """Checklist 46. Over TCP only: LIO's iSER waits 15 s for the first word of a connection that has gone."""
    transport = "tcp"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lab.login_and_stay", transport, "half"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.send_signal(signal.SIGKILL)
    assert len(sysfs.sessions()) == 1

    async def scenario() -> None:
        await eventually(world, lambda: not sysfs.sessions(), "the half-made session stays")
        await logout(world, await login(world, request(world, transport)))

    world.run(scenario)


def test_silent_portals_delay_nobody(world: RealWorld) -> None:
    """A quarter of the portals does not answer: the others are logged in to while those are still being tried."""
    names = [f"iqn.2026-11.test:live{number}" for number in range(12)]
    sh("\n".join(f"target {name} {lab.ADDRESS}:3264 tcp 1" for name in names))
    patient = replace(FAST, login_timeout_s=80.0)

    async def scenario() -> None:
        silent = [
            asyncio.ensure_future(login(world, replace(request(world, transport, patient), portal=portal)))
            for transport, portal in (
                ("tcp", Portal("10.9.0.77", 3260)),
                ("tcp", Portal("10.9.0.78", 3260)),
                ("iser", Portal("10.9.0.79", 3260)),
                ("iser", Portal("10.9.0.80", 3260)),
            )
        ]
        portal = lab.TCP._replace(port=3264)
        wanted = [replace(request(world, "tcp"), target=name, portal=portal) for name in names]
        sids = await asyncio.gather(*(login(world, each) for each in wanted))
        for sid in sids:
            lab.disk_of(sid)
        tcp = silent[:2]  # a neighbour that does not resolve ends an RDMA connection sooner, and it is tried again
        assert not any(task.done() for task in tcp)
        for task in silent:
            task.cancel()
        await asyncio.wait(silent)
        await asyncio.gather(*(logout(world, sid) for sid in sids))
        await eventually(world, lambda: world.leftovers() == [], "something is left")

    world.run(scenario)


def test_many_log_in_at_once(world: RealWorld) -> None:
    names = [f"iqn.2026-11.test:many{number}" for number in range(MANY)]
    sh("\n".join(f"target {name} {lab.ADDRESS}:3262 tcp 1" for name in names))

    def wanted(name: str) -> LoginRequest:
        return replace(request(world, "tcp"), target=name, portal=lab.TCP._replace(port=3262))

    async def scenario() -> None:
        begin = time.monotonic()
        sids = await asyncio.gather(*(login(world, wanted(name)) for name in names))
        took_s = time.monotonic() - begin
        assert len(set(sids)) == MANY
        for sid in sids:
            lab.disk_of(sid)
        begin = time.monotonic()
        await asyncio.gather(*(logout(world, sid) for sid in sids))
        print(f"{MANY} logins in {took_s:.2f} s, logouts in {time.monotonic() - begin:.2f} s")
        assert world.leftovers() == []

    world.run(scenario)
