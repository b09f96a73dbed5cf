# SPDX-License-Identifier: Apache-2.0
"""iSNS PDUs: the header, messages cut into several of them, and the framing in a TCP stream. Engine ring.

    version u16 | function u16 | payload length u16 | flags u16 | transaction u16 | sequence u16 | payload

A message is one PDU or several with the same function and transaction, numbered from 0; attributes may cross from one
to the next, so payloads are joined first and read later. Everything is bounded before it is awaited.
Not here: what a payload says (`attributes.py`), which answer belongs to which request (`conversation.py`).
Defined by RFC 4171 section 5.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from rdmactl.errors import PeerError

__all__ = [
    "HEADER_BYTES",
    "MAX_MESSAGE_BYTES",
    "RESPONSE",
    "SMALL_MESSAGE_BYTES",
    "Assembler",
    "Flag",
    "Function",
    "Message",
    "Pdu",
    "StreamDecoder",
    "encode",
    "parse_datagram",
]

_HEADER = struct.Struct(">6H")
HEADER_BYTES = _HEADER.size
_VERSION = 1
RESPONSE = 0x8000
"""The bit that makes a function's number that of its answer."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # some 100,000 targets with a portal each
SMALL_MESSAGE_BYTES = 256 * 1024  # whatever is no list; read in one go
_MAX_PAYLOAD_BYTES = 65532  # the longest the length field can say, as a multiple of 4
_MAX_SEGMENTS = 65536  # the sequence field counts no further
_MAX_OPEN = 8  # messages begun and not ended


class Function(IntEnum):
    """What a message asks for (RFC 4171 section 4.1.3); the answer has the `RESPONSE` bit in addition."""

    DEV_ATTR_REG = 0x0001
    DEV_ATTR_QRY = 0x0002
    DEV_GET_NEXT = 0x0003
    DEV_DEREG = 0x0004
    SCN_REG = 0x0005
    SCN_DEREG = 0x0006
    SCN = 0x0008
    ESI = 0x000D


class Flag(IntFlag):
    """The header's flags. Who sends is not told by CLIENT and SERVER: open-isns has them the other way round."""

    CLIENT = 0x8000
    SERVER = 0x4000
    AUTHENTICATION = 0x2000
    REPLACE = 0x1000
    LAST = 0x0800
    FIRST = 0x0400


class Message(NamedTuple):
    """A whole message. `flags` are those of its first PDU."""

    function: int
    transaction: int
    payload: bytes
    flags: int = int(Flag.CLIENT)


class Pdu(NamedTuple):
    """One PDU."""

    function: int
    flags: int
    transaction: int
    sequence: int
    payload: bytes

    def pack(self) -> bytes:
        """The bytes on the wire."""
        header = (_VERSION, self.function, len(self.payload), self.flags, self.transaction, self.sequence)
        return _HEADER.pack(*header) + self.payload


def encode(message: Message, max_payload_bytes: int = _MAX_PAYLOAD_BYTES) -> bytes:
    """The bytes of a message: one PDU where it fits into one.

    isnsd answers no request that comes in several; those of this client are far below the limit.
    """
    payload, pdus = message.payload, []
    cuts = range(0, max(len(payload), 1), max_payload_bytes)
    plain = message.flags & ~(Flag.FIRST | Flag.LAST)
    for sequence, start in enumerate(cuts):
        flags = plain | (Flag.FIRST if not sequence else 0) | (Flag.LAST if start == cuts[-1] else 0)
        part = payload[start : start + max_payload_bytes]
        pdus.append(Pdu(message.function, int(flags), message.transaction, sequence, part).pack())
    return b"".join(pdus)


