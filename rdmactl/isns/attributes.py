# SPDX-License-Identifier: Apache-2.0
"""iSNS attributes: tag, length, value; how values are written and read. Engine ring.

    tag u32 | length u32 (of the value with its padding, a multiple of 4) | value

Strings are UTF-8 with a NUL and padding; an attribute without value asks for it. Addresses are 16 bytes: IPv4 must be
written as ::ffff:a.b.c.d, but open-isns writes ::a.b.c.d, so both are read.
Not here: which attributes a message has (`requests.py`, `targets.py`). Defined by RFC 4171 section 6.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from rdmactl.errors import PeerError

__all__ = [
    "DELIMITER",
    "UDP_PORT",
    "Attribute",
    "Tag",
    "ask",
    "of_address",
    "of_number",
    "of_text",
    "pack",
    "read_address",
    "read_number",
    "read_text",
    "unpack",
]

_HEAD = struct.Struct(">II")
_U32 = struct.Struct(">I")
_ADDRESS_BYTES = 16
_MAX_TEXT_BYTES = 256  # of the strings a client reads; names have a limit of their own
UDP_PORT = 0x10000
"""The bit of a port attribute that says UDP."""


class Tag(IntEnum):
    """The attributes a client meets (RFC 4171 section 6.1)."""

    DELIMITER = 0
    ENTITY_IDENTIFIER = 1
    ENTITY_PROTOCOL = 2
    TIMESTAMP = 4
    REGISTRATION_PERIOD = 6
    PORTAL_IP = 16
    PORTAL_PORT = 17
    ESI_INTERVAL = 19
    ESI_PORT = 20
    SCN_PORT = 23
    ISCSI_NAME = 32
    ISCSI_NODE_TYPE = 33
    SCN_BITMAP = 35
    PG_ISCSI_NAME = 48
    PG_PORTAL_IP = 49
    PG_PORTAL_PORT = 50
    PG_TAG = 51
    DD_ID = 2065


class Attribute(NamedTuple):
    """One attribute; `value` as on the wire, padding included."""

    tag: int
    value: bytes = b""

    @property
    def name(self) -> str:
        """For messages."""
        known = next((tag for tag in Tag if tag == self.tag), None)
        return f"attribute {self.tag}" if known is None else f"attribute {self.tag} ({known.name.lower()})"


DELIMITER = Attribute(Tag.DELIMITER)


def of_text(tag: Tag, text: str) -> Attribute:
    """A string, with its NUL and padding."""
    raw = text.encode("utf-8", "surrogateescape") + b"\0"
    return Attribute(tag, raw + bytes(-len(raw) & 3))


def of_number(tag: Tag, number: int) -> Attribute:
    """A 32-bit number."""
    return Attribute(tag, _U32.pack(number))


def of_address(tag: Tag, address: str) -> Attribute:
    """An IPv4 or IPv6 address; a zone is left out."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    return Attribute(tag, packed)


def ask(*tags: Tag) -> tuple[Attribute, ...]:
    """Attributes without value: a query for them."""
    return tuple(Attribute(tag) for tag in tags)


def pack(attributes: Iterable[Attribute]) -> bytes:
    """The bytes on the wire."""
    return b"".join(_HEAD.pack(tag, len(value)) + value for tag, value in attributes)


def unpack(payload: bytes, start: int = 0) -> Iterator[Attribute]:
    """The attributes from `start` on, one by one. PeerError where a length contradicts the payload."""
    at, end = start, len(payload)
    while at < end:
        if end - at < _HEAD.size:
            raise PeerError(f"malformed message: {end - at} bytes behind the last attribute", code="isns-malformed")
        tag, length = _HEAD.unpack_from(payload, at)
        at += _HEAD.size
        if length % 4 or length > end - at:
            raise PeerError(
                f"malformed message: {Attribute(tag).name} of {length} bytes, with {end - at} left",
                code="isns-malformed",
            )
        yield Attribute(tag, payload[at : at + length])
        at += length


def read_text(attribute: Attribute) -> str:
    """A string up to its NUL, or to its end where that is missing; what is no UTF-8 becomes lone surrogates."""
    raw = attribute.value.partition(b"\0")[0]
    if len(raw) > _MAX_TEXT_BYTES:
        raw = raw[: _MAX_TEXT_BYTES + 1]  # long enough to be refused as a name, short enough to keep
    return raw.decode("utf-8", "surrogateescape")


def read_number(attribute: Attribute) -> int:
    """A 32-bit number; PeerError when it has another size."""
    if len(attribute.value) != _U32.size:
        raise _wrong_size(attribute, _U32.size)
    return int(_U32.unpack(attribute.value)[0])


def read_address(attribute: Attribute) -> str:
    """An address as text: IPv4 in either of the two forms in use, else IPv6. PeerError when it has another size."""
    value = attribute.value
    if len(value) != _ADDRESS_BYTES:
        raise _wrong_size(attribute, _ADDRESS_BYTES)
    mapped = value[:10] == bytes(10) and value[10:12] == b"\xff\xff"
    compatible = value[:12] == bytes(12) and int.from_bytes(value[12:], "big") > 1  # :: and ::1 are IPv6
    if mapped or compatible:
        return str(ipaddress.IPv4Address(value[12:]))
    return str(ipaddress.IPv6Address(value))


def _wrong_size(attribute: Attribute, wanted: int) -> PeerError:
    return PeerError(
        f"malformed message: {attribute.name} of {len(attribute.value)} bytes instead of {wanted}",
        code="isns-malformed",
    )
