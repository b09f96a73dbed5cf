# SPDX-License-Identifier: Apache-2.0
"""The login and discovery engines against targets that answer anything.

Whatever comes, an engine ends within its limits, once, with a result or a sentence; it never sends without an answer in
between (one request outstanding), and never asks for more than `MAX_ROUNDS` rounds of a stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from rdmactl.iscsi.chap import ChapCredentials, Secret
from rdmactl.iscsi.discovery import DiscoveryConfig, DiscoveryDone, DiscoveryFailed, StreamDiscovery
from rdmactl.iscsi.login import MAX_ROUNDS, LoginConfig, LoginDone, LoginEngine, LoginFailed, Notice, Redirected
from rdmactl.iscsi.pdu import LoginRequest, LoginResponse, Pdu, Reject, TextResponse
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.stream import encode
from rdmactl.iscsi.text import build_text
from tests.fake.target import StreamTarget, TargetScript

ISID = b"\x80abc\0\0"
NAME = "iqn.2005-03.org.example:x"
SECRET = "insecret12345"
CREDENTIALS = st.sampled_from(
    [
        None,
        ChapCredentials("inuser", Secret(SECRET)),
        ChapCredentials("inuser", Secret(SECRET), "outuser", Secret("outsecret12345"), (5, 6, 7, 8)),
    ]
)
PAIRS = st.lists(
    st.sampled_from(
        [
            *(("AuthMethod", method) for method in ("CHAP", "None", "KRB5", "Reject")),
            *(("CHAP_A", number) for number in ("5", "7", "99", "Reject")),
            *(("CHAP_I", number) for number in ("1", "256")),
            *(("CHAP_C", text) for text in ("0xabcdef0123456789", "0bAAAA", "0x", "zz")),
            *(("CHAP_N", "outuser"), ("CHAP_R", "0xab")),
            *(("TargetPortalGroupTag", tag) for tag in ("1", "x")),
            *(("TargetAddress", address) for address in ("192.0.2.7", "[::1", "a b")),
            *(("MaxBurstLength", number) for number in ("8192", "0", "Reject")),
            *(("RDMAExtensions", word) for word in ("Yes", "No")),
            *(("TaskReporting", "RFC3720"), ("X-k", "1"), ("InitialR2T", "Yes"), ("HeaderDigest", "CRC32C")),
        ]
    ),
    max_size=4,
    unique_by=lambda pair: pair[0],
)
TEXTS = st.one_of(PAIRS.map(build_text), st.binary(max_size=60), st.just(b""))
STATUSES = st.sampled_from([0] * 12 + [0x0101, 0x0102, 0x0103, 0x0201, 0x0300, 0x0455])


class Answer(NamedTuple):
    """What the target says next; `follows`: with the stages the request asked for, so that logins get somewhere."""

    pdu: Pdu
    follows: bool

    def to(self, request: LoginRequest) -> Pdu:
        """The PDU in answer to `request`."""
        if not self.follows:
            return self.pdu
        head = LoginResponse.unpack(self.pdu.header)
        transit = head.transit and request.transit
        return head._replace(csg=request.csg, nsg=request.nsg, transit=transit).pdu(self.pdu.data)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Mostly a plausible login response; now and then anything."""
    if draw(st.integers(0, 15)) == 0:
        return Answer(
            draw(st.sampled_from([Reject(4).pdu(), Pdu(bytes(48)), Pdu(b"\x23" * 48), Pdu(bytes(20))])), False
        )
    transit = draw(st.booleans())
    more = not transit and draw(st.integers(0, 7)) == 0
    stages = draw(st.sampled_from([(0, 1), (1, 3), (0, 3), (1, 1), (3, 3)]))
    head = LoginResponse(ISID, 1, *stages, transit, more, draw(st.integers(0, 1)), draw(st.integers(0, 0xFFFFFFFF)))
    return Answer(head._replace(status=draw(STATUSES)).pdu(draw(TEXTS)), draw(st.integers(0, 7)) > 0)


