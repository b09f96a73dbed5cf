# SPDX-License-Identifier: Apache-2.0
"""Message formats of NETLINK_ISCSI: requests as bytes, replies and events from bytes. Engine ring.

A request is one netlink message: nlmsghdr (16 bytes), struct iscsi_uevent (56), payload. The kernel answers each with
one message of the same shape and 72 bytes; events come on multicast group 1 with nlmsg_type 0. Everything in the
uevent is in host byte order; the PDUs carried inside are big-endian.

Not here: sockets, the order of requests (`rdmactl.initiator.kernel`), the meaning of PDUs (`rdmactl.iscsi.pdu`).
Defined by include/scsi/iscsi_if.h and drivers/scsi/scsi_transport_iscsi.c; tests/fake/scsi_transport_iscsi.py is the
other end of the same formats and changes with this file.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from rdmactl.netlink import message
from rdmactl.netlink.iscsi_stats import Statistics, parse_statistics
from rdmactl.netlink.message import NETLINK_ISCSI

__all__ = [
    "BHS_BYTES",
    "ISCSI_NL_GRP_ISCSID",
    "NETLINK_ISCSI",
    "UEVENT",
    "ConnError",
    "ConnStop",
    "Event",
    "HostParam",
    "OtherEvent",
    "Param",
    "ReceivedPdu",
    "Reply",
    "SessionCreated",
    "SessionDestroyed",
    "SessionStatistics",
    "SessionUnbound",
    "Uevent",
    "bind_conn",
    "create_bound_session",
    "create_conn",
    "create_session",
    "destroy_conn",
    "destroy_session_async",
    "ep_connect",
    "ep_disconnect",
    "ep_poll",
    "get_stats",
    "kernel_error_text",
    "parse_event",
    "parse_reply",
    "redacted",
    "request",
    "send_pdu",
    "set_host_param",
    "set_param",
    "start_conn",
    "stop_conn",
    "unbind_session",
]

ISCSI_NL_GRP_ISCSID = 1
BHS_BYTES = 48

UEVENT = struct.Struct("=IiQ24s16s")  # type, iferror, transport_handle, union u (request), union r (reply or event)
_U_BYTES = 24
_CID = 0  # one connection per session is all the class and its transports support
_PARAM_LEN_LIMIT = 4096  # value and NUL; longer is -EINVAL


class Uevent(IntEnum):
    """enum iscsi_uevent_e: ISCSI_UEVENT_xxx and ISCSI_KEVENT_xxx (events). 31 to 42 are for adapters only."""

    CREATE_SESSION = 11
    DESTROY_SESSION = 12
    CREATE_CONN = 13
    DESTROY_CONN = 14
    BIND_CONN = 15
    SET_PARAM = 16
    START_CONN = 17
    STOP_CONN = 18
    SEND_PDU = 19
    GET_STATS = 20
    TRANSPORT_EP_CONNECT = 22
    TRANSPORT_EP_POLL = 23
    TRANSPORT_EP_DISCONNECT = 24
    SET_HOST_PARAM = 26
    UNBIND_SESSION = 27
    CREATE_BOUND_SESSION = 28
    SET_IFACE_PARAMS = 31
    PING = 32
    GET_CHAP = 33
    DELETE_CHAP = 34
    SET_FLASHNODE_PARAMS = 35
    NEW_FLASHNODE = 36
    DEL_FLASHNODE = 37
    LOGIN_FLASHNODE = 38
    LOGOUT_FLASHNODE = 39
    SET_CHAP = 41
    GET_HOST_STATS = 42
    DESTROY_SESSION_ASYNC = 43

    RECV_PDU = 101
    CONN_ERROR = 102
    IF_ERROR = 103
    KEVENT_DESTROY_SESSION = 104
    KEVENT_UNBIND_SESSION = 105
    KEVENT_CREATE_SESSION = 106
    CONN_LOGIN_STATE = 109
    HOST_EVENT = 110
    PING_COMP = 111


class Param(IntEnum):
    """enum iscsi_param: what SET_PARAM sets (those tcp and iser take)."""

    MAX_RECV_DLENGTH = 0
    MAX_XMIT_DLENGTH = 1
    HDRDGST_EN = 2
    DATADGST_EN = 3
    INITIAL_R2T_EN = 4
    MAX_R2T = 5
    IMM_DATA_EN = 6
    FIRST_BURST = 7
    MAX_BURST = 8
    PDU_INORDER_EN = 9
    DATASEQ_INORDER_EN = 10
    ERL = 11
    IFMARKER_EN = 12
    OFMARKER_EN = 13
    EXP_STATSN = 14
    TARGET_NAME = 15
    TPGT = 16
    PERSISTENT_ADDRESS = 17
    PERSISTENT_PORT = 18
    SESS_RECOVERY_TMO = 19
    USERNAME = 22
    USERNAME_IN = 23
    PASSWORD = 24
    PASSWORD_IN = 25
    FAST_ABORT = 26
    ABORT_TMO = 27
    LU_RESET_TMO = 28
    PING_TMO = 30
    RECV_TMO = 31
    IFACE_NAME = 32
    INITIATOR_NAME = 34
    TGT_RESET_TMO = 35
    DISCOVERY_SESS = 43


class HostParam(IntEnum):
    """enum iscsi_host_param: what SET_HOST_PARAM sets."""

    HWADDRESS = 0
    INITIATOR_NAME = 1
    NETDEV_NAME = 2


class ConnStop(IntEnum):
    """STOP_CONN_xxx: end for good, or keep the session and its commands for a new connection."""

    TERM = 1
    RECOVER = 3


_WITH_RETCODE = frozenset(map(int, (Uevent.BIND_CONN, Uevent.START_CONN, Uevent.SEND_PDU, Uevent.TRANSPORT_EP_POLL)))
# Two thirds of a login's messages set parameters: whole requests and answers in one go, as nlmsghdr and iscsi_uevent.
_IF_ERROR, _SET_PARAM = int(Uevent.IF_ERROR), int(Uevent.SET_PARAM)
_PARAM_REQUEST = struct.Struct("=IHHIIIiQIIII8x16x")
_REPLY = struct.Struct("=4xH10xIi8x24s16s")
_REPLY_SID, _REPLY_HANDLE = struct.Struct("=iI8x"), struct.Struct("=Q8x")
_tuple = tuple.__new__  # a named tuple's own constructor is a Python function
_SECRET_PARAMS = (Param.PASSWORD, Param.PASSWORD_IN)
_SECRET_TABLES = (Uevent.GET_CHAP, Uevent.SET_CHAP, Uevent.SET_FLASHNODE_PARAMS)

# enum iscsi_err: what CONN_ERROR says, as a sentence can use it
_CONN_ERRORS = {
    1001: "wrong DataSN",
    1002: "wrong data offset",
    1003: "wrong MaxCmdSN",
    1004: "wrong ExpCmdSN",
    1005: "unexpected opcode",
    1006: "data segment longer than agreed",
    1007: "wrong AHS length",
    1008: "protocol error",
    1009: "wrong LUN",
    1010: "unknown task tag",
    1011: "connection failed",
    1012: "wrong R2TSN",
    1013: "session failed",
    1014: "header digest mismatch",
    1015: "data digest mismatch",
    1016: "parameter not found",
    1017: "no such SCSI command",
    1018: "the adapter's host is being removed",
    1019: "sending failed",
    1020: "target closed the TCP connection",
    1021: "SCSI error handling gave the session up",
    1022: "target did not answer a NOP in time",
}


class Reply(NamedTuple):
    """The kernel's answer to one request.

    `type` is the request's; `code` is 0 or a negative errno, from wherever this request reports failure (for EP_POLL it
    is 1 connected, 0 pending, negative failed); `sid`, `second` (host number or cid) and `handle` are meaningful for
    the requests that return them.
    """

    type: int
    code: int
    sid: int
    second: int
    handle: int
    request: bytes  # union u as sent: tells one SET_PARAM of a batch from another


class ReceivedPdu(NamedTuple):
    """A PDU for user space: 48-byte header and its data without padding."""

    sid: int
    cid: int
    header: bytes
    data: bytes


class ConnError(NamedTuple):
    """A connection failed; `error` is an iscsi_err (1001...1022)."""

    sid: int
    cid: int
    error: int


class SessionCreated(NamedTuple):
    """A session exists, made by anybody."""

    sid: int
    host_no: int


class SessionUnbound(NamedTuple):
    """The SCSI target of a session is gone."""

    sid: int
    host_no: int


class SessionDestroyed(NamedTuple):
    """A session is gone."""

    sid: int
    host_no: int


class SessionStatistics(NamedTuple):
    """The answer to GET_STATS, which everybody who listens gets."""

    sid: int
    statistics: Statistics


class OtherEvent(NamedTuple):
    """Something that concerns adapters with their own iSCSI stack."""

    kind: int


Event = ReceivedPdu | ConnError | SessionCreated | SessionUnbound | SessionDestroyed | SessionStatistics | OtherEvent


def request(type: Uevent, handle: int, u: bytes, payload: bytes = b"") -> bytes:
    """Any request; `u` is the union of what it takes."""
    body = UEVENT.pack(type, 0, handle, u.ljust(_U_BYTES, b"\0"), b"") + payload
    return message.build(type, body, flags=0)


def create_session(handle: int, initial_cmdsn: int, cmds_max: int, queue_depth: int) -> bytes:
    """A session without transport connection (tcp). Reply: sid, host number."""
    return request(Uevent.CREATE_SESSION, handle, struct.pack("=IHH", initial_cmdsn, cmds_max, queue_depth))


def create_bound_session(handle: int, endpoint: int, initial_cmdsn: int, cmds_max: int, queue_depth: int) -> bytes:
    """A session upon a connected endpoint (iser). Reply: sid, host number."""
    u = struct.pack("=QIHH", endpoint, initial_cmdsn, cmds_max, queue_depth)
    return request(Uevent.CREATE_BOUND_SESSION, handle, u)


def create_conn(handle: int, sid: int) -> bytes:
    """The connection of a session."""
    return request(Uevent.CREATE_CONN, handle, struct.pack("=II", sid, _CID))


def bind_conn(handle: int, sid: int, transport_eph: int) -> bytes:
    """Give a connection its transport: endpoint handle (iser), or the sender's file descriptor number (tcp)."""
    return request(Uevent.BIND_CONN, handle, struct.pack("=IIQI", sid, _CID, transport_eph, 1))


