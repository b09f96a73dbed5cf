# SPDX-License-Identifier: Apache-2.0
"""The initiator service on the fake kernel: the common scenarios, and faults that no real kernel makes to order."""

from __future__ import annotations

import asyncio
import errno
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import ChapSettings, SessionHistory, SessionStatus
from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.pdu import Async, LogoutResponse
from rdmactl.netlink.iscsi import Uevent
from rdmactl.netlink.message import Message
from tests import initiator_scenarios as scenarios
from tests.fake.initiator_bench import FakeWorld
from tests.fake.kernel import FakeSocket
from tests.fake.target import FakeTarget, TargetChap, TargetScript
from tests.initiator_scenarios import FAST, failure, login, logout, recovered, request

pytestmark = pytest.mark.fake

IMPATIENT = replace(FAST, login_timeout_s=0.03)

Scenario = Callable[[scenarios.World, str], Awaitable[None]]


@pytest.mark.parametrize("transport", ["tcp", "iser"])
@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(tmp_path: Path, scenario: Scenario, transport: str) -> None:
    world = FakeWorld(tmp_path)
    world.run(partial(scenario, world, transport))


@pytest.mark.parametrize("transport", ["tcp", "iser"])
@pytest.mark.parametrize(
    "kind",
    [
        Uevent.CREATE_SESSION,
        Uevent.CREATE_BOUND_SESSION,
        Uevent.CREATE_CONN,
        Uevent.BIND_CONN,
        Uevent.SET_PARAM,
        Uevent.SEND_PDU,
        Uevent.START_CONN,
        Uevent.TRANSPORT_EP_CONNECT,
        Uevent.TRANSPORT_EP_POLL,
    ],
)
def test_a_login_that_fails_at_any_request_leaves_nothing(tmp_path: Path, transport: str, kind: Uevent) -> None:
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        world.kernel.fail_always = {kind: -errno.EINVAL}
        if _uses(transport, kind):
            with pytest.raises(IscsiFailure):
                await login(world, request(world, transport, IMPATIENT))
            assert world.leftovers() == []
        world.kernel.fail_always = {}
        await logout(world, await login(world, request(world, transport)))
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("kind", [Uevent.BIND_CONN, Uevent.SET_PARAM, Uevent.SEND_PDU, Uevent.START_CONN])
def test_a_connection_that_ends_early_is_said_to(tmp_path: Path, kind: Uevent) -> None:
    """The kernel refuses what comes after that; whichever request it is, the user did not ask for it."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        world.kernel.fail_always = {kind: -errno.ENOTCONN}
        error = await failure(world, request(world, "tcp", IMPATIENT))
        assert "the connection was lost during the login" in error.message
        assert kind.name not in error.message

    world.run(scenario)


def _uses(transport: str, kind: Uevent) -> bool:
    iser_only = kind in (Uevent.CREATE_BOUND_SESSION, Uevent.TRANSPORT_EP_CONNECT, Uevent.TRANSPORT_EP_POLL)
    return kind is not Uevent.CREATE_SESSION if transport == "iser" else not iser_only


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_the_order_of_requests_of_a_life(tmp_path: Path, transport: str) -> None:
    """Checklist 33: EP_DISCONNECT comes before STOP_CONN."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        await logout(world, await login(world, request(world, transport)))
        names = [name for name, _ in groupby(name for name in world.kernel.log if name != "TRANSPORT_EP_POLL")]
        connect = ["TRANSPORT_EP_CONNECT", "CREATE_BOUND_SESSION"] if transport == "iser" else ["CREATE_SESSION"]
        pdus = ["SEND_PDU"]
        release = ["TRANSPORT_EP_DISCONNECT"] if transport == "iser" else []
        assert names == [
            *connect, "CREATE_CONN", "BIND_CONN", "SET_PARAM", *pdus, "SET_PARAM", "START_CONN",
            "UNBIND_SESSION", "SEND_PDU", *release, "STOP_CONN", "DESTROY_CONN", "DESTROY_SESSION_ASYNC",
        ]  # fmt: skip

    world.run(scenario)


