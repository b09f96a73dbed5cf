# SPDX-License-Identifier: Apache-2.0
"""What the dispatcher guarantees: fairness, restarts of one service alone, calls, order at start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rdmactl.errors import DeadlineExceeded, LocalError, Unavailable
from rdmactl.netlink.channel import QUOTA
from rdmactl.netlink.dispatcher import Dispatcher, LaneState
from rdmactl.netlink.lane import ServiceLane
from rdmactl.netlink.message import build, split
from rdmactl.netlink.ports import ChannelSpec, Lane, Received
from rdmactl.netlink.registry import Registry
from rdmactl.netlink.restart import RestartBackoff
from rdmactl.netlink.supervisor import Supervisor
from rdmactl.netlink.workers import WorkerPool
from tests.fake.kernel import FakeKernels
from tests.fake.services import DEADLINE_S, ISCSI, IWPM, FakeIscsi, FakeRdma, Server, dispatch, until

pytestmark = pytest.mark.fake

ADD_MAPPING = 0x0801
BURST = 10_000
STALL_S = 0.2  # generous: a busy machine must not make a healthy service look stalled


class Pair:
    """Two services under one dispatcher on fake kernels; `iscsi` reacts as given, `iwpm` answers everything."""

    def __init__(self, react: Callable[[Server, Received], object], stall_s: float = 5.0, **spec: Any) -> None:
        self.rdma = FakeRdma()
        self.iscsi = FakeIscsi()
        self.instances: dict[str, list[Server]] = {"iwpm": [], "iscsi": []}
        self.dispatcher = Dispatcher(FakeKernels(self.rdma, self.iscsi).open, stall_s=stall_s)
        self.dispatcher.add("iwpm", lambda: self._make("iwpm", Server(IWPM)))
        iscsi_spec = ChannelSpec(ISCSI.family, groups=ISCSI.groups, **spec)
        self.dispatcher.add("iscsi", lambda: self._make("iscsi", Server(iscsi_spec, react)))

    def _make(self, name: str, server: Server) -> Server:
        self.instances[name].append(server)
        return server

    async def ask_iwpm(self) -> None:
        """A kernel request to the port mapper gets its answer."""
        answered = len(self.rdma.sent)
        assert self.rdma.multicast(2, self.rdma.request(ADD_MAPPING, b"abcd")) == 1
        await until(lambda: len(self.rdma.sent) > answered)

    def status(self, name: str) -> Any:
        return next(status for status in self.dispatcher.status() if status.name == name)


# ---------------------------------------------------------------- fairness


@pytest.mark.slow
def test_a_burst_for_one_service_does_not_delay_anothers_answer() -> None:
    pair: Pair
    handled = 0
    handled_at_answer: list[int] = []

    def count(server: Server, received: Received) -> None:
        nonlocal handled
        handled += 1
        if handled == 100:
            pair.rdma.multicast(2, pair.rdma.request(ADD_MAPPING, b"abcd"))

    def note_answer(*_: object) -> None:
        handled_at_answer.append(handled)

    pair = Pair(count, receive_buffer_bytes=1 << 26)
    pair.rdma.handle = note_answer  # type: ignore[method-assign,assignment]

    async def scenario() -> None:
        for _ in range(BURST):
            pair.iscsi.multicast(1, build(0, bytes(56)))
        await until(lambda: handled == BURST)

    dispatch(pair.dispatcher, scenario)
    assert handled_at_answer, "no answer"
    assert handled_at_answer[0] < BURST // 2
    assert pair.status("iscsi").counters.messages == BURST


def test_a_burst_on_one_channel_leaves_turns_for_the_others_of_its_lane() -> None:
    rdma, iscsi = FakeRdma(), FakeIscsi()
    order: list[str] = []

    class Both(Server):
        async def run(self, lane: Lane) -> None:
            self.other = Server(ISCSI, self._burst)
            lane.open(ChannelSpec(ISCSI.family, groups=(1,), receive_buffer_bytes=1 << 24), self.other)
            await super().run(lane)

        def _burst(self, server: Server, received: Received) -> None:
            order.append("event")
            if len(order) == 10:
                rdma.multicast(2, rdma.request(ADD_MAPPING, b"abcd"))

    def answer(server: Server, received: Received) -> None:
        order.append("answer")

    dispatcher = Dispatcher(FakeKernels(rdma, iscsi).open)
    dispatcher.add("both", lambda: Both(IWPM, answer))

    async def scenario() -> None:
        for _ in range(1000):
            iscsi.multicast(1, build(0, bytes(56)))
        await until(lambda: len(order) == 1001)

    dispatch(dispatcher, scenario)
    assert order.index("answer") <= 10 + 2 * QUOTA


# ---------------------------------------------------------------- restarts


def test_a_service_that_raises_in_a_handler_is_restarted_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(server: Server, received: Received) -> None:
        raise ZeroDivisionError("bad event")

    pair = Pair(fail)

    async def scenario() -> None:
        pair.iscsi.multicast(1, build(0, bytes(56)))
        await until(lambda: len(pair.instances["iscsi"]) == 2 and pair.status("iscsi").ready)
        await pair.ask_iwpm()
        assert len(pair.iscsi.sockets) == 1

    with caplog.at_level(logging.ERROR):
        dispatch(pair.dispatcher, scenario)
    status = pair.status("iscsi")
    assert (status.restarts, status.stalls, status.last_error) == (1, 0, "ZeroDivisionError: bad event")
    assert status.counters.messages == 1  # counters survive their instance
    assert pair.status("iwpm").restarts == 0
    assert len(pair.instances["iwpm"]) == 1
    assert [record.name for record in caplog.records] == ["rdmactl.dispatcher"]


class Misbehaving:
    """Ends in the way `how` says, the first time; serves from the second instance on."""

    instances = 0

    def __init__(self, how: str) -> None:
        self.how = how

    async def run(self, lane: Lane) -> None:
        Misbehaving.instances += 1
        lane.ready()
        if Misbehaving.instances == 1:
            await getattr(self, self.how)()
        await asyncio.Event().wait()

    async def returns(self) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]

    async def raises(self) -> None:
        raise LocalError("out of order")

    async def exits(self) -> None:
        sys.exit(3)

    async def callback_raises(self) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)

    async def task_raises(self) -> None:
        async def fail() -> None:
            raise LocalError("in a task")

        asyncio.get_running_loop().create_task(fail())


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("returns", "misbehaving cancelled itself"),
        ("raises", "out of order"),
        ("exits", "misbehaving ended with SystemExit"),
        ("callback_raises", "ZeroDivisionError: division by zero"),
        ("task_raises", "in a task"),
    ],
)
def test_however_a_service_ends_it_is_restarted(how: str, error: str) -> None:
    Misbehaving.instances = 0
    dispatcher = Dispatcher(FakeRdma().open)
    dispatcher.add("misbehaving", lambda: Misbehaving(how))

    async def scenario() -> None:
        await until(lambda: Misbehaving.instances == 2)

    dispatch(dispatcher, scenario)
    assert dispatcher.status()[0].last_error == error


def test_returning_is_ending() -> None:
    instances = []

    class Short:
        async def run(self, lane: Lane) -> None:
            instances.append(self)

    dispatcher = Dispatcher(FakeRdma().open)
    dispatcher.add("short", Short)

    async def main() -> None:
        await dispatcher.start(DEADLINE_S)
        await until(lambda: len(instances) == 2)
        await dispatcher.stop(DEADLINE_S)

    asyncio.run(main())
    assert dispatcher.status()[0].last_error == "short returned although nobody stopped it"


def test_changes_of_state_are_logged_and_repetitions_are_not(caplog: pytest.LogCaptureFixture) -> None:
    attempts = []

    class Late(Server):
        """Cannot start three times, then serves, fails, and serves again."""

        async def run(self, lane: Lane) -> None:
            attempts.append(self)
            if len(attempts) <= 3:
                raise Unavailable("the module is missing")
            if len(attempts) == 4:
                lane.ready()
                raise Unavailable("the module is missing")
            await super().run(lane)

    kernel = FakeRdma()
    registry, pool = Registry(), WorkerPool("late")

    def make_lane() -> ServiceLane:
        return ServiceLane("late", lambda: Late(IWPM), door=kernel.open, registry=registry, pool=pool)

    async def main() -> None:
        backoff = RestartBackoff(lambda: 0.0, first_s=0.0, cap_s=0.0)
        supervisor = Supervisor("late", make_lane, stall_s=0.1, changed=lambda: None, backoff=backoff)
        task = asyncio.create_task(supervisor.run(lambda: None))
        await until(lambda: any("again" in record.message for record in caplog.records))
        supervisor.stop()
        await task

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "late: the module is missing; it is being restarted",
        "late: the module is missing; it is being restarted",
        "late: serving again after 4 restarts",
    ]


def test_a_failing_factory_is_tried_again_and_says_why_it_is_not_ready() -> None:
    def factory() -> Server:
        raise Unavailable("no RDMA support in the running kernel", hint="load it with: modprobe ib_core")

    dispatcher = Dispatcher(FakeRdma().open)
    dispatcher.add("iwpm", factory)

    async def main() -> None:
        await dispatcher.start(DEADLINE_S)
        await until(lambda: dispatcher.status()[0].restarts >= 1)
        with pytest.raises(DeadlineExceeded, match="iwpm") as caught:
            await dispatcher.wait_ready(0.01)
        assert caught.value.hint is not None
        assert "modprobe ib_core" in caught.value.hint
        with pytest.raises(Unavailable):
            await dispatcher.call("iwpm", lambda service: asyncio.sleep(0), deadline_s=DEADLINE_S)
        await dispatcher.stop(DEADLINE_S)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sleep", "loop", "careless loop", "stubborn loop"])
def test_a_service_that_stalls_is_restarted_alone_and_never_sends_again(kind: str) -> None:
    wake = threading.Event()
    woken = threading.Event()
    failures: list[str] = []

    def stall(server: Server, received: Received) -> None:
        if len(pair.instances["iscsi"]) > 1:
            return
        if kind == "sleep":
            wake.wait(DEADLINE_S)
        elif kind == "loop":
            while not wake.is_set():
                pass
        elif kind == "careless loop":
            with contextlib.suppress(Exception):
                while not wake.is_set():
                    pass
        else:
            while not wake.is_set():
                try:
                    time.sleep(0)
                except BaseException:
                    failures.append("interrupted")
        woken.set()
        try:
            assert server.channel is not None
            server.channel.send(16, b"too late")
        except LocalError:
            failures.append("fenced")

    pair = Pair(stall, STALL_S)

    async def scenario() -> None:
        pair.iscsi.multicast(1, build(0, bytes(56)))
        await until(lambda: len(pair.instances["iscsi"]) == 2 and pair.status("iscsi").ready)
        for _ in range(10):
            await pair.ask_iwpm()
        assert len(pair.iscsi.sockets) == 1  # the first instance's is gone
        wake.set()
        await until(lambda: pair.status("iscsi").abandoned == 0)

    dispatch(pair.dispatcher, scenario)
    assert pair.iscsi.sent == []
    assert pair.status("iwpm").restarts == 0
    assert (pair.status("iscsi").restarts, pair.status("iscsi").stalls) == (1, 1)
    if kind in ("loop", "careless loop"):
        assert not woken.is_set()  # ended by the exception, inside the loop


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stalls", "raises"])
def test_the_successor_of_an_instance_that_tidied_nothing_can_have_its_ports(how: str) -> None:
    wake = threading.Event()
    ports: list[int] = []

    class Mapper:
        async def run(self, lane: Lane) -> None:
            first = not ports
            self.transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0 if first else ports[0])
            )
            ports.append(self.transport.get_extra_info("sockname")[1])
            lane.ready()
            if first and how == "stalls":
                wake.wait(DEADLINE_S)
            elif first:
                raise LocalError("out of order")
            await asyncio.Event().wait()

    kept: list[Mapper] = []  # nothing is left to the garbage collector

    def make() -> Mapper:
        kept.append(Mapper())
        return kept[-1]

    dispatcher = Dispatcher(FakeRdma().open, stall_s=STALL_S)
    dispatcher.add("iwpm", make)

    async def main() -> None:
        await dispatcher.start(DEADLINE_S)
        await until(lambda: dispatcher.status()[0].restarts == 1 and dispatcher.status()[0].ready)
        wake.set()
        await dispatcher.stop(DEADLINE_S)

    asyncio.run(main())
    assert dispatcher.status()[0].restarts == 1
    assert len(set(ports)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("requests", [False, True])
def test_an_instance_that_wakes_too_late_gets_no_new_socket(requests: bool) -> None:
    wake = threading.Event()
    refusals: list[str] = []
    kernel = FakeRdma()

    class Sleepy(Server):
        async def run(self, lane: Lane) -> None:
            if not sleepy:
                sleepy.append(self)
                with contextlib.suppress(BaseException):  # holds out against the interruption
                    while not wake.is_set():
                        time.sleep(0.001)  # noqa: ASYNC251 (a stalled loop)
                try:
                    lane.open_requests(ChannelSpec(IWPM.family)) if requests else lane.open(IWPM, self)
                except BaseException as error:
                    refusals.append(type(error).__name__)
                    raise
            await super().run(lane)

    sleepy: list[Sleepy] = []
    dispatcher = Dispatcher(kernel.open, stall_s=STALL_S)
    dispatcher.add("sleepy", lambda: Sleepy(IWPM))

    async def scenario() -> None:
        wake.set()
        await until(lambda: dispatcher.status()[0].abandoned == 0)
        assert len(kernel.sockets) == 1

    dispatch(dispatcher, scenario)
    assert refusals
    assert dispatcher.status()[0].restarts == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stalls", "raises"])
def test_many_restarts_leave_nothing_behind(how: str) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    kernel = FakeRdma()
    lanes: list[ServiceLane] = []

    class Failing(Server):
        async def run(self, lane: Lane) -> None:
            lane.open(IWPM, self)
            lane.open_requests(ChannelSpec(IWPM.family))
            await asyncio.get_running_loop().create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
            while how == "stalls":
                pass
            raise LocalError("out of order")

    registry, pool = Registry(), WorkerPool("failing")

    def make_lane() -> ServiceLane:
        lanes.append(ServiceLane("failing", lambda: Failing(IWPM), door=kernel.open, registry=registry, pool=pool))
        return lanes[-1]

    async def main() -> None:
        backoff = RestartBackoff(lambda: 0.0, first_s=0.0, cap_s=0.0)
        supervisor = Supervisor("failing", make_lane, stall_s=STALL_S / 2, changed=lambda: None, backoff=backoff)
        task = asyncio.create_task(supervisor.run(lambda: None))
        await until(lambda: supervisor.status().restarts >= 10)
        supervisor.stop()
        await task
        await until(lambda: supervisor.bury() or not any(lane.is_alive() for lane in lanes))
        supervisor.bury()
        # Request threads end by themselves, and so may those of the tests before.
        await until(lambda: threading.active_count() <= threads)

    threads, before = threading.active_count(), descriptors()
    asyncio.run(main())
    lanes.clear()
    assert descriptors() <= before
    assert kernel.sockets == []


@pytest.mark.slow
def test_a_judge_who_was_late_himself_judges_nobody() -> None:
    pair = Pair(lambda server, received: None, STALL_S)

    async def scenario() -> None:
        await asyncio.sleep(0)
        time.sleep(4 * STALL_S)  # noqa: ASYNC251 (the main loop stands still, as in a stopped process)
        await pair.ask_iwpm()

    dispatch(pair.dispatcher, scenario)
    assert [status.restarts for status in pair.dispatcher.status()] == [0, 0]


# ---------------------------------------------------------------- routing


def test_two_services_cannot_have_the_same_messages() -> None:
    kernel = FakeRdma()
    dispatcher = Dispatcher(kernel.open)
    dispatcher.add("first", lambda: Server(IWPM))

    async def main() -> None:
        dispatcher.add("second", lambda: Server(ChannelSpec(IWPM.family, clients=(2,))))
        await dispatcher.start(DEADLINE_S)
        await until(lambda: sum(status.restarts for status in dispatcher.status()) >= 1)
        loser = max(dispatcher.status(), key=lambda status: status.restarts)
        winner = "second" if loser.name == "first" else "first"
        assert loser.last_error == f"netlink family 20, client 2 is already served by {winner}"
        await dispatcher.stop(DEADLINE_S)

    asyncio.run(main())
    assert kernel.sockets == []


def test_services_are_added_once_and_before_the_start() -> None:
    dispatcher = Dispatcher(FakeRdma().open)
    dispatcher.add("iwpm", lambda: Server(IWPM))
    with pytest.raises(LocalError, match="already"):
        dispatcher.add("iwpm", lambda: Server(IWPM))

    async def scenario() -> None:
        with pytest.raises(LocalError, match="before"):
            dispatcher.add("other", lambda: Server(IWPM))
        with pytest.raises(LocalError, match="started"):
            await dispatcher.start(DEADLINE_S)

    dispatch(dispatcher, scenario)


# ---------------------------------------------------------------- calls


def test_calls_run_in_the_lane_and_bring_back_results_and_errors() -> None:
    pair = Pair(lambda server, received: None)

    async def scenario() -> None:
        async def where(service: Server) -> str:
            assert service is pair.instances["iwpm"][0]
            return threading.current_thread().name

        async def fail(service: Server) -> None:
            raise Unavailable("no such mapping")

        assert await pair.dispatcher.call("iwpm", where, deadline_s=DEADLINE_S) == "iwpm"
        with pytest.raises(Unavailable, match="no such mapping"):
            await pair.dispatcher.call("iwpm", fail, deadline_s=DEADLINE_S)
        with pytest.raises(Unavailable, match="does not run"):
            await pair.dispatcher.call("nobody", where, deadline_s=DEADLINE_S)

    dispatch(pair.dispatcher, scenario)


def test_a_service_may_call_another_one() -> None:
    pair = Pair(lambda server, received: None)

    async def scenario() -> None:
        async def where(service: Server) -> str:
            return threading.current_thread().name

        async def ask(service: Server) -> str:
            return await pair.dispatcher.call("iwpm", where, deadline_s=DEADLINE_S)

        assert await pair.dispatcher.call("iscsi", ask, deadline_s=DEADLINE_S) == "iwpm"

    dispatch(pair.dispatcher, scenario)


def test_a_call_has_a_deadline_and_is_cancelled_with_it() -> None:
    started, cancelled = threading.Event(), threading.Event()
    pair = Pair(lambda server, received: None)

    async def scenario() -> None:
        async def hang(service: Server) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        while not started.is_set():  # on a busy machine the time may be up before the lane has it
            with pytest.raises(DeadlineExceeded, match="iwpm"):
                await pair.dispatcher.call("iwpm", hang, deadline_s=0.01)
        await until(cancelled.is_set)

    dispatch(pair.dispatcher, scenario)


def test_a_call_ends_when_its_service_does() -> None:
    def fail(server: Server, received: Received) -> None:
        raise ZeroDivisionError

    pair = Pair(fail)

    async def scenario() -> None:
        async def hang(service: Server) -> None:
            pair.iscsi.multicast(1, build(0, bytes(56)))
            await asyncio.Event().wait()

        with pytest.raises(Unavailable, match="restarted during the call"):
            await pair.dispatcher.call("iscsi", hang, deadline_s=DEADLINE_S)

    dispatch(pair.dispatcher, scenario)


@pytest.mark.slow
def test_a_call_that_stalls_its_service_ends_with_it() -> None:
    wake = threading.Event()
    pair = Pair(lambda server, received: None, STALL_S)

    async def scenario() -> None:
        async def block(service: Server) -> None:
            wake.wait(DEADLINE_S)

        with pytest.raises(Unavailable, match="restarted during the call"):
            await pair.dispatcher.call("iscsi", block, deadline_s=DEADLINE_S)
        assert pair.status("iscsi").stalls == 1
        wake.set()

    dispatch(pair.dispatcher, scenario)


def test_blocking_calls_leave_the_loop_serving() -> None:
    go = threading.Event()

    def block(server: Server, received: Received) -> None:
        assert server.channel is not None
        server.channel.send(16, b"pong")

    pair = Pair(block)

    async def scenario() -> None:
        async def scan(service: Server) -> bool:
            assert service.lane is not None
            return await service.lane.blocking(lambda: go.wait(DEADLINE_S), deadline_s=DEADLINE_S)

        call = asyncio.create_task(pair.dispatcher.call("iscsi", scan, deadline_s=DEADLINE_S))
        pair.iscsi.multicast(1, build(0, bytes(56)))
        await until(lambda: pair.iscsi.sent)  # the same lane answers meanwhile
        assert not call.done()
        go.set()
        assert await call

    dispatch(pair.dispatcher, scenario)


def test_a_lane_gives_request_channels() -> None:
    pair = Pair(lambda server, received: None)

    async def scenario() -> None:
        async def ask(service: Server) -> list[bytes]:
            assert service.lane is not None
            with pytest.raises(LocalError, match="no group"):
                service.lane.open_requests(ISCSI)
            channel = service.lane.open_requests(ChannelSpec(ISCSI.family))
            replies = await channel.exchange([build(16)], deadline_s=DEADLINE_S)
            channel.close()
            return replies

        (reply,) = await pair.dispatcher.call("iscsi", ask, deadline_s=DEADLINE_S)
        assert split(reply)[0].type == 16

    dispatch(pair.dispatcher, scenario)
    assert pair.status("iscsi").counters.replies == 1


# ---------------------------------------------------------------- stopping


def test_stop_ends_services_and_closes_everything() -> None:
    threads = set(threading.enumerate())
    pair = Pair(lambda server, received: None)

    async def scenario() -> None:
        pass

    dispatch(pair.dispatcher, scenario)
    assert [status.state for status in pair.dispatcher.status()] == [LaneState.STOPPED, LaneState.STOPPED]
    assert [status.restarts for status in pair.dispatcher.status()] == [0, 0]
    assert pair.rdma.sockets == pair.iscsi.sockets == []
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= threads


def test_the_interpreter_switches_threads_sooner_while_a_dispatcher_runs() -> None:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    inside_s = []

    async def scenario() -> None:
        inside_s.append(sys.getswitchinterval())

    try:
        dispatch(Pair(lambda server, received: None).dispatcher, scenario)
        assert inside_s[0] < 0.001
        assert sys.getswitchinterval() == pytest.approx(0.005)
    finally:
        sys.setswitchinterval(before_s)


def test_stop_does_not_wait_for_a_service_that_does_not_end() -> None:
    go = threading.Event()
    pair = Pair(lambda server, received: go.wait(DEADLINE_S))

    async def main() -> None:
        await pair.dispatcher.start(DEADLINE_S)
        await pair.dispatcher.wait_ready(DEADLINE_S)
        pair.iscsi.multicast(1, build(0, bytes(56)))
        await until(lambda: pair.instances["iscsi"][0].news())
        await pair.dispatcher.stop(0.02)
        assert not go.is_set()
        assert pair.iscsi.sockets == []
        go.set()

    asyncio.run(main())
    assert pair.status("iwpm").state is LaneState.STOPPED
