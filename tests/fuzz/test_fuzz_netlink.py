# SPDX-License-Identifier: Apache-2.0
"""Any bytes from a netlink socket: nothing raises, nothing grows, nothing is delivered twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink import route, uevent
from rdmactl.netlink.describe import describe, redact
from rdmactl.netlink.message import (
    NETLINK_ISCSI,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_RDMA,
    NETLINK_ROUTE,
    Message,
    attributes,
    build,
    reply_code,
    split,
)
from rdmactl.netlink.ports import ChannelSpec, Received, Reply
from tests.fake.services import Driven, FakeRdma, Log

families = st.sampled_from([NETLINK_RDMA, NETLINK_ISCSI, NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT, 99])
types = st.one_of(st.integers(0, 120), st.integers(0x800, 0x80A), st.integers(0, 0xFFFF))
portids = st.sampled_from([0, 1000, 1001])
framed = st.builds(
    lambda kind, payload, seq, pid: build(kind, payload, seq=seq, pid=pid),
    types,
    st.binary(max_size=120),
    st.integers(0, 3),
    portids,
)
datagrams = st.one_of(st.binary(max_size=300), st.lists(framed, max_size=4).map(b"".join))


@given(st.binary(max_size=300))
def test_framing(datagram: bytes) -> None:
    for message in split(datagram):
        reply_code(message)
        assert sum(len(value) for _, value in attributes(message.payload)) <= len(message.payload)


@given(families, types, st.binary(max_size=200), st.booleans())
def test_descriptions(family: int, type: int, payload: bytes, inbound: bool) -> None:
    assert describe(family, Message(type, 1, 2, 0, payload), inbound).text


@given(families, datagrams)
def test_redaction_keeps_the_length(family: int, datagram: bytes) -> None:
    assert len(redact(family, datagram)) == len(datagram)


@given(st.sampled_from([16, 17, 20, 21, 24, 25]), st.binary(max_size=200))
def test_route_messages(type: int, payload: bytes) -> None:
    route.parse(Message(type, 0, 0, 0, payload))


@given(st.binary(max_size=200))
def test_device_events(datagram: bytes) -> None:
    uevent.parse(datagram)


@given(st.lists(st.tuples(datagrams, portids), max_size=8), st.integers(0, 4))
def test_a_channel_survives_anything_and_answers_each_send_at_most_once(
    items: list[tuple[bytes, int]], sends: int
) -> None:
    log = Log()
    driven = Driven(FakeRdma(), log, ChannelSpec(NETLINK_RDMA))
    sent = [driven.channel.send(0x0808, b"") for _ in range(sends)]
    for datagram, sender in items:
        driven.socket.deliver(datagram, sender)
    driven.channel.turn()
    driven.run_soon()
    assert driven.failures == []
    replies = [event.request.seq for event in log.news() if isinstance(event, Reply)]
    assert sorted(replies) == sent
    assert all(event.sender == 0 for event in log.news() if isinstance(event, Received))
    driven.channel.close()
