# SPDX-License-Identifier: Apache-2.0
"""Against open-isns's server: queries beyond its buffer, notifications, inquiries, domains, a restart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from rdmactl.initiator.api import DiscoveredTarget
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.api import Change, ChangeKind, IsnsAnswer, IsnsRequest, WatchConfig
from rdmactl.isns.client import query_targets
from rdmactl.isns.watch import Watch
from rdmactl.netlink.ports import Lane
from tests.fake.test_initiator_discovery import LaneAlone
from tests.lab.guest import sh
from tests.lab.isns_world import Administrator, deregister, register, start_isnsd

pytestmark = pytest.mark.kernel

LIMIT_S = 120.0
LANE = cast(Lane, LaneAlone())
ADDRESS = "10.9.0.1"
SERVER = Portal(ADDRESS, 3205)
INITIATOR = "iqn.2003-01.org.example:host1"
TARGET = "iqn.2003-01.org.example:disk1"
FOUND = DiscoveredTarget(TARGET, ((Portal(ADDRESS), 1),))


class Server:
    """isnsd, which may be started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: Any) -> None:
        self.settings = settings or self.settings
        self.process = start_isnsd(self.directory, **self.settings)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def forget(self) -> None:
        """Started again, with nothing in its database."""
        self.stop()
        shutil.rmtree(self.directory / "isns")
        self.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    sh(f"ip link set lo up; ip address replace {ADDRESS}/32 dev lo")
    server = Server(tmp_path)
    yield server
    server.stop()


def ask(*names: str) -> Awaitable[IsnsAnswer]:
    return query_targets(LANE, IsnsRequest(SERVER, INITIATOR, names))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


@contextlib.asynccontextmanager
async def watching(transport: str = "udp") -> AsyncIterator[Watch]:
    """A watch that has registered."""
    watch = Watch(LANE, WatchConfig(SERVER, INITIATOR, transport, esi_interval_s=5))
    task = asyncio.create_task(watch.run())
    try:
        assert (await change(watch)).kind is ChangeKind.RESYNC
        assert watch.status.notified
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def change(watch: Watch) -> Change:
    async with asyncio.timeout(LIMIT_S):
        return await watch.next_change()


async def until(watch: Watch, kind: ChangeKind) -> Change:
    """The next change of a kind: a registration may be told in several steps."""
    while (news := await change(watch)).kind is not kind:
        pass
    return news


def test_nothing_then_something(server: Server) -> None:
    server.start()
    assert asyncio.run(_answer()) == IsnsAnswer(())
    register(TARGET, f"{ADDRESS}:3260")
    assert asyncio.run(_answer()) == IsnsAnswer((FOUND,))


async def _answer() -> IsnsAnswer:
    return await ask()


def test_more_targets_than_the_server_can_say(server: Server) -> None:
    server.start()
    names = [f"iqn.2003-01.org.example:disk{number:04}" for number in range(200)]
    administrator = Administrator(names[0])
    administrator.register(names, ADDRESS, 3260)
    administrator.close()
    answer = asyncio.run(_answer())
    assert sorted(target.name for target in answer.targets) == names
    assert {target.portals for target in answer.targets} == {((Portal(ADDRESS), 1),)}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_target_is_announced_and_so_is_its_end(server: Server, transport: str) -> None:
    server.start()

    async def main() -> None:
        async with watching(transport) as watch:
            await asyncio.to_thread(register, TARGET, f"{ADDRESS}:3260")
            assert await until(watch, ChangeKind.PRESENT) == Change(ChangeKind.PRESENT, TARGET, FOUND)
            administrator = await asyncio.to_thread(Administrator, TARGET)
            assert await asyncio.to_thread(administrator.knows, INITIATOR)
            await asyncio.to_thread(deregister, TARGET)
            assert await until(watch, ChangeKind.GONE) == Change(ChangeKind.GONE, TARGET)
        assert not await asyncio.to_thread(administrator.knows, INITIATOR)
        administrator.close()

    run(main)


def test_inquiries_and_refreshes_keep_the_registration(server: Server) -> None:
    server.start(period_s=6)

    async def main() -> None:
        async with watching() as watch:
            async with asyncio.timeout(LIMIT_S):
                while watch.status.inquiries < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert watch.status.registered
            await asyncio.to_thread(register, TARGET, f"{ADDRESS}:3260")
            assert await change(watch) == Change(ChangeKind.PRESENT, TARGET, FOUND)

    run(main)


def test_a_server_that_has_lost_its_database_gets_us_again(server: Server) -> None:
    server.start(period_s=10)

    async def main() -> None:
        async with watching() as watch:
            await asyncio.to_thread(server.forget)
            await until(watch, ChangeKind.RESYNC)
            await asyncio.to_thread(register, TARGET, f"{ADDRESS}:3260")
            assert (await until(watch, ChangeKind.PRESENT)).target == FOUND

    run(main)


def test_what_a_discovery_domain_shows(server: Server) -> None:
    server.start(default_domain=False)
    register(TARGET, f"{ADDRESS}:3260")

    async def main() -> None:
        async with watching() as watch:
            assert (await ask()).targets == ()
            administrator = await asyncio.to_thread(Administrator, TARGET)
            domain = await asyncio.to_thread(administrator.new_domain, "one", INITIATOR, TARGET)
            assert await until(watch, ChangeKind.PRESENT) == Change(ChangeKind.PRESENT, TARGET, FOUND)
            assert (await ask()).targets == (FOUND,)
            await asyncio.to_thread(administrator.remove_member, domain, TARGET)
            assert (await ask()).targets == ()  # isnsd tells nobody: whoever must know asks
            administrator.close()

    run(main)
