# SPDX-License-Identifier: Apache-2.0
"""The iSNS client over real sockets on loopback: good servers, servers that mean harm, notifications."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import pytest

from rdmactl.initiator.api import DiscoveredTarget
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.api import Change, ChangeKind, IsnsAnswer, IsnsRequest, WatchConfig
from rdmactl.isns.attributes import Attribute, Tag, of_number, of_text, pack, read_number
from rdmactl.isns.client import query_targets
from rdmactl.isns.pdu import Flag, Function, Message, Pdu, encode, parse_datagram
from rdmactl.isns.registration import entity_of
from rdmactl.isns.watch import Watch
from rdmactl.netlink.ports import Lane
from tests.fake.isns_server import Connection, FakeIsnsServer, Node
from tests.fake.test_initiator_discovery import LaneAlone

pytestmark = pytest.mark.fake

INITIATOR = "iqn.2005-03.org.example:init1"
T1 = "iqn.2005-03.org.example:t1"
HERE = ("192.0.2.10", 3260, 1)
LIMIT_S = 20.0
LANE = cast(Lane, LaneAlone())

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve | FakeIsnsServer, port: int = 0) -> AsyncIterator[Portal]:
    """A server on loopback."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if isinstance(serve, FakeIsnsServer):
                connection = Connection(serve)
                while data := await reader.read(65536):
                    writer.write(connection.receive(data))
                    await writer.drain()
            else:
                await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        yield Portal(*server.sockets[0].getsockname())


def ask(serve: Serve | FakeIsnsServer, **changes: Any) -> IsnsAnswer:
    async def main() -> IsnsAnswer:
        async with listening(serve) as server:
            return await query_targets(LANE, IsnsRequest(server, INITIATOR, **changes))

    return asyncio.run(main())


def test_targets_and_their_portals() -> None:
    answer = ask(FakeIsnsServer({T1: Node([HERE])}))
    assert answer == IsnsAnswer((DiscoveredTarget(T1, ((Portal("192.0.2.10"), 1),)),))


def test_more_than_a_server_can_say_at_once() -> None:
    nodes = {f"{T1}.{number:03}": Node([HERE]) for number in range(100)}
    assert len(ask(FakeIsnsServer(nodes, buffer_bytes=8192, members_only=True)).targets) == 100


def test_a_name_that_is_none_is_not_sent() -> None:
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(query_targets(LANE, IsnsRequest(Portal("127.0.0.1", 1), "host1")))
    assert caught.value.err is IscsiErr.INVAL


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = Portal(*sock.getsockname())
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(query_targets(LANE, IsnsRequest(server, INITIATOR)))
    assert (caught.value.err, caught.value.code) == (IscsiErr.ISNS_QUERY, "refused")
    assert caught.value.message == f"iSNS server {server}: refused the TCP connection"
    assert caught.value.hint is not None


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def half_a_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\0\1\x80\2\0")


async def promising(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(Pdu(0x8002, Flag.FIRST | Flag.LAST, 1, 0, bytes(100)).pack()[:-1])
    await reader.read()


async def chattering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whole messages that answer nothing, for ever."""
    while True:
        writer.write(Pdu(0x8002, Flag.FIRST | Flag.LAST, 999, 0, bytes(60000)).pack())
        await writer.drain()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Segments for ever."""
    await reader.read(1)
    for sequence in range(65536):
        writer.write(Pdu(0x8002, 0 if sequence else Flag.FIRST, 1, sequence, bytes(65532)).pack())
        await writer.drain()


async def from_the_web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read()


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (closing, "closed the connection before the query for the next target was answered"),
        (resetting, "before the query for the next target was answered"),
        (half_a_header, "inside a message (5 of 12 bytes)"),
        (endless, "a message of more than 16777216 bytes"),
        (from_the_web, "is no iSNS message"),
    ],
)
def test_servers_that_mean_harm(serve: Serve, words: str) -> None:
    with pytest.raises(IscsiFailure) as caught:
        ask(serve)
    assert caught.value.err is IscsiErr.ISNS_QUERY
    assert caught.value.message.startswith("iSNS server 127.0.0.1:")
    assert words in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("serve", [silent, promising, chattering])
def test_servers_that_waste_time(serve: Serve) -> None:
    with pytest.raises(IscsiFailure) as caught:
        ask(serve, timeout_s=0.3, total_s=1.0)
    assert (caught.value.err, caught.value.code) == (IscsiErr.ISNS_QUERY, "unanswered")
    assert "within 0.3 s" in caught.value.message


# Watching.


class Watched:
    """A watch with a server that notifies it, by hand."""

    def __init__(self, server: FakeIsnsServer, transport: str) -> None:
        self.server = server
        self.transport = transport
        self.time = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Watch]:
        async with listening(self.server) as where:
            self.where = where
            async with self.watching(where) as watch:
                yield watch

    @contextlib.asynccontextmanager
    async def watching(self, where: Portal) -> AsyncIterator[Watch]:
        watch = Watch(LANE, WatchConfig(where, INITIATOR, self.transport, settle_s=0.02, quiet_s=0.02))
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def port(self) -> int:
        (entity,) = self.server.entities.values()
        return read_number(Attribute(Tag.SCN_PORT, entity.attributes[Tag.SCN_PORT])) & 0xFFFF

    def message(self, name: str) -> Message:
        self.time += 1
        head = of_text(Tag.ISCSI_NAME, INITIATOR), Attribute(Tag.TIMESTAMP, self.time.to_bytes(8, "big"))
        payload = pack([*head, of_number(Tag.SCN_BITMAP, 0xC), of_text(Tag.ISCSI_NAME, name)])
        return Message(Function.SCN, self.time, payload)

    async def notify(self, name: str, sender: str = "127.0.0.1") -> bytes:
        """Tell the watch; its answer, empty when it gives none."""
        message = encode(self.message(name))
        loop = asyncio.get_running_loop()
        kind = socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.setblocking(False)
            sock.bind((sender, 0))
            await loop.sock_connect(sock, ("127.0.0.1", self.port))
            await loop.sock_sendall(sock, message)
            if sender != "127.0.0.1" and self.transport == "udp":
                return b""
            async with asyncio.timeout(LIMIT_S):
                with contextlib.suppress(ConnectionResetError):
                    return await loop.sock_recv(sock, 65536)
        return b""


