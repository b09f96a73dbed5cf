# SPDX-License-Identifier: Apache-2.0
"""The 48-byte basic header segments of the PDUs that logins, discoveries and logouts need. Engine ring.

Each class packs and unpacks one header; its fields are those of the standard, in host order. A PDU is a `Pdu`: header
and data segment, without padding, digests or additional header segments, which belong to the transport (`stream.py` for
TCP, `iser.py` for iSER, the kernel for sessions). SCSI PDUs are not here: the kernel speaks them.
Defined by RFC 7143 section 11.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from rdmactl.errors import PeerError

__all__ = [
    "ALL_ONES",
    "BHS_BYTES",
    "FULL_FEATURE",
    "NO_LUN",
    "OPERATIONAL",
    "REJECT_REASONS",
    "SECURITY",
    "Async",
    "AsyncEvent",
    "LoginRequest",
    "LoginResponse",
    "LogoutRequest",
    "LogoutResponse",
    "Message",
    "NopIn",
    "NopOut",
    "Opcode",
    "Pdu",
    "Reject",
    "TextRequest",
    "TextResponse",
    "ahs_bytes",
    "data_bytes",
    "decode",
    "next_serial",
]

BHS_BYTES = 48
ALL_ONES = 0xFFFFFFFF  # a task tag that names nothing
NO_LUN = bytes(8)
SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3  # CSG and NSG; 2 is reserved

_IMMEDIATE = 0x40
_FINAL = 0x80  # F, and T of the login PDUs
_CONTINUE = 0x40
_OPCODE_MASK = 0x3F
_DATA_MASK = 0xFFFFFF

_LENGTHS = struct.Struct("!4xI")  # TotalAHSLength (words, 8 bits), DataSegmentLength (24 bits)
_LOGIN_REQUEST = struct.Struct("!BBBBI6sHIH2xII16x")
_LOGIN_RESPONSE = struct.Struct("!BBBBI6sHI4xIIIBB10x")
_REQUEST = struct.Struct("!BB2xI8sIIII16x")  # Text Request, NOP-Out
_RESPONSE = struct.Struct("!BB2xI8sIIIII12x")  # Text Response, NOP-In
_LOGOUT_REQUEST = struct.Struct("!BB2xI8xIH2xII16x")
_LOGOUT_RESPONSE = struct.Struct("!BBBxI8xI4xIII4xHH4x")
_ASYNC = struct.Struct("!BB2xI8sI4xIIIBBHHH4x")
_REJECT = struct.Struct("!BBBxI8xI4xIIII8x")


class Opcode(IntEnum):
    """All opcodes of RFC 7143, so that a stream out of step is noticed; vendor opcodes are not accepted."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC = 0x32
    REJECT = 0x3F


class AsyncEvent(IntEnum):
    """What an asynchronous message announces; 248-255 belong to vendors."""

    SCSI = 0
    LOGOUT_REQUEST = 1
    CONNECTION_DROP = 2
    SESSION_DROP = 3
    RENEGOTIATE = 4
    TASKS_TERMINATED = 5


REJECT_REASONS = {
    0x02: "data digest error",
    0x03: "SNACK refused",
    0x04: "protocol error",
    0x05: "command not supported",
    0x06: "too many immediate commands",
    0x07: "task in progress",
    0x08: "invalid data acknowledgement",
    0x09: "invalid PDU field",
    0x0A: "out of resources",
    0x0B: "negotiation reset",
    0x0C: "waiting for logout",
}


class Pdu(NamedTuple):
    """A header whose DataSegmentLength is `len(data)`, and the data."""

    header: bytes
    data: bytes = b""


