# SPDX-License-Identifier: Apache-2.0
"""Targets that are broken or mean, served over TCP to the real kernel: one clear failure in bounded time, and after
each no session, host or endpoint is left in sysfs, and no word of trouble in the kernel log.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from rdmactl.initiator import sysfs
from rdmactl.iscsi.pdu import Pdu
from rdmactl.iscsi.portal import Portal
from tests.fake.target import FakeTarget, StreamTarget, TargetScript, Twist
from tests.initiator_scenarios import FAST, failure, login, logout, request
from tests.lab import initiator_world as lab
from tests.lab.guest import sh
from tests.lab.initiator_world import RealWorld

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NAME = "iqn.2005-03.org.example:t1"
LIMIT_S = 2.0  # of an attempt
PATIENCE_S = 30.0  # for the attempt and for everything to be put away, on a slow machine

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def changed(pdu: Pdu, at: int, value: bytes) -> Pdu:
    """A PDU with some bytes of its header replaced."""
    return Pdu(pdu.header[:at] + value + pdu.header[at + len(value) :], pdu.data)


def with_data(pdu: Pdu, data: bytes) -> Pdu:
    return changed(Pdu(pdu.header, data), 5, len(data).to_bytes(3, "big"))


def flags(pdu: Pdu, value: int) -> Pdu:
    return changed(pdu, 1, bytes([value]))


def answers(data: bytes) -> list[bytes]:
    """The regular answers to what an initiator sent."""
    return [StreamTarget().receive(data)]


@dataclass(frozen=True)
class Hostile:
    """A target that twists its PDUs, or one that handles the connection in its own way."""

    name: str
    twist: Twist | None = None
    handler: Handler | None = None
    script: TargetScript | None = None


async def closes_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def closes_after_the_first_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


async def half_a_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (whole,) = answers(await reader.read(65536))
    writer.write(whole[:20])
    await writer.drain()
    writer.close()


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte at a time, slower than any login may take."""
    (whole,) = answers(await reader.read(65536))
    for byte in whole:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.2)


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(os.urandom(100_000))
    await reader.read()


async def promises_16_megabytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (whole,) = answers(await reader.read(65536))
    writer.write(whole[:5] + b"\xff\xff\xff" + whole[8:])
    await reader.read()


async def an_additional_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (whole,) = answers(await reader.read(65536))
    writer.write(whole[:4] + b"\xff" + whole[5:] + bytes(1020))
    await reader.read()


async def a_flood_of_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read(65536)
    target = FakeTarget(twist=lambda pdu, regular: [flags(regular[0], 0x00)] * 2000)
    stream = StreamTarget()
    stream.target = target
    writer.write(stream.receive(data))
    await reader.read()


