# SPDX-License-Identifier: Apache-2.0
"""A connection over a model of the library: orders of events that a real kernel shows only now and then."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from rdmactl.errors import DeadlineExceeded, KernelError, LocalError, PeerError, RdmactlError, Unavailable
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm import library
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.connection import Connection, Deadlines
from rdmactl.rdmacm.endpoint import DISCOVERY, Sizes, session_sizes
from rdmactl.rdmacm.states import CmEvent, State
from tests.fake.rdma_library import FakeLibrary, fake_module

pytestmark = pytest.mark.fake

PEER = "10.9.0.1:3260"
SOON = Deadlines(address_s=0.05, route_s=0.05, connect_s=0.05, suspect_s=0.05, close_s=0.01, close_failed_s=0.01)

TEARDOWN = ["cm_destroy_qp", "mr_free", "mr_free", "cq_destroy", "completion_channel_close", "pd_free"]
TEARDOWN += ["cm_destroy_id", "cm_close"]


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    module = fake_module()
    monkeypatch.setattr(library, "load", lambda: module)
    yield module.lib
    module.lib.close()


Scenario = Callable[[Connection], Awaitable[None]]


def run(scenario: Scenario, sizes: Sizes = DISCOVERY) -> Connection:
    """The connection after the scenario; it is closed and everything given back."""

    async def inside() -> Connection:
        channel = EventChannel()
        connection = Connection(channel, PEER, deadlines=SOON, sizes=sizes)
        async with asyncio.timeout(10):
            await scenario(connection)
            await connection.close()
        assert connection.state is State.CLOSED
        channel.close()
        return connection

    return asyncio.run(inside())


async def connect(
    connection: Connection, lib: FakeLibrary, last: CmEvent = CmEvent.ESTABLISHED, status: int = 0
) -> None:
    """Connect, with the kernel answering each step, the last one by `last`."""
    attempt = asyncio.ensure_future(connection.connect(SockAddr.parse(PEER), b"\xc0\0\0\0"))
    try:
        for state, event in ((State.ADDRESS, CmEvent.ADDR_RESOLVED), (State.ROUTE, CmEvent.ROUTE_RESOLVED)):
            await reach(connection, state)
            lib.emit(event)
        await reach(connection, State.CONNECT)
        lib.emit(last, status, b"\xc0")
        await attempt
    except asyncio.CancelledError:
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        raise


async def reach(connection: Connection, state: State) -> None:
    while connection.state is not state:
        await turn()


async def turn() -> None:
    """Let the loop read its descriptors once."""
    await asyncio.sleep(0)


def test_up_and_down_in_the_order_that_never_blocks(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        assert (connection.state, connection.device, connection.transport) == (State.UP, "fake0", "RoCE")
        assert connection.private_data == b"\xc0"
        await connection.send(b"question")
        lib.deliver(b"answer")
        assert await connection.receive() == b"answer"
        lib.emit(CmEvent.DISCONNECTED)
        await reach(connection, State.FAILED)

    run(scenario)
    assert lib.sent == [b"question"]
    assert lib.calls[-len(TEARDOWN) :] == TEARDOWN
    assert lib.calls.count("cm_disconnect") == 1  # the answer to the peer's


def test_iser_29_what_arrived_before_the_disconnect_is_read(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.emit(CmEvent.DISCONNECTED)
        lib.deliver(b"one")
        lib.deliver(b"two")
        await reach(connection, State.FAILED)
        assert [await connection.receive(), await connection.receive()] == [b"one", b"two"]
        with pytest.raises(PeerError, match="closed the RDMA connection"):
            await connection.receive()

    run(scenario)


def test_a_flush_waits_for_its_reason(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.complete(5)
        waiting = asyncio.ensure_future(connection.receive())
        await asyncio.sleep(0.005)
        assert connection.state is State.UP
        lib.emit(CmEvent.DISCONNECTED)
        with pytest.raises(PeerError, match="closed the RDMA connection"):
            await waiting

    run(scenario)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, f"larger than the {DISCOVERY.receive_bytes} bytes of the buffer"),
        (2, f"larger than the {DISCOVERY.receive_bytes} bytes of the buffer"),
        (5, "the connection broke"),
        (12, "the path to it is dead"),
    ],
)
def test_iser_45_49_a_completion_that_failed_ends_it(lib: FakeLibrary, status: int, words: str) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.complete(5)
        lib.complete(status)
        with pytest.raises(PeerError, match=words):
            await connection.receive()

    run(scenario)


def test_iser_12_an_invalidation_that_was_not_allowed_ends_it(lib: FakeLibrary) -> None:
    """Our private data says that we cannot; memory of ours may be unusable now."""

    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.deliver(b"before")
        lib.invalidate()
        assert await connection.receive() == b"before"
        with pytest.raises(PeerError, match="invalid"):
            await connection.receive()

    run(scenario)


def test_iser_51_suspicion_passes_when_a_message_comes(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.emit(CmEvent.UNREACHABLE, -110)
        await reach(connection, State.SUSPECT)
        lib.deliver(b"here")
        assert await connection.receive() == b"here"
        assert connection.state is State.UP

    run(scenario)


def test_iser_52_an_address_that_moves_ends_it_and_says_so(lib: FakeLibrary) -> None:
    """As with a failover of bonding: the queue pair still sends from the old address."""

    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.emit(CmEvent.ADDR_CHANGE)
        with pytest.raises(PeerError, match="moved to another interface") as caught:
            await connection.receive()
        assert caught.value.hint == "connect again"

    run(scenario)


def test_iser_50_51_suspicion_ends_at_its_deadline(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.device_event(10)
        await reach(connection, State.SUSPECT)
        with pytest.raises(DeadlineExceeded):
            await connection.receive()

    run(scenario)


def test_a_device_that_dies(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.device_event(8)
        with pytest.raises(Unavailable, match="was removed"):
            await connection.receive()

    run(scenario)


@pytest.mark.parametrize("event", [CmEvent.REJECTED, CmEvent.UNREACHABLE, CmEvent.CONNECT_ERROR, CmEvent.DISCONNECTED])
def test_refusals(lib: FakeLibrary, event: CmEvent) -> None:
    async def scenario(connection: Connection) -> None:
        with pytest.raises(PeerError, match=PEER):
            await connect(connection, lib, event, 8)

    run(scenario)
    assert lib.calls[-len(TEARDOWN) :] == TEARDOWN


def test_iser_19_an_address_nobody_answers_for(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        attempt = asyncio.ensure_future(connection.connect(SockAddr.parse(PEER), b""))
        await reach(connection, State.ADDRESS)
        lib.emit(CmEvent.ADDR_ERROR, -errno.ETIMEDOUT)
        with pytest.raises(PeerError, match="does not answer ARP"):
            await attempt

    run(scenario)
    assert lib.calls[-2:] == ["cm_destroy_id", "cm_close"]


@pytest.mark.parametrize(("limit", "asked"), [(0, 1), (4, 4), (128, 16)])
def test_iser_41_reads_of_the_peer_are_always_served(
    lib: FakeLibrary, monkeypatch: pytest.MonkeyPatch, limit: int, asked: int
) -> None:
    """responder_resources of 0 would end the connection with the first SCSI write."""
    lib.reads_at_once = limit
    served: list[int] = []

    def cm_connect(id: int, data: bytes, length: int, responder_resources: int, *rest: int) -> int:
        served.append(responder_resources)
        return 0

    monkeypatch.setattr(lib, "cm_connect", cm_connect, raising=False)
    run(lambda connection: connect(connection, lib))
    assert served == [asked]


@pytest.mark.parametrize("stage", ["address", "route", "connect"])
def test_each_stage_has_its_deadline(lib: FakeLibrary, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdmactl.rdmacm.connection._KERNEL_TIMER_SLACK_S", 0.0)

    async def scenario(connection: Connection) -> None:
        attempt = asyncio.ensure_future(connection.connect(SockAddr.parse(PEER), b""))
        for state, event in ((State.ADDRESS, CmEvent.ADDR_RESOLVED), (State.ROUTE, CmEvent.ROUTE_RESOLVED)):
            await reach(connection, state)
            if state.value == stage:
                break
            lib.emit(event)
        with pytest.raises(DeadlineExceeded, match=f"stage: {stage}"):
            await attempt

    run(scenario)


BUILDING = ["pd_alloc", "completion_channel_open", "cq_create", "cm_create_qp", "mr_register", "device_limits"]


@pytest.mark.parametrize("call", ["cm_resolve_addr", "cm_resolve_route", *BUILDING, "cm_connect"])
def test_a_call_that_fails_leaves_nothing(lib: FakeLibrary, call: str) -> None:
    lib.fail[call] = -12

    async def scenario(connection: Connection) -> None:
        with pytest.raises(KernelError, match=PEER):
            await connect_or_fail(connection, lib)

    run(scenario)
    for made, freed in (("pd_alloc", "pd_free"), ("cq_create", "cq_destroy"), ("cm_create_qp", "cm_destroy_qp")):
        succeeded = lib.calls.count(made) - (call == made)
        assert lib.calls.count(freed) == max(0, succeeded), (made, lib.calls)
    assert lib.calls[-2:] == ["cm_destroy_id", "cm_close"]


async def connect_or_fail(connection: Connection, lib: FakeLibrary) -> None:
    attempt = asyncio.ensure_future(connection.connect(SockAddr.parse(PEER), b""))
    for state, event in ((State.ADDRESS, CmEvent.ADDR_RESOLVED), (State.ROUTE, CmEvent.ROUTE_RESOLVED)):
        while connection.state is not state and not attempt.done():
            await turn()
        lib.emit(event)
    await attempt


def test_sends_that_do_not_fit_are_refused(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        with pytest.raises(LocalError, match="does not fit"):
            await connection.send(bytes(100_000))

    run(scenario)


def test_more_messages_than_slots_wait_for_completions(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        for number in range(10):
            await connection.send(b"%d" % number)

    run(scenario)
    assert lib.sent == [b"%d" % number for number in range(10)]


def test_a_flood_ends_the_connection(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        while connection.failure is None:
            lib.deliver(b"noise")
            await turn()
        assert "nobody asked for" in connection.failure.message

    run(scenario)


def test_an_event_the_table_does_not_know(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        lib.emit(CmEvent.ROUTE_RESOLVED)
        with pytest.raises(PeerError, match="ROUTE_RESOLVED in state up"):
            await connection.receive()

    run(scenario)


def test_a_call_that_blocks_is_left_alone(lib: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the deadline of something around it has passed: the connection says that it is stuck."""
    lib.iwarp = True
    release = threading.Event()
    monkeypatch.setattr(lib, "cm_connect", lambda *arguments: release.wait(10) and 0, raising=False)

    async def attempt(connection: Connection) -> None:
        async with asyncio.timeout(0.05):
            try:
                await connect(connection, lib)
            finally:
                await connection.close()

    async def inside() -> None:
        connection = Connection(EventChannel(), PEER, deadlines=SOON._replace(connect_s=5.0))
        with pytest.raises(TimeoutError):
            await attempt(connection)
        assert connection.stuck
        assert connection.state is State.CLOSING
        release.set()
        async with asyncio.timeout(20):  # the thread takes its time to return on a busy machine
            while connection.state is not State.CLOSED:
                await connection.close()

    asyncio.run(inside())