def set_param(handle: int, sid: int, param: Param, value: str | int | bool) -> bytes:
    """One parameter. The kernel checks hardly anything: values must be right when they come here."""
    text = _param_text(value)
    length = _PARAM_REQUEST.size + len(text)
    return _PARAM_REQUEST.pack(length, _SET_PARAM, 0, 0, 0, _SET_PARAM, 0, handle, sid, _CID, param, len(text)) + text


def set_host_param(handle: int, host_no: int, param: HostParam, value: str) -> bytes:
    """One parameter of a host, for display in sysfs."""
    text = _param_text(value)
    return request(Uevent.SET_HOST_PARAM, handle, struct.pack("=III", host_no, param, len(text)), text)


def start_conn(handle: int, sid: int) -> bytes:
    """Full feature phase: the SCSI layer may use the session."""
    return request(Uevent.START_CONN, handle, struct.pack("=II", sid, _CID))


def stop_conn(handle: int, sid: int, flag: ConnStop) -> bytes:
    """Take the transport away from a connection; returns after the kernel's own clean-up of it."""
    return request(Uevent.STOP_CONN, handle, struct.pack("=IIQI", sid, _CID, 0, flag))


def destroy_conn(handle: int, sid: int) -> bytes:
    """Free the connection of a session."""
    return request(Uevent.DESTROY_CONN, handle, struct.pack("=II", sid, _CID))


