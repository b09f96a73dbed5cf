# SPDX-License-Identifier: Apache-2.0
"""The discovery daemon over real records and a played initiator, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rdmactl.discoveryd.initiator import Held
from rdmactl.discoveryd.service import DiscoveryService
from rdmactl.discoveryd.watcher import DiscoveryStatus
from rdmactl.errors import RdmactlError
from rdmactl.initiator.api import DiscoveredTarget, DiscoveryAnswer, DiscoveryRequest, LoginRequest
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.api import Change, ChangeKind, IsnsRequest, WatchConfig, WatchStatus
from rdmactl.records import operations
from rdmactl.records.model import Secret
from rdmactl.records.store import NodeId, Store
from tests.fake.virtual_time import VirtualLane, run

pytestmark = pytest.mark.fake

ME = "iqn.2026-11.test:me"
A, B, C = (f"iqn.2026-11.test:{letter}" for letter in "abc")
SERVER = Portal("10.9.0.1", 3260)
CLAIM = f"discovery:sendtargets {SERVER}"
POLL_S = 30.0


class Question(NamedTuple):
    at_s: float
    server: Portal
    request: DiscoveryRequest | IsnsRequest


class PlayedInitiator:
    """Targets by server, and sessions; each question takes `takes_s` of its server."""

    def __init__(self) -> None:
        self.answers: dict[str, DiscoveryAnswer | RdmactlError] = {}
        self.takes_s: dict[str, float] = {}
        self.held: dict[int, Held] = {}
        self.asked: list[Question] = []
        self.logins: list[LoginRequest] = []
        self.refuses: dict[str, RdmactlError] = {}
        self.away = False
        self._sids = count(1)

    def has(self, *names: str, server: str = SERVER.address, skipped: int = 0) -> None:
        targets = tuple(DiscoveredTarget(name, ((Portal("10.9.0.5"), 1),)) for name in names)
        self.answers[server] = DiscoveryAnswer(targets, skipped, ("a name is too long; left out",) * skipped)

    def fails(self, message: str = "10.9.0.1:3260 does not answer", server: str = SERVER.address) -> None:
        self.answers[server] = IscsiFailure(IscsiErr.PDU_TIMEOUT, message)

    def somebody_has(self, name: str, *claims: str) -> int:
        sid = next(self._sids)
        self.held[sid] = Held(sid, name, Portal("10.9.0.5"), "default", frozenset(claims))
        return sid

    @property
    def targets(self) -> list[str]:
        return sorted(session.target for session in self.held.values())

    async def discover(self, request: DiscoveryRequest | IsnsRequest) -> DiscoveryAnswer:
        server = request.server if isinstance(request, IsnsRequest) else request.portal
        self.asked.append(Question(asyncio.get_running_loop().time(), server, request))
        await asyncio.sleep(self.takes_s.get(server.address, 0.01))
        answer = self.answers[server.address]
        if isinstance(answer, RdmactlError):
            raise answer
        return answer

    async def sessions(self) -> list[Held]:
        if self.away:
            raise IscsiFailure(IscsiErr.INTERNAL, "the initiator is being restarted")
        return list(self.held.values())

    async def login(self, request: LoginRequest, claim: str) -> int:
        self.logins.append(request)
        await asyncio.sleep(0.01)
        if request.target in self.refuses:
            raise self.refuses[request.target]
        sid = next(self._sids)
        self.held[sid] = Held(sid, request.target, request.portal, request.iface_name, frozenset({claim}))
        return sid

    async def release(self, sid: int, claim: str) -> None:
        assert claim in self.held[sid].claims
        del self.held[sid]


class PlayedEar:
    """A subscription to an iSNS server's news."""

    def __init__(self, config: WatchConfig) -> None:
        self.config = config
        self.changes: asyncio.Queue[Change] = asyncio.Queue()
        self.notified = True
        self.ended = False
        self.broken = False

    async def run(self) -> None:
        try:
            if self.broken:
                raise RuntimeError("a fault in the registration")
            await asyncio.Event().wait()
        finally:
            self.ended = True

    async def next_change(self) -> Change:
        return await self.changes.get()

    @property
    def status(self) -> WatchStatus:
        return WatchStatus(True, self.notified, 0.0, 0, 0, "")


