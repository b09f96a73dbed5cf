# SPDX-License-Identifier: Apache-2.0
# lab: --hosts 2 --timeout 600
"""iSER in user space between two hosts whose path is bad. The numbers are items of the checklist on iSER.

A is the target, B the initiator, each with soft-RoCE on eth0; B spoils what it sends. Soft-iWARP leaves that to TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from rdmactl.errors import DeadlineExceeded, PeerError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.login import Attempt
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.session import Session
from rdmactl.rdmacm.states import State
from rdmactl.rdmacm.steps import Steps
from tests.lab import iser_world as world
from tests.lab.guest import HOST, here, sh, there, wait_for
from tests.lab.iser_world import ME, TARGET

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TARGETS_SIDE = pytest.mark.skipif(HOST == "B", reason="this host is the initiator")
INITIATORS_SIDE = pytest.mark.skipif(HOST == "A", reason="this host is the target")
ADDRESS = "10.9.0.1"
NOBODYS = "10.9.0.77"
WHOLE_FILE_S = 550
ZERO = scsi.lun_bytes(0)


@pytest.fixture(scope="module", autouse=True)
def hosts() -> None:
    number = 1 if HOST == "A" else 2
    sh(f"modprobe virtio_net; wait_for 10 'ip link show eth0'; link rxe0 rxe eth0 10.9.0.{number}/24")
    if HOST == "A":
        sh(f"target {TARGET} {ADDRESS}:3260 iser")
        here("serves")
    else:
        sh("modprobe sch_netem")
        there("serves")
        wait_for(answers, "the target to be there")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    world.wait_until_free()


def answers() -> bool:
    return world.rdmactl("iser", "ping", ADDRESS, "-n", ME, "-t", "20").status == 0


@TARGETS_SIDE
def test_the_target_serves() -> None:
    there("end", limit_s=WHOLE_FILE_S)


def with_session(work: Callable[[Session], Awaitable[None]]) -> None:
    async def use(channel: EventChannel) -> None:
        attempt = Attempt(
            Question(Portal(ADDRESS), ME, target=TARGET), Steps(asyncio.get_running_loop().time), os.urandom
        )
        async with await attempt.session(channel, 4) as session:
            while (await session.execute(ZERO, scsi.test_unit_ready())).status:
                pass  # unit attentions of a new session
            await work(session)

    world.run(use, limit_s=240)


@contextlib.asynccontextmanager
async def losing(percent: int) -> AsyncIterator[None]:
    """So much of what this host sends gets lost."""
    await asyncio.to_thread(sh, f"tc qdisc add dev eth0 root netem loss {percent}%")
    try:
        yield
    finally:
        await asyncio.to_thread(sh, "tc qdisc delete dev eth0 root")


@INITIATORS_SIDE
def test_iser_19_nobody_answers_for_the_address() -> None:
    done = world.rdmactl("iser", "ping", NOBODYS, "-n", ME, "-t", "20")
    assert (done.status, len(done.error.splitlines())) == (10, 1), done
    assert f"{NOBODYS}:3260 does not answer ARP" in done.error


@INITIATORS_SIDE
def test_iser_58_a_hundred_reads_through_a_network_that_loses_some() -> None:
    data = os.urandom(100 * 4096)

    async def work(session: Session) -> None:
        for number in range(100):
            part = data[number * 4096 : (number + 1) * 4096]
            (await session.execute(ZERO, scsi.write_blocks(number * 8, 8), write=part)).require("the write")
        async with losing(1):
            for number in range(100):
                read = await session.execute(ZERO, scsi.read_blocks(number * 8, 8), read_bytes=4096)
                assert read.require("the read").data == data[number * 4096 : (number + 1) * 4096]

    with_session(work)


@INITIATORS_SIDE
def test_iser_49_a_black_hole_while_a_command_is_under_way() -> None:
    async def work(session: Session) -> None:
        async with losing(100):
            with pytest.raises(PeerError, match="the path to it is dead") as caught:
                await session.execute(ZERO, scsi.read_blocks(0, 8), read_bytes=4096, deadline_s=60)
            assert f"{ADDRESS}:3260" in caught.value.message
            await session.disconnect()

    with_session(work)
    wait_for(answers, "the path to be back")


@INITIATORS_SIDE
def test_iser_50_a_black_hole_while_nothing_is_under_way() -> None:
    """Soft-RoCE needs seconds to give up; who pings decides how long to wait."""

    async def work(session: Session) -> None:
        async with losing(100):
            with pytest.raises(DeadlineExceeded, match="ping"):
                await session.ping(0.5)
            assert isinstance(session.failure, DeadlineExceeded)
            await session.disconnect()

    with_session(work)
    wait_for(answers, "the path to be back")


def neighbour() -> str:
    (entry,) = json.loads(sh(f"ip -json neigh show {ADDRESS} dev eth0"))
    return str(entry["lladdr"])


@INITIATORS_SIDE
def test_iser_51_the_neighbours_address_changes_and_changes_back() -> None:
    """Linux says UNREACHABLE of a connection that works; the next message says that it does."""
    right = neighbour()

    async def work(session: Session) -> None:
        suspected, handle = asyncio.Event(), session.connection.on_change
        assert handle is not None

        def changed() -> None:
            if session.connection.state is State.SUSPECT:
                suspected.set()
            handle()

        session.connection.on_change = changed
        sh(f"ip neigh replace {ADDRESS} lladdr 02:00:00:00:00:99 dev eth0 nud permanent")
        try:
            async with asyncio.timeout(30):
                await suspected.wait()
        finally:
            sh(f"ip neigh replace {ADDRESS} lladdr {right} dev eth0 nud reachable")
        assert await session.ping() < 5
        assert session.connection.state is State.UP

    with_session(work)


@INITIATORS_SIDE
def test_the_target_may_go() -> None:
    here("end")
