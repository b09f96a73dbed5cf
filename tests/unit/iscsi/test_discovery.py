# SPDX-License-Identifier: Apache-2.0
"""Discoveries. Numbers are rows of the checklists on transport, and on SendTargets content."""

import itertools
from typing import Any

import pytest

from rdmactl.errors import LocalError
from rdmactl.iscsi.chap import ChapCredentials, Secret
from rdmactl.iscsi.discovery import DiscoveryDone, DiscoveryEngine, DiscoveryFailed, StreamDiscovery
from rdmactl.iscsi.discovery_states import ENDED, TRANSITIONS, DiscoveryInput, DiscoveryState
from rdmactl.iscsi.errors import IscsiErr
from rdmactl.iscsi.login import Notice, Redirected
from rdmactl.iscsi.pdu import (
    ALL_ONES,
    Async,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    TextRequest,
    TextResponse,
    decode,
)
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.sendtargets import TargetRecord
from rdmactl.iscsi.stream import encode
from rdmactl.iscsi.text import build_text
from rdmactl.states import advance
from tests.fake.target import TargetChap, TargetScript

from .support import (
    MUTUAL,
    ONE_WAY,
    PORTAL,
    SECRET,
    TARGET,
    counting_bytes,
    discover,
    discovery_config,
    feed,
    keys,
    response,
)

FOUND = (TargetRecord(TARGET, ((Portal("127.0.0.1"), 1),)),)
LIST = build_text([("TargetName", TARGET), ("TargetAddress", "127.0.0.1:3260,1")])
MANY = TargetScript(targets={f"{TARGET}.{number:03}": ["127.0.0.1:3260,1", "[::1]:3260,1"] for number in range(100)})


def logged_in(**changes: Any) -> DiscoveryEngine:
    """A discovery whose SendTargets is on its way."""
    engine = DiscoveryEngine(discovery_config(**changes), random_bytes=counting_bytes)
    engine.start(0.0)
    engine.take_output()
    (asked,) = feed(engine, response(transit=True))
    assert isinstance(asked, Pdu)
    assert keys(asked) == {"SendTargets": "All"}
    return engine


def part(data: bytes = LIST, **fields: Any) -> Pdu:
    return TextResponse(1)._replace(**fields).pdu(data)


def finished(engine: DiscoveryEngine, *pdus: Pdu) -> DiscoveryDone:
    """Feed `pdus`, the last of which completes the list, then the answer to the logout."""
    *_, logout = feed(engine, *pdus)
    assert isinstance(logout, Pdu)
    assert isinstance(decode(logout.header), LogoutRequest)
    (event,) = feed(engine, LogoutResponse(1).pdu())
    assert isinstance(event, DiscoveryDone)
    return event


def failed(engine: DiscoveryEngine, *pdus: Pdu) -> DiscoveryFailed:
    event = feed(engine, *pdus)[-1]
    assert isinstance(event, DiscoveryFailed)
    assert str(PORTAL) in event.message
    assert engine.wake_at() is None
    return event


# Two engines back to back.


@pytest.mark.parametrize("step", [1, 7, 48, None])
@pytest.mark.parametrize(
    "script",
    [
        TargetScript(),
        TargetScript(part_bytes=7),
        TargetScript(part_bytes=10, ping=True, ask_logout=True),  # rows 109 and 110
        TargetScript(proposals={"TaskReporting": "RFC3720", "X-vendor": "1"}),
        TargetScript(login_part_bytes=5),
    ],
    ids=["plain", "parts", "pings", "proposals", "login-parts"],
)
def test_back_to_back(script: TargetScript, step: int | None) -> None:
    events = discover(script, step=step)
    assert events[-1] == DiscoveryDone(FOUND, 0, ())