def test_a_refusal_of_class_2_is_final(tmp_path: Path) -> None:
    """Checklist 25: no retry after 0201, error class "auth"."""
    world = FakeWorld(tmp_path, TargetScript(status=0x0201))

    async def scenario() -> None:
        error = await failure(world, request(world, "tcp"))
        assert error.err is IscsiErr.LOGIN_AUTH_FAILED
        assert len(world.connections) == 1
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_a_busy_target_is_asked_again(tmp_path: Path, transport: str) -> None:
    """Checklist 25: 0301 is worth another attempt."""
    world = FakeWorld(tmp_path, TargetScript(status=0x0301))

    async def scenario() -> None:
        attempt = asyncio.ensure_future(login(world, request(world, transport)))
        await scenarios.eventually(world, lambda: world.connections and world.connections[0].closed, "no attempt")
        world.script.status = None
        sid = await attempt
        assert len(world.connections) == 2
        await logout(world, sid)

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_055_a_redirection_keeps_session_and_configured_portal(tmp_path: Path, transport: str) -> None:
    """Checklist 26."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        elsewhere = world.add_portal(transport)
        world.iser.peer = world.tcp.peer = lambda: FakeTarget(TargetScript(redirect=(0x0101, f"{elsewhere}")))
        sid = await login(world, request(world, transport))
        assert sid == 1  # the same kernel session throughout
        assert scenarios.view(world, sid).persistent == world.portal(transport)
        assert world.kernel.log.count("BIND_CONN") == 2
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_055_a_target_that_has_moved_for_good(tmp_path: Path, transport: str) -> None:
    """Checklist 55: kernel, record and the next relogin know the new portal, also after a restart."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        home = world.add_portal(transport)
        world.iser.peer = world.tcp.peer = lambda: FakeTarget(TargetScript(redirect=(0x0102, f"{home}")))
        wanted = request(world, transport)
        sid = await login(world, wanted)
        assert scenarios.view(world, sid).persistent == home
        await scenarios.eventually(world, lambda: world.moves == [(wanted, home)], "the records are not told")
        await world.restart()
        world.iser.mode = world.tcp.mode = "refuse"  # nobody is left there
        world.break_connection(sid)
        assert (await recovered(world)).portal == home
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_055_a_target_that_moves_and_refuses_moves_nothing(tmp_path: Path, transport: str) -> None:
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        home = world.add_portal(transport)
        world.iser.peer = world.tcp.peer = lambda: FakeTarget(TargetScript(redirect=(0x0102, f"{home}")))
        world.kernel.portals[home].peer = lambda: FakeTarget(TargetScript(status=0x0201))
        assert (await failure(world, request(world, transport))).err is IscsiErr.LOGIN_AUTH_FAILED
        assert world.moves == []
        assert world.leftovers() == []

    world.run(scenario)


def test_049_a_redirection_in_circles_ends(tmp_path: Path) -> None:
    """Checklist 26: a loop of redirections is an error, at once."""
    world = FakeWorld(tmp_path)
    world.script.redirect = (0x0101, str(world.portal("tcp")))

    async def scenario() -> None:
        error = await failure(world, request(world, "tcp"))
        assert error.err is IscsiErr.FATAL_LOGIN
        assert "redirect loop" in error.message
        assert world.leftovers() == []

    world.run(scenario)


def test_chap_secrets_go_to_the_kernel_and_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world = FakeWorld(tmp_path, TargetScript(chap=TargetChap()))
    settings = replace(FAST, chap=ChapSettings("inuser", "insecret12345"))

    async def scenario() -> None:
        wanted = request(world, "tcp", settings)
        sid = await login(world, wanted)
        assert scenarios.view(world, sid).chap().password == "insecret12345"
        wrong = replace(settings, chap=ChapSettings("inuser", "another-secret"))
        error = await failure(world, replace(request(world, "tcp", wrong), iface_name="second"))
        assert error.err is IscsiErr.LOGIN_AUTH_FAILED
        for text in (caplog.text, str(error), repr(wanted), repr(error)):
            assert "insecret12345" not in text
            assert "another-secret" not in text
        await logout(world, sid)

    world.run(scenario)


def test_negotiated_values_are_what_the_target_said(tmp_path: Path) -> None:
    """Checklist 10, 11, 21: no marker on tcp, MaxOutstandingR2T rounded to a power of two."""
    world = FakeWorld(tmp_path, TargetScript(limits={"MaxOutstandingR2T": 3, "MaxBurstLength": 8192}))

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", replace(FAST, max_outstanding_r2t=8)))
        negotiated = scenarios.view(world, sid).negotiated()
        assert (negotiated.max_outstanding_r2t, negotiated.max_burst_length) == (2, 8192)
        assert negotiated.first_burst_length is not None
        assert negotiated.first_burst_length <= 8192  # checklist 23: clamped before START_CONN
        await logout(world, sid)

    world.run(scenario)


