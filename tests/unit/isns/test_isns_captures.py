# SPDX-License-Identifier: Apache-2.0
"""Captured conversations between real clients and servers: read, written again, and replayed to our engines."""

from __future__ import annotations

import pytest

from rdmactl.iscsi.portal import Portal
from rdmactl.isns.attributes import DELIMITER, Tag, pack, read_number, read_text, unpack
from rdmactl.isns.conversation import Answer, Conversation, read_status
from rdmactl.isns.notices import Notices
from rdmactl.isns.pdu import RESPONSE, Flag, Function, Message, StreamDecoder, encode, parse_datagram
from rdmactl.isns.query import QueryConfig, QueryDone, QueryEngine
from rdmactl.isns.requests import (
    Request,
    deregister_node,
    deregister_notifications,
    next_node,
    query_target,
    query_targets,
    register_node,
    register_notifications,
)
from rdmactl.isns.targets import IsnsTarget

from .support import INITIATOR, T1, T2, Captured, capture, capture_names

CLIENTS_BUGS = ("TLV length", "header version 2")
"""Requests a scripted client has made on purpose."""


def entries(name: str, function: int) -> list[Captured]:
    return [entry for entry in capture(name) if entry.raw[2:4] == function.to_bytes(2, "big")]


@pytest.mark.parametrize("name", capture_names())
def test_every_pdu_is_read_and_written_again(name: str) -> None:
    for entry in capture(name):
        if any(words in entry.note for words in CLIENTS_BUGS):
            continue
        (pdu,) = StreamDecoder().receive(entry.raw)
        assert pdu.pack() == entry.raw
        if not pdu.flags & Flag.FIRST or not pdu.flags & Flag.LAST:
            continue  # a part, on purpose
        message = parse_datagram(entry.raw)
        assert encode(message) == entry.raw
        start = 4 if message.function & RESPONSE else 0
        assert pack(unpack(message.payload, start)) == message.payload[start:]


@pytest.mark.parametrize("name", capture_names())
def test_a_stream_is_cut_in_the_same_pdus_wherever_it_is_torn(name: str) -> None:
    raws = [entry.raw for entry in capture(name) if not entry.to_server]
    stream = b"".join(raws)
    for step in (1, 7, 12, 100):
        decoder = StreamDecoder()
        pieces = (stream[at : at + step] for at in range(0, len(stream), step))
        assert [pdu.pack() for piece in pieces for pdu in decoder.receive(piece)] == raws
        assert decoder.partial() is None


def same(request: Request, entry: Captured) -> bool:
    """Whether a request of ours is the captured one."""
    return encode(Message(request.function, entry.message.transaction, request.payload, request.flags)) == entry.raw


def test_our_requests_are_those_of_real_clients() -> None:
    queries = entries("query-iscsiadm", Function.DEV_ATTR_QRY)
    assert [same(query_targets(INITIATOR), entry) for entry in queries] == [True, True]
    scripted = "errors-scripted-client"
    minimal = next(entry for entry in capture(scripted) if "minimal initiator registration" in entry.note)
    assert same(register_node(INITIATOR), minimal)
    assert same(deregister_node(T1), entries("register-query-scn-esi", Function.DEV_DEREG)[0])
    assert same(register_notifications(INITIATOR), entries("register-query-scn-esi", Function.SCN_REG)[0])
    assert same(deregister_notifications(T2), entries("tgtd-register-scn-tcp", Function.SCN_DEREG)[0])
    walk = entries("response-too-large-then-getnext", Function.DEV_GET_NEXT)
    filtered = next_node(INITIATOR, b"")
    assert filtered.payload.startswith(walk[0].message.payload)  # the filter on targets is ours
    second = list(unpack(walk[1].message.payload))[1].value
    assert next_node(INITIATOR, second).payload.startswith(walk[1].message.payload)


def test_a_query_with_the_answers_of_isnsd() -> None:
    answers = entries("query-iscsiadm", Function.DEV_ATTR_QRY | RESPONSE)
    found = []
    for entry in answers:
        engine = QueryEngine(QueryConfig(INITIATOR))
        engine.connected(0.0)
        engine.take_output()
        engine.receive(entry.raw, 0.1)
        (done,) = engine.take_output()
        assert isinstance(done, QueryDone)
        found.append(done.found)
    assert found[0].targets == ()
    assert found[1].targets == (
        IsnsTarget(T1, ((Portal("2001:db8::10"), 1), (Portal("127.0.0.1"), 1))),
        IsnsTarget(T2, ((Portal("192.0.2.10"), 1),)),
    )
    assert not any(one.skipped for one in found)


def test_isnsd_cannot_say_more_than_8_kb_and_is_asked_for_less() -> None:
    engine = QueryEngine(QueryConfig(INITIATOR))
    engine.connected(0.0)
    engine.take_output()
    too_large = entries("response-too-large-then-getnext", Function.DEV_ATTR_QRY | RESPONSE)[0]
    engine.receive(_for_us(too_large, 1), 0.1)
    asked_after = []
    for transaction, entry in enumerate(entries("response-too-large-then-getnext", 0x8003), 2):
        (request,) = engine.take_output()
        assert isinstance(request, bytes)
        asked_after.append(read_text(list(unpack(parse_datagram(request).payload))[1]))
        engine.receive(_for_us(entry, transaction), 0.2)
    names = [f"iqn.2005-03.org.example:big20.t{number:04}" for number in range(3)]
    assert asked_after == ["", *names]


