# SPDX-License-Identifier: Apache-2.0
"""The port mapper under the dispatcher, against the model of iw_cm: the scenarios, and what only a model can do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rdmactl.iwpm.claims import ClaimKeeper
from rdmactl.iwpm.journal import MappingJournal
from rdmactl.iwpm.service import PortMapperService
from rdmactl.iwpm.table import Kind, MappingState
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake import iwcm_messages as say
from tests.fake.iw_cm import CmId, FakeIwCm
from tests.scenarios.iwpm import SCENARIOS, Scenario

pytestmark = pytest.mark.fake

T = TypeVar("T")
DEADLINE_S = 30.0
HOST, HOST6 = "127.0.0.1", "[::1]"


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        port: int = probe.getsockname()[1]
        return port


class _Loop:
    """A main loop in a thread of its own, as a daemon has one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine: Awaitable[T]) -> T:
        async def wrap() -> T:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(wrap(), self.loop).result(DEADLINE_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class _FakeListener:
    def __init__(self, kernel: FakeIwCm, cm_id: CmId) -> None:
        self._kernel = kernel
        self.cm_id = cm_id
        self.local = str(cm_id.local)

    def close(self) -> None:
        self._kernel.destroy(self.cm_id)


class FakeWorld:
    """`tests.scenarios.iwpm.World` with the model in the place of the kernel."""

    host, host6 = HOST, HOST6

    def __init__(self, kernel: FakeIwCm | None = None) -> None:
        self.kernel = kernel or FakeIwCm()
        self.listeners: list[CmId] = []
        self._port = free_udp_port()
        self._loop = _Loop()
        self._start()

    def _start(self) -> None:
        self.keeper = ClaimKeeper()
        self.dispatcher = Dispatcher(self.kernel.open)
        self.dispatcher.add("iwpm", lambda: PortMapperService(claims=self.keeper, udp_port=self._port))
        self._loop.run(self.dispatcher.start(DEADLINE_S))
        self._loop.run(self.dispatcher.wait_ready(DEADLINE_S))

    def stop(self) -> None:
        self._loop.run(self.dispatcher.stop(DEADLINE_S))
        self.keeper.close()

    def close(self) -> None:
        self.stop()
        self._loop.close()

    def ask(self, function: Callable[[PortMapperService], Awaitable[T]]) -> T:
        return self._loop.run(self.dispatcher.call("iwpm", function, deadline_s=DEADLINE_S))

    # World.

    def listen(self, local: str, **options: Any) -> _FakeListener:
        cm_id = self.kernel.listen(SockAddr.parse(local), **options)
        self.listeners.append(cm_id)
        return _FakeListener(self.kernel, cm_id)

    def connect(self, remote: str) -> bool:
        """Reach whoever listens on the address the mapped remote address names, as an adapter would."""
        target = SockAddr.parse(remote)
        local = SockAddr.parse(f"{HOST6 if target.family == 10 else HOST}:0")
        cm_id = self.kernel.connect(local, target)
        assert cm_id.mapped_remote is not None
        found = None
        for listener in self.listeners:
            mapped = listener.mapped
            right_host = mapped.is_wildcard or mapped.address == cm_id.mapped_remote.address
            if listener.marked and right_host and mapped.port == cm_id.mapped_remote.port:
                found = listener
        if found is not None:
            # The application on the other side sees the real address, not the mapped one.
            assert self.kernel.accepted(found, cm_id.mapped) == cm_id.local
        self.kernel.destroy(cm_id)
        return found is not None

    def mappings(self) -> dict[str, str]:
        found = self.ask(lambda service: service.snapshot()).mappings
        return {str(mapping.local): str(mapping.mapped) for mapping in found}

    def claimed(self, port: int) -> bool:
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return True
            return False

    def restart(self) -> None:
        self.stop()
        self._start()


@contextlib.contextmanager
def running(kernel: FakeIwCm | None = None) -> Iterator[FakeWorld]:
    world = FakeWorld(kernel)
    try:
        yield world
        assert world.kernel.violations == []
    finally:
        world.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Scenario) -> None:
    with running() as world:
        scenario(world)
        assert world.kernel.remote_infos == []


@pytest.mark.slow
def test_a_crash_of_the_service_keeps_ports_and_table() -> None:
    """300 mappings, more than the kernel can report: none is lost when the service is replaced inside the process."""
    with running() as world:
        for port in range(300):
            world.listen(f"{HOST}:{10000 + port}")
        before = world.mappings()
        assert len(before) == 300

        async def cripple(service: PortMapperService) -> None:
            service._mapper = None  # type: ignore[assignment]

        world.ask(cripple)
        world.kernel.wait_s = 0.01
        world.kernel.listen(SockAddr.parse(f"{HOST}:9999"))  # meets the crash
        end = time.monotonic() + DEADLINE_S
        while world.dispatcher.status()[0].restarts == 0 or not world.dispatcher.status()[0].ready:
            assert time.monotonic() < end
            time.sleep(0.01)
        after = world.mappings()
        assert {local: after.get(local) for local in before} == before
        assert world.keeper.held == 300


def test_without_the_kernels_client() -> None:
    """No iw_cm: ready anyway, and mapping begins when it comes."""
    kernel = FakeIwCm()
    kernel.present = False
    with running(kernel) as world:
        assert world.ask(lambda service: service.status()).state == "refused"
        kernel.present = True
        assert world.listen(f"{HOST}:7174").cm_id.mapped.port != 7174
        assert world.ask(lambda service: service.status()).abi_version == 4


@pytest.mark.slow
def test_an_old_kernel() -> None:
    """Without HELLO, version 3 is spoken."""
    kernel = FakeIwCm()
    kernel.has_hello = False
    with running(kernel) as world:
        assert world.listen(f"{HOST}:7174").cm_id.mapped.port != 7174
        assert kernel.version == 3
        world.restart()
        assert len(world.mappings()) == 1


