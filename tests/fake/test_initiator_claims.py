# SPDX-License-Identifier: Apache-2.0
"""Claims to sessions on the fake kernel: who keeps one, who may end it, and that a restart forgets nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.netlink.dispatcher import Dispatcher
from tests.fake.initiator_bench import DEADLINE_S, FakeWorld
from tests.fake.scsi_transport_iscsi import HANDLES
from tests.initiator_scenarios import login, logout, recovered, request, view

pytestmark = pytest.mark.fake


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)


def test_a_session_lives_as_long_as_somebody_claims_it(world: FakeWorld) -> None:
    """A login that finds it there claims it, too; claims outlive the daemon; the last one to go ends it."""

    async def claims(sid: int) -> tuple[str, ...]:
        async def ask(service: InitiatorService) -> tuple[str, ...]:
            return next((each.claims for each in service.status() if each.sid == sid), ())

        return await world.call(ask)  # type: ignore[no-any-return]

    async def scenario() -> None:
        wanted = request(world, "iser")
        sid = await world.call(lambda service: service.login(wanted, "boot"))
        with pytest.raises(IscsiFailure) as caught:
            await world.call(lambda service: service.login(wanted, "csi"))
        assert caught.value.err is IscsiErr.SESS_EXISTS
        assert await world.call(lambda service: service.claim(sid, "backup")) == ("boot", "csi", "backup")
        await world.restart()
        assert await claims(sid) == ("boot", "csi", "backup")
        with pytest.raises(IscsiFailure) as caught:
            await logout(world, sid)
        assert caught.value.err is IscsiErr.BUSY
        assert "claimed by boot, csi, backup" in caught.value.message
        assert await world.call(lambda service: service.logout(sid, "csi")) == ("boot", "backup")
        assert view(world, sid).connection_text == "LOGGED IN"
        await world.restart()
        assert await world.call(lambda service: service.logout(sid, "boot")) == ("backup",)
        assert await world.call(lambda service: service.logout(sid, "backup")) == ()
        assert world.leftovers() == []
        assert await claims(sid) == ()

    world.run(scenario)


def test_everybody_s_claims_can_be_given_up_at_once(world: FakeWorld) -> None:
    async def scenario() -> None:
        sid = await world.call(lambda service: service.login(request(world, "tcp"), "boot"))
        await world.call(lambda service: service.claim(sid, "csi"))
        assert await world.call(lambda service: service.logout(sid, everybody=True)) == ()
        assert world.leftovers() == []

    world.run(scenario)


def test_a_session_in_use_is_kept_when_asked_to(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its end is refused: a claim that is not the last one goes all the same."""
    monkeypatch.setattr("rdmactl.initiator.usage.users", lambda *_: ["sda is mounted on /srv"])

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp"))
        await world.call(lambda service: service.claim(sid, "csi"))
        assert await world.call(lambda service: service.logout(sid, "csi", safe=True)) == ("administrator",)
        with pytest.raises(IscsiFailure, match="in use: sda is mounted on /srv"):
            await world.call(lambda service: service.logout(sid, safe=True))
        await logout(world, sid)

    world.run(scenario)


def test_a_session_of_another_program_is_the_administrator_s(world: FakeWorld) -> None:
    """It can be claimed and logged out here, and is looked after from then on."""

    async def scenario() -> None:
        other = Dispatcher(world.door)
        other.add("other", lambda: InitiatorService(world.root, ready_transport=lambda name, _: HANDLES[name]))
        await other.start(DEADLINE_S)
        sid = await other.call("other", lambda service: service.login(request(world, "iser")), deadline_s=DEADLINE_S)
        await other.stop(DEADLINE_S)
        assert await world.call(lambda service: service.claim(sid, "csi")) == ("administrator", "csi")
        world.break_connection(sid)
        await recovered(world)
        assert await world.call(lambda service: service.logout(sid)) == ("csi",)
        assert await world.call(lambda service: service.logout(sid, "csi")) == ()
        with pytest.raises(IscsiFailure, match="no session"):
            await world.call(lambda service: service.claim(sid, "csi"))

    world.run(scenario)
