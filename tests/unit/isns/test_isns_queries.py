# SPDX-License-Identifier: Apache-2.0
"""Queries: what servers answer, well and badly. Each ends with the whole list or with one sentence.

Numbers are rows of the checklist on iSNS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from rdmactl.errors import LocalError
from rdmactl.iscsi.errors import IscsiErr
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.attributes import DELIMITER, Attribute, Tag, of_number, of_text, pack
from rdmactl.isns.pdu import Flag, Function, Message, Pdu, StreamDecoder, encode
from rdmactl.isns.query import QueryConfig, QueryDone, QueryEngine
from rdmactl.isns.query_states import ENDED, TRANSITIONS, QueryInput, QueryState
from rdmactl.isns.status import Status
from rdmactl.isns.targets import IsnsTarget
from rdmactl.states import advance
from tests.fake.isns_server import Connection, FakeIsnsServer, Node, answer_of, node_attributes

from .support import INITIATOR, T1, T2, failed, listed

HERE = ("192.0.2.10", 3260, 1)
MANY = {f"iqn.2005-03.org.example:t{number:04}": Node([HERE]) for number in range(190)}


def server(*portals: tuple[str, int, int | None], **settings: object) -> FakeIsnsServer:
    """A server with one target."""
    return FakeIsnsServer({T1: Node(list(portals) or [HERE])}, **settings)  # type: ignore[arg-type]


def saying(*attributes: Attribute, status: int = 0) -> FakeIsnsServer:
    """A server whose answers to queries have this behind the status."""
    return FakeIsnsServer(twist=lambda request, _: encode(answer_of(request, status, *attributes)))


def sending(make: Callable[[Message], bytes]) -> FakeIsnsServer:
    """A server that answers with these bytes."""
    return FakeIsnsServer(twist=lambda request, _: make(request))


def raw(payload: bytes) -> FakeIsnsServer:
    """A server whose answers have this payload."""
    return sending(lambda request: encode(answer_of(request, 0)._replace(payload=payload)))


def portals_of(one: FakeIsnsServer) -> list[tuple[Portal, int]]:
    (target,) = listed(one).targets
    return list(target.portals)


# Content.


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("00000000000000000000ffffc000020a", "192.0.2.10"),
        ("000000000000000000000000c000020a", "192.0.2.10"),
        ("20010db8000000000000000000000010", "2001:db8::10"),
        ("fd000009000000000000000000000001", "fd00:9::1"),
    ],
)
def test_115_mapped_and_compatible_ipv4_and_ipv6(value: str, address: str) -> None:
    group = (Attribute(Tag.PG_PORTAL_IP, bytes.fromhex(value)), of_number(Tag.PG_PORTAL_PORT, 3260))
    one = saying(
        DELIMITER, of_text(Tag.ISCSI_NAME, T1), of_text(Tag.PG_ISCSI_NAME, T1), *group, of_number(Tag.PG_TAG, 1)
    )
    assert portals_of(one) == [(Portal(address, 3260), 1)]


def test_116_port_0_udp_and_tags_out_of_place() -> None:
    odd = [("192.0.2.1", 0, 1), ("192.0.2.2", 3260 | 0x10000, 1), ("192.0.2.3", 3260, None), ("192.0.2.4", 3260, 70000)]
    found = listed(server(*odd, ("192.0.2.5", 0x30000, 1)))
    assert found.targets == (IsnsTarget(T1, ((Portal("192.0.2.1", 3260), 1),)),)
    assert found.skipped == len(found.warnings) == 3
    assert [word in text for word, text in zip(("UDP", "70000", "196608"), found.warnings, strict=True)] == [True] * 3


def test_117_an_attribute_longer_than_its_message() -> None:
    assert "malformed" in failed(raw(bytes(4) + struct.pack(">II", 32, 4096) + b"iqn.")).message


@pytest.mark.parametrize("length", [0xFFFFFFF0, 5, 7])
def test_118_lengths_that_cannot_be(length: int) -> None:
    failure = failed(raw(bytes(4) + struct.pack(">II", 32, length) + bytes(64)))
    assert failure.err is IscsiErr.ISNS_QUERY
    assert f"attribute 32 (iscsi_name) of {length} bytes" in failure.message


def test_119_a_string_without_its_end() -> None:
    name = Attribute(Tag.ISCSI_NAME, b"iqn.2005-03.org.example:name".ljust(28))
    assert listed(saying(DELIMITER, name)).unreachable == ("iqn.2005-03.org.example:name",)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        (Attribute(Tag.PG_PORTAL_IP, bytes(4)), "attribute 49 (pg_portal_ip) of 4 bytes instead of 16"),
        (Attribute(Tag.PG_PORTAL_PORT, bytes(8)), "attribute 50 (pg_portal_port) of 8 bytes instead of 4"),
        (Attribute(Tag.PG_TAG, bytes(8)), "attribute 51 (pg_tag) of 8 bytes instead of 4"),
    ],
)
def test_120_values_of_another_size(attribute: Attribute, words: str) -> None:
    names = of_text(Tag.ISCSI_NAME, T1), of_text(Tag.PG_ISCSI_NAME, T1)
    assert words in failed(saying(DELIMITER, *names, attribute)).message


@pytest.mark.parametrize("count", range(4))
def test_121_no_room_for_a_status(count: int) -> None:
    failure = failed(raw(bytes(count)))
    assert f"malformed answer: {count} bytes" in failure.message


@pytest.mark.parametrize("status", [status for status in range(2, 24) if status not in (6, 7, 8, 11, 12)])
def test_122_a_refusal_has_its_name(status: int) -> None:
    failure = failed(saying(status=status))
    assert failure.err is IscsiErr.ISNS_QUERY
    names = {member.value: member.name.lower().replace("_", " ") for member in Status}
    assert f"status {status} ({names.get(status, 'unknown')})" in failure.message


@pytest.mark.parametrize("status", [6, 7, 8])
def test_122_who_is_not_known_registers_once(status: int) -> None:
    failure = failed(saying(status=status))
    assert failure.err is IscsiErr.ISNS_REG_FAILED
    one = server(members_only=True)
    assert portals_of(one) == [(Portal("192.0.2.10", 3260), 1)]
    functions = [request.function for request in one.requests]
    assert functions == [Function.DEV_ATTR_QRY, Function.DEV_ATTR_REG, Function.DEV_ATTR_QRY, Function.DEV_DEREG]
    assert not one.entities


@pytest.mark.parametrize("status", [1, 11, 12])
def test_122_an_answer_too_large_is_asked_for_in_parts(status: int) -> None:
    def twist(request: Message, answer: Message) -> bytes:
        return encode(answer_of(request, status) if len(answer.payload) > 1000 else answer)

    found = listed(FakeIsnsServer(MANY, twist=twist))
    assert [target.name for target in found.targets] == list(MANY)


def test_122_a_server_that_closes_on_a_large_answer_is_asked_again() -> None:
    one, closes = FakeIsnsServer(MANY), [True]

    def receive(data: bytes) -> bytes | None:
        (pdu,) = StreamDecoder().receive(data)
        if pdu.function == Function.DEV_ATTR_QRY and closes:
            closes.clear()
            return None
        return one.answer(Message(pdu.function, pdu.transaction, pdu.payload))

    assert len(listed(receive).targets) == 190


def segments(message: Message, count: int) -> list[bytes]:
    """A message in so many PDUs."""
    size = -(-len(message.payload) // count)
    stream = encode(message, size)
    return [pdu.pack() for pdu in StreamDecoder().receive(stream)]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_123_an_answer_in_segments(count: int) -> None:
    one = FakeIsnsServer({T1: Node([HERE])}, twist=lambda _, answer: b"".join(segments(answer, count)))
    assert portals_of(one) == [(Portal("192.0.2.10", 3260), 1)]


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0), (0, 0, 1)])
def test_123_segments_out_of_order(order: tuple[int, ...]) -> None:
    def twist(_: Message, answer: Message) -> bytes:
        parts = segments(answer, 3)
        return b"".join(parts[at] for at in order)

    assert "segment" in failed(FakeIsnsServer({T1: Node([HERE])}, twist=twist)).message


def test_124_a_long_answer_in_one_pdu_and_in_many() -> None:
    assert len(listed(FakeIsnsServer(MANY)).targets) == 190
    one = FakeIsnsServer(MANY, twist=lambda _, answer: encode(answer, 4096))
    assert len(listed(one).targets) == 190


def test_124_a_long_list_is_read_a_little_at_a_time() -> None:
    nodes = {f"{T1}.{number:05}": Node([HERE]) for number in range(3000)}
    engine, connection = QueryEngine(QueryConfig(INITIATOR)), Connection(FakeIsnsServer(nodes))
    engine.connected(0.0)
    (request,) = engine.take_output()
    assert isinstance(request, bytes)
    engine.receive(connection.receive(request), 0.1)
    steps = 0
    while engine.work(0.1):
        assert not engine.take_output()
        steps += 1
    assert steps >= 4
    (done,) = engine.take_output()
    assert isinstance(done, QueryDone)
    assert len(done.found.targets) == 3000


@pytest.mark.parametrize("end", ["closed", "receive", "tick"])
def test_124_a_list_that_has_come_counts_whatever_happens_then(end: str) -> None:
    nodes = {f"{T1}.{number:05}": Node([HERE]) for number in range(3000)}
    engine, connection = QueryEngine(QueryConfig(INITIATOR)), Connection(FakeIsnsServer(nodes))
    engine.connected(0.0)
    (request,) = engine.take_output()
    assert isinstance(request, bytes)
    engine.receive(connection.receive(request), 0.1)
    if end == "closed":
        engine.closed(0.2)
    elif end == "receive":
        engine.receive(b"more", 0.2)
    else:
        engine.tick(1000.0)
    (done,) = engine.take_output()
    assert isinstance(done, QueryDone)


def test_125_only_lists_may_be_long() -> None:
    def twist(request: Message, answer: Message) -> bytes:
        if request.function == Function.DEV_ATTR_QRY:
            return encode(answer_of(request, Status.INTERNAL_ERROR))
        return encode(answer._replace(payload=bytes(300_000)))

    assert "more than 262144 bytes" in failed(FakeIsnsServer({T1: Node([HERE])}, twist=twist)).message


def test_125_segments_without_end() -> None:
    def receive(data: bytes) -> bytes:
        (pdu,) = StreamDecoder().receive(data)
        first = Pdu(pdu.function | 0x8000, Flag.FIRST, pdu.transaction, 0, bytes(65532))
        return b"".join(first._replace(flags=0 if n else Flag.FIRST, sequence=n).pack() for n in range(257))

    assert "more than 16777216 bytes" in failed(receive).message


@pytest.mark.parametrize(
    "change",
    [
        {"transaction": 999},
        {"function": 0x8003},
        {"flags": 0},
        {"flags": int(Flag.LAST)},
    ],
)
def test_126_what_answers_nothing_is_ignored_until_the_end(change: dict[str, int]) -> None:
    def twist(_: Message, answer: Message) -> bytes:
        (pdu,) = StreamDecoder().receive(encode(answer))
        return pdu._replace(**change).pack()  # type: ignore[arg-type]

    failure = failed(FakeIsnsServer({T1: Node([HERE])}, twist=twist))
    assert failure.message == "no answer to the query for targets within 20 s"


@pytest.mark.parametrize("flags", [Flag.CLIENT, Flag.SERVER, Flag(0)])
def test_127_who_sends_is_not_told_by_the_flags(flags: Flag) -> None:
    one = FakeIsnsServer({T1: Node([HERE])}, twist=lambda _, answer: encode(answer._replace(flags=int(flags))))
    assert len(portals_of(one)) == 1


def test_128_a_header_that_promises_more() -> None:
    def twist(_: Message, answer: Message) -> bytes:
        data = encode(answer)
        return data[:4] + struct.pack(">H", len(answer.payload) + 100) + data[6:]

    failure = failed(server(twist=twist))
    assert failure.message.startswith("no answer to the query for targets within 20 s (")
    assert failure.code == "unanswered"


def test_129_no_answer() -> None:
    failure = failed(lambda _: b"", answer_s=5.0)
    assert (failure.err, failure.message) == (IscsiErr.ISNS_QUERY, "no answer to the query for targets within 5 s")


def test_129_an_answer_that_trickles_in_has_an_end_too() -> None:
    engine = QueryEngine(QueryConfig(INITIATOR, total_s=60.0))
    engine.connected(0.0)
    (data,) = engine.take_output()
    assert isinstance(data, bytes)
    (pdu,) = StreamDecoder().receive(data)
    for second in range(80):
        part = Pdu(pdu.function | 0x8000, 0 if second else Flag.FIRST, pdu.transaction, second, bytes(4))
        engine.receive(part.pack(), float(second) * 0.2)
    engine.tick(engine.wake_at() or 0.0)
    (failure,) = engine.take_output()
    assert "within 20 s" in getattr(failure, "message", "")


def test_130_a_walk_in_circles() -> None:
    def twist(request: Message, answer: Message) -> bytes:
        if request.function == Function.DEV_ATTR_QRY:
            return encode(answer_of(request, Status.INTERNAL_ERROR))
        return encode(answer_of(request, 0, of_text(Tag.ISCSI_NAME, T1), DELIMITER))

    failure = failed(FakeIsnsServer({T1: Node([HERE])}, twist=twist))
    assert "again and again" in failure.message
    assert T1 in failure.message


@pytest.mark.parametrize(
    "name", [f"{T1}/../x", "iqn.2005-03." + "x" * 300, "../../etc/passwd", "disk", "iqn.2005-03.x:\x1b[2J"]
)
def test_131_names_that_cannot_be(name: str) -> None:
    found = listed(FakeIsnsServer({name: Node([HERE]), T2: Node([HERE])}))
    assert [target.name for target in found.targets] == [T2]
    assert found.skipped
    assert "left out" in found.warnings[0]
    assert all(text.isprintable() for text in found.warnings)


def test_131_bad_names_are_walked_over() -> None:
    nodes = {"iqn.2005-03.a/b": Node([HERE]), "iqn.2005-03.c": Node([HERE])}

    def twist(request: Message, answer: Message) -> bytes:
        small = request.function == Function.DEV_GET_NEXT or len(answer.payload) < 220
        return encode(answer if small else answer_of(request, Status.INTERNAL_ERROR))

    found = listed(FakeIsnsServer(nodes, twist=twist))
    assert [target.name for target in found.targets] == ["iqn.2005-03.c"]
    assert found.skipped == 1


def test_137_a_notification_between_question_and_answer() -> None:
    notification = Message(Function.SCN, 7, pack([of_text(Tag.ISCSI_NAME, INITIATOR)]))
    one = server(twist=lambda _, answer: encode(notification) + encode(answer))
    assert len(portals_of(one)) == 1


# Beyond the list.


def test_nothing_is_no_failure() -> None:
    assert listed(FakeIsnsServer()).targets == ()


def test_initiators_and_stubs_are_no_targets() -> None:
    found = listed(FakeIsnsServer({T1: Node([HERE], type=2), T2: Node([HERE], type=0)}), names=(T1, T2))
    assert (found.targets, found.unreachable) == ((), ())


def test_portals_behind_a_name_count_where_there_are_no_groups() -> None:
    attributes = [one for one in node_attributes(T1, Node([HERE, ("192.0.2.11", 0, 1)])) if one.tag < Tag.PG_ISCSI_NAME]
    assert portals_of(saying(DELIMITER, *attributes)) == [
        (Portal("192.0.2.10", 3260), -1),
        (Portal("192.0.2.11", 3260), -1),
    ]


def test_a_target_that_is_reached_nowhere_is_listed_as_such() -> None:
    found = listed(server(("192.0.2.10", 3260, None)))
    assert (found.targets, found.unreachable, found.skipped) == ((), (T1,), 0)


def test_targets_by_name() -> None:
    one = FakeIsnsServer(MANY)
    wanted = tuple(MANY)[3:40]
    found = listed(one, names=(*wanted, "iqn.2005-03.org.example:gone"))
    assert tuple(target.name for target in found.targets) == wanted


def test_a_target_that_vanishes_during_the_walk_is_left_out() -> None:
    def twist(request: Message, answer: Message) -> bytes:
        if len(answer.payload) > 1000:
            return encode(answer_of(request, Status.INTERNAL_ERROR))
        gone = request.function == Function.DEV_ATTR_QRY and b":t0007" in request.payload
        return encode(answer_of(request, Status.NO_SUCH_ENTRY) if gone else answer)

    found = listed(FakeIsnsServer(MANY, twist=twist))
    assert len(found.targets) == 189


def test_an_end_inside_an_answer_is_no_list() -> None:
    engine = QueryEngine(QueryConfig(INITIATOR))
    engine.connected(0.0)
    engine.take_output()
    engine.receive(bytes.fromhex("0001800200184c00"), 1.0)
    engine.closed(2.0)
    (failure,) = engine.take_output()
    assert getattr(failure, "message", "") == (
        "the server closed the connection inside a message (8 of 12 bytes) before the query for targets was answered"
    )


def test_a_list_that_ends_early_says_that_it_is_not_complete() -> None:
    def twist(request: Message, answer: Message) -> bytes:
        if request.function == Function.DEV_ATTR_QRY and b":t0100" in request.payload:
            return encode(answer_of(request, Status.INVALID_QUERY))
        return encode(answer if len(answer.payload) < 1000 else answer_of(request, Status.INTERNAL_ERROR))

    assert "the list is not complete" in failed(FakeIsnsServer(MANY, twist=twist)).message


def test_the_deregistration_cannot_spoil_the_list() -> None:
    def twist(request: Message, answer: Message) -> bytes:
        return b"" if request.function == Function.DEV_DEREG else encode(answer)

    assert len(portals_of(server(members_only=True, twist=twist))) == 1


def test_the_table_has_a_way_out_of_every_state() -> None:
    for state in set(QueryState) - ENDED:
        assert any(before is state and after is not state for (before, _), after in TRANSITIONS.items())
    with pytest.raises(LocalError, match=r"COMPLETE cannot happen in .*START"):
        advance(TRANSITIONS, QueryState.START, QueryInput.COMPLETE)