def run_login(engine: LoginEngine, script: Iterator[Answer], limit: int) -> tuple[list[LoginRequest], list[Any]]:
    """Answer every request with the next of `script`; gives the requests and events."""
    requests = [LoginRequest.unpack(engine.start().header)]
    events: list[Any] = [item for item in engine.take_output() if not isinstance(item, Pdu)]
    while not any(not isinstance(event, Notice) for event in events):
        assert len(requests) <= limit
        pdu = next(script).to(requests[-1])
        engine.receive(pdu.header, pdu.data, 0.0)
        output = engine.take_output()
        sent = [item for item in output if isinstance(item, Pdu)]
        events += [item for item in output if not isinstance(item, Pdu)]
        ended = any(not isinstance(event, Notice) for event in events)
        assert len(sent) == (0 if ended else 1)  # one request outstanding, none behind the end
        requests += [LoginRequest.unpack(pdu.header) for pdu in sent]
    return requests, events


@given(
    st.lists(answers(), min_size=1, max_size=6),
    CREDENTIALS,
    st.sampled_from(["tcp", "iser"]),
    st.sampled_from([None, NAME]),
)
def test_logins_end_with_a_sentence(
    script: list[Answer], chap: ChapCredentials | None, transport: Any, target: str | None
) -> None:
    config = LoginConfig(NAME, Portal("192.0.2.1"), target, ISID, transport, chap=chap)
    engine = LoginEngine(config, random_bytes=lambda count: bytes(range(count)))
    requests, events = run_login(engine, cycle(script), 2 * MAX_ROUNDS + 2)
    end = events[-1]
    assert isinstance(end, (LoginDone, LoginFailed, Redirected))
    if isinstance(end, LoginFailed):
        assert "192.0.2.1:3260" in end.message
        assert end.message.isprintable()
    assert SECRET not in repr(events)
    assert not any(request.transit and request.more for request in requests)
    if transport == "iser":
        assert sum(request.nsg == 3 for request in requests) <= 1


@settings(max_examples=60)
@given(
    st.integers(0, 40),
    st.sampled_from(["flip", "drop", "repeat", "insert"]),
    st.integers(0, 600),
    st.integers(0, 7),
    CREDENTIALS,
)
def test_damaged_discoveries_end(step: int, damage: str, at: int, bit: int, chap: ChapCredentials | None) -> None:
    """An honest target whose bytes are damaged in one place: the discovery ends, at the latest by its deadlines."""
    config = DiscoveryConfig(NAME, Portal("192.0.2.1"), ISID, chap=chap)
    engine = StreamDiscovery(config, random_bytes=lambda count: bytes(range(count)))
    target = StreamTarget(TargetScript(targets={f"{NAME}.{n}": ["127.0.0.1:3260,1"] for n in range(5)}, part_bytes=50))
    engine.start(0.0)
    events: list[Any] = []
    sent_bytes = 0
    for _ in range(100):
        output = engine.take_output()
        if not output:
            break
        for item in output:
            if not isinstance(item, bytes):
                events.append(item)
                continue
            back = target.receive(item)
            if sent_bytes <= at < sent_bytes + len(back):
                back = damaged(back, damage, at - sent_bytes, bit)
            sent_bytes += len(back)
            for start in range(0, len(back), step or len(back) or 1):
                engine.receive(back[start : start + (step or len(back))], 0.0)
    while (wake := engine.wake_at()) is not None:
        engine.tick(wake)
    events += [item for item in engine.take_output() if not isinstance(item, bytes)]
    ends = [event for event in events if not isinstance(event, Notice)]
    assert len(ends) == 1
    assert isinstance(ends[0], (DiscoveryDone, DiscoveryFailed, Redirected))
    assert SECRET not in repr(events)


def damaged(data: bytes, damage: str, at: int, bit: int) -> bytes:
    """`data` with one place changed."""
    match damage:
        case "flip":
            return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
        case "drop":
            return data[:at] + data[at + 1 :]
        case "repeat":
            return data[: at + 1] + data[at:]
        case _:
            return data[:at] + b"\xff\0\x23\x80" + data[at:]


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_any_text_answer(parts: list[bytes], more: bool) -> None:
    config = DiscoveryConfig(NAME, Portal("192.0.2.1"), ISID)
    engine = StreamDiscovery(config, random_bytes=lambda count: bytes(count))
    engine.start(0.0)
    engine.receive(encode(LoginResponse(ISID, 1, 1, 3, True, tsih=1).pdu()), 0.0)
    for part in parts:
        engine.receive(encode(TextResponse(1, 5, final=False, more=more).pdu(part)), 0.0)
    engine.closed()
    ends = [item for item in engine.take_output() if not isinstance(item, (bytes, Notice))]
    assert [type(end) for end in ends] == [DiscoveryFailed]
    assert ends[0].message.isprintable()  # type: ignore[union-attr]