@pytest.mark.parametrize("size", [512, 8192, 32768])
def test_098_107_112_the_same_list_in_any_number_of_parts(size: int) -> None:
    """Rows 98, 107 and 112: the target here never raises MaxCmdSN either."""
    (event,) = discover(MANY, max_recv_data_segment_bytes=size)
    assert isinstance(event, DiscoveryDone)
    assert [target.name for target in event.targets] == list(MANY.targets)


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
@pytest.mark.parametrize("confirm_first", [False, True])
def test_058_059_080_mutual_chap(algorithm: int, confirm_first: bool) -> None:
    """Rows 58, 59 and 80."""
    chap = TargetChap(out_username="outuser", algorithms=(algorithm,))
    credentials = ChapCredentials("inuser", Secret(SECRET), "outuser", Secret("outsecret12345"), (8, 7, 6, 5))
    script = TargetScript(chap=chap, confirm_first=confirm_first, login_part_bytes=100)
    assert discover(script, chap=credentials) == [DiscoveryDone(FOUND, 0, ())]


def test_one_way_chap() -> None:
    assert discover(TargetScript(chap=TargetChap()), chap=ONE_WAY) == [DiscoveryDone(FOUND, 0, ())]


@pytest.mark.parametrize(
    ("chap", "credentials", "reason"),
    [
        (TargetChap(), None, "no CHAP user"),
        (TargetChap(secret="another secret"), ONE_WAY, '"inuser"'),
        (TargetChap(username="other"), ONE_WAY, '"inuser"'),
        (TargetChap(), MUTUAL, '"inuser"'),
        (TargetChap(algorithms=(7,)), ONE_WAY, "none of the CHAP algorithms"),
        (TargetChap(out_username="outuser", out_secret="wrong secret 1"), MUTUAL, "failed authentication"),
        (TargetChap(out_username="other"), MUTUAL, '"other"'),
    ],
)
def test_chap_that_fails(chap: TargetChap, credentials: ChapCredentials | None, reason: str) -> None:
    event = discover(TargetScript(chap=chap), chap=credentials)[-1]
    assert isinstance(event, DiscoveryFailed)
    assert reason in event.message
    assert "secret1234" not in str(event)


