# SPDX-License-Identifier: Apache-2.0
"""The initiator service on a real kernel, with soft-RoCE and a LIO target: the common scenarios, and disks."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import ChapSettings, DiscoveryRequest
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from tests import initiator_scenarios as scenarios
from tests.initiator_scenarios import FAST, INITIATOR, failure, login, logout, request
from tests.lab import initiator_world as lab
from tests.lab.initiator_world import RealWorld

# As the scenarios' own logins; what is to fail at once says so itself.
PATIENT = replace(FAST, initial_login_retry_max=8)
pytestmark = [pytest.mark.kernel, pytest.mark.slow]

Scenario = Callable[[scenarios.World, str], Awaitable[None]]
SILENT = Portal("10.9.0.77", 3260)  # nobody has this address
SECRET, SECRET_IN = "initiator-secret", "targets-own-secret"


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


@pytest.fixture
def chap() -> Iterator[None]:
    lab.attribute("attrib/authentication", "1")
    for name, value in (
        ("userid", "joe"),
        ("password", SECRET),
        ("userid_mutual", "array"),
        ("password_mutual", SECRET_IN),
    ):
        lab.attribute(f"auth/{name}", value)
    yield
    lab.attribute("attrib/authentication", "0")


transports = pytest.mark.parametrize("transport", ["tcp", "iser"])


@transports
@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(world: RealWorld, scenario: Scenario, transport: str) -> None:
    world.run(partial(scenario, world, transport))


@transports
def test_the_disk_is_there_when_the_login_returns(world: RealWorld, transport: str) -> None:
    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        disk = lab.disk_of(sid)
        assert lab.write_and_read(disk)
        await logout(world, sid)
        assert disk.removeprefix("/dev/") not in os.listdir("/sys/block")
        assert world.leftovers() == []

    world.run(scenario)


@transports
def test_without_scan_no_disk(world: RealWorld, transport: str) -> None:
    async def scenario() -> None:
        sid = await login(world, request(world, transport, replace(PATIENT, scan="manual")))
        found = sysfs.session(sid)
        assert found is not None
        assert found.luns() == []
        await logout(world, sid)

    world.run(scenario)


@transports
def test_queue_depth_reaches_the_disk(world: RealWorld, transport: str) -> None:
    async def scenario() -> None:
        sid = await login(world, request(world, transport, replace(PATIENT, queue_depth=17)))
        found = sysfs.session(sid)
        assert found is not None
        assert [sysfs.read(f"{lun.path}/queue_depth") for lun in found.luns()] == ["17"]
        await logout(world, sid)

    world.run(scenario)


@transports
def test_a_silent_portal_costs_no_more_than_its_deadline(world: RealWorld, transport: str) -> None:
    async def scenario() -> None:
        settings = replace(FAST, login_timeout_s=1.5, initial_login_retry_max=1)
        begin = time.monotonic()
        error = await failure(world, replace(request(world, transport, settings), portal=SILENT))
        assert error.err is IscsiErr.TRANS_TIMEOUT
        assert "10.9.0.77:3260" in error.message
        assert time.monotonic() - begin < 10
        assert world.leftovers() == []

    world.run(scenario)


@transports
def test_a_silent_portal_does_not_delay_others(world: RealWorld, transport: str) -> None:
    import asyncio

    async def scenario() -> None:
        settings = replace(FAST, login_timeout_s=5.0)
        silent = asyncio.ensure_future(failure(world, replace(request(world, transport, settings), portal=SILENT)))
        await asyncio.sleep(0.2)
        begin = time.monotonic()
        sid = await login(world, request(world, transport))
        assert time.monotonic() - begin < 4
        assert not silent.done()
        await logout(world, sid)
        await silent

    world.run(scenario)


@transports
def test_chap(world: RealWorld, chap: None, transport: str) -> None:
    told: list[str] = []

    async def attempt(**chap_settings: str) -> int | IscsiErr:
        settings = replace(FAST, chap=ChapSettings(**chap_settings))
        try:
            return await login(world, request(world, transport, settings))
        except IscsiFailure as error:
            told.append(str(error))
            return error.err

    async def scenario() -> None:
        one_way = await attempt(username="joe", password=SECRET)
        assert not isinstance(one_way, IscsiErr)
        await logout(world, one_way)
        mutual = await attempt(username="joe", password=SECRET, username_in="array", password_in=SECRET_IN)
        assert not isinstance(mutual, IscsiErr)
        await logout(world, mutual)
        assert await attempt(username="joe", password="wrong-secret-12") is IscsiErr.LOGIN_AUTH_FAILED
        # Over RDMA LIO may disconnect before its refusal is out, and then it looks like any broken connection
        overtaken = {IscsiErr.TRANS_TIMEOUT} if transport == "iser" else set()
        assert await attempt() in {IscsiErr.LOGIN_AUTH_FAILED} | overtaken
        wrong_target = await attempt(username="joe", password=SECRET, username_in="array", password_in="not-its-secret")
        assert wrong_target is IscsiErr.FATAL_LOGIN
        assert len(told) == 3
        assert not any(word in text for text in told for word in (SECRET, SECRET_IN))
        assert world.leftovers() == []
        # LIO's iSER does not see that a login in progress was broken off, and lets nobody else in for 15 s
        patient = replace(FAST, initial_login_retry_max=8, chap=ChapSettings(username="joe", password=SECRET))
        await logout(world, await login(world, request(world, transport, patient)))

    world.run(scenario)


def test_discovery_over_tcp(world: RealWorld) -> None:
    async def scenario() -> None:
        found = await world.call(lambda service: service.discover(DiscoveryRequest(lab.TCP, INITIATOR)))
        (only,) = found.targets
        assert only.name == lab.TARGET
        assert (lab.TCP, 1) in only.portals
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize(
    ("portal", "err", "words"),
    [
        (Portal("10.9.0.1", 3999), IscsiErr.PDU_TIMEOUT, "refused"),
        (SILENT, IscsiErr.PDU_TIMEOUT, "did not answer"),
        (Portal("no-such-host.invalid"), IscsiErr.TRANS, "cannot resolve"),
    ],
)
def test_discovery_that_finds_nobody(world: RealWorld, portal: Portal, err: IscsiErr, words: str) -> None:
    wanted = DiscoveryRequest(portal, INITIATOR, login_timeout_s=1.0, reopen_max=1, total_timeout_s=10.0)

    async def scenario() -> None:
        with pytest.raises(IscsiFailure) as caught:
            await world.call(lambda service: service.discover(wanted))
        assert caught.value.err is err
        assert words in caught.value.message
        assert portal.address in caught.value.message

    world.run(scenario)


def test_digests_and_immediate_data_as_asked(world: RealWorld) -> None:
    async def scenario() -> None:
        settings = replace(PATIENT, header_digest="CRC32C,None", data_digest="CRC32C,None", immediate_data=False)
        sid = await login(world, request(world, "tcp", settings))
        found = sysfs.session(sid)
        assert found is not None
        negotiated = found.negotiated()
        assert (negotiated.header_digest, negotiated.data_digest, negotiated.immediate_data) == (True, True, False)
        assert lab.write_and_read(lab.disk_of(sid))
        await logout(world, sid)

    world.run(scenario)


@transports
def test_ipv6(world: RealWorld, transport: str) -> None:
    lab.second_portal("fd00:9::1", 3263, transport)

    async def scenario() -> None:
        portal = Portal("fd00:9::1", 3263)
        sid = await login(world, replace(request(world, transport), portal=portal))
        found = sysfs.session(sid)
        assert found is not None
        assert found.persistent == portal
        assert lab.write_and_read(lab.disk_of(sid))
        await logout(world, sid)
        assert world.leftovers() == []

    try:
        world.run(scenario)
    finally:
        lab.no_portal("fd00:9::1", 3263)


def test_a_target_that_falls_silent_is_noticed(world: RealWorld) -> None:
    """Checklist 32: the kernel's own NOPs, after a second, and one second for the answer."""

    async def scenario() -> None:
        async with lab.Relay(lab.TCP) as relay:
            settings = replace(PATIENT, noop_out_interval_s=1, noop_out_timeout_s=1)
            sid = await login(world, replace(request(world, "tcp", settings), portal=relay.portal))
            begin = time.monotonic()
            relay.fall_silent()
            await scenarios.eventually(world, lambda: view_state(sid) == "FAILED", "the silence is not noticed")
            assert 1 < time.monotonic() - begin < 10
            await scenarios.recovered(world)
            await logout(world, sid)
            assert world.leftovers() == []

    world.run(scenario)


def view_state(sid: int) -> str | None:
    found = sysfs.session(sid)
    return None if found is None else found.state