def unbind_session(handle: int, sid: int) -> bytes:
    """Remove the SCSI target of a session; SessionUnbound tells the end, unless it was unbound already."""
    return request(Uevent.UNBIND_SESSION, handle, struct.pack("=I", sid))


def destroy_session_async(handle: int, sid: int) -> bytes:
    """Remove a session in the background; SessionDestroyed tells the end. The sid is unknown at once."""
    return request(Uevent.DESTROY_SESSION_ASYNC, handle, struct.pack("=I", sid))


def send_pdu(handle: int, sid: int, header: bytes, data: bytes) -> bytes:
    """Login, Text, Logout or NOP-Out, header of 48 bytes. The kernel fills ITT and CmdSN."""
    if len(header) != BHS_BYTES:
        raise ValueError(f"PDU header of {len(header)} bytes")
    padded = data + bytes(-len(data) & 3)
    return request(Uevent.SEND_PDU, handle, struct.pack("=IIII", sid, _CID, BHS_BYTES, len(padded)), header + padded)


def get_stats(handle: int, sid: int) -> bytes:
    """Counters of a session. A refusal is answered; what was asked for comes as the event SessionStatistics.

    To be sent only while a socket of group 1 is open and read: without one the kernel tries to deliver for ever.
    """
    return request(Uevent.GET_STATS, handle, struct.pack("=II", sid, _CID))


def ep_connect(handle: int, sockaddr: bytes) -> bytes:
    """Begin to connect an endpoint, without blocking. Reply: its handle.

    The blocking form is not offered: in ib_iser it deadlocks the whole of NETLINK_ISCSI.
    """
    return request(Uevent.TRANSPORT_EP_CONNECT, handle, struct.pack("=I", 1), sockaddr)


