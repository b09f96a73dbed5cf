# SPDX-License-Identifier: Apache-2.0
"""The discovery daemon next to the real initiator service, each in its lane, on the fake kernel and a fake target."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rdmactl.discoveryd.initiator import DispatchedInitiator
from rdmactl.discoveryd.service import DiscoveryService
from rdmactl.initiator import sysfs
from rdmactl.initiator.api import SessionStatus
from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.portal import Portal
from rdmactl.records import operations
from rdmactl.records.store import Store
from tests.fake.initiator_bench import DEADLINE_S, FakeWorld
from tests.fake.target import StreamTarget, TargetScript

pytestmark = [pytest.mark.fake, pytest.mark.slow]

ME = "iqn.2026-11.test:me"


class World(FakeWorld):
    """With a discovery daemon, and records it reads."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "sys")
        self.records = str(directory / "records")

    async def _start(self) -> None:
        self.dispatcher.add("initiator", self._service)
        self.dispatcher.add("discoveryd", self._discoveryd)
        await self.dispatcher.start(DEADLINE_S)
        await self.dispatcher.wait_ready(DEADLINE_S)

    def _discoveryd(self) -> DiscoveryService:
        initiator = DispatchedInitiator(self.dispatcher)
        return DiscoveryService(initiator, ME, directory=self.records, root=self.root)

    @contextlib.asynccontextmanager
    async def listing(self, portal: Portal) -> AsyncIterator[Portal]:
        """A server that lists the target at `portal`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            target = StreamTarget(TargetScript(targets={self.target: [f"{portal},1"]}))
            while not target.target.closed and (data := await reader.read(65536)):
                writer.write(target.receive(data))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            yield Portal(*server.sockets[0].getsockname())

    def watch(self, server: Portal) -> None:
        prefix = "discovery.sendtargets"
        pairs = [(f"{prefix}.use_discoveryd", "Yes"), (f"{prefix}.discoveryd_poll_inval", "1")]
        with Store(self.records) as store, store.transaction():
            operations.new_discovery(store, "sendtargets", *server, [])
            operations.update_discovery(store, "sendtargets", *server, pairs)

    async def sessions(self) -> list[SessionStatus]:
        async def ask(service: InitiatorService) -> list[SessionStatus]:
            return service.status()

        found: list[SessionStatus] = await self.call(ask)
        return found

    async def wait_for(self, condition: Callable[[list[SessionStatus]], bool]) -> list[SessionStatus]:
        async with asyncio.timeout(DEADLINE_S):
            while not condition(found := await self.sessions()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "sys").mkdir()
    return World(tmp_path)


def test_a_watched_record_makes_a_session_with_its_claim(world: World) -> None:
    async def scenario() -> None:
        async with world.listing(world.portal("tcp")) as server:
            world.watch(server)
            (session,) = await world.wait_for(bool)
            assert (session.target, session.portal) == (world.target, world.portal("tcp"))
            assert session.claims == (f"discovery:sendtargets {server}",)
            statuses: Any = await world.dispatcher.call("discoveryd", _status, deadline_s=DEADLINE_S)
            assert [(each.address, each.port, each.places) for each in statuses] == [(*server, 1)]

    world.run(scenario)
    assert len(sysfs.sessions(world.root)) == 1  # the end of both services leaves it


async def _status(service: DiscoveryService) -> Any:
    return service.status()


def test_a_claim_is_given_up_through_the_initiator(world: World) -> None:
    async def scenario() -> None:
        async with world.listing(world.portal("tcp")) as server:
            world.watch(server)
            (session,) = await world.wait_for(bool)
            with Store(world.records) as store, store.transaction():
                operations.delete_discovery(store, "sendtargets", *server)
            initiator = DispatchedInitiator(world.dispatcher)
            (held,) = await initiator.sessions()
            assert (held.sid, held.claims) == (session.sid, frozenset(session.claims))
            await initiator.release(held.sid, session.claims[0])
            await world.wait_for(lambda found: not found)

    world.run(scenario)
    assert world.leftovers() == []


def test_two_claims_and_one_given_up(world: World) -> None:
    async def scenario() -> None:
        async with world.listing(world.portal("tcp")) as server:
            world.watch(server)
            (session,) = await world.wait_for(bool)
            await world.call(lambda service: service.claim(session.sid, "administrator"))
            await DispatchedInitiator(world.dispatcher).release(session.sid, session.claims[0])
            (left,) = await world.sessions()
            assert left.claims == ("administrator",)

    world.run(scenario)
