# SPDX-License-Identifier: Apache-2.0
"""Targets that break, over real RDMA: at each step of a session, in each way; the step is named and nothing is left.

The target answers from this process. What only a real one can do (writing to a wrong key) is in test_iser_session.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from rdmactl.errors import RdmactlError
from rdmactl.iscsi.iser import PRIVATE_DATA, unwrap, wrap
from rdmactl.iscsi.pdu import ALL_ONES, NopIn
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.connection import Connection
from rdmactl.rdmacm.discovery import Discoverer
from rdmactl.rdmacm.endpoint import DISCOVERY
from rdmactl.rdmacm.listener import Listener
from rdmactl.rdmacm.operations import Operations
from rdmactl.rdmacm.report import Question, Report
from tests.fake.target import FakeTarget, TargetChap, TargetScript
from tests.lab import iser_world as world
from tests.lab.iser_world import ME, RXE, SIW

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NAME = "iqn.2026-11.test:scripted"
SIZES = DISCOVERY._replace(send_bytes=DISCOVERY.receive_bytes, sends=8)
SCRIPT = TargetScript(targets={NAME: []}, chap=TargetChap("joe", "secret-of-joe-1"))

both = pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])


@pytest.fixture(scope="module", autouse=True)
def links() -> None:
    world.links()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    world.wait_until_free()


class Scripted:
    """Answers as `FakeTarget` does; answer number `after` is spoilt in one of several ways."""

    def __init__(self, fault: str = "", after: int = -1, private_data: bytes = PRIVATE_DATA) -> None:
        self.fault, self.after, self.private_data = fault, after, private_data

    async def serve(self, connection: Connection) -> None:
        target, number = FakeTarget(SCRIPT), 0
        await connection.accept(self.private_data)
        with contextlib.suppress(RdmactlError):
            while True:
                for answer in target.receive(unwrap(await connection.receive())):
                    if number == self.after and not await self.spoil(connection, wrap(answer)):
                        return
                    await connection.send(wrap(answer))
                    number += 1

    async def spoil(self, connection: Connection, answer: bytes) -> bool:
        """Whether to go on after that."""
        if self.fault == "close":
            return False
        if self.fault == "short":
            await connection.send(answer[:60])
        elif self.fault == "long":
            await connection.send(answer + bytes(9000))
        elif self.fault == "hello":
            await connection.send(b"\x20" + answer[1:])
        elif self.fault == "flood":
            for _ in range(100):
                await connection.send(wrap(NopIn(ALL_ONES).pdu()))
        elif self.fault == "mute":
            await connection.receive()  # until the other side has had enough
        return self.fault == "flood"


def ping(address: str, scripted: Scripted, deadline_s: float = 10.0) -> Report:
    """A session with a scripted target; the loop and the channel must be as good as before."""
    reports = []

    async def visit(operations: Operations, listener: Listener, scripted: Scripted) -> Report:
        async def serve() -> None:
            connection = await listener.request()
            try:
                await scripted.serve(connection)
            finally:
                await connection.close()

        server = asyncio.create_task(serve())
        portal = Portal(address, listener.address.port)
        question = Question(portal, ME, deadline_s, username="joe", password="secret-of-joe-1", target=NAME)
        report = await operations.ping(question, 3)
        await server
        return report

    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"), sizes=SIZES)
        discoverer = Discoverer()
        operations = Operations(discoverer)
        reports.append(await visit(operations, listener, scripted))
        again = await visit(operations, listener, Scripted())
        assert again.error is None, again.error
        discoverer.close()
        listener.close()

    world.run(use)
    return reports[0]


@both
def test_an_honest_one(address: str) -> None:
    report = ping(address, Scripted())
    assert (report.error, report.authentication, len(report.pings)) == (None, "CHAP", 3)


@both
@pytest.mark.parametrize("fault", ["close", "short", "long", "hello"])
@pytest.mark.parametrize(
    ("after", "stage"),
    [(0, "login"), (1, "login"), (2, "login"), (3, "login"), (4, "nop"), (5, "nop")],
)
def test_broken_at_each_step(address: str, fault: str, after: int, stage: str) -> None:
    report = ping(address, Scripted(fault, after))
    assert report.error is not None
    assert report.stage == stage
    assert f"{address}:" in report.error.message
    assert "secret-of" not in str(report.error)


@both
@pytest.mark.parametrize(("after", "stage"), [(0, "login"), (4, "nop")])
def test_silence_at_a_step(address: str, after: int, stage: str) -> None:
    report = ping(address, Scripted("mute", after), deadline_s=1.0)
    assert report.error is not None
    assert (report.error.code, report.stage) == ("deadline", stage)


@both
def test_more_than_anybody_asked_for_is_read_away(address: str) -> None:
    """A hundred messages through a handful of buffers: posted again before they are looked at."""
    report = ping(address, Scripted("flood", 5))
    assert (report.error, len(report.pings)) == (None, 3)


@both
@pytest.mark.parametrize(
    "data", [b"", bytes(4), b"\xff" * 4, b"\x80" + bytes(55)], ids=["none", "zeros", "ones", "long"]
)
def test_any_private_data_is_taken(address: str, data: bytes) -> None:
    """Targets send nothing, zeros, or flags; what counts is what they do later."""
    assert ping(address, Scripted(private_data=data)).error is None