@pytest.mark.parametrize("count", [227, 228, 240])
def test_restart_at_the_kernels_limit(count: int) -> None:
    with running() as world:
        for port in range(count):
            world.listen(f"{HOST}:{10000 + port}")
        world.restart()
        assert len(world.mappings()) == min(count, 228)
        assert world.kernel.acknowledged[-1:] == ([(227, 227)] if count == 227 else [])


def test_a_foreign_port_mapper_is_overcome() -> None:
    """Another process greets the kernel; our next answer takes the role back."""
    with running() as world:
        world.listen(f"{HOST}:7174")
        world.kernel.pid, world.kernel.registration = 77, "incompl"
        assert world.listen(f"{HOST}:7175").cm_id.mapped.port != 7175
        assert world.kernel.pid != 77


def test_an_overrun_is_counted_and_what_was_lost_is_found_out() -> None:
    """REMOVE messages that do not fit into the receive buffer: the kernel's report says what has ended."""
    with running() as world:
        listeners = [world.listen(f"{HOST}:{10000 + port}") for port in range(20)]
        world.ask(_grow_old)
        (sock,) = world.kernel.sockets
        usual = sock.receive_buffer_bytes
        with _stalled(world):
            sock.receive_buffer_bytes = 2000
            for listener in listeners[5:]:
                listener.close()
            assert world.kernel.pid < 0  # as it does when a REMOVE cannot be sent
            sock.receive_buffer_bytes = usual
        _wait_for(lambda: len(world.mappings()) == 5)
        status = world.ask(lambda service: service.status())
        assert (status.counters["overruns"], status.claims) == (1, 5)
        assert world.listen(f"{HOST}:7174").cm_id.mapped.port != 7174  # the report made us known again


async def _grow_old(service: PortMapperService) -> None:
    """As if all of it had been asked for long ago: the kernel has had time to enter it."""
    for mapping in service._mapper.table:
        mapping.touched = float("-inf")


@contextlib.contextmanager
def _stalled(world: FakeWorld) -> Iterator[None]:
    """The service does not get to run, so that messages gather in its socket."""
    stalled, go_on = threading.Event(), threading.Event()

    async def stall(service: PortMapperService) -> None:
        stalled.set()
        go_on.wait(DEADLINE_S)

    thread = threading.Thread(target=world.ask, args=(stall,))
    thread.start()
    assert stalled.wait(DEADLINE_S)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_n40_only_the_kernel_is_served() -> None:
    """N40, better than rdma-core: an answer to anybody else would carry a sequence number of the kernel's."""
    with running() as world:
        (sock,) = world.kernel.sockets
        sent = len(world.kernel.sent)
        assert sock.deliver(say.add_mapping(5, SockAddr.parse(f"{HOST}:8000"), 0), sender=4711)
        world.listen(f"{HOST}:7174")  # answered after what came before it
        status = world.ask(lambda service: service.status())
        assert (status.mappings, status.counters["foreign"]) == (1, 1)
        assert len(world.kernel.sent) == sent + 2  # REG_PID and ADD_MAPPING


def test_iw_cm_is_reloaded() -> None:
    with running() as world:
        world.listen(f"{HOST}:7174")
        world.kernel.reload()
        world.listeners.clear()
        assert world.listen(f"{HOST}:7175").cm_id.mapped.port != 7175
        assert world.kernel.version == 4


def test_no_peer_is_no_ten_seconds() -> None:
    """Nobody listens at the peer's port: ICMP says so, the kernel is answered at once."""
    with running() as world:
        started = time.monotonic()
        # A port mapper on another port than the peer's stands for a peer without one.
        world.ask(_point_elsewhere)
        cm_id = world.kernel.connect(SockAddr.parse(f"{HOST}:0"), SockAddr.parse(f"{HOST}:7199"))
        assert time.monotonic() - started < 5
        assert cm_id.mapped_remote == cm_id.remote
        counters = world.ask(lambda service: service.status()).counters
        assert counters["query_unreachable"] == 1
        world.kernel.destroy(cm_id)


async def _point_elsewhere(service: PortMapperService) -> None:
    service._mapper._active._peer_port = free_udp_port()


def test_status_counts_answers() -> None:
    with running() as world:
        for port in range(5):
            world.listen(f"{HOST}:{10000 + port}")
        status = world.ask(lambda service: service.status())
        assert (status.registered, status.mappings, status.claims) == (True, 5, 5)
        assert status.counters["answers"] == status.counters["requests"] == 6
        assert sum(count for _, count in status.answer_times) == 6


def test_many_threads_at_once() -> None:
    """Fifty applications listen at the same moment: every one gets its own port."""
    with running() as world:
        threads = [threading.Thread(target=world.listen, args=(f"{HOST}:{10000 + n}",)) for n in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({cm_id.mapped.port for cm_id in world.listeners}) == 50


def test_what_was_recorded_is_not_lost_when_the_first_start_fails(tmp_path: Path) -> None:
    """A service that cannot open its sockets is restarted; it must not begin the journal anew with nothing."""
    path = str(tmp_path / "journal")
    local = SockAddr.parse("10.9.0.1:7174")
    MappingJournal(path).rewrite([MappingState(local, local, Kind.LISTENER, 2, 0, False)])
    claims = ClaimKeeper(journal=MappingJournal(path))
    PortMapperService(None, claims)  # ends before it runs
    second = PortMapperService(None, claims)
    assert [state.refs for state in second._mapper.table.states()] == [2]
    assert [state.refs for state in MappingJournal(path).read()] == [2]
