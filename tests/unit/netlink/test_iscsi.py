# SPDX-License-Identifier: Apache-2.0
"""rdmactl.netlink.iscsi: requests byte by byte, replies and events from bytes."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import (
    UEVENT,
    ConnError,
    ConnStop,
    HostParam,
    OtherEvent,
    Param,
    ReceivedPdu,
    SessionCreated,
    SessionDestroyed,
    SessionUnbound,
    Uevent,
)
from rdmactl.netlink.message import HEADER, Message, align4, build, split

HANDLE = 0xFFFFFFFFC06BE120
U32 = st.integers(0, 0xFFFFFFFF)


def parts(request: bytes) -> tuple[int, int, int, bytes, bytes]:
    """(nlmsg_type, uevent type, handle, u, payload), after checking what every request has in common."""
    (message,) = split(request)
    kind, iferror, handle, u, r = UEVENT.unpack_from(message.payload)
    assert len(request) == HEADER.size + len(message.payload)
    assert (message.flags, message.seq, message.pid, iferror, r) == (0, 0, 0, 0, bytes(16))
    return message.type, kind, handle, u, message.payload[UEVENT.size :]


@pytest.mark.parametrize(
    ("request_", "number", "u", "payload"),
    [
        (iscsi.create_session(HANDLE, 7, 128, 32), 11, struct.pack("=IHH16x", 7, 128, 32), b""),
        (iscsi.create_conn(HANDLE, 5), 13, struct.pack("=II16x", 5, 0), b""),
        (iscsi.destroy_conn(HANDLE, 5), 14, struct.pack("=II16x", 5, 0), b""),
        (iscsi.bind_conn(HANDLE, 5, 9), 15, struct.pack("=IIQI4x", 5, 0, 9, 1), b""),
        (iscsi.set_param(HANDLE, 5, Param.TPGT, 1), 16, struct.pack("=IIII8x", 5, 0, 16, 2), b"1\0"),
        (iscsi.set_param(HANDLE, 5, Param.HDRDGST_EN, False), 16, struct.pack("=IIII8x", 5, 0, 2, 2), b"0\0"),
        (iscsi.start_conn(HANDLE, 5), 17, struct.pack("=II16x", 5, 0), b""),
        (iscsi.stop_conn(HANDLE, 5, ConnStop.RECOVER), 18, struct.pack("=IIQI4x", 5, 0, 0, 3), b""),
        (
            iscsi.send_pdu(HANDLE, 5, bytes(48), b"a=b\0c"),
            19,
            struct.pack("=IIII8x", 5, 0, 48, 8),
            bytes(48) + b"a=b\0c\0\0\0",
        ),
        (iscsi.ep_connect(HANDLE, bytes(28)), 22, struct.pack("=I20x", 1), bytes(28)),
        (iscsi.get_stats(HANDLE, 5), 20, struct.pack("=II16x", 5, 0), b""),
        (iscsi.ep_poll(HANDLE, 3), 23, struct.pack("=QI12x", 3, 0), b""),
        (iscsi.ep_disconnect(HANDLE, 3), 24, struct.pack("=Q16x", 3), b""),
        (
            iscsi.set_host_param(HANDLE, 4, HostParam.NETDEV_NAME, "eth0"),
            26,
            struct.pack("=III12x", 4, 2, 5),
            b"eth0\0",
        ),
        (iscsi.unbind_session(HANDLE, 5), 27, struct.pack("=I20x", 5), b""),
        (iscsi.create_bound_session(HANDLE, 3, 1, 128, 32), 28, struct.pack("=QIHH8x", 3, 1, 128, 32), b""),
        (iscsi.destroy_session_async(HANDLE, 5), 43, struct.pack("=I20x", 5), b""),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_requests(request_: bytes, number: int, u: bytes, payload: bytes) -> None:
    assert parts(request_) == (number, number, HANDLE, u, payload)


@pytest.mark.parametrize("value", ["with\0nul", "x" * 4096])
def test_values_no_parameter_can_have(value: str) -> None:
    with pytest.raises(ValueError, match="parameter"):
        iscsi.set_param(HANDLE, 1, Param.TARGET_NAME, value)


def test_a_pdu_header_has_48_bytes() -> None:
    with pytest.raises(ValueError, match="47"):
        iscsi.send_pdu(HANDLE, 1, bytes(47), b"")


def reply(type_: int, kind: int, iferror: int, r: bytes) -> bytes:
    return build(type_, UEVENT.pack(kind, iferror, HANDLE, b"\x11" * 24, r), flags=0)


def test_replies() -> None:
    created = iscsi.parse_reply(reply(11, 11, 0, struct.pack("=II", 9, 4)))
    assert created is not None
    assert (created.type, created.code, created.sid, created.second, created.request) == (11, 0, 9, 4, b"\x11" * 24)
    connected = iscsi.parse_reply(reply(22, 22, 0, struct.pack("=Q", 1)))
    assert connected is not None
    assert connected.handle == 1


@pytest.mark.parametrize(
    ("type_", "kind", "iferror", "retcode", "code"),
    [
        (Uevent.SET_PARAM, Uevent.IF_ERROR, -errno.ENOTCONN, 0, -errno.ENOTCONN),
        (Uevent.BIND_CONN, Uevent.BIND_CONN, 0, -errno.EEXIST, -errno.EEXIST),
        (Uevent.BIND_CONN, Uevent.IF_ERROR, -errno.EINVAL, 0, -errno.EINVAL),
        (Uevent.START_CONN, Uevent.START_CONN, 0, -errno.EINVAL, -errno.EINVAL),
        (Uevent.SEND_PDU, Uevent.SEND_PDU, 0, -errno.EPERM, -errno.EPERM),
        (Uevent.TRANSPORT_EP_POLL, Uevent.TRANSPORT_EP_POLL, 0, 1, 1),
        (Uevent.STOP_CONN, Uevent.STOP_CONN, 0, 77, 0),  # has no retcode: what is there means nothing
    ],
)
def test_failure_is_found_wherever_the_kernel_puts_it(
    type_: int, kind: int, iferror: int, retcode: int, code: int
) -> None:
    parsed = iscsi.parse_reply(reply(type_, kind, iferror, struct.pack("=i", retcode)))
    assert parsed is not None
    assert parsed.code == code


def test_a_reply_cut_short_or_an_event_is_no_reply() -> None:
    whole = reply(11, 11, 0, bytes(16))
    assert all(iscsi.parse_reply(whole[:length]) is None for length in range(len(whole)))
    assert iscsi.parse_reply(reply(0, Uevent.CONN_ERROR, 0, bytes(16))) is None


def event(kind: int, r: bytes, payload: bytes = b"") -> Message:
    """As the kernel sends it: what an event does not use is garbage."""
    (message,) = split(build(0, UEVENT.pack(kind, -1, 0xAAAA, b"\xaa" * 24, r) + payload, flags=0))
    return message


@pytest.mark.parametrize(
    ("kind", "r", "expected"),
    [
        (102, struct.pack("=III", 5, 0, 1011), ConnError(5, 0, 1011)),
        (104, struct.pack("=II", 4, 5), SessionDestroyed(sid=5, host_no=4)),
        (105, struct.pack("=II", 5, 4), SessionUnbound(sid=5, host_no=4)),
        (106, struct.pack("=II", 5, 4), SessionCreated(sid=5, host_no=4)),
        (109, struct.pack("=III", 5, 0, 3), OtherEvent(109)),
        (4711, bytes(16), OtherEvent(4711)),
    ],
)
def test_events(kind: int, r: bytes, expected: iscsi.Event) -> None:
    assert iscsi.parse_event(event(kind, r)) == expected


def test_a_pdu_comes_without_its_padding() -> None:
    header = b"\x23\x87" + bytes(3) + (5).to_bytes(3, "big") + bytes(40)
    received = event(101, struct.pack("=IIQ", 5, 0, 0), header + b"a=bcd\0\0\0")
    assert iscsi.parse_event(received) == ReceivedPdu(5, 0, header, b"a=bcd")


def test_events_cut_at_every_length() -> None:
    header = b"\x23\x87" + bytes(3) + (5).to_bytes(3, "big") + bytes(40)
    whole = event(101, struct.pack("=IIQ", 5, 0, 0), header + b"a=bcd\0\0\0")
    needed = UEVENT.size + 48 + 5
    for length in range(len(whole.payload)):
        parsed = iscsi.parse_event(whole._replace(payload=whole.payload[:length]))
        assert (parsed is None) == (length < needed)


@given(U32, st.sampled_from(list(Param)), st.text(st.characters(exclude_characters="\0"), max_size=300))
def test_parameters_come_back_as_they_were_set(sid: int, param: Param, value: str) -> None:
    _, _, handle, u, payload = parts(iscsi.set_param(HANDLE, sid, param, value))
    assert (handle, *struct.unpack_from("=III", u)) == (HANDLE, sid, 0, param)
    assert payload == value.encode() + b"\0"
    assert struct.unpack_from("=I", u, 12)[0] == len(payload)


@pytest.mark.parametrize("param", [Param.PASSWORD, Param.PASSWORD_IN])
def test_traces_have_no_secrets(param: Param) -> None:
    shown = iscsi.set_param(HANDLE, 5, Param.USERNAME, "joe")
    batch = shown + bytes(-len(shown) & 3) + iscsi.set_param(HANDLE, 5, param, "hunter2hunter2")
    hidden = iscsi.redacted(batch)
    assert len(hidden) == len(batch)
    assert b"joe" in hidden
    assert b"hunter2" not in hidden
    assert [message.type for message in split(hidden)] == [16, 16]


def test_traces_have_no_chap_responses() -> None:
    text = b"CHAP_N=joe\0CHAP_R=0x00112233445566778899aabbccddeeff\0"
    hidden = iscsi.redacted(iscsi.send_pdu(HANDLE, 5, b"\x43\x81" + bytes(46), text))
    assert b"CHAP_N=joe\0CHAP_R=" in hidden
    assert b"0011" not in hidden


@given(st.binary(max_size=300))
def test_anything_can_be_read_and_redacted(data: bytes) -> None:
    assert len(iscsi.redacted(data)) == len(data)
    iscsi.parse_reply(data)
    for message in split(data):
        iscsi.parse_event(message)


@given(st.sampled_from(list(Uevent)), st.binary(max_size=200), st.binary(max_size=200))
def test_redaction_keeps_the_framing(kind: Uevent, u: bytes, payload: bytes) -> None:
    message = build(kind, UEVENT.pack(kind, 0, HANDLE, u[:24], b"") + payload, flags=0)
    hidden = iscsi.redacted(message + bytes(align4(len(message)) - len(message)))
    assert hidden[: HEADER.size + 40] == message[: HEADER.size + 40]


def test_connection_errors_in_words() -> None:
    assert iscsi.kernel_error_text(1020) == "target closed the TCP connection"
    assert iscsi.kernel_error_text(1999) == "error 1999"