def _for_us(entry: Captured, transaction: int) -> bytes:
    """An answer, with the transaction of our question."""
    return entry.raw[:8] + transaction.to_bytes(2, "big") + entry.raw[10:]


@pytest.mark.parametrize(
    ("name", "initiator", "entity"),
    [
        ("register-query-scn-esi", INITIATOR, "host1.example.org:test"),
        ("discovery-domain-scripted-client", INITIATOR, "entI"),
        ("tgtd-register-scn-tcp", T1, "127.0.0.1"),
        ("tgtd-register-scn-tcp", T2, "127.0.0.1"),
    ],
)
def test_our_answers_are_those_of_real_clients(name: str, initiator: str, entity: str) -> None:
    """Each but for the two flags that say who sends, which differ between clients, too."""
    notices = Notices(initiator, entity)
    theirs = [entry.message for entry in capture(name) if entry.to_server]
    answered = 0
    for entry in capture(name):
        message = entry.message
        if entry.to_server or message.function not in (Function.SCN, Function.ESI):
            continue
        ours = notices.receive(message, "192.0.2.10", 0.0)
        if ours is not None and ours._replace(flags=0) in [one._replace(flags=0) for one in theirs]:
            answered += 1
            assert ours.flags == Flag.CLIENT
        else:
            assert ours is None or not any(one[:2] == ours[:2] for one in theirs)
    assert answered


def test_what_isnsd_reports_of_a_target_that_comes_and_goes() -> None:
    notices = Notices(INITIATOR, "host1.example.org:test", settle_s=1.0, quiet_s=2.0)
    changes = []
    for now, entry in zip((0.0, 8.0), entries("register-query-scn-esi", Function.SCN), strict=True):
        notices.receive(entry.message, "192.0.2.10", now)
        changes.append(notices.take(now + 1.0))
    assert [change.names for change in changes if change] == [(T1,), (T1,)]


def test_repeated_notifications_of_isnsd_are_one() -> None:
    """Two transactions, one timestamp and content."""
    notices = Notices(T1, "127.0.0.1")
    about = [entry.message for entry in entries("tgtd-register-scn-tcp", Function.SCN)]
    repeated = [message for message in about if message.payload == about[1].payload]
    assert len({message.transaction for message in repeated}) == 3
    answers = [notices.receive(message, None, 0.0) for message in repeated]
    assert [answer.transaction for answer in answers if answer] == [message.transaction for message in repeated]
    assert notices.taken == 1


def test_every_refusal_of_isnsd_is_read() -> None:
    statuses = set()
    for entry in capture("errors-scripted-client"):
        if not entry.to_server:
            statuses.add(read_status(entry.message.payload))
    assert {0, 2, 3, 5, 6, 8, 15, 17, 18} <= statuses


def test_answers_find_their_questions() -> None:
    """The whole conversation of tgt, which asks several things at a time."""
    conversation = Conversation()
    asked: dict[int, Message] = {}
    for entry in capture("tgtd-register-scn-tcp"):
        if entry.connection != 2:
            continue
        if entry.to_server:
            message = entry.message
            transaction, raw = conversation.request(Request(Function(message.function), message.payload, message.flags))
            assert raw == entry.raw
            asked[transaction] = message
        else:
            (answer,) = conversation.receive(entry.raw)
            assert isinstance(answer, Answer)
            del asked[answer.transaction]
    assert not asked
    assert conversation.ignored == 0


def test_a_registration_of_a_real_client_reads_as_ours_does() -> None:
    theirs = entries("discovery-domain-scripted-client", Function.DEV_ATTR_REG)[0].message
    tags = [attribute.tag for attribute in unpack(theirs.payload)]
    assert tags == [32, 1, 0, 1, 2, 16, 17, 23, 32, 33]
    assert theirs.flags & Flag.REPLACE


def test_one_target_as_isnsdd_asks_for_it() -> None:
    entry = entries("register-query-scn-esi", Function.DEV_ATTR_QRY)[1]
    source, key, delimiter, *_ = unpack(entry.message.payload)
    assert list(unpack(query_target(INITIATOR, T1).payload))[:3] == [source, key, delimiter]
    assert delimiter == DELIMITER
    answer = entries("register-query-scn-esi", Function.DEV_ATTR_QRY | RESPONSE)[1]
    engine = QueryEngine(QueryConfig(INITIATOR, names=(T1,)))
    engine.connected(0.0)
    engine.take_output()
    engine.receive(_for_us(answer, 1), 0.1)
    (done,) = engine.take_output()
    assert isinstance(done, QueryDone)
    assert done.found.targets == (IsnsTarget(T1, ((Portal("192.0.2.10"), 1),)),)


def test_the_period_isnsd_grants() -> None:
    answer = entries("register-query-scn-esi", Function.DEV_ATTR_REG | RESPONSE)[0].message
    granted = {attribute.tag: attribute for attribute in unpack(answer.payload, 4)}
    assert read_number(granted[Tag.REGISTRATION_PERIOD]) == 120
    assert read_number(granted[Tag.ESI_INTERVAL]) == 10
