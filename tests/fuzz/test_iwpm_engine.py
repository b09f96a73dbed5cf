# SPDX-License-Identifier: Apache-2.0
"""The port mapper's engine under random events, and its invariants.

Whatever the kernel and the peers do, in whatever order, with whatever pauses:

* no request of the kernel is answered twice, and none later than 9 s after it came;
* every answer belongs to a request that came, with its own sequence number, and HANDLE_ERR never has code 0;
* references are positive, and each claim that is held belongs to a mapping;
* nothing raises, and everything ends: left alone, the engine forgets all exchanges;
* when the kernel has ended every id, nothing is left.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdmactl.iwpm.events import (
    Datagram,
    Door,
    KernelReply,
    Overrun,
    Path,
    Stalled,
    ToKernel,
    Unreachable,
)
from rdmactl.iwpm.mapper import PortMapper
from rdmactl.iwpm.wire import WireMessage, parse
from rdmactl.netlink.message import Message, attributes, split
from rdmactl.netlink.rdma import iwcm_type, op_of
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake import iwcm_messages as say
from tests.fake.mapper_bench import FakeClaims, handles

ANSWERED = {0, 1, 2}
HANDLE_ERR, REMOTE_INFO, MAPINFO, MAPINFO_NUM, HELLO = 5, 4, 6, 7, 8

HOSTS = ["10.7.0.1", "10.7.0.2", "0.0.0.0", "[fd00::1]", "[::]", "[fe80::1%3]"]
ADDRESSES = st.builds(lambda host, port: SockAddr.parse(f"{host}:{port}"), st.sampled_from(HOSTS), st.integers(1, 3))
FLAGS = st.sampled_from([0, 0, 1, None])
CODES = st.sampled_from([0, 0, 0, -22, -16, -105, -12, -11, -111])
RARELY = st.integers(0, 9).map(lambda number: number == 0)


class World:
    """An engine, and all that is known about it from outside."""

    def __init__(self) -> None:
        self.claims = FakeClaims()
        self.mapper = PortMapper(self.claims, handles())
        self.now = 100.0
        self.seq = 0
        self.asked: dict[int, float] = {}
        self.answered: dict[int, int] = {}
        self.sent: list[ToKernel] = []
        self.datagrams: list[bytes] = []
        self.mapper.start(self.now)
        self.collect()

    def collect(self) -> None:
        for output in self.mapper.take_output():
            if isinstance(output, ToKernel):
                self.sent.append(output)
                self.check_answer(output)
            elif hasattr(output, "path"):
                self.datagrams.append(output.data)
                parse(output.data)
        self.check()

    def check_answer(self, output: ToKernel) -> None:
        op = op_of(output.type)
        assert op != 3
        if op in ANSWERED or op == HANDLE_ERR:
            found = dict(attributes(output.payload))
            seq = int.from_bytes(found[1], "little")
            assert op != HANDLE_ERR or int.from_bytes(found[2], "little") != 0
            if seq in self.asked:
                self.answered[seq] = self.answered.get(seq, 0) + 1
                assert self.answered[seq] == 1, f"request {seq} answered twice"
                assert self.now - self.asked[seq] <= 9.0, f"request {seq} answered after {self.now - self.asked[seq]} s"
            else:
                assert op == HANDLE_ERR, f"answer to {seq}, which nobody asked"

    def check(self) -> None:
        table = self.mapper.table
        wanted = {mapping.claim for mapping in table if mapping.claim is not None}
        assert all(mapping.refs >= 1 for mapping in table)
        assert wanted == set(table.claims_held)
        assert {mapping.claim for mapping in table if mapping.claimed} <= self.claims.held
        assert self.claims.held <= wanted, "a claim was leaked"

    def kernel(self, datagram: bytes) -> None:
        for message in split(datagram):
            self.mapper.receive(message, self.now)
        self.collect()

    def request(self, build) -> None:  # type: ignore[no-untyped-def]
        self.seq += 1
        self.asked[self.seq] = self.now
        self.kernel(build(self.seq))

    def reply(self, code: int, index: int) -> None:
        """The kernel's result for one of the things sent; each has one."""
        if self.sent:
            output = self.sent.pop(index % len(self.sent))
            op = op_of(output.type)
            if code == -16 and op in ANSWERED | {HANDLE_ERR}:
                # Not processed: then it may come once more.
                seq = int.from_bytes(dict(attributes(output.payload))[1], "little")
                if seq in self.answered:
                    self.answered[seq] -= 1
            self.mapper.receive(KernelReply(op, output.payload, code, output.asked_at), self.now)
            self.collect()

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1000):
            wake = self.mapper.wake_at()
            if wake is None or wake > end:
                break
            self.now = max(self.now, wake)
            self.mapper.tick(self.now)
            self.collect()
        else:
            raise AssertionError("the engine wants to be woken again and again")
        self.now = end