class Bench:
    """Records, an initiator, and the daemon between them."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.initiator = PlayedInitiator()
        self.uses: dict[int, list[str]] = {}
        self.lane = VirtualLane()
        self.ears: list[PlayedEar] = []
        self.ear_is: dict[str, bool] = {}
        self.service = DiscoveryService(
            self.initiator,
            ME,
            directory=self.directory,
            ear=self._ear,
            uses=lambda sid: self.uses.get(sid, []),
            uniform=random.Random(7).uniform,
        )

    def _ear(self, _: object, config: WatchConfig) -> PlayedEar:
        self.ears.append(PlayedEar(config))
        for name, value in self.ear_is.items():
            setattr(self.ears[-1], name, value)
        return self.ears[-1]

    def watch_isns(self, *, poll: str = "-1") -> None:
        pairs = [("discovery.isns.use_discoveryd", "Yes"), ("discovery.isns.discoveryd_poll_inval", poll)]
        with Store(self.directory) as store, store.transaction():
            operations.new_discovery(store, "isns", SERVER.address, 3205, [])
            operations.update_discovery(store, "isns", SERVER.address, 3205, pairs)

    def watch(self, server: str = SERVER.address, *, poll: str = "30", use: str = "Yes", **more: str) -> None:
        pairs = [
            ("discovery.sendtargets.use_discoveryd", use),
            ("discovery.sendtargets.discoveryd_poll_inval", poll),
            *((f"discovery.sendtargets.{key}", value) for key, value in more.items()),
        ]
        with Store(self.directory) as store, store.transaction():
            if store.discovery("sendtargets", server, 3260) is None:
                operations.new_discovery(store, "sendtargets", server, 3260, [])
            operations.update_discovery(store, "sendtargets", server, 3260, pairs)

    def run(self, scenario: Callable[[], Awaitable[None]]) -> float:
        """Seconds the service took to end."""

        async def main() -> float:
            serving = asyncio.create_task(self.service.run(self.lane))  # type: ignore[arg-type]
            try:
                await scenario()
            finally:
                serving.cancel()
                begin = asyncio.get_running_loop().time()
                await asyncio.wait([serving])
            return asyncio.get_running_loop().time() - begin

        return run(main)

    def questions(self, server: Portal) -> int:
        """How many there were to a server."""
        return sum(question.server == server for question in self.initiator.asked)

    @property
    def status(self) -> DiscoveryStatus:
        (status,) = self.service.status()
        return status


async def rounds(number: float, poll_s: float = POLL_S) -> None:
    """Long enough for so many rounds, whatever their spread."""
    await asyncio.sleep((number + 0.2) * poll_s * 1.1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_appears_is_logged_in_and_what_goes_is_logged_out(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        assert bench.initiator.targets == [A, B]
        bench.initiator.has(A, C)
        await rounds(1)
        assert bench.initiator.targets == [A, B, C]
        await rounds(3)
        assert bench.initiator.targets == [A, C]
        assert (bench.status.places, bench.status.missing, bench.status.whole) == (2, 0, True)

    bench.run(scenario)
    assert bench.lane.is_ready


def test_148_an_empty_answer_takes_nothing_away(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        bench.initiator.has()
        await rounds(10)
        assert bench.initiator.targets == [A, B]
        assert len(bench.initiator.asked) > 8

    bench.run(scenario)


def test_149_a_list_that_was_cut_takes_nothing_away(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.watch()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        bench.initiator.has(A, skipped=1)
        await rounds(10)
        assert bench.initiator.targets == [A, B]
        assert not bench.status.whole

    bench.run(scenario)
    assert caplog.text.count("a name is too long; left out") == 1


def test_150_a_portal_missing_in_three_complete_rounds_goes_if_unused(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        used = next(sid for sid, held in bench.initiator.held.items() if held.target == B)
        bench.uses[used] = ["sda is mounted on /srv"]
        bench.initiator.has(A)
        await rounds(6)
        assert bench.initiator.targets == [A, B]
        bench.uses.clear()
        await rounds(1)
        assert bench.initiator.targets == [A]

    bench.run(scenario)


def test_why_a_session_stays_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.watch()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        for sid in bench.initiator.held:
            bench.uses[sid] = ["sda is swap space"]
        bench.initiator.has(A)
        await rounds(10)

    bench.run(scenario)
    assert caplog.text.count("is in use: sda is swap space") == 1


def test_a_session_somebody_else_has_made_or_claims_stays(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A, B, C)
    bench.initiator.somebody_has(A, "admin")
    bench.initiator.somebody_has(B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        (mine,) = [held for held in bench.initiator.held.values() if CLAIM in held.claims]
        assert mine.target == C
        bench.initiator.held[mine.sid] = mine._replace(claims=mine.claims | {"boot"})
        bench.initiator.has("iqn.2026-11.test:d")
        await rounds(10)
        assert bench.initiator.targets == [A, B, C, "iqn.2026-11.test:d"]

    bench.run(scenario)


def test_151_a_server_that_is_away_for_an_hour(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.watch()
    bench.initiator.has(A)

    async def scenario() -> None:
        await asyncio.sleep(5)
        bench.initiator.fails('cannot resolve "array.example"')
        before = len(bench.initiator.asked)
        await asyncio.sleep(3600)
        assert bench.initiator.targets == [A]
        assert 8 <= len(bench.initiator.asked) - before <= 12
        assert bench.status.last_error == 'cannot resolve "array.example"'
        assert bench.status.failures >= 8
        bench.initiator.has(A)
        await asyncio.sleep(700)
        assert (bench.status.last_error, bench.status.failures) == ("", 0)

    bench.run(scenario)
    assert caplog.text.count("cannot resolve") == 1


def test_152_the_end_in_the_middle_of_a_round(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A)
    bench.initiator.takes_s[SERVER.address] = 1000.0

    async def scenario() -> None:
        await asyncio.sleep(5)

    assert bench.run(scenario) < 5.0


def test_153_fifty_records_are_not_asked_in_step_and_one_slow_server_delays_nobody(bench: Bench) -> None:
    servers = [f"10.9.1.{number}" for number in range(50)]
    for server in servers:
        bench.watch(server)
        bench.initiator.has(f"iqn.2026-11.test:{server}", server=server)
    slow = servers[7]
    bench.initiator.takes_s[slow] = 1e6

    async def scenario() -> None:
        await rounds(10)

    bench.run(scenario)
    asked: dict[str, list[float]] = {}
    for question in bench.initiator.asked:
        asked.setdefault(question.server.address, []).append(question.at_s)
    assert len(asked.pop(slow)) == 1
    assert all(len(times) >= 9 for times in asked.values())
    assert len({times[9 - 1] for times in asked.values()}) == 49
    assert len(bench.initiator.held) == 49


def test_settings_count_at_once(bench: Bench) -> None:
    bench.watch(poll="600")
    bench.watch("10.9.0.9", use="No")
    bench.initiator.has(A)
    bench.initiator.has(B, server="10.9.0.9")

    async def scenario() -> None:
        await asyncio.sleep(60)
        assert bench.initiator.targets == [A]
        assert len(bench.initiator.asked) == 1
        bench.watch("10.9.0.9")
        await asyncio.sleep(5)
        assert bench.initiator.targets == [A, B]
        bench.watch(poll="6")
        await asyncio.sleep(60)
        assert bench.questions(SERVER) > 8
        bench.watch(use="No")
        await asyncio.sleep(5)
        asked = bench.questions(SERVER)
        bench.initiator.has(C)
        await asyncio.sleep(25)
        assert bench.questions(SERVER) == asked
        assert bench.initiator.targets == [A, B]

    bench.run(scenario)


def test_other_settings_forget_nothing(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        bench.initiator.has(A)
        await rounds(2)
        bench.watch(poll="31")
        await rounds(1)
        assert bench.initiator.targets == [A]

    bench.run(scenario)


def test_what_others_change_in_the_records_disturbs_no_watch(bench: Bench) -> None:
    bench.watch(poll="600")
    bench.initiator.has(A)

    async def scenario() -> None:
        await asyncio.sleep(5)
        bench.watch("10.9.0.9", use="No")
        with Store(bench.directory) as store, store.transaction():
            operations.new_node(store, NodeId(B, "10.9.0.7", 3260, 1, "default"), {}, [])
        await asyncio.sleep(60)
        assert len(bench.initiator.asked) == 1

    bench.run(scenario)


def test_records_that_go_away_altogether(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A)

    async def scenario() -> None:
        await asyncio.sleep(5)
        shutil.rmtree(bench.directory)
        await asyncio.sleep(5)
        assert bench.service.status() == []
        assert bench.initiator.targets == [A]

    bench.run(scenario)
    assert not Path(bench.directory).exists()  # looking makes none


def test_a_restart_goes_on_with_the_sessions_of_before(bench: Bench) -> None:
    bench.watch()
    bench.initiator.somebody_has(A, CLAIM)
    bench.initiator.somebody_has(B, CLAIM)
    bench.initiator.has(A)

    async def scenario() -> None:
        await rounds(1)
        assert bench.initiator.targets == [A, B]
        await rounds(2)
        assert bench.initiator.targets == [A]
        assert bench.initiator.logins == []

    bench.run(scenario)


def test_a_restart_before_the_initiator_is_back(bench: Bench) -> None:
    bench.watch()
    bench.initiator.somebody_has(A, CLAIM)
    bench.initiator.somebody_has(B, CLAIM)
    bench.initiator.has(A)
    bench.initiator.away = True

    async def scenario() -> None:
        await rounds(1)
        bench.initiator.away = False
        await rounds(5)
        assert bench.initiator.targets == [A]

    bench.run(scenario)


def test_logins_use_the_node_record_if_there_is_one(bench: Bench) -> None:
    bench.watch()
    iface: dict[str, Any] = {"iface.iscsi_ifacename": "default", "iface.transport_name": "tcp"}
    with Store(bench.directory) as store, store.transaction():
        node = NodeId(A, "10.9.0.5", 3260, 1, "default")
        record = operations.new_node(store, node, iface, [])
        chap = {"node.session.auth.username": "joe", "node.session.auth.password": Secret("joes-secret-12")}
        store.write_node(node, {**record, **chap}, "static")
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(5)
        chap = {request.target: request.settings.chap for request in bench.initiator.logins}
        assert (chap[A].username, chap[A].password) == ("joe", "joes-secret-12")
        assert chap[B].username == ""
        with Store(bench.directory) as store:
            assert [node.target for node in store.nodes()] == [A]

    bench.run(scenario)


def test_each_round_is_one_attempt_through_each_interface(bench: Bench) -> None:
    with Store(bench.directory) as store, store.transaction():
        for name in ("eth0", "eth1"):
            operations.new_iface(store, name)
    bench.watch(reopen_max="5")
    bench.initiator.has(A)

    async def scenario() -> None:
        await asyncio.sleep(5)
        requests = [question.request for question in bench.initiator.asked]
        assert [each.reopen_max for each in requests if isinstance(each, DiscoveryRequest)] == [0, 0]
        assert sorted(held.iface for held in bench.initiator.held.values()) == ["eth0", "eth1"]

    bench.run(scenario)


def test_an_interface_that_fails_takes_nothing_away(bench: Bench) -> None:
    with Store(bench.directory) as store, store.transaction():
        for name in ("eth0", "eth1"):
            operations.new_iface(store, name)
            iface = operations.iface_record(store, name)
            assert iface is not None
            store.write_iface(name, {**iface, "iface.initiatorname": f"iqn.2026-11.test:{name}"})
    bench.watch()
    bench.initiator.has(A, B)
    discover = bench.initiator.discover

    async def half(request: DiscoveryRequest | IsnsRequest) -> DiscoveryAnswer:
        if request.initiator_name.endswith("eth1"):
            raise IscsiFailure(IscsiErr.PDU_TIMEOUT, "nobody there")
        return await discover(request)

    async def scenario() -> None:
        await asyncio.sleep(5)
        assert len(bench.initiator.held) == 4
        bench.initiator.has(A)
        bench.initiator.discover = half  # type: ignore[method-assign]
        await rounds(6)
        left = sorted((held.target, held.iface) for held in bench.initiator.held.values())
        assert left == [(A, "eth0"), (A, "eth1"), (B, "eth1")]
        assert not bench.status.whole
        assert bench.status.last_error == "nobody there"

    bench.run(scenario)


def test_a_target_that_refuses_is_asked_less_and_less_often(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.watch()
    bench.initiator.has(A, B)
    bench.initiator.refuses[B] = IscsiFailure(IscsiErr.LOGIN_AUTH_FAILED, "wrong secret")

    async def scenario() -> None:
        await asyncio.sleep(3600)
        assert 8 <= sum(request.target == B for request in bench.initiator.logins) <= 12
        assert bench.initiator.targets == [A]
        del bench.initiator.refuses[B]
        await asyncio.sleep(700)
        assert bench.initiator.targets == [A, B]

    bench.run(scenario)
    assert caplog.text.count("wrong secret") == 1


def test_a_session_that_exists_already_is_no_failure(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.watch()
    bench.initiator.has(A)
    bench.initiator.refuses[A] = IscsiFailure(IscsiErr.SESS_EXISTS, "1 of 1 sessions exist")

    async def scenario() -> None:
        await rounds(3)

    bench.run(scenario)
    assert "sessions exist" not in caplog.text
    assert len(bench.initiator.logins) >= 3


def test_an_initiator_that_is_being_restarted(bench: Bench) -> None:
    bench.watch()
    bench.initiator.has(A)
    bench.initiator.away = True

    async def scenario() -> None:
        await rounds(2)
        assert bench.initiator.targets == []
        bench.initiator.away = False
        await rounds(1)
        assert bench.initiator.targets == [A]

    bench.run(scenario)


def test_poll_zero_asks_until_there_is_an_answer(bench: Bench) -> None:
    bench.watch(poll="0")
    bench.initiator.fails()

    async def scenario() -> None:
        await asyncio.sleep(40)
        assert len(bench.initiator.asked) == 2
        bench.initiator.has(A)
        await asyncio.sleep(3600)
        assert len(bench.initiator.asked) == 3
        assert bench.initiator.targets == [A]
        assert bench.status.next_in_s is None

    bench.run(scenario)


# iSNS


def test_news_bring_the_question_forward(bench: Bench) -> None:
    bench.watch_isns()
    bench.initiator.has(A)

    async def scenario() -> None:
        await asyncio.sleep(60)
        (ear,) = bench.ears
        assert ear.config == WatchConfig(Portal(SERVER.address, 3205), ME)
        asked = len(bench.initiator.asked)
        await asyncio.sleep(600)
        assert len(bench.initiator.asked) <= asked + 1
        bench.initiator.has(A, B)
        ear.changes.put_nowait(Change(ChangeKind.PRESENT, B))
        await asyncio.sleep(2)
        assert bench.initiator.targets == [A, B]
        assert isinstance(bench.initiator.asked[-1].request, IsnsRequest)

    bench.run(scenario)
    assert bench.ears[0].ended


def test_what_the_server_says_is_gone_is_asked_for_thrice(bench: Bench) -> None:
    bench.watch_isns()
    bench.initiator.has(A, B)

    async def scenario() -> None:
        await asyncio.sleep(60)
        assert bench.initiator.targets == [A, B]
        bench.initiator.has(A)
        bench.ears[0].changes.put_nowait(Change(ChangeKind.GONE, B))
        await asyncio.sleep(3)
        assert bench.initiator.targets == [A, B]
        await asyncio.sleep(15)
        assert bench.initiator.targets == [A]
        asked = len(bench.initiator.asked)
        await asyncio.sleep(600)
        assert len(bench.initiator.asked) == asked

    bench.run(scenario)


def test_a_server_that_tells_nothing_is_polled(bench: Bench) -> None:
    bench.watch_isns()
    bench.ear_is = {"notified": False}
    bench.initiator.has(A)

    async def scenario() -> None:
        await rounds(10)
        assert len(bench.initiator.asked) >= 10

    bench.run(scenario)


def test_a_fault_in_listening_is_polled_over(bench: Bench) -> None:
    bench.watch_isns()
    bench.ear_is = {"broken": True}
    bench.initiator.has(A)

    async def scenario() -> None:
        await rounds(10)
        assert len(bench.initiator.asked) >= 10
        await asyncio.sleep(600)
        assert len(bench.ears) == 2

    bench.run(scenario)


def test_a_server_with_a_poll_interval_is_polled_and_not_listened_to(bench: Bench) -> None:
    bench.watch_isns(poll="60")
    bench.initiator.has(A)

    async def scenario() -> None:
        await rounds(5, 60.0)
        assert bench.ears == []
        assert len(bench.initiator.asked) in (6, 7)

    bench.run(scenario)


def test_each_initiator_name_listens(bench: Bench) -> None:
    with Store(bench.directory) as store, store.transaction():
        for name in ("eth0", "eth1", "eth2"):
            record = operations.new_iface(store, name)
            if name != "eth2":
                record["iface.initiatorname"] = "iqn.2026-11.test:other"
            store.write_iface(name, record)
    bench.watch_isns()
    bench.initiator.has(A)

    async def scenario() -> None:
        await asyncio.sleep(5)
        assert sorted(ear.config.initiator_name for ear in bench.ears) == [ME, "iqn.2026-11.test:other"]

    bench.run(scenario)