async def next_change(watch: Watch) -> Change:
    async with asyncio.timeout(LIMIT_S):
        return await watch.next_change()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_target_that_comes_and_goes(transport: str) -> None:
    async def main() -> None:
        watched = Watched(FakeIsnsServer(), transport)
        async with watched.running() as watch:
            assert (await next_change(watch)).kind is ChangeKind.RESYNC
            assert watch.status.registered
            assert watch.status.notified
            watched.server.nodes[T1] = Node([HERE])
            assert parse_datagram(await watched.notify(T1)).function == 0x8008
            target = DiscoveredTarget(T1, ((Portal("192.0.2.10"), 1),))
            assert await next_change(watch) == Change(ChangeKind.PRESENT, T1, target)
            del watched.server.nodes[T1]
            await watched.notify(T1)
            assert await next_change(watch) == Change(ChangeKind.GONE, T1)
        assert not watched.server.entities

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_nobody_else_is_heard(transport: str) -> None:
    async def main() -> None:
        watched = Watched(FakeIsnsServer({T1: Node([HERE])}), transport)
        async with watched.running() as watch:
            await next_change(watch)
            assert await watched.notify(T1, sender="127.0.0.2") == b""
            await until(lambda: watch.status.ignored == 1)
            assert watch.status.notifications == 0

    asyncio.run(main())


def test_a_target_with_bad_entries_is_not_gone() -> None:
    async def main() -> None:
        watched = Watched(FakeIsnsServer({T1: Node([("192.0.2.10", 3260, 70000)])}), "udp")
        async with watched.running() as watch:
            await next_change(watch)
            await watched.notify(T1)
            await watched.notify(f"{T1}.other")
            watched.server.nodes[f"{T1}.last"] = Node([HERE])
            await until(lambda: watch.status.notifications == 2)
            await watched.notify(f"{T1}.last")
            changes = [await next_change(watch)]
            while changes[-1].name != f"{T1}.last":
                changes.append(await next_change(watch))
            assert T1 not in [change.name for change in changes]

    asyncio.run(main())


def test_a_server_that_fails_while_it_is_asked_makes_everything_uncertain() -> None:
    async def main() -> None:
        watched = Watched(FakeIsnsServer(), "udp")
        async with watched.running() as watch:
            await next_change(watch)
            watched.server.twist = lambda request, answer: b"no such thing"
            await watched.notify(T1)
            assert (await next_change(watch)).kind is ChangeKind.RESYNC
            assert "iSNS" in watch.status.last_error

    asyncio.run(main())


@pytest.mark.slow
def test_a_server_that_is_silent_at_the_end_leaves_nothing_of_the_watch() -> None:
    async def main() -> None:
        watched = Watched(FakeIsnsServer(), "udp")
        async with listening(watched.server) as where:
            async with watched.watching(where) as watch:
                await next_change(watch)
                watched.server.twist = lambda request, answer: b""
            assert not watch.status.registered
            left = [task for task in asyncio.all_tasks() if "Watch" in repr(task.get_coro())]
            assert all(task.done() or task.cancelling() for task in left)

    asyncio.run(main())


@pytest.mark.slow
def test_a_server_that_is_started_again_without_its_database() -> None:
    async def main() -> None:
        server = FakeIsnsServer(period_s=2)
        watched = Watched(server, "udp")
        async with contextlib.AsyncExitStack() as stack:
            where = await stack.enter_async_context(first := listening(server))
            watch = await stack.enter_async_context(watched.watching(where))
            await next_change(watch)
            await first.__aexit__(None, None, None)
            server.entities.clear()
            await until(lambda: watch.status.last_error)
            assert not watch.status.registered
            await stack.enter_async_context(listening(server, where.port))
            assert (await next_change(watch)).kind is ChangeKind.RESYNC
            assert watch.status.registered
            assert list(server.entities) == [entity_of(INITIATOR)]

    asyncio.run(main())


def test_a_port_that_is_taken() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", 0))
            config = WatchConfig(Portal("127.0.0.1", 1), INITIATOR, port=sock.getsockname()[1])
            await Watch(LANE, config).run()

    with pytest.raises(IscsiFailure, match="cannot be opened"):
        asyncio.run(main())


def test_whoever_does_not_read_changes_is_told_to_ask_for_everything() -> None:
    async def main() -> list[ChangeKind]:
        watch = Watch(LANE, WatchConfig(Portal("127.0.0.1", 1), INITIATOR))
        for number in range(2000):
            watch._tell(Change(ChangeKind.GONE, f"{T1}.{number}"))
        return [(await next_change(watch)).kind for _ in range(976)]

    kinds = asyncio.run(main())
    assert kinds[0] is ChangeKind.RESYNC
    assert set(kinds[1:]) == {ChangeKind.GONE}
