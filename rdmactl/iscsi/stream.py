# SPDX-License-Identifier: Apache-2.0
"""Framing of iSCSI PDUs in a TCP stream: padding, digests, additional header segments. Engine ring.

    BHS 48 | AHS 4*TotalAHSLength | header digest 0|4 | data | pad 0..3 | data digest 0|4

A `StreamDecoder` yields PDUs lazily: digests begin with the PDU behind the final Login Response, so the caller switches
them on between two PDUs even if both came in one segment. Not here: what the PDUs mean, deadlines.
Defined by RFC 7143 sections 11.1 and 11.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from rdmactl.errors import PeerError
from rdmactl.iscsi.digest import DIGEST_BYTES, digest
from rdmactl.iscsi.pdu import BHS_BYTES, Opcode, Pdu, ahs_bytes, data_bytes

__all__ = ["DEFAULT_MAX_DATA_BYTES", "StreamDecoder", "encode"]

DEFAULT_MAX_DATA_BYTES = 8192  # MaxRecvDataSegmentLength before anything was negotiated
_OPCODES = frozenset(Opcode)
_OUT_OF_STEP = "the stream may be out of step, for instance by a digest nobody agreed to"


def encode(pdu: Pdu, *, header_digest: bool = False, data_digest: bool = False) -> bytes:
    """The bytes of `pdu` on the wire."""
    parts = [pdu.header]
    if header_digest:
        parts.append(digest(pdu.header))
    if pdu.data:
        padded = pdu.data + bytes(-len(pdu.data) & 3)
        parts.append(padded)
        if data_digest:
            parts.append(digest(padded))
    return b"".join(parts)


class StreamDecoder:
    """Cuts a byte stream into PDUs.

    `header_digest` and `data_digest` may be switched between PDUs; a data segment over `max_data_bytes` is an error
    before any of it is awaited. After an error the stream is lost: every further call raises it again.
    """

    def __init__(self, max_data_bytes: int = DEFAULT_MAX_DATA_BYTES) -> None:
        self.header_digest = False
        self.data_digest = False
        self.max_data_bytes = max_data_bytes
        self._buffer = bytearray()
        self._error: PeerError | None = None

    def receive(self, data: bytes) -> Iterator[Pdu]:
        """Take bytes as they came; iterate to get the PDUs they complete. PeerError for what is no iSCSI stream."""
        self._buffer += data
        return self._pdus()

    def partial(self) -> tuple[int, int] | None:
        """(bytes there, bytes wanted as far as known) of a PDU that began and has not ended; None between PDUs."""
        if not self._buffer:
            return None
        wanted = BHS_BYTES if len(self._buffer) < BHS_BYTES else self._layout()[2]
        return len(self._buffer), wanted

    def _pdus(self) -> Iterator[Pdu]:
        while (pdu := self._next()) is not None:
            yield pdu

    def _next(self) -> Pdu | None:
        if self._error is not None:
            raise self._error
        try:
            return self._cut()
        except PeerError as error:
            self._error = error
            raise

    def _cut(self) -> Pdu | None:
        if len(self._buffer) < BHS_BYTES:
            return None
        header_end, data_at, end = self._layout()
        if self.header_digest:
            if len(self._buffer) < data_at:
                return None
            self._check("header", 0, header_end)
        self._check_header()
        if len(self._buffer) < end:
            return None
        header = bytes(self._buffer[:BHS_BYTES])
        length = data_bytes(header)
        if self.data_digest and length:
            self._check("data", data_at, end - DIGEST_BYTES)
        data = bytes(self._buffer[data_at : data_at + length])
        del self._buffer[:end]
        return Pdu(header, data)

    def _layout(self) -> tuple[int, int, int]:
        """(end of header and AHS, start of data, end of the PDU) in the buffer, from the header there."""
        length = data_bytes(self._buffer)
        header_end = BHS_BYTES + ahs_bytes(self._buffer)
        data_at = header_end + (DIGEST_BYTES if self.header_digest else 0)
        end = data_at + length + (-length & 3)
        return header_end, data_at, end + (DIGEST_BYTES if self.data_digest and length else 0)

    def _check_header(self) -> None:
        first = self._buffer[0]
        if first & 0x80 or first & 0x3F not in _OPCODES:
            raise PeerError(f"unexpected opcode {first:#04x}", hint=_OUT_OF_STEP, code="iscsi-framing")
        length = data_bytes(self._buffer)
        if length > self.max_data_bytes:
            raise PeerError(
                f"a data segment of {length} bytes exceeds our limit {self.max_data_bytes}",
                hint=_OUT_OF_STEP,
                code="iscsi-framing",
            )

    def _check(self, what: str, start: int, end: int) -> None:
        if digest(self._buffer[start:end]) != self._buffer[end : end + DIGEST_BYTES]:
            raise PeerError(
                f"the {what} digest is wrong",
                hint="data was damaged on its way; check network cards and cables",
                code="iscsi-digest",
            )