@st.composite
def peer_datagrams(draw: st.DrawFn) -> bytes:
    if draw(RARELY):
        return draw(st.binary(max_size=70))
    cp, ap = draw(ADDRESSES), draw(ADDRESSES)
    if cp.family != ap.family:
        ap = cp
    cp, ap = cp._replace(scope_id=0), ap._replace(scope_id=0)
    type_ = draw(st.integers(0, 3))
    return WireMessage(type_, draw(st.integers(0, 6)), cp, ap, cp if type_ == 0 else None).build()


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, object]:
    kind = draw(
        st.sampled_from(
            "add query remove reg_pid peer echo reply reply sleep hello report".split()
            + "overrun stall garbage unreachable full".split()
        )
    )
    values: dict[str, st.SearchStrategy[object]] = {
        "add": st.tuples(ADDRESSES, FLAGS),
        "query": st.tuples(ADDRESSES, ADDRESSES, FLAGS),
        "remove": ADDRESSES,
        "peer": st.tuples(peer_datagrams(), ADDRESSES),
        "echo": st.tuples(st.integers(0, 50), st.integers(0, 3)),
        "reply": st.tuples(CODES, st.integers(0, 5)),
        "sleep": st.sampled_from([0.01, 0.5, 1.0, 3.0, 9.0, 15.0]),
        "hello": st.integers(0, 6),
        "report": st.lists(st.tuples(ADDRESSES, st.sampled_from([None, 50000, 50001]), st.integers(0, 1)), max_size=4),
        "stall": st.sampled_from([5.5, 8.5, 20.0]),
        "garbage": st.tuples(st.integers(0, 9), st.binary(max_size=200)),
        "unreachable": st.tuples(st.integers(0, 50), ADDRESSES),
        "full": st.booleans(),
    }
    return kind, draw(values.get(kind, st.none()))


def step(world: World, kind: str, value) -> None:  # type: ignore[no-untyped-def]
    if kind == "add":
        world.request(lambda seq: say.add_mapping(seq, *value))
    elif kind == "query":
        world.request(lambda seq: say.query_mapping(seq, *value))
    elif kind == "reg_pid":
        world.request(lambda seq: say.reg_pid(seq, "eth0", "siw0"))
    elif kind == "remove":
        world.kernel(say.remove_mapping(0, value))
    elif kind == "peer":
        world.mapper.receive(Datagram(value[0], Path(Door.SERVER, value[1])), world.now)
        world.collect()
    elif kind == "echo" and world.datagrams:
        # A datagram of ours, changed into what a peer would answer.
        message = parse(world.datagrams[value[0] % len(world.datagrams)])._replace(type=value[1])
        mapped = message.cp if message.type == 0 else None
        data = message._replace(mapped_cp=mapped).build()
        world.mapper.receive(Datagram(data, Path(Door.CLIENT, message.ap)), world.now)
        world.collect()
    elif kind == "reply":
        world.reply(*value)
    elif kind == "sleep":
        world.sleep(value)
    elif kind == "hello":
        world.kernel(say.hello(0, value))
    elif kind == "report":
        for local, port, flags in value:
            world.kernel(say.mapinfo(local, local if port is None else local.with_port(port), flags))
        world.kernel(say.mapinfo_num(0, len(value)))
    elif kind == "overrun":
        world.mapper.receive(Overrun(), world.now)
        world.collect()
    elif kind == "stall":
        world.now += value
        world.mapper.receive(Stalled(value), world.now)
        world.collect()
    elif kind == "garbage":
        op, payload = value
        # Sequence number 0 is nobody's: it may be refused, but never be answered.
        world.mapper.receive(Message(iwcm_type(op), 1, 0, 0, payload), world.now)
        world.collect()
    elif kind == "unreachable" and world.datagrams:
        data = world.datagrams[value[0] % len(world.datagrams)]
        world.mapper.receive(Unreachable(data[: 64 if value[0] % 2 else 8], value[1].with_port(3935)), world.now)
        world.collect()
    elif kind == "full":
        world.claims.full = value


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps(), min_size=10, max_size=60))
def test_engine(sequence: list[tuple[str, object]]) -> None:
    world = World()
    for kind, value in sequence:
        step(world, kind, value)
    # The kernel comes to rest: it greets, everything sent gets its result, every id ends.
    for _ in range(20):
        if world.mapper.link.holding:
            world.kernel(say.hello(0, 4))
        while world.sent:
            world.reply(0, 0)
        world.sleep(30)
    assert world.mapper.exchanges == (0, 0)
    assert world.mapper.link.settled
    for mapping in list(world.mapper.table):
        for _ in range(len(sequence) * 5 + 1):
            if world.mapper.table.get(mapping.local) is mapping:
                world.kernel(say.remove_mapping(0, mapping.local))
    assert len(world.mapper.table) == 0
    assert world.claims.held == set()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_datagram(data: bytes) -> None:
    """The wire parser takes anything: it is a message, or a PeerError that the engine counts."""
    world = World()
    world.kernel(say.hello(1, 4))
    world.mapper.receive(Datagram(data, Path(Door.SERVER, SockAddr.parse("10.7.0.2:1"))), world.now)
    world.collect()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9), st.binary(max_size=600), st.booleans())
def test_any_message_of_the_kernel(op: int, payload: bytes, serving: bool) -> None:
    """The netlink parsers take anything: it is understood, refused, or ignored."""
    world = World()
    if serving:
        world.kernel(say.hello(1, 4))
        world.mapper.receive(KernelReply(MAPINFO, b"", 0), world.now)
        world.collect()
    world.mapper.receive(Message(iwcm_type(op), 1, 0, 0, payload), world.now)
    world.collect()
