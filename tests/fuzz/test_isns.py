# SPDX-License-Identifier: Apache-2.0
"""iSNS bytes that are none: a value, or a PeerError with a printable sentence; engines that end whatever comes."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi.names import name_problem
from rdmactl.isns.attributes import Attribute, Tag, of_address, pack, read_address, read_number, read_text, unpack
from rdmactl.isns.conversation import Answer, Conversation, read_status
from rdmactl.isns.notices import Notices
from rdmactl.isns.pdu import MAX_MESSAGE_BYTES, Assembler, Message, Pdu, StreamDecoder, encode, parse_datagram
from rdmactl.isns.query import QueryConfig, QueryDone, QueryEngine, QueryFailed
from rdmactl.isns.query_states import ENDED
from rdmactl.isns.registration import Connect, RegistrationConfig, RegistrationEngine
from rdmactl.isns.registration_states import RegistrationState
from rdmactl.isns.targets import TargetReader
from tests.fake.isns_server import Connection, FakeIsnsServer, Node

INITIATOR = "iqn.2005-03.org.example:init1"
TAGS = st.one_of(st.sampled_from([int(tag) for tag in Tag]), st.integers(0, 0xFFFFFFFF))
VALUES = st.one_of(
    st.sampled_from([b"", b"iqn.2005-03.org.example:a\0\0\0", b"iqn.a/b\0", bytes(4), b"\0\0\x0c\xbc", bytes(16)]),
    st.binary(max_size=24).map(lambda value: value + bytes(-len(value) & 3)),
)
ATTRIBUTES = st.lists(st.builds(Attribute, TAGS, VALUES), max_size=20)
MESSAGES = st.builds(
    Message,
    st.one_of(st.sampled_from([0x8001, 0x8002, 0x8003, 0x8004, 0x8005, 8, 13]), st.integers(0, 0xFFFF)),
    st.one_of(st.integers(1, 4), st.integers(0, 0xFFFF)),
    st.tuples(st.sampled_from([bytes(4), b"\0\0\0\6", b"\0\0\0\x0b", b""]), ATTRIBUTES.map(pack)).map(b"".join),
)
PDUS = st.builds(
    Pdu,
    st.sampled_from([0x8002, 0x8003, 8]),
    st.sampled_from([0, 0x400, 0x800, 0xC00]),
    st.integers(1, 2),
    st.integers(0, 3),
    st.binary(max_size=16),
)


def _targets(data: bytes) -> None:
    reader = TargetReader()
    reader.receive(Answer(1, 0, bytes(4) + data))
    found = reader.finish()
    assert all(name_problem(target.name) is None and target.portals for target in found.targets)
    assert all(0 < portal.port < 65536 and tag < 65536 for target in found.targets for portal, tag in target.portals)
    assert all(text.isprintable() for text in found.warnings)


READERS: list[Callable[[bytes], object]] = [
    parse_datagram,
    read_status,
    lambda data: list(unpack(data)),
    lambda data: read_text(Attribute(32, data)),
    lambda data: read_number(Attribute(17, data)),
    lambda data: read_address(Attribute(16, data)),
    lambda data: list(StreamDecoder().receive(data)),
    lambda data: Conversation().receive(data),
    _targets,
]


@pytest.mark.parametrize("reader", READERS)
@given(st.binary(max_size=200))
def test_bytes(reader: Callable[[bytes], object], data: bytes) -> None:
    try:
        reader(data)
    except PeerError as error:
        assert error.message.isprintable()  # noqa: PT017


@given(ATTRIBUTES)
def test_attributes_are_read_as_they_were_written(attributes: list[Attribute]) -> None:
    assert list(unpack(pack(attributes))) == attributes


@given(st.ip_addresses())
def test_addresses_are_read_as_they_were_written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """But for IPv6 addresses that mean an IPv4 one, in the form of the standard or in that of open-isns."""
    value = int(address)
    means_ipv4 = address.version == 6 and (value >> 32 == 0xFFFF or (value >> 32 == 0 and value > 1))
    read = read_address(of_address(Tag.PORTAL_IP, str(address)))
    assert read == str(ipaddress.IPv4Address(value & 0xFFFFFFFF) if means_ipv4 else address)


@given(ATTRIBUTES)
def test_lists_of_targets(attributes: list[Attribute]) -> None:
    try:
        _targets(pack([Attribute(Tag.DELIMITER), *attributes]))
    except PeerError as error:
        assert "malformed" in error.message  # noqa: PT017


@given(st.binary(max_size=300).map(lambda data: data + bytes(-len(data) & 3)), st.integers(1, 20), st.integers(1, 50))
def test_a_message_is_the_same_in_any_number_of_pdus(payload: bytes, words: int, step: int) -> None:
    message = Message(0x8002, 7, payload)
    stream = encode(message, 4 * words)
    decoder, assembler = StreamDecoder(), Assembler()
    pieces = (stream[at : at + step] for at in range(0, len(stream), step))
    found = [assembler.receive(pdu) for piece in pieces for pdu in decoder.receive(piece)]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] is not None
    assert found[-1][:3] == message[:3]


@given(st.lists(PDUS, max_size=12))
def test_segments_in_any_order(pdus: list[Pdu]) -> None:
    assembler = Assembler()
    try:
        for pdu in pdus:
            message = assembler.receive(pdu)
            assert message is None or len(message.payload) <= MAX_MESSAGE_BYTES
    except PeerError as error:
        assert error.message.isprintable()  # noqa: PT017


@given(st.lists(st.one_of(MESSAGES.map(encode), st.binary(max_size=40), st.none()), max_size=12))
def test_every_query_ends(script: list[bytes | None]) -> None:
    """Whatever a server sends, and whenever it closes."""
    engine, now = QueryEngine(QueryConfig(INITIATOR)), 0.0
    engine.connected(now)
    ends = 0
    for item in [*script, None, None]:
        now += 1.0
        for said in engine.take_output():
            ends += isinstance(said, QueryDone | QueryFailed)
            assert not isinstance(said, QueryFailed) or said.message.isprintable()
        if item is None:
            engine.closed(now)
            if engine.state not in ENDED:
                engine.connected(now)
        else:
            engine.receive(item, now)
    while (wake_at := engine.wake_at()) is not None:
        engine.tick(wake_at)
    ends += sum(isinstance(said, QueryDone | QueryFailed) for said in engine.take_output())
    assert ends == 1


@given(st.lists(st.one_of(MESSAGES.map(encode), st.binary(max_size=40), st.floats(0, 100)), max_size=20))
def test_a_registration_survives_everything(script: list[bytes | float]) -> None:
    engine = RegistrationEngine(RegistrationConfig(INITIATOR, 5000), {"192.0.2.5"}, random_bytes=bytes)
    now = 0.0
    engine.start(now)
    for item in script:
        if any(isinstance(said, Connect) for said in engine.take_output()):
            engine.connected("192.0.2.1", now)
        if isinstance(item, bytes):
            engine.receive(item, now)
            engine.datagram(item, "192.0.2.5", now)
        else:
            now += item
            engine.tick(now)
    engine.stop(now)
    while (wake_at := engine.wake_at()) is not None:
        now = max(now, wake_at)
        engine.tick(now)
    assert engine.state is RegistrationState.ENDED


@given(st.lists(st.tuples(MESSAGES, st.floats(0, 10)), max_size=20))
def test_notices_are_bounded(script: list[tuple[Message, float]]) -> None:
    notices, now = Notices(INITIATOR, "entity"), 0.0
    for message, pause_s in script:
        now += pause_s
        reply = notices.receive(message, None, now)
        assert reply is None or reply[:2] == (message.function | 0x8000, message.transaction)
        changed = notices.take(now)
        assert changed is None or changed.names is None or all(name_problem(name) is None for name in changed.names)


NAMES = st.integers(0, 999).map("iqn.2005-03.org.example:t{}".format)
PORTALS = st.lists(
    st.tuples(st.ip_addresses().map(str), st.integers(0, 65535), st.one_of(st.none(), st.integers(0, 65535)))
)


@pytest.mark.slow
@given(st.dictionaries(NAMES, PORTALS, max_size=12), st.sampled_from([10_000_000, 600]), st.booleans())
def test_back_to_back(
    nodes: dict[str, list[tuple[str, int, int | None]]], buffer_bytes: int, members_only: bool
) -> None:
    """The list is what the server has, asked for at once or name by name."""
    known = {name: Node(portals) for name, portals in nodes.items()}
    server = FakeIsnsServer(known, buffer_bytes=buffer_bytes, members_only=members_only)
    engine, connection = QueryEngine(QueryConfig(INITIATOR)), Connection(server)
    engine.connected(0.0)
    result: list[QueryDone | QueryFailed] = []
    while not result:
        for item in engine.take_output():
            if isinstance(item, bytes):
                engine.receive(connection.receive(item), 0.0)
            elif isinstance(item, QueryDone | QueryFailed):
                result.append(item)
    if isinstance(result[0], QueryFailed):
        assert "status 11" in result[0].message  # one target alone is too large
        return
    wanted = {name: {tag for _, _, tag in portals if tag is not None} for name, portals in nodes.items()}
    found = {target.name: {tag for _, tag in target.portals} for target in result[0].found.targets}
    assert found == {name: tags for name, tags in wanted.items() if tags}
    assert set(result[0].found.unreachable) == {name for name, tags in wanted.items() if not tags}