def test_stale_events_of_the_old_connection_do_not_disturb_the_new_login(tmp_path: Path) -> None:
    """Checklist 38: whatever is queued when STOP_CONN returns is dropped."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp"))
        world.kernel.stale_events = [(Uevent.CONN_ERROR, struct.pack("=III", sid, 0, 1011))] * 5
        world.break_connection(sid)
        status = await recovered(world)
        assert status.attempts == 1
        await logout(world, sid)

    world.run(scenario)


def test_lost_events_are_made_up_for_from_sysfs(tmp_path: Path) -> None:
    """Checklist 48: ENOBUFS, and among what was lost was the end of a connection."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp"))
        world.kernel.lose_events = True
        world.break_connection(sid)
        world.kernel.lose_events = False
        world.kernel.overrun()
        await recovered(world)
        await logout(world, sid)

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_target_asks_for_a_logout(tmp_path: Path, transport: str) -> None:
    """Checklist 39: log out, and log in again."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        world.connections[0].twist = lambda pdu, answers: [LogoutResponse(0, time2wait_s=0).pdu()]
        world.kernel.send_from_target(sid, Async(1, parameter3=5).pdu())
        status = await recovered(world)
        assert status.sid == sid
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


async def timeline(world: FakeWorld, sid: int) -> list[tuple[str, str]]:
    """(state, reason) of each moment of a session's life."""

    async def ask(service: InitiatorService) -> list[SessionHistory]:
        return service.history()

    (found,) = [history for history in await world.call(ask) if history.sid == sid]
    return [(moment.state, moment.reason) for moment in found.moments]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["address", "RDMA device"])
def test_an_address_or_a_device_that_comes_ends_the_pause(tmp_path: Path, what: str) -> None:
    """The pauses are far longer than the test would wait."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "iser", replace(FAST, replacement_timeout_s=-1)))
        world.iser.mode = "refuse"
        world.break_connection(sid)
        await scenarios.eventually(world, lambda: world.kernel.log.count("TRANSPORT_EP_CONNECT") >= 4, "no attempts")
        world.iser.mode = "accept"
        begin = time.monotonic()
        while scenarios.view(world, sid).connection_text != "LOGGED IN":
            assert time.monotonic() < begin + world.settle_s
            if what == "address":
                world.routes.address_comes()
            else:
                world.devices.event("add", "infiniband")
            await asyncio.sleep(0.05)
        await recovered(world)
        states = await timeline(world, sid)
        assert [state for state, _ in states][:2] == ["logged in", "connection lost, being brought back"]
        assert len(states) <= 5  # attempts are not listed
        await logout(world, sid)
        assert (await timeline(world, sid))[-1][0] == "logging out"

    world.run(scenario)


def test_other_luns_are_looked_for_once(tmp_path: Path) -> None:
    """Sense 3f/0e in asynchronous messages: one scan however many come in a row."""
    world = FakeWorld(tmp_path)
    sense = bytes([0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x3F, 0x0E, 0, 0, 0, 0])

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp"))
        scan_file = tmp_path / f"class/scsi_host/host{scenarios.view(world, sid).host_no}/scan"
        scan_file.write_text("")
        for _ in range(5):
            world.kernel.send_from_target(sid, Async(0).pdu(len(sense).to_bytes(2, "big") + sense))
        await scenarios.eventually(world, lambda: scan_file.read_text().strip() == "- - -", "no scan")
        await logout(world, sid)

    world.run(scenario)


def test_silent_portals_take_nobodys_place(tmp_path: Path) -> None:
    """More of them than logins may be at work at a time."""
    world = FakeWorld(tmp_path)
    nobody = world.add_portal("iser")
    world.kernel.portals[nobody].mode = "silent"
    patient = replace(FAST, login_timeout_s=60.0)

    async def scenario() -> None:
        wanted = [replace(request(world, "iser", patient), portal=nobody, iface_name=f"i{n}") for n in range(40)]
        silent = [asyncio.ensure_future(login(world, each)) for each in wanted]
        await scenarios.eventually(world, lambda: len(world.kernel.endpoints) == len(silent), "they do not begin")
        sid = await login(world, request(world, "iser"))
        assert not any(task.done() for task in silent)
        await logout(world, sid)
        for task in silent:
            task.cancel()
        await asyncio.wait(silent)
        await scenarios.eventually(world, lambda: world.leftovers() == [], "endpoints are left")

    world.run(scenario)


@pytest.mark.slow
def test_sessions_of_a_portal_that_was_out_all_come_back(tmp_path: Path) -> None:
    """How often a portal that is out is tried is the breaker's, which has exact times in its own tests."""
    world = FakeWorld(tmp_path)
    sessions = 8

    def connects() -> int:
        return world.kernel.log.count("TRANSPORT_EP_CONNECT")

    async def scenario() -> None:
        wanted = [replace(request(world, "iser"), iface_name=f"i{n}") for n in range(sessions)]
        sids = await asyncio.gather(*(login(world, each) for each in wanted))
        world.iser.mode = "refuse"
        for sid in sids:
            world.break_connection(sid)
        await scenarios.eventually(world, lambda: connects() > sessions + 3, "no attempts")
        world.iser.mode = "accept"
        await scenarios.eventually(
            world, lambda: all(scenarios.view(world, sid).connection_text == "LOGGED IN" for sid in sids), "not back"
        )
        for sid in sids:
            await logout(world, sid)

    world.run(scenario)


