# SPDX-License-Identifier: Apache-2.0
"""The full feature phase as an engine: numbering, window, answers in any order, and every way it can end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import DeadlineExceeded, LocalError, PeerError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.iser import IserHeader, RemoteBuffer, unwrap, wrap
from rdmactl.iscsi.login_model import LoginDone
from rdmactl.iscsi.negotiation import OperationalSettings, negotiate
from rdmactl.iscsi.pdu import ALL_ONES, Async, LogoutRequest, LogoutResponse, NopIn, NopOut, Pdu, Reject, TextResponse
from rdmactl.iscsi.scsi_pdu import ScsiCommand, ScsiResponse
from rdmactl.iscsi.session import NO_BUFFER, CommandDone, LoggedOut, PingDone, SessionEngine, SessionFailed

PEER = "iqn.t at 10.9.0.1:3260"
ZERO = scsi.lun_bytes(0)
READY = scsi.test_unit_ready()
BUFFER = RemoteBuffer(7, 0x1000)
RESULTS = negotiate(OperationalSettings(), [("RDMAExtensions", "Yes")], iser=True)


def session(exp_cmdsn: int = 1, max_cmdsn: int = 1, *, cmdsn: int = 1, statsn: int = 4) -> SessionEngine:
    login = LoginDone(RESULTS, tsih=1, statsn=statsn, tpgt=1, exp_cmdsn=exp_cmdsn, max_cmdsn=max_cmdsn)
    return SessionEngine(login, peer=PEER, cmdsn=cmdsn)


def begin(engine: SessionEngine, now: float = 0.0, deadline_s: float = 5.0, **buffers: Any) -> int:
    return engine.command(ZERO, READY, now, deadline_s, **buffers)


def sent(engine: SessionEngine) -> list[ScsiCommand]:
    return [ScsiCommand.unpack(unwrap(item).header) for item in engine.take_output() if isinstance(item, bytes)]


def give(engine: SessionEngine, pdu: Pdu) -> None:
    engine.receive(wrap(pdu))


def failure(engine: SessionEngine) -> Any:
    (event,) = (item for item in engine.take_output() if isinstance(item, SessionFailed))
    assert engine.ended
    return event.error


def test_a_command_and_its_answer() -> None:
    engine = session()
    itt = engine.command(
        ZERO, scsi.read_blocks(0, 1), 0.0, 5.0, buffer=IserHeader(read=BUFFER).pack(), expected_bytes=512
    )
    (item,) = engine.take_output()
    assert isinstance(item, bytes)
    assert IserHeader.unpack(item) == IserHeader(read=BUFFER)
    command = ScsiCommand.unpack(unwrap(item).header)
    assert (command.cmdsn, command.exp_statsn, command.expected_bytes, command.read) == (1, 5, 512, True)
    give(engine, ScsiResponse(itt, residual=12, underflow=True, statsn=5, exp_cmdsn=2, max_cmdsn=65).pdu())
    assert engine.take_output() == [CommandDone(itt, 0, 500, b"")]
    assert (engine.outstanding, engine.open_window) == (0, 64)


@pytest.mark.parametrize(
    ("cdb", "header", "size", "advertised", "flags"),
    [
        (READY, NO_BUFFER, 0, "10000000" + 24 * "00", 0x80),
        (
            scsi.read_blocks(0, 1),
            IserHeader(read=BUFFER).pack(),
            512,
            "14000000" + 12 * "00" + "00000007" + "0000000000001000",
            0xC0,
        ),
        (
            scsi.write_blocks(0, 1),
            IserHeader(write=BUFFER).pack(),
            512,
            "18000000" + "00000007" + "0000000000001000" + 12 * "00",
            0xA0,
        ),
    ],
    ids=["nothing", "read", "write"],
)
def test_iser_04_buffers_are_advertised_to_the_bit(
    cdb: bytes, header: bytes, size: int, advertised: str, flags: int
) -> None:
    """From their first byte: no data is sent with a command, so that none is behind it."""
    engine = session()
    engine.command(ZERO, cdb, 0.0, 5.0, buffer=header, expected_bytes=size)
    (message,) = engine.take_output()
    assert isinstance(message, bytes)
    assert message[:28].hex() == advertised
    assert (message[28], message[29] & 0xE0, message[32:36]) == (0x01, flags, bytes(4))  # no data segment
    assert int.from_bytes(message[48:52], "big") == size
    assert len(message) == 76


def test_status_and_sense() -> None:
    engine = session()
    itt = begin(engine)
    give(engine, ScsiResponse(itt, status=2, statsn=5, exp_cmdsn=2, max_cmdsn=9).pdu(b"\0\x03abc\0"))
    assert engine.take_output()[-1] == CommandDone(itt, 2, 0, b"abc")


def test_what_the_window_does_not_admit_waits_in_order() -> None:
    engine = session()
    tags = [begin(engine) for _ in range(5)]
    assert [command.itt for command in sent(engine)] == tags[:1]
    give(engine, ScsiResponse(tags[0], statsn=5, exp_cmdsn=2, max_cmdsn=3).pdu())
    following = sent(engine)
    assert [(command.itt, command.cmdsn) for command in following] == [(tags[1], 2), (tags[2], 3)]
    give(engine, NopIn(ALL_ONES, statsn=6, exp_cmdsn=4, max_cmdsn=9).pdu())  # nothing but news of the window
    assert [command.itt for command in sent(engine)] == tags[3:]


def test_iser_11_an_impossible_window_is_one_command() -> None:
    """As tgt begins: MaxCmdSN below ExpCmdSN."""
    engine = session(2, 1)
    begin(engine), begin(engine)
    assert len(sent(engine)) == 1
    engine = session(9, 1)
    begin(engine)
    assert len(sent(engine)) == 1


def test_iser_11_the_window_never_shrinks() -> None:
    engine = session(1, 10)
    itt = begin(engine)
    give(engine, ScsiResponse(itt, statsn=5, exp_cmdsn=2, max_cmdsn=4).pdu())
    assert engine.open_window == 9


def test_iser_11_numbers_wrap() -> None:
    engine = session(0xFFFFFFFF, 1, cmdsn=0xFFFFFFFF, statsn=0xFFFFFFFF)
    tags = [begin(engine) for _ in range(4)]
    assert [command.cmdsn for command in sent(engine)] == [0xFFFFFFFF, 0, 1]
    give(engine, ScsiResponse(tags[0], statsn=0xFFFFFFFF, exp_cmdsn=0, max_cmdsn=2).pdu())
    (last,) = sent(engine)
    assert (last.cmdsn, last.exp_statsn) == (2, 0)


def test_a_ping() -> None:
    engine = session()
    begin(engine)
    engine.take_output()
    itt = engine.ping(0.0, 1.0)  # the window is closed: a ping is immediate
    (item,) = engine.take_output()
    assert isinstance(item, bytes)
    nop = NopOut.unpack(unwrap(item).header)
    assert (nop.itt, nop.immediate, nop.cmdsn) == (itt, True, 2)
    give(engine, NopIn(itt, statsn=5, exp_cmdsn=2, max_cmdsn=2).pdu())
    assert engine.take_output() == [PingDone(itt)]


def test_a_ping_of_the_target_is_answered() -> None:
    engine = session()
    give(engine, NopIn(ALL_ONES, 0x55, lun=b"12345678", exp_cmdsn=1, max_cmdsn=1).pdu())
    (item,) = engine.take_output()
    assert isinstance(item, bytes)
    nop = NopOut.unpack(unwrap(item).header)
    assert (nop.itt, nop.ttt, nop.lun) == (ALL_ONES, 0x55, b"12345678")


def test_logout() -> None:
    engine = session()
    engine.log_out(0.0, 2.0)
    (item,) = engine.take_output()
    assert isinstance(item, bytes)
    itt = LogoutRequest.unpack(unwrap(item).header).itt
    with pytest.raises(LocalError):
        begin(engine)
    give(engine, LogoutResponse(itt, statsn=5).pdu())
    assert engine.take_output() == [LoggedOut()]
    assert engine.wake_at() is None


@pytest.mark.parametrize("how", ["late", "lost"])
def test_a_logout_that_is_not_answered_is_one(how: str) -> None:
    engine = session()
    engine.log_out(0.0, 2.0)
    engine.take_output()
    if how == "late":
        assert engine.wake_at() == 2.0
        engine.tick(2.0)
    else:
        engine.lost(PeerError("gone"))
    assert engine.take_output() == [LoggedOut()]


def test_a_late_command_ends_the_session() -> None:
    engine = session()
    begin(engine, 10.0, 5.0)
    begin(engine, 11.0, 1.0)
    engine.take_output()
    assert engine.wake_at() == 12.0
    engine.tick(11.9)
    assert not engine.ended
    engine.tick(12.0)
    error = failure(engine)
    assert isinstance(error, DeadlineExceeded)
    assert "did not answer a command 0x00 in time" in error.message
    with pytest.raises(LocalError):
        engine.ping(13.0, 1.0)


def test_a_lost_connection() -> None:
    engine = session()
    begin(engine)
    engine.take_output()
    lost = PeerError("gone")
    engine.lost(lost)
    engine.lost(PeerError("again"))
    assert failure(engine) is lost
    give(engine, ScsiResponse(1).pdu())  # ignored
    assert engine.take_output() == []


@pytest.mark.parametrize(
    ("pdu", "words"),
    [
        (ScsiResponse(99).pdu(), "foreign task tag 0x63"),
        (ScsiResponse(1, response=1).pdu(), "command 0x00 was not carried out: target failure"),
        (ScsiResponse(1, response=9).pdu(), "response 0x09"),
        (ScsiResponse(1, residual=1, underflow=True).pdu(), "residual of 1 of 0 bytes"),
        (ScsiResponse(1, status=2).pdu(b"\xff\xff"), "65535 bytes of sense data"),
        (NopIn(99).pdu(), "ping with the foreign task tag"),
        (Reject(0x09).pdu(ScsiCommand(1, ZERO, READY).pdu().header), "of opcode 0x01: invalid PDU field"),
        (Reject(0x04).pdu(), "rejects a request: protocol error"),
        (Async(1, parameter3=5).pdu(), "the target ends the session"),
        (TextResponse(1).pdu(), "unexpected TextResponse"),
        (LogoutResponse(1).pdu(), "unexpected LogoutResponse"),
        (Pdu(b"\x25" + bytes(47)), "0x25"),
        (Pdu(b"\x31" + bytes(47)), "0x31"),
    ],
)
def test_what_a_target_must_not_say(pdu: Pdu, words: str) -> None:
    engine = session()
    begin(engine)
    engine.take_output()
    give(engine, pdu)
    error = failure(engine)
    assert isinstance(error, PeerError)
    assert words in error.message
    assert error.message.startswith(PEER)


def test_news_of_no_interest() -> None:
    engine = session()
    give(engine, Async(0, statsn=5).pdu())
    give(engine, Async(255, statsn=6).pdu())
    assert (engine.ended, engine.take_output()) == (False, [])


def test_reading_and_writing_at_once_is_refused() -> None:
    with pytest.raises(LocalError):
        begin(session(), buffer=IserHeader(BUFFER, BUFFER).pack())


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 3)), max_size=60))
def test_no_more_than_the_window_is_ever_under_way(steps: list[tuple[int, int]]) -> None:
    """Whatever order commands begin and end in: none beyond MaxCmdSN, none lost, each answered once."""
    engine = session()
    top, begun = 1, 0
    under_way: list[ScsiCommand] = []
    done: list[int] = []
    for grow, action in steps:
        if action < 2:
            begin(engine)
            begun += 1
        elif under_way:
            command = under_way.pop(grow % len(under_way))
            top = max(top, command.cmdsn + grow)
            give(engine, ScsiResponse(command.itt, exp_cmdsn=command.cmdsn + 1, max_cmdsn=top).pdu())
        for item in engine.take_output():
            if isinstance(item, bytes):
                under_way.append(ScsiCommand.unpack(unwrap(item).header))
                assert under_way[-1].cmdsn <= top
            else:
                assert isinstance(item, CommandDone)
                done.append(item.itt)
    assert len(set(done)) == len(done)
    assert engine.outstanding == begun - len(done)