def ep_poll(handle: int, endpoint: int) -> bytes:
    """Is it connected? Never waits: the kernel would hold everybody up. 1 is reported only once."""
    return request(Uevent.TRANSPORT_EP_POLL, handle, struct.pack("=QI", endpoint, 0))


def ep_disconnect(handle: int, endpoint: int) -> bytes:
    """Disconnect and free an endpoint; -EINVAL when it is already gone."""
    return request(Uevent.TRANSPORT_EP_DISCONNECT, handle, struct.pack("=Q", endpoint))


def parse_reply(datagram: bytes) -> Reply | None:
    """The answer to one request, nlmsghdr included; None when it is cut short or an event."""
    if len(datagram) < _REPLY.size:
        return None
    request_type, kind, code, u, r = _REPLY.unpack_from(datagram)
    if request_type == 0:
        return None
    first, second = _REPLY_SID.unpack(r)
    if kind != _IF_ERROR and request_type in _WITH_RETCODE:
        code = first
    return _tuple(Reply, (request_type, code, first & 0xFFFFFFFF, second, _REPLY_HANDLE.unpack(r)[0], u))


def parse_event(received: message.Message) -> Event | None:
    """A multicast message as an event; None for one that is cut short."""
    if len(received.payload) < UEVENT.size:
        return None
    kind, _, _, u, r = UEVENT.unpack_from(received.payload)
    first, second, third = struct.unpack_from("=III", r)
    match kind:
        case Uevent.RECV_PDU:
            return _received_pdu(first, second, received.payload[UEVENT.size :])
        case Uevent.CONN_ERROR:
            return ConnError(first, second, third)
        case Uevent.KEVENT_CREATE_SESSION:
            return SessionCreated(first, second)
        case Uevent.KEVENT_UNBIND_SESSION:
            return SessionUnbound(first, second)
        case Uevent.KEVENT_DESTROY_SESSION:
            return SessionDestroyed(sid=second, host_no=first)  # this one has its fields the other way round
        case Uevent.GET_STATS:
            statistics = parse_statistics(received.payload[UEVENT.size :])
            return None if statistics is None else SessionStatistics(struct.unpack_from("=I", u)[0], statistics)
    return OtherEvent(kind)


def kernel_error_text(error: int) -> str:
    """An iscsi_err in words."""
    return _CONN_ERRORS.get(error, f"error {error}")


def redacted(datagram: bytes) -> bytes:
    """The same bytes, fit for a trace: secrets of SET_PARAM and of adapters' tables, and CHAP responses, are `*`."""
    if len(datagram) < message.HEADER.size + UEVENT.size:
        return datagram
    out = bytearray(datagram)
    offset = 0
    for part in message.split(datagram):
        _redact(out, offset + message.HEADER.size, part.payload)
        offset += message.align4(message.HEADER.size + len(part.payload))
    return bytes(out)


def _redact(out: bytearray, start: int, payload: bytes) -> None:
    if len(payload) < UEVENT.size:
        return
    kind, _, _, u, _ = UEVENT.unpack_from(payload)
    body = payload[UEVENT.size :]
    if kind in _SECRET_TABLES or (kind == Uevent.SET_PARAM and struct.unpack_from("=I", u, 8)[0] in _SECRET_PARAMS):
        hidden = b"*" * len(body)
    elif kind in (Uevent.SEND_PDU, Uevent.RECV_PDU):
        hidden = b"\0".join(_without_response(pair) for pair in body.split(b"\0"))
    else:
        return
    out[start + UEVENT.size : start + len(payload)] = hidden


def _without_response(pair: bytes) -> bytes:
    key, equals, value = pair.partition(b"CHAP_R=")
    return key + equals + b"*" * len(value)


def _received_pdu(sid: int, cid: int, payload: bytes) -> ReceivedPdu | None:
    if len(payload) < BHS_BYTES:
        return None
    header, data = payload[:BHS_BYTES], payload[BHS_BYTES:]
    length = int.from_bytes(header[5:8], "big")
    return ReceivedPdu(sid, cid, header, data[:length]) if length <= len(data) else None


def _param_text(value: str | int | bool) -> bytes:
    text = (value if isinstance(value, str) else str(int(value))).encode()
    if b"\0" in text or len(text) >= _PARAM_LEN_LIMIT:
        raise ValueError("a parameter has no NUL and less than 4096 bytes")
    return text + b"\0"