class StreamDecoder:
    """Cuts a byte stream into PDUs. After an error the stream is lost: every further call raises it again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: PeerError | None = None

    def receive(self, data: bytes) -> Iterator[Pdu]:
        """Take bytes as they came; iterate to get the PDUs they complete. PeerError for what is no iSNS stream."""
        self._buffer += data
        while (pdu := self._next()) is not None:
            yield pdu

    def partial(self) -> tuple[int, int] | None:
        """(bytes there, bytes wanted as far as known) of a PDU that began and has not ended; None between PDUs."""
        if not self._buffer:
            return None
        return len(self._buffer), self._end() if len(self._buffer) >= HEADER_BYTES else HEADER_BYTES

    def _end(self) -> int:
        return HEADER_BYTES + int(_HEADER.unpack_from(self._buffer)[2])

    def _next(self) -> Pdu | None:
        if self._error is not None:
            raise self._error
        if len(self._buffer) < HEADER_BYTES:
            return None
        try:
            _check_header(self._buffer)
        except PeerError as error:
            self._error = error
            raise
        end = self._end()
        if len(self._buffer) < end:
            return None
        pdu = _pdu(bytes(self._buffer[:end]))
        del self._buffer[:end]
        return pdu


def parse_datagram(data: bytes) -> Message:
    """The message in a datagram: one PDU, whole. PeerError when there is none."""
    if len(data) < HEADER_BYTES:
        raise PeerError(f"a datagram of {len(data)} bytes is no iSNS message", code="isns-framing")
    _check_header(data)
    wanted = HEADER_BYTES + _HEADER.unpack_from(data)[2]
    if len(data) < wanted:
        raise PeerError(f"a datagram of {len(data)} bytes where the header says {wanted}", code="isns-framing")
    pdu = _pdu(data[:wanted])
    if not pdu.flags & Flag.FIRST or not pdu.flags & Flag.LAST:
        raise PeerError("a datagram with a part of a message", code="isns-framing")
    return Message(pdu.function, pdu.transaction, pdu.payload, pdu.flags)


def _check_header(data: bytes | bytearray) -> None:
    version, _, _, flags, _, _ = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise PeerError(
            f"the answer is no iSNS message (version {version:#06x})",
            hint="check address and port: does an iSNS server listen there?",
            code="isns-framing",
        )
    if flags & Flag.AUTHENTICATION:
        raise PeerError(
            "the server signs its messages, which is not supported",
            hint="let the server do without authentication (open-isns: Security = 0)",
            code="isns-framing",
        )


def _pdu(data: bytes) -> Pdu:
    _, function, _, flags, transaction, sequence = _HEADER.unpack_from(data)
    return Pdu(function, flags, transaction, sequence, data[HEADER_BYTES:])


class Assembler:
    """Joins PDUs to messages. What begins in the middle and says so by its number is an error, not a message.

    `max_message_bytes` is the limit of everything that has begun and not ended.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.max_message_bytes = max_message_bytes
        self._open: dict[tuple[int, int], list[Pdu]] = {}
        self._bytes = 0
        self.ignored = 0
        """PDUs without the flag that begins a message."""

    def receive(self, pdu: Pdu) -> Message | None:
        """Take the next PDU; the message it completes. PeerError for segments out of order, or too many of them."""
        key = (pdu.function, pdu.transaction)
        parts = self._open.get(key)
        if parts is None and not pdu.sequence and not pdu.flags & Flag.FIRST:
            self.ignored += 1
            return None
        due = len(parts or ())
        if pdu.sequence != due or (parts is not None and pdu.flags & Flag.FIRST):
            raise PeerError(f"segment {pdu.sequence} came where {due} was due", code="isns-framing")
        parts = parts or []
        parts.append(pdu)
        self._bytes += len(pdu.payload)
        if self._bytes > self.max_message_bytes:
            raise PeerError(f"a message of more than {self.max_message_bytes} bytes", code="isns-limit")
        if not pdu.flags & Flag.LAST:
            self._keep(key, parts)
            return None
        self._open.pop(key, None)
        self._bytes -= sum(len(part.payload) for part in parts)
        payload = b"".join(part.payload for part in parts)
        return Message(pdu.function, pdu.transaction, payload, parts[0].flags)

    def _keep(self, key: tuple[int, int], parts: list[Pdu]) -> None:
        self._open[key] = parts
        if len(self._open) > _MAX_OPEN or len(parts) >= _MAX_SEGMENTS:
            raise PeerError("too many messages that begin and do not end", code="isns-limit")
