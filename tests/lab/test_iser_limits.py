# SPDX-License-Identifier: Apache-2.0
"""Connections and sessions at the edge of what is allowed. The numbers are items of the checklist on iSER.

Everybody else's faults are in test_iser_faults.py; here are those of this side, of LIO's settings, and of the hosts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from rdmactl.errors import PeerError, RdmactlError
from rdmactl.initiator import sysfs
from rdmactl.iscsi import scsi
from rdmactl.iscsi.iser import PRIVATE_DATA
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm import login
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.connection import Connection, Deadlines
from rdmactl.rdmacm.endpoint import DISCOVERY
from rdmactl.rdmacm.listener import Listener
from rdmactl.rdmacm.login import Attempt
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.session import Session
from rdmactl.rdmacm.states import State
from rdmactl.rdmacm.steps import Steps
from tests.lab import iser_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iser_world import LOCKED, ME, RXE, SIW, TARGET
from tests.lab.iserd_host import Host

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

GROUP = Path(f"{world.CONFIG}/iscsi/{TARGET}/tpgt_1")
BOND = "10.9.5.1"
PATIENT = Deadlines(connect_s=30.0)
ZERO = scsi.lun_bytes(0)

both = pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    world.set_up()
    world.locked_target()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    world.wait_until_free()


def ping(where: str, *words: str, name: str = ME) -> world.Done:
    return world.rdmactl("iser", "ping", where, "-n", name, *words)


async def log_in(channel: EventChannel, address: str, random_bytes: Callable[[int], bytes] = os.urandom) -> Session:
    question = Question(Portal(address), ME, target=TARGET)
    session = await Attempt(question, Steps(asyncio.get_running_loop().time), random_bytes).session(channel, 4)
    while (await session.execute(ZERO, scsi.test_unit_ready())).status:
        pass  # unit attentions of a new session
    return session


def with_session(address: str, work: Callable[[Session], Awaitable[None]]) -> None:
    async def use(channel: EventChannel) -> None:
        async with await log_in(channel, address) as session:
            await work(session)

    world.run(use, limit_s=120)


# Logins


@both
def test_iser_28_an_initiator_without_an_access_list(address: str, tmp_path: Path) -> None:
    (tmp_path / "joe").write_text("secret-of-joe-1\n")
    chap = ("--chap-name", "joe", "--chap-secret-from", str(tmp_path / "joe"))
    done = ping(f"{address}/{LOCKED}", *chap, name="iqn.2026-11.test:stranger")
    assert (done.status in (12, 13), len(done.error.splitlines())) == (True, 1), done
    assert f"{address}:3260" in done.error
    assert "did not answer" not in done.error


@both
def test_iser_28_a_portal_group_that_is_disabled(address: str) -> None:
    (GROUP / "enable").write_text("0")
    try:
        done = ping(f"{address}/{TARGET}")
    finally:
        (GROUP / "enable").write_text("1")
    assert (done.status in (11, 12, 13), len(done.error.splitlines())) == (True, 1), done
    assert f"{address}:3260" in done.error
    wait_for(lambda: ping(f"{address}/{TARGET}", "-t", "20").status == 0, "the group to be back")


@both
def test_iser_32_a_second_login_with_the_same_isid_ends_the_first(address: str) -> None:
    async def use(channel: EventChannel) -> None:
        first = await log_in(channel, address, bytes)
        second = await log_in(channel, address, bytes)
        await first.ended
        assert isinstance(first.failure, PeerError)
        assert await second.ping() < 5
        await first.close()
        await second.close()

    world.run(use, limit_s=120)


def test_iser_34_a_connection_without_a_login_delays_the_next_login_only() -> None:
    """LIO waits 15 s for a login it was promised; why nothing here connects without one."""

    async def use(channel: EventChannel) -> None:
        connection = Connection(channel, RXE)
        await connection.connect(SockAddr.parse(f"{RXE}:3260"), PRIVATE_DATA)
        await connection.close()

    world.run(use)
    done = ping(RXE, "-t", "50")
    assert done.status == 0, done.error


# What this side must not do


def test_iser_42_who_admits_invalidation_gets_it_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With soft-RoCE at once. Why our private data declines it."""
    monkeypatch.setattr(login, "PRIVATE_DATA", b"\x80\0\0\0")

    async def work(session: Session) -> None:
        with pytest.raises(PeerError, match=f"{RXE}:3260"):
            await session.execute(ZERO, scsi.read_blocks(0, 8), read_bytes=4096)

    with_session(RXE, work)


@both
def test_iser_43_44_receives_that_run_out(address: str) -> None:
    """Soft-RoCE's sender tries again for some milliseconds, soft-iWARP's ends at once; both ends hear of it."""

    async def serve(listener: Listener) -> RdmactlError | None:
        connection = await listener.request()
        await connection.accept(PRIVATE_DATA)
        await connection.receive()
        try:
            while True:
                await connection.send(b"more")
                await asyncio.sleep(0)
        except RdmactlError as failure:
            return failure
        finally:
            await connection.close()

    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"))
        server = asyncio.create_task(serve(listener))
        connection = Connection(channel, str(listener.address))
        await connection.connect(listener.address, PRIVATE_DATA)
        asyncio.get_running_loop().remove_reader(connection._completion_fd)  # nobody posts receives again
        await connection.send(b"begin")
        failure = await server
        assert isinstance(failure, PeerError)
        if address == RXE:
            assert "it had no buffer ready (completion status 13)" in failure.message
        received = await asyncio.gather(*(connection.receive() for _ in range(100)), return_exceptions=True)
        assert [type(each) for each in received[: DISCOVERY.receives]] == [bytes] * DISCOVERY.receives
        assert isinstance(received[-1], PeerError)
        await connection.close()
        listener.close()

    world.run(use)


