# SPDX-License-Identifier: Apache-2.0
"""The dispatcher on a real RDMA kernel: NETLINK_RDMA and NETLINK_ISCSI as they are."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rdmactl.errors import Unavailable
from rdmactl.netlink import iscsi, rdma
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.message import NETLINK_ISCSI, NETLINK_RDMA, NLMSG_DONE, build
from rdmactl.netlink.ports import ChannelSpec, Lane, Received, Reply
from rdmactl.netlink.sockets import open_socket
from rdmactl.netlink.trace import Tracer
from tests.fake.services import DEADLINE_S, Driven, Log, dispatch, until

pytestmark = pytest.mark.kernel

IWPM = ChannelSpec(NETLINK_RDMA, groups=(rdma.RDMA_NL_GROUP_IWPM,), clients=(rdma.RDMA_NL_IWCM,))
EVENTS = ChannelSpec(NETLINK_ISCSI, groups=(iscsi.ISCSI_NL_GRP_ISCSID,), receive_buffer_bytes=8 << 20)
HELLO = rdma.iwcm_type(rdma.RDMA_NL_IWPM_HELLO)
UNKNOWN = 99


class Mapper(Log):
    """Says HELLO on start."""

    async def run(self, lane: Lane) -> None:
        self.channel = lane.open(IWPM, self)
        self.channel.send(HELLO, rdma.hello(4))
        lane.ready()
        await asyncio.Event().wait()


class Initiator(Log):
    """Has an event channel and a request channel; `stall` decides whether an event stops it."""

    def __init__(self, stall: Callable[[Received], object] = lambda received: None) -> None:
        super().__init__(stall)

    async def run(self, lane: Lane) -> None:
        self.events_channel = lane.open(EVENTS, self)
        self.requests = lane.open_requests(ChannelSpec(NETLINK_ISCSI))
        lane.ready()
        await asyncio.Event().wait()


class _KernelDoor:
    """`Driven` opens through this: the real kernel in the place of a fake one."""

    open = staticmethod(open_socket)


@pytest.fixture(scope="module", autouse=True)
def modules() -> None:
    subprocess.run(["modprobe", "-a", "iw_cm", "iscsi_tcp"], check=True)


def handle() -> int:
    return int(Path("/sys/class/iscsi_transport/tcp/handle").read_text())


def create_session(transport: int) -> int:
    """A session of tcp without connection, made by somebody else; every listener gets its event."""
    with contextlib.closing(open_socket(ChannelSpec(NETLINK_ISCSI))) as requests:
        requests.send(iscsi.create_session(transport, 1, 32, 16))
        item = requests.receive()
    assert item is not None
    reply = iscsi.parse_reply(item[0])
    assert reply is not None
    assert reply.code == 0
    return reply.sid


def unknown_request(transport: int) -> bytes:
    return build(UNKNOWN, struct.pack("=IiQ40x", UNKNOWN, 0, transport), flags=0)


def run(mapper: Mapper, scenario: Callable[[Dispatcher], Awaitable[None]], **options: object) -> Dispatcher:
    dispatcher = Dispatcher(**options)  # type: ignore[arg-type]
    dispatcher.add("iwpm", lambda: mapper)
    dispatcher.add("initiator", Initiator)
    dispatch(dispatcher, lambda: scenario(dispatcher))
    return dispatcher


async def exchange(dispatcher: Dispatcher, *messages: bytes) -> list[bytes]:
    return await dispatcher.call(
        "initiator", lambda service: service.requests.exchange(messages, deadline_s=DEADLINE_S), deadline_s=DEADLINE_S
    )


def test_hello_is_answered_with_hello_and_done() -> None:
    mapper = Mapper()
    tracer = Tracer()

    async def scenario(dispatcher: Dispatcher) -> None:
        await until(lambda: len(mapper.news()) == 2)

    dispatcher = run(mapper, scenario, tracer=tracer)
    hello, done = mapper.news()
    assert isinstance(hello, Received)
    assert (hello.message.type, hello.sender, hello.message.pid) == (HELLO, 0, 0)
    assert rdma.parse_hello(hello.message.payload) == 4
    assert isinstance(done, Reply)
    assert (done.request.type, done.code) == (HELLO, 0)
    counters = dispatcher.status()[0].counters
    assert (counters.sent, counters.messages, counters.replies, counters.unmatched) == (1, 1, 1, 0)
    notes = [entry.note for entry in tracer.entries()]
    assert notes[0] == "HELLO seq=0 1=4"
    assert notes[-1] == "NLMSG_DONE seq=0 code=0"


def test_a_burst_of_sends_loses_no_answer() -> None:
    # Unread, 27 DONEs overflow the default receive buffer, and the kernel postpones what follows.
    log = Log()
    driven = Driven(_KernelDoor(), log, IWPM)  # type: ignore[arg-type]
    for _ in range(500):
        driven.channel.send(HELLO, rdma.hello(4))
    driven.run_soon()
    replies = [event for event in log.news() if isinstance(event, Reply)]
    assert [reply.code for reply in replies] == [0] * 500
    assert [reply.request.seq for reply in replies] == list(range(500))
    assert (driven.counters.overruns, driven.counters.unmatched) == (0, 0)
    assert driven.failures == []
    driven.channel.close()


def test_a_refusal_is_delivered_as_reply() -> None:
    log = Log()
    driven = Driven(_KernelDoor(), log, IWPM)  # type: ignore[arg-type]
    driven.channel.send(rdma.iwcm_type(rdma.RDMA_NL_IWPM_REMOVE_MAPPING), b"")
    driven.run_soon()
    (reply,) = log.news()
    assert reply.code == -errno.EINVAL
    driven.channel.close()


def test_an_overflow_is_met_as_the_kernel_makes_it() -> None:
    # Behind the channel's back 60 HELLOs go out unread: the queue overflows, and the handler of one is postponed.
    log = Log()
    driven = Driven(_KernelDoor(), log, IWPM)  # type: ignore[arg-type]
    for seq in range(60):
        driven.socket.send(build(HELLO, rdma.hello(4), seq=seq, pid=driven.socket.portid))
    for _ in range(10):
        driven.channel.turn()
    assert log.events.count("overrun") == 1
    assert driven.counters.overruns >= 1
    answered = len(log.news())
    assert driven.channel.send(HELLO, rdma.hello(4), seq=1000) == 1000  # and all is well again
    driven.run_soon()
    assert [event.code for event in log.news()[answered:] if isinstance(event, Reply)] == [0]
    driven.channel.close()


def test_an_unknown_iscsi_request_is_refused_by_the_kernel() -> None:
    async def scenario(dispatcher: Dispatcher) -> None:
        (datagram,) = await exchange(dispatcher, unknown_request(handle()))
        reply = iscsi.parse_reply(datagram)
        assert reply is not None
        assert (reply.type, reply.code) == (UNKNOWN, -errno.ENOSYS)

    run(Mapper(), scenario)


def test_a_batch_gets_one_reply_for_each_request_in_order() -> None:
    async def scenario(dispatcher: Dispatcher) -> None:
        transport = handle()
        batch = [unknown_request(transport), iscsi.start_conn(transport, 777), unknown_request(1)]
        replies = [iscsi.parse_reply(datagram) for datagram in await exchange(dispatcher, *batch)]
        assert [(reply.type, reply.code) for reply in replies if reply] == [
            (UNKNOWN, -errno.ENOSYS),
            (iscsi.Uevent.START_CONN, -errno.EINVAL),
            (UNKNOWN, -errno.EINVAL),
        ]

    dispatcher = run(Mapper(), scenario)
    assert dispatcher.status()[1].counters.replies == 3


def test_events_reach_their_channel_and_lost_ones_are_reported() -> None:
    small = ChannelSpec(NETLINK_ISCSI, groups=EVENTS.groups, receive_buffer_bytes=4096)
    log = Log()
    driven = Driven(_KernelDoor(), log, small)  # type: ignore[arg-type]
    sids = [create_session(handle()) for _ in range(20)]
    driven.channel.turn()
    received = [iscsi.parse_event(event.message) for event in log.events if isinstance(event, Received)]
    assert 0 < len(received) < 20
    assert [event.sid for event in received if isinstance(event, iscsi.SessionCreated)] == sids[: len(received)]
    assert log.events[-2:] == ["overrun", "drained"]
    with contextlib.closing(open_socket(ChannelSpec(NETLINK_ISCSI))) as requests:
        for sid in sids:
            requests.send(iscsi.destroy_session_async(handle(), sid))
            requests.receive()
            driven.channel.turn()
    driven.channel.close()


def test_a_stalled_initiator_is_replaced_while_the_mapper_serves() -> None:
    wake = threading.Event()
    instances: list[Initiator] = []
    mapper = Mapper()

    def stall(received: Received) -> None:
        if len(instances) == 1:
            wake.wait(DEADLINE_S)

    def make() -> Initiator:
        instances.append(Initiator(stall))
        return instances[-1]

    dispatcher = Dispatcher(stall_s=0.5)
    dispatcher.add("iwpm", lambda: mapper)
    dispatcher.add("initiator", make)

    async def scenario() -> None:
        transport = handle()
        sid = create_session(transport)  # its event stalls the initiator
        for _ in range(20):
            before = len(mapper.news())
            await dispatcher.call("iwpm", hello, deadline_s=DEADLINE_S)
            await until(lambda: len(mapper.news()) == before + 2)  # noqa: B023 (awaited at once)
        await until(lambda: dispatcher.status()[1].stalls == 1 and dispatcher.status()[1].ready)
        await exchange(dispatcher, iscsi.destroy_session_async(transport, sid))
        await until(lambda: instances[1].news())  # the new instance has joined the group
        wake.set()
        await until(lambda: dispatcher.status()[1].abandoned == 0)

    async def hello(service: Mapper) -> None:
        service.channel.send(HELLO, rdma.hello(4))

    dispatch(dispatcher, scenario)
    assert [status.restarts for status in dispatcher.status()] == [0, 1]
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(instances[0].events_channel.fileno())


def test_without_privilege_the_group_of_iscsi_is_refused_with_a_hint() -> None:
    code = (
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "from rdmactl.netlink.ports import ChannelSpec\n"
        "from rdmactl.netlink.sockets import open_socket\n"
        "open_socket(ChannelSpec(20, groups=(2,))).close()\n"  # NETLINK_RDMA is open to everybody
        "open_socket(ChannelSpec(8, groups=(1,)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "Unavailable: not permitted to join multicast group 1 of NETLINK_ISCSI" in done.stderr
    assert "CAP_NET_ADMIN" in done.stderr


def test_the_portids_are_positive_and_the_kernel_calls_them() -> None:
    first, second = open_socket(IWPM), open_socket(ChannelSpec(NETLINK_RDMA))
    assert 0 < first.portid != second.portid > 0
    second.send(build(HELLO, rdma.hello(4), pid=second.portid))
    answer, done = second.receive(), second.receive()
    assert answer is not None
    assert done is not None
    assert struct.unpack_from("=H", answer[0], 4)[0] == HELLO
    assert struct.unpack_from("=H", done[0], 4)[0] == NLMSG_DONE
    assert first.receive() is None
    first.close()
    second.close()


def test_a_missing_family_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="family 31"):
        open_socket(ChannelSpec(31))