def test_a_host_that_is_removed_ends_its_session(tmp_path: Path) -> None:
    """iscsi_err 1018: the driver waits until every session of the host is destroyed."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp"))
        world.kernel.fail(sid, 1018)
        await scenarios.eventually(world, lambda: world.leftovers() == [], "the session stays")
        await scenarios.eventually(world, lambda: not list((tmp_path / "run").iterdir()), "its settings stay")

    world.run(scenario)


def test_a_restart_keeps_what_the_kernel_does_not_know(tmp_path: Path) -> None:
    """Digests, CHAP algorithms and the scan policy of the login are those of the next relogin, daemon or not."""
    world = FakeWorld(tmp_path, TargetScript(chap=TargetChap(algorithms=(7,))))
    settings = replace(FAST, chap=ChapSettings("inuser", "insecret12345", algorithms=("SHA256",)), scan="manual")

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", settings))
        await world.restart()
        assert len(world.connections) == 1  # nothing was touched
        world.break_connection(sid)
        await recovered(world)
        assert len(world.connections) == 2
        assert [state for state, _ in await timeline(world, sid)].count("logged in") == 2
        await logout(world, sid)
        assert list((tmp_path / "run").iterdir()) == []

    world.run(scenario)


def test_the_recovery_timeout_is_the_kernels(tmp_path: Path) -> None:
    """An administrator has written another one than the record's, which is for ever."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", replace(FAST, replacement_timeout_s=-1)))
        world.tree.set_session(sid, recovery_tmo="0")
        world.tcp.mode = "refuse"
        world.break_connection(sid)
        end = time.monotonic() + world.settle_s
        while not any("I/O fails from now on" in reason for _, reason in await timeline(world, sid)):
            assert time.monotonic() < end, "it waits for the record's"
            await asyncio.sleep(0.01)
        await logout(world, sid)

    world.run(scenario)


@pytest.mark.parametrize("scan", ["auto", "manual"])
def test_a_daemon_killed_before_its_scan(tmp_path: Path, scan: str) -> None:
    """Its successor scans; what shall not be scanned, or nobody knows anything of, it leaves alone."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", replace(FAST, scan=scan)))
        found = world.kernel.sessions[sid]
        asked = tmp_path / f"class/scsi_host/host{found.host_no}/scan"
        found.target_state = "ALLOCATED"
        world.tree.set_session(sid, target_state="ALLOCATED")
        asked.write_text("")
        await world.restart()
        if scan == "auto":
            await scenarios.eventually(world, lambda: asked.read_text() == "- - -\n", "it is not scanned")
        for kept in (tmp_path / "run").iterdir():
            kept.unlink()
        asked.write_text("")
        await world.restart()
        await world.restart()  # its predecessor has done whatever it had begun
        assert asked.read_text() == ""
        await logout(world, sid)

    world.run(scenario)


def test_adopted_sessions_that_fail_together_lose_no_endpoint(tmp_path: Path) -> None:
    """The kernel puts failed connections away one after another: each is waited for before its STOP_CONN."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        wanted = request(world, "iser")
        sids = [await login(world, each) for each in (wanted, replace(wanted, portal=world.add_portal("iser")))]
        await world.restart()
        world.kernel.busy_cleaning_up = set(sids)
        for sid in sids:
            world.break_connection(sid)
        for sid in sids:
            await asyncio.sleep(0.1)
            world.kernel.cleaned_up(sid)
        for sid in sids:
            await recovered(world, sid=sid)
            await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


