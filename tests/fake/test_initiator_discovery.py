# SPDX-License-Identifier: Apache-2.0
"""SendTargets discovery over real sockets on loopback, against a scripted target."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from rdmactl.errors import DeadlineExceeded
from rdmactl.initiator.api import ChapSettings, DiscoveredTarget, DiscoveryAnswer, DiscoveryRequest
from rdmactl.initiator.discovery import Discoveries
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.ports import Lane
from tests.fake.target import StreamTarget, TargetChap, TargetScript

pytestmark = pytest.mark.fake

T = TypeVar("T")
INITIATOR = "iqn.2026-11.test:initiator"
NAME = "iqn.2005-03.org.example:t1"


class LaneAlone:
    """What a discovery needs of a lane."""

    def now(self) -> float:
        return time.monotonic()

    async def blocking(self, function: Callable[[], T], *, deadline_s: float) -> T:
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.get_running_loop().run_in_executor(None, function)
        except TimeoutError:
            raise DeadlineExceeded("too late") from None


def discover(request: DiscoveryRequest) -> Awaitable[DiscoveryAnswer]:
    lane: Lane = LaneAlone()  # type: ignore[assignment]
    return Discoveries(lane).discover(request)


@contextlib.asynccontextmanager
async def listening(make: Callable[[], StreamTarget]) -> AsyncIterator[DiscoveryRequest]:
    """A target on loopback, and an impatient request to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = make()
        while not target.target.closed and (data := await reader.read(65536)):
            writer.write(target.receive(data))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        portal = Portal(*server.sockets[0].getsockname())
        yield DiscoveryRequest(portal, INITIATOR, login_timeout_s=5.0, total_timeout_s=10.0, reopen_max=1)


def run(script: TargetScript, **changes: Any) -> list[DiscoveredTarget]:
    async def main() -> DiscoveryAnswer:
        async with listening(lambda: StreamTarget(script)) as request:
            return await discover(replace(request, **changes))

    return list(asyncio.run(main()).targets)

    return asyncio.run(main())


def failing(script: TargetScript, **changes: Any) -> IscsiFailure:
    with pytest.raises(IscsiFailure) as caught:
        run(script, **changes)
    return caught.value


def test_targets_with_their_portals() -> None:
    addresses = ["10.9.0.1:3260,1", "[fd00:9::1]:3260,2"]
    (found,) = run(TargetScript(targets={NAME: addresses}))
    assert found.name == NAME
    assert found.portals == ((Portal("10.9.0.1", 3260), 1), (Portal("fd00:9::1", 3260), 2))


def test_a_long_list_in_many_parts() -> None:
    targets = {f"iqn.2005-03.org.example:t{number}": ["10.9.0.1:3260,1"] for number in range(300)}
    found = run(TargetScript(targets=targets, part_bytes=512))
    assert [target.name for target in found] == list(targets)


def test_no_targets_is_no_failure() -> None:
    assert run(TargetScript(targets={})) == []


def test_chap() -> None:
    script = TargetScript(chap=TargetChap())
    assert len(run(script, chap=ChapSettings("inuser", "insecret12345"))) == 1
    wrong = failing(script, chap=ChapSettings("inuser", "wrong-secret-1"))
    assert wrong.err is IscsiErr.LOGIN_AUTH_FAILED
    assert "wrong-secret-1" not in str(wrong)
    assert failing(script).err is IscsiErr.LOGIN_AUTH_FAILED


def test_053_redirection() -> None:
    async def main() -> DiscoveryAnswer:
        async with listening(lambda: StreamTarget(TargetScript())) as there:
            moved = TargetScript(redirect=(0x0101, str(there.portal)))
            async with listening(lambda: StreamTarget(moved)) as here:
                return await discover(here)

    (found,) = asyncio.run(main()).targets
    assert found.name == NAME


def test_a_target_that_hangs_up_is_asked_again() -> None:
    connections: list[StreamTarget] = []

    def make() -> StreamTarget:
        connections.append(StreamTarget(TargetScript(status=0x0301) if not connections else TargetScript()))
        return connections[-1]

    async def main() -> DiscoveryAnswer:
        async with listening(make) as request:
            return await discover(request)

    assert len(asyncio.run(main()).targets) == 1
    assert len(connections) == 2


def closed_port() -> Portal:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return Portal(*sock.getsockname())


@pytest.mark.parametrize(
    ("reopen_max", "words"), [(0, "(1 attempt)"), (1, "(2 attempts)")], ids=["one attempt", "two attempts"]
)
def test_001_nobody_listens(reopen_max: int, words: str) -> None:
    portal = closed_port()
    request = DiscoveryRequest(portal, INITIATOR, reopen_max=reopen_max, total_timeout_s=5.0)
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(discover(request))
    assert caught.value.err is IscsiErr.PDU_TIMEOUT
    assert caught.value.message == f"{portal} refused the TCP connection {words}"
    assert caught.value.code == "refused"


def test_002_somebody_who_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        portal = Portal(*sock.getsockname())
        request = DiscoveryRequest(portal, INITIATOR, login_timeout_s=0.05, reopen_max=0)
        with pytest.raises(IscsiFailure) as caught:
            asyncio.run(discover(request))
    assert caught.value.err is IscsiErr.PDU_TIMEOUT
    assert str(portal) in caught.value.message
    assert "within 0.05 s" in caught.value.message
    assert caught.value.code == "unanswered"


def test_003_somebody_who_hangs_up() -> None:
    async def main() -> None:
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
            portal = Portal(*server.sockets[0].getsockname())
            await discover(DiscoveryRequest(portal, INITIATOR, reopen_max=0))

    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(main())
    assert caught.value.err is IscsiErr.PDU_TIMEOUT
    assert caught.value.code == "closed"


def test_the_whole_has_a_deadline_too() -> None:
    request = DiscoveryRequest(closed_port(), INITIATOR, reopen_max=1_000_000, total_timeout_s=0.15)
    begin = time.monotonic()
    with pytest.raises(IscsiFailure):
        asyncio.run(discover(request))
    assert time.monotonic() - begin < 5


def test_somebody_who_is_no_target() -> None:
    async def main() -> None:
        async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(web_server, "127.0.0.1", 0) as server:
            portal = Portal(*server.sockets[0].getsockname())
            await discover(DiscoveryRequest(portal, INITIATOR, reopen_max=0))

    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(main())
    assert caught.value.err is IscsiErr.PDU_TIMEOUT


def test_054_a_name_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(discover(DiscoveryRequest(Portal("no-such-host"), INITIATOR)))
    assert caught.value.err is IscsiErr.TRANS
    assert caught.value.message == 'cannot resolve "no-such-host": Name or service not known'
    assert caught.value.code == "unresolved"


def test_a_name_that_is_none() -> None:
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(discover(DiscoveryRequest(closed_port(), "not a name")))
    assert caught.value.err is IscsiErr.INVAL


def test_a_list_with_a_bad_entry_says_so() -> None:
    raw = f"TargetName={NAME}\0TargetAddress=10.9.0.1:3260,1\0TargetName=iqn.x y\0".encode()

    async def main() -> DiscoveryAnswer:
        async with listening(lambda: StreamTarget(TargetScript(raw_list=raw))) as request:
            return await discover(request)

    answer = asyncio.run(main())
    assert [target.name for target in answer.targets] == [NAME]
    assert answer.skipped == 1
    assert "has a space" in answer.warnings[0]