PAIRS = [
    ("cm_open", "cm_close"),
    ("cm_create_id", "cm_destroy_id"),
    ("pd_alloc", "pd_free"),
    ("completion_channel_open", "completion_channel_close"),
    ("cq_create", "cq_destroy"),
    ("cm_create_qp", "cm_destroy_qp"),
    ("mr_register", "mr_free"),
]


@pytest.mark.parametrize("iwarp", [False, True], ids=["RoCE", "iWARP"])
def test_iser_21_cancelled_at_each_turn_everything_is_given_back(lib: FakeLibrary, iwarp: bool) -> None:
    """Connecting, sending and receiving are cancelled after each number of turns of the loop they take, and a few more.

    Where a thread is waited for, nobody knows how many turns that takes: then after twice as many each time.
    """
    lib.iwarp = iwarp
    finished = 0
    for turns in (*range(60), *(60 << doubled for doubled in range(1, 12))):
        lib.calls.clear()

        async def scenario(connection: Connection, turns: int = turns) -> None:
            nonlocal finished

            async def use() -> None:
                nonlocal finished
                await connect(connection, lib)
                await connection.send(b"question")
                lib.deliver(b"answer")
                assert await connection.receive() == b"answer"
                finished += 1
                await connection.receive()

            task = asyncio.ensure_future(use())
            for _ in range(turns):
                await turn()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        run(scenario)
        lib.reset()
        assert {pair: lib.calls.count(pair[0]) - lib.calls.count(pair[1]) for pair in PAIRS} == dict.fromkeys(PAIRS, 0)
        if finished > 3:
            return
    raise AssertionError("it was never done")


