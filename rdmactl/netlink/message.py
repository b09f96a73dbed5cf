# SPDX-License-Identifier: Apache-2.0
"""Netlink framing shared by all families: message header, attributes, acknowledgements. Engine ring.

Not here: sockets, and what a family's attributes mean (`rdma.py`, `iscsi.py`, `nldev.py`).
Defined by include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "HEADER",
    "NETLINK_ISCSI",
    "NETLINK_KOBJECT_UEVENT",
    "NETLINK_RDMA",
    "NETLINK_ROUTE",
    "NLMSG_DONE",
    "NLMSG_ERROR",
    "NLMSG_MIN_TYPE",
    "NLMSG_NOOP",
    "NLM_F_ACK",
    "NLM_F_DUMP",
    "NLM_F_MULTI",
    "NLM_F_REQUEST",
    "Message",
    "align4",
    "attribute",
    "attributes",
    "build",
    "reply_code",
    "split",
]

NETLINK_ROUTE = 0
NETLINK_ISCSI = 8
NETLINK_KOBJECT_UEVENT = 15
NETLINK_RDMA = 20

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_MIN_TYPE = 0x10
NLM_F_REQUEST = 1
NLM_F_MULTI = 2
NLM_F_ACK = 4
NLM_F_DUMP = 0x300

HEADER = struct.Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
_HEADER_BYTES = HEADER.size
_ATTRIBUTE = struct.Struct("=HH")  # nla_len (header included, padding not), nla_type
_unpack_attribute = _ATTRIBUTE.unpack_from
_CODE = struct.Struct("=i")
_tuple = tuple.__new__
_NLA_TYPE_MASK = 0x3FFF  # the two top bits are NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Message(NamedTuple):
    """One netlink message; `payload` is everything behind the 16-byte header, without padding."""

    type: int
    flags: int
    seq: int
    pid: int
    payload: bytes


def align4(length: int) -> int:
    """`length` rounded up to the alignment of netlink messages and attributes."""
    return (length + 3) & ~3


def build(type: int, payload: bytes = b"", *, flags: int = NLM_F_REQUEST, seq: int = 0, pid: int = 0) -> bytes:
    """One message as bytes, unpadded."""
    return HEADER.pack(_HEADER_BYTES + len(payload), type, flags, seq, pid) + payload


def split(datagram: bytes) -> list[Message]:
    """The messages of one datagram, in order.

    A length below the header's or beyond the datagram ends the list: what lies behind cannot be found.
    """
    messages: list[Message] = []
    offset = 0
    end = len(datagram)
    while end - offset >= _HEADER_BYTES:
        length, *fields = HEADER.unpack_from(datagram, offset)
        if length < _HEADER_BYTES or length > end - offset:
            break
        # tuple's own constructor: a named tuple's is a Python function, and this runs for every message.
        messages.append(_tuple(Message, (*fields, datagram[offset + _HEADER_BYTES : offset + length])))
        offset += (length + 3) & ~3
    return messages


def attribute(type: int, value: bytes) -> bytes:
    """One nlattr with its padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), type) + value + bytes(-len(value) & 3)


def attributes(payload: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """(type, value) of each nlattr from `offset` on; ends, as the kernel's walk does, at one that does not fit."""
    found = []
    end = len(payload)
    while end - offset >= 4:
        length, type_ = _unpack_attribute(payload, offset)
        if length < 4 or length > end - offset:
            break
        found.append((type_ & _NLA_TYPE_MASK, payload[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


def reply_code(message: Message) -> int | None:
    """The i32 of an NLMSG_DONE or NLMSG_ERROR (0 or -errno); None for other types and for a bare DONE."""
    if message.type in (NLMSG_DONE, NLMSG_ERROR) and len(message.payload) >= _CODE.size:
        code: int = _CODE.unpack_from(message.payload)[0]
        return code
    return None