class LoginRequest(NamedTuple):
    """Always immediate; `transit` is T, `more` is C."""

    isid: bytes
    itt: int
    csg: int
    nsg: int = 0
    transit: bool = False
    more: bool = False
    tsih: int = 0
    cid: int = 0
    cmdsn: int = 0
    exp_statsn: int = 0
    version_max: int = 0
    version_min: int = 0

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        return Pdu(
            _LOGIN_REQUEST.pack(
                Opcode.LOGIN_REQUEST | _IMMEDIATE,
                _stage_flags(self.transit, self.more, self.csg, self.nsg),
                self.version_max,
                self.version_min,
                len(data),
                self.isid,
                self.tsih,
                self.itt,
                self.cid,
                self.cmdsn,
                self.exp_statsn,
            ),
            data,
        )

    @classmethod
    def unpack(cls, header: bytes) -> LoginRequest:
        """Read 48 bytes."""
        _, flags, vmax, vmin, _, isid, tsih, itt, cid, cmdsn, statsn = _LOGIN_REQUEST.unpack(header)
        transit, more, csg, nsg = _stages(flags)
        return cls(isid, itt, csg, nsg, transit, more, tsih, cid, cmdsn, statsn, vmax, vmin)


class LoginResponse(NamedTuple):
    """`status` is StatusClass << 8 | StatusDetail; the numbers are valid only when its class is 0."""

    isid: bytes
    itt: int
    csg: int
    nsg: int = 0
    transit: bool = False
    more: bool = False
    tsih: int = 0
    statsn: int = 0
    exp_cmdsn: int = 0
    max_cmdsn: int = 0
    status: int = 0
    version_max: int = 0
    version_active: int = 0

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        return Pdu(
            _LOGIN_RESPONSE.pack(
                Opcode.LOGIN_RESPONSE,
                _stage_flags(self.transit, self.more, self.csg, self.nsg),
                self.version_max,
                self.version_active,
                len(data),
                self.isid,
                self.tsih,
                self.itt,
                self.statsn,
                self.exp_cmdsn,
                self.max_cmdsn,
                self.status >> 8,
                self.status & 0xFF,
            ),
            data,
        )

    @classmethod
    def unpack(cls, header: bytes) -> LoginResponse:
        """Read 48 bytes."""
        _, flags, vmax, vactive, _, isid, tsih, itt, statsn, exp, top, klass, detail = _LOGIN_RESPONSE.unpack(header)
        transit, more, csg, nsg = _stages(flags)
        status = klass << 8 | detail
        return cls(isid, itt, csg, nsg, transit, more, tsih, statsn, exp, top, status, vmax, vactive)


class TextRequest(NamedTuple):
    """`ttt` and `lun` repeat the target's when its answer goes on."""

    itt: int
    ttt: int = ALL_ONES
    cmdsn: int = 0
    exp_statsn: int = 0
    lun: bytes = NO_LUN
    final: bool = True
    more: bool = False
    immediate: bool = False

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        opcode = Opcode.TEXT_REQUEST | (_IMMEDIATE if self.immediate else 0)
        flags = _text_flags(self.final, self.more)
        tail = (self.lun, self.itt, self.ttt, self.cmdsn, self.exp_statsn)
        return Pdu(_REQUEST.pack(opcode, flags, len(data), *tail), data)

    @classmethod
    def unpack(cls, header: bytes) -> TextRequest:
        """Read 48 bytes."""
        opcode, flags, _, lun, itt, ttt, cmdsn, statsn = _REQUEST.unpack(header)
        return cls(
            itt, ttt, cmdsn, statsn, lun, bool(flags & _FINAL), bool(flags & _CONTINUE), bool(opcode & _IMMEDIATE)
        )


class TextResponse(NamedTuple):
    """`final` is F, `more` is C."""

    itt: int
    ttt: int = ALL_ONES
    statsn: int = 0
    exp_cmdsn: int = 0
    max_cmdsn: int = 0
    lun: bytes = NO_LUN
    final: bool = True
    more: bool = False

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        flags = _text_flags(self.final, self.more)
        tail = (self.lun, self.itt, self.ttt, self.statsn, self.exp_cmdsn, self.max_cmdsn)
        return Pdu(_RESPONSE.pack(Opcode.TEXT_RESPONSE, flags, len(data), *tail), data)

    @classmethod
    def unpack(cls, header: bytes) -> TextResponse:
        """Read 48 bytes."""
        _, flags, _, lun, itt, ttt, statsn, exp, top = _RESPONSE.unpack(header)
        return cls(itt, ttt, statsn, exp, top, lun, bool(flags & _FINAL), bool(flags & _CONTINUE))