@both
def test_iser_45_a_message_larger_than_the_buffer_posted_for_it(address: str) -> None:
    async def serve(listener: Listener) -> None:
        connection = await listener.request()
        try:
            await connection.accept(PRIVATE_DATA)
            await connection.receive()
            await connection.send(bytes(DISCOVERY.receive_bytes + 1))
            with pytest.raises(PeerError):
                await connection.receive()
        finally:
            await connection.close()

    async def use(channel: EventChannel) -> None:
        sizes = DISCOVERY._replace(send_bytes=DISCOVERY.receive_bytes + 1)
        listener = Listener(channel, SockAddr.parse(f"{address}:0"), sizes=sizes)
        server = asyncio.create_task(serve(listener))
        connection = Connection(channel, str(listener.address))
        await connection.connect(listener.address, PRIVATE_DATA)
        await connection.send(b"begin")
        with pytest.raises(PeerError, match=address) as caught:
            await connection.receive()
        if address == RXE:
            assert f"larger than the {DISCOVERY.receive_bytes} bytes" in caught.value.message
        await connection.close()
        await server
        listener.close()

    world.run(use)


@both
def test_iser_47_memory_that_is_gone_when_the_target_writes_to_it(address: str) -> None:
    async def work(session: Session) -> None:
        arena = session.share(4096, writable=True)
        header = arena.read_header
        arena.free()
        session.submit(ZERO, scsi.read_blocks(0, 8), lambda event: None, buffer=header, size_bytes=4096)
        await session.ended
        assert isinstance(session.failure, PeerError)
        assert f"{address}:3260" in session.failure.message

    with_session(address, work)
    assert ping(f"{address}/{TARGET}", "-t", "20").status == 0


# Others on the same device


@both
def test_iser_60_fifty_connections_begin_and_end_in_a_crowd(address: str) -> None:
    """Ten at a time, with both ends on one event channel: every event finds its connection, and no end blocks."""

    async def serve(listener: Listener) -> None:
        connection = await listener.request()
        try:
            await connection.accept(PRIVATE_DATA)
            with pytest.raises(PeerError, match="closed the RDMA connection"):
                await connection.receive()
        finally:
            await connection.close()

    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"))
        for _ in range(5):
            servers = [asyncio.create_task(serve(listener)) for _ in range(10)]
            connections = [Connection(channel, str(listener.address), deadlines=PATIENT) for _ in servers]
            try:
                await asyncio.gather(*(each.connect(listener.address, PRIVATE_DATA) for each in connections))
            finally:
                await asyncio.gather(*(each.close() for each in connections))
            assert {each.state for each in connections} == {State.CLOSED}
            await asyncio.gather(*servers)
        listener.close()

    world.run(use, limit_s=200)


def test_iser_59_beside_a_session_of_the_kernel(tmp_path: Path) -> None:
    """On the same portal at the same time: both read the same, and neither disturbs the other."""
    sh("modprobe ib_iser")
    host = Host(tmp_path)
    host.start()
    node = ("-m", "node", "-T", TARGET, "-p", f"{RXE}:3260,1", "-I", "iser")
    assert host.run(*node, "-o", "new").status == 0
    assert host.run(*node, "-l").status == 0
    (view,) = sysfs.sessions()
    (lun,) = view.luns()
    data = os.urandom(4096)

    async def work(session: Session) -> None:
        (await session.execute(ZERO, scsi.write_blocks(0, 8), write=data)).require("the write")
        for _ in range(10):
            read = f"dd if=/dev/{lun.block_device} iflag=direct bs=4096 count=1 status=none | od -An -v -tx1"
            by_kernel, by_us = await asyncio.gather(
                asyncio.to_thread(sh, read), session.execute(ZERO, scsi.read_blocks(0, 8), read_bytes=4096)
            )
            assert bytes.fromhex(by_kernel) == by_us.require("the read").data == data

    with_session(RXE, work)
    assert [session.state for session in sysfs.sessions()] == ["LOGGED_IN"]
    assert host.run("-m", "session", "-u").status == 0
    host.stop()


def test_iser_53_soft_iwarp_does_not_notice_that_its_link_goes_down() -> None:
    """To an address of the same host TCP needs none."""

    async def work(session: Session) -> None:
        sh("ip link set d1 down")
        try:
            assert await session.ping() < 5
        finally:
            sh("ip link set d1 up")
        assert await session.ping() < 5

    with_session(SIW, work)


def test_iser_52_a_failover_of_bonding() -> None:
    """Last: LIO does not listen there any more afterwards, which the next connection is told."""
    sh(f"""
        modprobe -a bonding dummy
        ip link add bond0 type bond mode active-backup fail_over_mac active miimon 100
        for name in s0 s1; do ip link add $name type dummy; ip link set $name master bond0; ip link set $name up; done
        link rxe1 rxe bond0 {BOND}/24
        target {TARGET} {BOND}:3260 iser
    """)

    async def work(session: Session) -> None:
        sh("ip link set bond0 type bond active_slave s1")
        await session.ended
        assert isinstance(session.failure, PeerError)
        assert f"the local address used for {BOND}:3260 moved to another interface" in session.failure.message

    with_session(BOND, work)
    again = ping(BOND)
    assert again.status in (0, 11), again
    assert again.status == 0 or "nothing listens there for RDMA" in again.error