@pytest.mark.parametrize("digests", [("CRC32C",), ("None", "CRC32C")])
def test_018_019_digests(digests: tuple[str, ...]) -> None:
    script = TargetScript(limits={"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}, part_bytes=10)
    assert discover(script, header_digest=digests, data_digest=digests, step=13) == [DiscoveryDone(FOUND, 0, ())]


def test_a_redirection() -> None:
    assert discover(TargetScript(redirect=(0x0101, "[fd00::1]"))) == [Redirected(Portal("fd00::1"), False)]


def test_086_no_targets() -> None:
    """Row 86: no error here; what it means to a command is the command's matter."""
    assert discover(TargetScript(targets={})) == [DiscoveryDone((), 0, ())]


def test_100_five_thousand_targets() -> None:
    """Row 100."""
    script = TargetScript(targets={f"{TARGET}.{number}": ["127.0.0.1:3260,1"] for number in range(5000)})
    (event,) = discover(script)
    assert isinstance(event, DiscoveryDone)
    assert len(event.targets) == 5000


def test_a_secret_never_reaches_the_output() -> None:
    engine = DiscoveryEngine(discovery_config(chap=MUTUAL), random_bytes=counting_bytes)
    engine.start(0.0)
    assert SECRET not in repr(engine.take_output()) + repr(discovery_config(chap=MUTUAL))


# The list.


def test_107_112_parts_are_asked_for_with_the_latest_tag() -> None:
    """Row 107, and numbers that advance whatever MaxCmdSN says (row 112)."""
    engine = logged_in()
    for number, ttt in enumerate((5, 9, 7)):
        (asked,) = feed(
            engine, part(LIST[number : number + 1], ttt=ttt, final=False, statsn=number + 1, lun=b"12345678")
        )
        assert isinstance(asked, Pdu)
        request = TextRequest.unpack(asked.header)
        assert request == TextRequest(1, ttt, number + 2, number + 2, b"12345678")
        assert asked.data == b""
    assert finished(engine, part(LIST[3:])).targets == FOUND


def test_the_c_bit_decides_nothing() -> None:
    engine = logged_in()
    feed(engine, part(LIST[:20], ttt=5, final=False, more=True))
    assert finished(engine, part(LIST[20:])).targets == FOUND


def test_104_an_immediate_end_without_f() -> None:
    """Row 104: taken as the end."""
    assert finished(logged_in(), part(final=False)).targets == FOUND


def test_105_an_end_with_a_tag() -> None:
    """Row 105."""
    assert finished(logged_in(), part(ttt=5)).targets == FOUND


@pytest.mark.parametrize("fields", [{"more": True, "final": True, "ttt": 5}, {"more": True, "final": False}])
def test_106_going_on_and_ending_at_once(fields: dict[str, Any]) -> None:
    """Row 106."""
    assert "goes on" in failed(logged_in(), part(**fields)).message


@pytest.mark.parametrize(("transport", "limit"), [("tcp", 4), ("iser", 2)])
def test_103_iser_10_endless_empty_parts(transport: str, limit: int) -> None:
    """Row 103; row 10 E."""
    engine = DiscoveryEngine(
        discovery_config(transport=transport, pause_s=0.0, single_transition=False), random_bytes=counting_bytes
    )
    engine.start(0.0)
    feed(engine, response(transit=True))
    empty = part(b"", ttt=5, final=False, more=True)
    for _ in range(limit - 1):
        (asked,) = feed(engine, empty)
        assert isinstance(asked, Pdu)
    assert f"{limit} parts of the list without data" in failed(engine, empty).message


def test_014_108_a_rejected_request() -> None:
    """Rows 14 and 108."""
    event = failed(logged_in(), Reject(0x09).pdu(bytes(48)))
    assert "the target rejects SendTargets: invalid PDU field" in event.message
    assert not event.retry
    engine = logged_in()
    feed(engine, part(LIST, ttt=5, final=False))
    event = failed(engine, Reject(0x09).pdu(bytes(48)))
    assert event.message.endswith("incomplete list (1 records)")


def test_109_pings_are_answered() -> None:
    """Row 109."""
    engine = logged_in()
    (answer,) = feed(engine, NopIn(ALL_ONES, 0x51, 1, lun=b"12345678").pdu(b"ping"))
    assert isinstance(answer, Pdu)
    assert decode(answer.header) == NopOut(ALL_ONES, 0x51, 2, 1, b"12345678")
    assert answer.data == b""
    assert feed(engine, NopIn(ALL_ONES, ALL_ONES, 7).pdu()) == []  # news of the command window
    assert finished(engine, part()).targets == FOUND


@pytest.mark.parametrize("event", [0, 1, 4, 5, 255])
def test_110_announcements_that_change_nothing(event: int) -> None:
    """Row 110."""
    engine = logged_in()
    assert feed(engine, Async(event, parameter3=3).pdu()) == []
    assert finished(engine, part()).targets == FOUND


@pytest.mark.parametrize("event", [2, 3])
def test_an_announced_drop(event: int) -> None:
    dropped = failed(logged_in(), Async(event, 0, 7, 20).pdu())
    assert "the target drops the connection" in dropped.message
    assert (dropped.retry, dropped.retry_after_s) == (True, 7.0)


def test_111_a_foreign_task_tag() -> None:
    """Row 111; a tag the kernel chose is not compared."""
    assert "foreign task tag 0x2" in failed(logged_in(), part(itt=2)).message
    assert finished(logged_in(itt=None), part(itt=2)).targets == FOUND


def test_113_status_numbers_are_not_checked() -> None:
    """Row 113."""
    engine = logged_in()
    feed(engine, part(LIST[:9], ttt=5, final=False, statsn=0))
    feed(engine, part(LIST[9:20], ttt=5, final=False, statsn=0x77777777))
    assert finished(engine, part(LIST[20:], statsn=0)).targets == FOUND


def test_other_pdus() -> None:
    assert "unexpected LoginResponse" in failed(logged_in(), response()).message
    assert "unexpected opcode 0x21" in failed(logged_in(), Pdu(b"\x21" + bytes(47))).message


def test_bad_entries_are_counted() -> None:
    done = finished(logged_in(), part(b"TargetName=../x\0" + LIST))
    assert done.targets == FOUND
    assert done.skipped == 1
    assert "directory" in done.warnings[0] or "begin" in done.warnings[0]


# The logout is a courtesy.


@pytest.mark.parametrize(
    "pdu", [LogoutResponse(1, 3).pdu(), Reject(5).pdu(), None], ids=["refused", "rejected", "closed"]
)
def test_nothing_in_the_logout_spoils_the_list(pdu: Pdu | None) -> None:
    engine = logged_in()
    feed(engine, part())
    feed(engine, response(), part())  # what a confused target might still send
    if pdu is None:
        engine.lost()
    else:
        engine.receive(pdu.header, pdu.data, 0.0)
    assert engine.take_output() == [DiscoveryDone(FOUND, 0, ())]


def test_a_silent_logout_ends_soon() -> None:
    engine = logged_in(logout_s=2.0)
    feed(engine, part(), now=10.0)
    assert engine.wake_at() == 12.0
    engine.tick(12.0)
    assert engine.take_output() == [DiscoveryDone(FOUND, 0, ())]


# Time.


def test_iser_31_a_pause_lies_between_parts_over_iser() -> None:
    engine = DiscoveryEngine(discovery_config(transport="iser", single_transition=False), random_bytes=counting_bytes)
    engine.start(0.0)
    feed(engine, response(transit=True))
    assert feed(engine, part(LIST[:9], ttt=5, final=False), now=1.0) == []
    assert engine.wake_at() == 1.05
    engine.tick(1.04)
    assert engine.take_output() == []
    engine.tick(1.05)
    (asked,) = engine.take_output()
    assert isinstance(asked, Pdu)
    assert TextRequest.unpack(asked.header).ttt == 5
    assert finished(engine, part(LIST[9:])).targets == FOUND


def test_002_a_login_without_an_answer() -> None:
    """Row 2."""
    engine = StreamDiscovery(discovery_config(login_s=15.0), random_bytes=counting_bytes)
    engine.start(5.0)
    engine.take_output()
    assert engine.wake_at() == 20.0
    engine.tick(20.0)
    (event,) = engine.take_output()
    assert isinstance(event, DiscoveryFailed)
    assert "no login response within 15 s" in event.message
    assert (event.err, event.retry) == (IscsiErr.PDU_TIMEOUT, True)


def test_008_a_text_without_an_answer() -> None:
    """Row 8."""
    engine = logged_in(response_s=30.0)
    assert engine.wake_at() == 30.0
    engine.tick(30.0)
    (event,) = engine.take_output()
    assert isinstance(event, DiscoveryFailed)
    assert "no response to SendTargets within 30 s" in event.message


def test_pings_do_not_buy_time() -> None:
    engine = logged_in(response_s=30.0)
    for now in (10.0, 20.0, 29.0):
        feed(engine, NopIn(ALL_ONES, 1).pdu(), now=now)
    assert engine.wake_at() == 30.0
    engine.tick(30.0)
    assert [type(item) for item in engine.take_output()] == [DiscoveryFailed]


def test_101_endless_parts_end_with_the_total_time() -> None:
    """Row 101: a slow stream of parts never ends otherwise."""
    engine = logged_in(total_s=300.0, response_s=30.0)
    now = 0.0
    while engine.state not in ENDED:
        feed(engine, part(b"TargetName=iqn.x\0", ttt=5, final=False), now=now)
        now += 20.0
        assert now <= 320.0
    assert engine.state is DiscoveryState.FAILED


STREAM_LOGIN = encode(response(transit=True))


@pytest.mark.parametrize(
    ("received", "have", "wanted"),
    [
        (b"\x23", 1, 48),  # row 4
        (STREAM_LOGIN + b"\x24", 1, 48),  # row 5
        (STREAM_LOGIN + part(bytes(100)).header + b"1234", 52, 148),  # row 6
        (STREAM_LOGIN + b"\x24\x80\0\0\xff" + bytes(43), 48, 48 + 1020),  # row 13
    ],
)
def test_004_005_006_009_013_a_pdu_that_does_not_end(received: bytes, have: int, wanted: int) -> None:
    """At the deadline, and when the connection ends inside (row 9)."""
    for closing in (False, True):
        engine = StreamDiscovery(discovery_config(), random_bytes=counting_bytes)
        engine.start(0.0)
        engine.receive(received, 0.0)
        engine.take_output()
        wake = engine.wake_at()
        assert wake in (15.0, 30.0)
        if closing:
            engine.closed()
        else:
            engine.tick(wake or 0.0)
        (event,) = engine.take_output()
        assert isinstance(event, DiscoveryFailed)
        expected = "inside a PDU" if closing else "partial PDU"
        assert f"{expected} ({have} of {wanted} bytes)" in event.message
        assert event.retry


def test_007_a_slow_loris() -> None:
    """Row 7: a byte per second of an honest login ends at the login's deadline."""
    engine = StreamDiscovery(discovery_config(login_s=15.0), random_bytes=counting_bytes)
    engine.start(0.0)
    for second, byte in enumerate(STREAM_LOGIN):
        engine.receive(bytes((byte,)), float(second))
    events = [item for item in engine.take_output() if isinstance(item, DiscoveryFailed)]
    assert len(events) == 1
    assert "partial PDU (16 of 48 bytes)" in events[0].message


def test_003_114_a_closed_connection() -> None:
    """Rows 3 and 114."""
    engine = StreamDiscovery(discovery_config(), random_bytes=counting_bytes)
    engine.start(0.0)
    engine.take_output()
    engine.closed()
    (event,) = engine.take_output()
    assert isinstance(event, DiscoveryFailed)
    assert "connection closed during login" in event.message
    parts = logged_in()
    for _ in range(3):
        feed(parts, part(LIST, ttt=5, final=False))
    parts.lost()
    (event,) = parts.take_output()
    assert isinstance(event, DiscoveryFailed)
    assert "connection closed while waiting for the answer to SendTargets" in event.message
    assert "incomplete list (1 records)" in event.message


@pytest.mark.parametrize(
    ("received", "reason", "retry"),
    [
        (part(bytes(40000)).header, "40000 bytes exceeds our limit 32768", False),  # row 10
        (b"\xa3" + bytes(47), "unexpected opcode 0xa3", False),  # row 15
    ],
)
def test_010_015_broken_framing_ends_the_discovery(received: bytes, reason: str, retry: bool) -> None:
    for before in (b"", STREAM_LOGIN):
        engine = StreamDiscovery(discovery_config(), random_bytes=counting_bytes)
        engine.start(0.0)
        engine.receive(before + received, 0.0)
        engine.receive(b"more", 0.0)
        (event,) = [item for item in engine.take_output() if not isinstance(item, bytes)]
        assert isinstance(event, DiscoveryFailed)
        assert reason in event.message
        assert event.retry is retry


@pytest.mark.parametrize("at", [10, 52])
def test_018_019_a_damaged_digest_is_worth_another_try(at: int) -> None:
    """Rows 18 and 19."""
    engine = StreamDiscovery(
        discovery_config(header_digest=("CRC32C",), data_digest=("CRC32C",)), random_bytes=counting_bytes
    )
    engine.start(0.0)
    login = encode(response(("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C"), transit=True))
    answer = bytearray(encode(part(), header_digest=True, data_digest=True))
    answer[at] ^= 0x10
    engine.receive(login + answer, 0.0)
    event = engine.take_output()[-1]
    assert isinstance(event, DiscoveryFailed)
    assert "digest is wrong" in event.message
    assert event.retry


def test_notices_of_the_login_come_through() -> None:
    events = discover(twist=lambda _, answers: answers, chap=ONE_WAY)
    assert isinstance(events[0], Notice)
    assert "no authentication" in events[0].message
    assert isinstance(events[-1], DiscoveryDone)


def test_a_stream_is_for_tcp() -> None:
    with pytest.raises(LocalError):
        StreamDiscovery(discovery_config(transport="iser"), random_bytes=counting_bytes)


# The table.


def test_every_pair_is_in_the_table_or_raises() -> None:
    for state, event in itertools.product(DiscoveryState, DiscoveryInput):
        if (state, event) in TRANSITIONS:
            assert advance(TRANSITIONS, state, event) is TRANSITIONS[state, event]
        else:
            with pytest.raises(LocalError):
                advance(TRANSITIONS, state, event)
    assert {state for state, _ in TRANSITIONS}.isdisjoint(ENDED)
    assert {*TRANSITIONS.values(), DiscoveryState.START} == set(DiscoveryState)