class NopOut(NamedTuple):
    """A ping, or with `itt` all ones the answer to one (then `ttt` and `lun` are the target's)."""

    itt: int
    ttt: int = ALL_ONES
    cmdsn: int = 0
    exp_statsn: int = 0
    lun: bytes = NO_LUN
    immediate: bool = True

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        opcode = Opcode.NOP_OUT | (_IMMEDIATE if self.immediate else 0)
        tail = (self.lun, self.itt, self.ttt, self.cmdsn, self.exp_statsn)
        return Pdu(_REQUEST.pack(opcode, _FINAL, len(data), *tail), data)

    @classmethod
    def unpack(cls, header: bytes) -> NopOut:
        """Read 48 bytes."""
        opcode, _, _, lun, itt, ttt, cmdsn, statsn = _REQUEST.unpack(header)
        return cls(itt, ttt, cmdsn, statsn, lun, bool(opcode & _IMMEDIATE))


class NopIn(NamedTuple):
    """A ping of the target when `ttt` is not all ones; with both tags all ones only news of the command window."""

    itt: int
    ttt: int = ALL_ONES
    statsn: int = 0
    exp_cmdsn: int = 0
    max_cmdsn: int = 0
    lun: bytes = NO_LUN

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        tail = (self.lun, self.itt, self.ttt, self.statsn, self.exp_cmdsn, self.max_cmdsn)
        return Pdu(_RESPONSE.pack(Opcode.NOP_IN, _FINAL, len(data), *tail), data)

    @classmethod
    def unpack(cls, header: bytes) -> NopIn:
        """Read 48 bytes."""
        _, _, _, lun, itt, ttt, statsn, exp, top = _RESPONSE.unpack(header)
        return cls(itt, ttt, statsn, exp, top, lun)


class LogoutRequest(NamedTuple):
    """`reason`: 0 closes the session, 1 the connection `cid`, 2 removes the connection for recovery."""

    itt: int
    reason: int = 0
    cid: int = 0
    cmdsn: int = 0
    exp_statsn: int = 0
    immediate: bool = True

    def pdu(self) -> Pdu:
        """The PDU with this header; a logout has no data."""
        opcode = Opcode.LOGOUT_REQUEST | (_IMMEDIATE if self.immediate else 0)
        return Pdu(
            _LOGOUT_REQUEST.pack(opcode, _FINAL | self.reason, 0, self.itt, self.cid, self.cmdsn, self.exp_statsn)
        )

    @classmethod
    def unpack(cls, header: bytes) -> LogoutRequest:
        """Read 48 bytes."""
        opcode, flags, _, itt, cid, cmdsn, statsn = _LOGOUT_REQUEST.unpack(header)
        return cls(itt, flags & 0x7F, cid, cmdsn, statsn, bool(opcode & _IMMEDIATE))


class LogoutResponse(NamedTuple):
    """`response`: 0 done, 1 no such connection, 2 recovery not supported, 3 cleanup failed."""

    itt: int
    response: int = 0
    statsn: int = 0
    exp_cmdsn: int = 0
    max_cmdsn: int = 0
    time2wait_s: int = 0
    time2retain_s: int = 0

    def pdu(self) -> Pdu:
        """The PDU with this header; a logout has no data."""
        numbers = (self.itt, self.statsn, self.exp_cmdsn, self.max_cmdsn, self.time2wait_s, self.time2retain_s)
        return Pdu(_LOGOUT_RESPONSE.pack(Opcode.LOGOUT_RESPONSE, _FINAL, self.response, 0, *numbers))

    @classmethod
    def unpack(cls, header: bytes) -> LogoutResponse:
        """Read 48 bytes."""
        _, _, response, _, itt, statsn, exp, top, wait, retain = _LOGOUT_RESPONSE.unpack(header)
        return cls(itt, response, statsn, exp, top, wait, retain)