def test_a_logout_nobody_answers_ends_by_its_own_clock(tmp_path: Path) -> None:
    """Checklist 43, 44."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", replace(FAST, logout_timeout_s=0.05)))
        world.connections[0].twist = lambda pdu, answers: []
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_logout_in_the_middle_of_a_recovery(tmp_path: Path, transport: str) -> None:
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, transport))
        world.iser.mode = "refuse"
        world.script.status = 0x0301
        world.break_connection(sid)
        await scenarios.eventually(world, lambda: scenarios.view(world, sid).connection_text != "LOGGED IN", "up")
        await logout(world, sid)
        assert world.leftovers() == []

    world.run(scenario)


def test_a_session_somebody_else_destroys_is_forgotten(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp"))
        world.kernel.destroy_from_outside(sid)

        await scenarios.eventually(world, lambda: world.leftovers() == [], "it is still there")
        await logout(world, await login(world, request(world, "tcp")))

    world.run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "iser"])
def test_what_an_interrupted_login_left_is_removed_at_start(tmp_path: Path, transport: str) -> None:
    """Checklist 46. The maker of the half-made session, process 4194303, does not exist."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        with world.as_somebody_else() as raw:
            raw.session()
        world.tree.set_session(1, creator="4194303")
        await world.restart()
        await scenarios.eventually(world, lambda: world.leftovers() == [], "the half-made session stays")

    world.run(scenario)


def test_a_broken_session_does_not_delay_readiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel holds up its removal, and with it every request: who asks is served all the same."""
    world = FakeWorld(tmp_path)
    reached, go_on = threading.Event(), threading.Event()
    handle = world.kernel.handle

    def hold(sock: FakeSocket, message: Message) -> None:
        if message.type == Uevent.STOP_CONN:
            reached.set()
            go_on.wait(world.settle_s)
        handle(sock, message)

    async def statuses(service: InitiatorService) -> list[SessionStatus]:
        return service.status()

    async def scenario() -> None:
        with world.as_somebody_else() as raw:
            raw.session()
        sid = await login(world, replace(request(world, "tcp"), sessions_wanted=2))
        world.tree.set_session(1, creator="4194303")
        monkeypatch.setattr(world.kernel, "handle", hold)
        await world.restart()
        assert [each.sid for each in await world.call(statuses)] == [sid]
        await scenarios.eventually(world, reached.is_set, "the removal does not begin")
        assert len(sysfs.sessions(world.root)) == 2
        go_on.set()
        await scenarios.eventually(world, lambda: len(sysfs.sessions(world.root)) == 1, "the broken session stays")
        await logout(world, sid)

    world.run(scenario)


def test_needs_privilege(tmp_path: Path) -> None:
    """Checklist 2."""
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        world.kernel.privileged = False
        error = await failure(world, request(world, "tcp"))
        assert "not permitted" in error.message
        assert error.hint is not None
        assert "root" in error.hint

    world.run(scenario)


@pytest.mark.parametrize(("transport", "named"), [("tcp", 3), ("iser", 0)])
def test_statistics_come_to_who_asks(tmp_path: Path, transport: str, named: int) -> None:
    world = FakeWorld(tmp_path)

    async def scenario() -> None:
        sid = await login(world, request(world, transport, FAST))
        asked = [world.call(lambda service: service.statistics(sid)) for _ in range(3)]
        for found in await asyncio.gather(*asked):
            assert dict(found.fixed)["txdata_octets"] == 1000 + sid
            assert dict(found.fixed)["rxdata_octets"] == -1
            assert len(found.named) == named
        with pytest.raises(IscsiFailure, match="no session 999") as caught:
            await world.call(lambda service: service.statistics(999))
        assert caught.value.err is IscsiErr.SESS_NOT_FOUND

    world.run(scenario)
