# SPDX-License-Identifier: Apache-2.0
"""iSER around iSCSI PDUs: the 28-byte header and the private data of the connection manager. Engine ring.

    iSER header 28 | BHS 48 | AHS 4*TotalAHSLength | data, padded or not; never a digest

The header stands in front of every control-type PDU in both directions, from the first Login Request on. The two
buffers in it are named after the SCSI command they serve: the target reads from the *write* buffer and writes into the
*read* buffer. Hello and HelloReply, a handshake of the standard that nobody sends, are refused: LIO loses its only
login buffer to one.

Not here: queue pairs and memory registration (`rdmactl.rdmacm`), negotiation of the iSER keys (`negotiation.py`).
Defined by RFC 7145 sections 5 and 9, the private data by annex A12 of the InfiniBand specification.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.iscsi.pdu import BHS_BYTES, Pdu, ahs_bytes, data_bytes

__all__ = [
    "ISER_HEADER_BYTES",
    "PRIVATE_DATA",
    "CmFlags",
    "IserHeader",
    "RemoteBuffer",
    "read_private_data",
    "unwrap",
    "wrap",
]

_HEADER = struct.Struct("!B3xIQIQ")
ISER_HEADER_BYTES = _HEADER.size
_CONTROL, _HELLO, _HELLO_REPLY = 0x1, 0x2, 0x3  # high nibble of the first byte
_WRITE_VALID = 0x08
_READ_VALID = 0x04
_MAX_PADDING = 3

_ZBVA_NOT_USED = 0x80
_INVALIDATE_NOT_USED = 0x40
_NOTHING_USED = _ZBVA_NOT_USED | _INVALIDATE_NOT_USED
# Both bits: our buffers have virtual addresses, and ordinary memory regions must not be invalidated by the peer.
PRIVATE_DATA = bytes((_NOTHING_USED, 0, 0, 0))


class RemoteBuffer(NamedTuple):
    """A buffer the target may use: steering tag (rkey) and address."""

    stag: int
    offset: int


class IserHeader(NamedTuple):
    """`write`: the target may read from it; `read`: the target may write into it."""

    write: RemoteBuffer | None = None
    read: RemoteBuffer | None = None

    def pack(self) -> bytes:
        """The 28 bytes."""
        first = _CONTROL << 4 | (_WRITE_VALID if self.write else 0) | (_READ_VALID if self.read else 0)
        return _HEADER.pack(first, *(self.write or (0, 0)), *(self.read or (0, 0)))

    @classmethod
    def unpack(cls, message: bytes) -> IserHeader:
        """Read the first 28 bytes; PeerError for anything but a control-type header."""
        _check_kind(message)
        first, write_stag, write_offset, read_stag, read_offset = _HEADER.unpack_from(message)
        return cls(
            RemoteBuffer(write_stag, write_offset) if first & _WRITE_VALID else None,
            RemoteBuffer(read_stag, read_offset) if first & _READ_VALID else None,
        )


class CmFlags(NamedTuple):
    """What the target uses on this connection."""

    zero_based: bool
    remote_invalidation: bool


def wrap(pdu: Pdu, header: IserHeader | None = None) -> bytes:
    """The message for one PDU; without padding, as the kernel's initiator sends it. `header` only for buffers in it."""
    return (header or IserHeader()).pack() + pdu.header + pdu.data


def unwrap(message: bytes) -> Pdu:
    """The PDU in a received message; PeerError unless its length fits the lengths inside."""
    _check_kind(message)  # what is in the header of a target's message means nothing to an initiator
    data_at = ISER_HEADER_BYTES + BHS_BYTES
    if len(message) < data_at:
        raise PeerError(f"an iSER message of {len(message)} bytes has no whole iSCSI header", code="iser-framing")
    header = bytes(message[ISER_HEADER_BYTES:data_at])
    data_at += ahs_bytes(header)
    length = data_bytes(header)
    if not 0 <= len(message) - data_at - length <= _MAX_PADDING:
        raise PeerError(
            f"an iSER message of {len(message)} bytes does not fit the data length {length} in it", code="iser-framing"
        )
    return Pdu(header, bytes(message[data_at : data_at + length]))


def _check_kind(message: bytes) -> None:
    if len(message) < ISER_HEADER_BYTES:
        raise PeerError(f"an iSER message of {len(message)} bytes is shorter than its header", code="iser-framing")
    kind = message[0] >> 4
    if kind in (_HELLO, _HELLO_REPLY):
        raise PeerError("an iSER Hello nobody asked for", code="iser-framing")
    if kind != _CONTROL:
        raise PeerError(f"an iSER header with opcode {kind:#x}", code="iser-framing")


def read_private_data(data: bytes) -> CmFlags:
    """What the target's reply says; no data at all means that it uses neither.

    Providers pad it with zeros to a fixed length, so zeros may be silence as well as consent; since `PRIVATE_DATA`
    allows neither, only a header that uses one of them later would be an error.
    """
    flags = data[0] if data else _NOTHING_USED
    return CmFlags(not flags & _ZBVA_NOT_USED, not flags & _INVALIDATE_NOT_USED)