class Async(NamedTuple):
    """`event` is an `AsyncEvent` or a vendor's number; the meaning of the parameters depends on it."""

    event: int
    parameter1: int = 0
    parameter2: int = 0
    parameter3: int = 0
    statsn: int = 0
    exp_cmdsn: int = 0
    max_cmdsn: int = 0
    vcode: int = 0
    lun: bytes = NO_LUN

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        numbers = (self.statsn, self.exp_cmdsn, self.max_cmdsn, self.event, self.vcode)
        parameters = (self.parameter1, self.parameter2, self.parameter3)
        return Pdu(_ASYNC.pack(Opcode.ASYNC, _FINAL, len(data), self.lun, ALL_ONES, *numbers, *parameters), data)

    @classmethod
    def unpack(cls, header: bytes) -> Async:
        """Read 48 bytes."""
        _, _, _, lun, _, statsn, exp, top, event, vcode, p1, p2, p3 = _ASYNC.unpack(header)
        return cls(event, p1, p2, p3, statsn, exp, top, vcode, lun)


class Reject(NamedTuple):
    """`reason` is a key of `REJECT_REASONS`; the data is the header that was rejected."""

    reason: int
    statsn: int = 0
    exp_cmdsn: int = 0
    max_cmdsn: int = 0
    datasn: int = 0

    def pdu(self, data: bytes = b"") -> Pdu:
        """The PDU with this header."""
        numbers = (self.statsn, self.exp_cmdsn, self.max_cmdsn, self.datasn)
        return Pdu(_REJECT.pack(Opcode.REJECT, _FINAL, self.reason, len(data), ALL_ONES, *numbers), data)

    @classmethod
    def unpack(cls, header: bytes) -> Reject:
        """Read 48 bytes."""
        _, _, reason, _, _, statsn, exp, top, datasn = _REJECT.unpack(header)
        return cls(reason, statsn, exp, top, datasn)

    @property
    def words(self) -> str:
        """The reason for a person."""
        return REJECT_REASONS.get(self.reason, f"reason {self.reason:#04x}")


Message = (
    LoginRequest
    | LoginResponse
    | TextRequest
    | TextResponse
    | NopOut
    | NopIn
    | LogoutRequest
    | LogoutResponse
    | Async
    | Reject
)

_CLASSES: dict[int, type[Message]] = {
    Opcode.LOGIN_REQUEST: LoginRequest,
    Opcode.LOGIN_RESPONSE: LoginResponse,
    Opcode.TEXT_REQUEST: TextRequest,
    Opcode.TEXT_RESPONSE: TextResponse,
    Opcode.NOP_OUT: NopOut,
    Opcode.NOP_IN: NopIn,
    Opcode.LOGOUT_REQUEST: LogoutRequest,
    Opcode.LOGOUT_RESPONSE: LogoutResponse,
    Opcode.ASYNC: Async,
    Opcode.REJECT: Reject,
}


def decode(header: bytes) -> Message:
    """The message of a 48-byte header; PeerError for another length or an opcode that has no place here."""
    if len(header) != BHS_BYTES:
        raise PeerError(f"a header of {len(header)} bytes, {BHS_BYTES} are needed", code="iscsi-protocol")
    if header[0] & 0x80 or header[0] & _OPCODE_MASK not in _CLASSES:
        raise PeerError(f"unexpected opcode {header[0]:#04x}", code="iscsi-protocol")
    return _CLASSES[header[0] & _OPCODE_MASK].unpack(header)


def data_bytes(header: bytes | bytearray) -> int:
    """DataSegmentLength of a header."""
    (lengths,) = _LENGTHS.unpack_from(header)
    return int(lengths) & _DATA_MASK


def ahs_bytes(header: bytes | bytearray) -> int:
    """Length of the additional header segments behind a header."""
    return header[4] * 4


def next_serial(number: int) -> int:
    """`number` + 1 in the arithmetic of StatSN and CmdSN."""
    return (number + 1) & 0xFFFFFFFF


def _stage_flags(transit: bool, more: bool, csg: int, nsg: int) -> int:
    return _text_flags(transit, more) | csg << 2 | nsg


def _stages(flags: int) -> tuple[bool, bool, int, int]:
    return bool(flags & _FINAL), bool(flags & _CONTINUE), flags >> 2 & 3, flags & 3


def _text_flags(final: bool, more: bool) -> int:
    return (_FINAL if final else 0) | (_CONTINUE if more else 0)