def test_using_it_before_it_is_up(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        with pytest.raises(LocalError, match="is new, not up"):
            await connection.send(b"x")

    run(scenario)


def test_iser_25_without_devices_there_is_no_channel(lib: FakeLibrary) -> None:
    lib.fail["cm_open"] = -19

    async def inside() -> None:
        EventChannel()

    with pytest.raises(RdmactlError, match="no usable RDMA device"):
        asyncio.run(inside())


@pytest.mark.parametrize("depth", [1, 4, 16])
def test_quiet_messages_are_reported_a_few_at_a_time_and_slots_never_run_out(lib: FakeLibrary, depth: int) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        for number in range(100):
            while not connection.room:
                await turn()
            some = [b"quiet %d.%d" % (number, part) for part in range(min(number % 4 + 1, connection.room))]
            connection.post(some, quiet=True)
            assert lib.sent[-len(some) :] == some
        await connection.send(b"loud")  # one that is reported gives all before it back
        await turn()
        await turn()
        assert connection.room == session_sizes(depth).sends

    run(scenario, session_sizes(depth))


def test_what_may_be_secret_is_wiped_when_it_has_been_sent(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        await connection.send(b"CHAP_R=0x4711")
        await turn()
        await turn()
        assert b"CHAP_R" not in bytes(lib._memory[1].memory)

    run(scenario)


def test_iser_46_shared_memory_is_freed_behind_the_queue_pair(lib: FakeLibrary) -> None:
    async def scenario(connection: Connection) -> None:
        await connect(connection, lib)
        connection.share(4096, writable=True)
        connection.share(4096, writable=False)

    run(scenario)
    freed = lib.calls[lib.calls.index("cm_destroy_qp") :]
    assert freed[:5] == ["cm_destroy_qp", "mr_free", "mr_free", "mr_free", "mr_free"]
