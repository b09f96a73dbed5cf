# SPDX-License-Identifier: Apache-2.0
"""CRC32C, the digest of iSCSI headers and data. Engine ring.

Python's library has no CRC32C, and ours is needed for a few text PDUs only (the kernel computes those of sessions), so
a table of 256 entries does. Not here: where digests stand in a PDU (`stream.py`). Defined by RFC 7143 section 13.1.
"""

from __future__ import annotations

import struct

__all__ = ["DIGEST_BYTES", "crc32c", "digest"]

DIGEST_BYTES = 4
_REVERSED_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, bits reversed
_LITTLE_ENDIAN = struct.Struct("<I")


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_REVERSED_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(_entry(index) for index in range(256))


def crc32c(data: bytes | bytearray) -> int:
    """The checksum of `data` as a number."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def digest(data: bytes | bytearray) -> bytes:
    """The checksum as it is sent: least significant byte first, unlike everything else in iSCSI."""
    return _LITTLE_ENDIAN.pack(crc32c(data))