HOSTILE = [
    Hostile("endless continuation", lambda pdu, a: [flags(with_data(a[0], b"X-a=" + b"v" * 4000), 0x44)]),
    Hostile("never ends the stage", lambda pdu, a: [flags(with_data(a[0], b""), 0x04)]),
    Hostile("proposes for ever", lambda pdu, a: [flags(with_data(a[0], b"X-new=1\0"), 0x04)]),
    Hostile("wrong task tag", lambda pdu, a: [changed(a[0], 16, b"\xde\xad\xbe\xef")]),
    Hostile("unknown stage", lambda pdu, a: [flags(a[0], 0x88)]),
    Hostile("goes back a stage", lambda pdu, a: [flags(a[0], 0x84)]),
    Hostile("another ISID", lambda pdu, a: [changed(a[0], 8, b"\x80\0\0\0\0\1")]),
    Hostile("no session handle", lambda pdu, a: [changed(a[0], 14, b"\0\0")]),
    Hostile("another version", lambda pdu, a: [changed(a[0], 3, b"\x07")]),
    Hostile("unknown status class", lambda pdu, a: [changed(a[0], 36, b"\x04\x00")]),
    Hostile("unknown opcode", lambda pdu, a: [changed(a[0], 0, b"\x3e")]),
    Hostile("text that is none", lambda pdu, a: [with_data(a[0], bytes(range(255)))]),
    Hostile("a huge value", lambda pdu, a: [with_data(a[0], b"TargetAlias=" + b"a" * 8000 + b"\0")]),
    Hostile("a huge name", lambda pdu, a: [with_data(a[0], b"K" * 8000 + b"=1\0")]),
    Hostile("numbers out of range", lambda pdu, a: [with_data(a[0], b"MaxBurstLength=99999999999999999999\0")]),
    Hostile("more data than a login may have", lambda pdu, a: [with_data(a[0], b"X-a=" + b"v" * 8300)]),
    Hostile("the same key twice", lambda pdu, a: [with_data(a[0], b"MaxBurstLength=512\0MaxBurstLength=1024\0")]),
    Hostile("redirects without an address", script=TargetScript(redirect=(0x0101, ""))),
    Hostile("an additional header", handler=an_additional_header),
    Hostile("closes at once", handler=closes_at_once),
    Hostile("closes after the first word", handler=closes_after_the_first_word),
    Hostile("resets", handler=resets),
    Hostile("says nothing", handler=says_nothing),
    Hostile("half a header", handler=half_a_header),
    Hostile("drips", handler=drips),
    Hostile("garbage", handler=garbage),
    Hostile("promises 16 megabytes", handler=promises_16_megabytes),
    Hostile("a flood of answers", handler=a_flood_of_answers),
]


@pytest.fixture(scope="module", autouse=True)
def modules() -> None:
    sh("modprobe -a iscsi_tcp sd_mod; ip link set lo up")


@pytest.fixture(autouse=True)
def healthy_kernel() -> Iterator[None]:
    before = lab.kernel_stumbled()
    yield
    assert lab.kernel_stumbled() == before


def served(script: TargetScript | None = None, twist: Twist | None = None) -> Handler:
    """A connection to the fake target."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = StreamTarget(script, twist)
        while not stream.target.closed and (data := await reader.read(65536)):
            writer.write(stream.receive(data))
            await writer.drain()
        writer.close()

    return handle


async def fails(world: RealWorld, portal: Portal) -> str:
    """The message of a login that fails, and leaves nothing."""
    settings = replace(FAST, login_timeout_s=LIMIT_S, initial_login_retry_max=1)
    begin = time.monotonic()
    error = await failure(world, replace(request(world, "tcp", settings), portal=portal, target=NAME))
    assert time.monotonic() - begin < PATIENCE_S
    assert world.leftovers() == []
    assert str(portal) in error.message
    assert "\n" not in error.message
    assert len(error.message) < 600
    return error.message


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_it_ends_in_one_sentence_and_nothing_is_left(hostile: Hostile) -> None:
    world = RealWorld()

    async def scenario() -> None:
        handler = hostile.handler or served(hostile.script, hostile.twist)
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
            portal = Portal(*server.sockets[0].getsockname())
            try:
                print(await fails(world, portal))
            finally:  # one that is let in by mistake shall not spoil the next
                for view in sysfs.sessions():
                    await logout(world, view.sid)

    world.run(scenario)


def test_it_redirects_to_itself() -> None:
    world = RealWorld()

    async def scenario() -> None:
        script = TargetScript()
        async with await asyncio.start_server(served(script), "127.0.0.1", 0) as server:
            portal = Portal(*server.sockets[0].getsockname())
            script.redirect = (0x0101, str(portal))
            assert "redirect loop" in await fails(world, portal)

    world.run(scenario)


def test_an_honest_one_is_logged_in_to() -> None:
    """So that the failures above are the targets' doing."""
    world = RealWorld()

    async def scenario() -> None:
        async with await asyncio.start_server(served(), "127.0.0.1", 0) as server:
            portal = Portal(*server.sockets[0].getsockname())
            settings = replace(FAST, scan="manual")
            sid = await login(world, replace(request(world, "tcp", settings), portal=portal, target=NAME))
            await logout(world, sid)
            assert world.leftovers() == []

    world.run(scenario)
