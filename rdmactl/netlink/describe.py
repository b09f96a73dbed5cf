# SPDX-License-Identifier: Apache-2.0
"""One line about any netlink message, for traces; and what of it must not be shown. Engine ring.

Not here: keeping or writing traces (`trace.py`), parsing for use (`rdma.py`, `iscsi.py`, `route.py`, `uevent.py`; their
formats are the ones described here). The module of a family is imported when its first message is described.

Nothing in here raises: a trace that fails on a strange message is of no use on the day it is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from rdmactl.netlink.message import (
    NETLINK_ISCSI,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_RDMA,
    NETLINK_ROUTE,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    attributes,
    reply_code,
)

__all__ = ["Described", "describe", "redact"]

_CLIENT_SHIFT = 10
_RDMA_NL_IWCM = 2
_IWPM = (
    "REG_PID",
    "ADD_MAPPING",
    "QUERY_MAPPING",
    "REMOVE_MAPPING",
    "REMOTE_INFO",
    "HANDLE_ERR",
    "MAPINFO",
    "MAPINFO_NUM",
    "HELLO",
)
_IWPM_ASKING = (0, 1, 2)  # operations the kernel waits for an answer to
_IWPM_ANSWERING = (0, 1, 2, 5)  # and ours that answer, with the kernel's number in attribute 1
_RTM_KINDS = {16: "LINK", 20: "ADDR", 24: "ROUTE", 28: "NEIGH", 32: "RULE"}  # RTM_NEWxxx; DEL, GET, SET follow
_SOCKADDR_STORAGE_BYTES = 128
_UEVENT_AT = 16 + 56


class Described(NamedTuple):
    """`text` for people. `asks`: the kernel waits for an answer with this number; `answers`: this is one."""

    text: str
    asks: int | None = None
    answers: int | None = None


def describe(family: int, message: Message, inbound: bool) -> Described:
    """One message; `inbound` if it came from the kernel."""
    describer = _DESCRIBERS.get(family)
    try:
        if family not in (NETLINK_ISCSI, NETLINK_KOBJECT_UEVENT) and message.type in (NLMSG_DONE, NLMSG_ERROR):
            name = "NLMSG_DONE" if message.type == NLMSG_DONE else "NLMSG_ERROR"
            return Described(f"{name} seq={message.seq} code={reply_code(message)}")
        if describer is not None:
            return describer(message, inbound)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError):
        return Described(f"malformed type={message.type:#x} seq={message.seq} {len(message.payload)} bytes")
    return Described(f"type={message.type:#x} seq={message.seq} {len(message.payload)} bytes")


def redact(family: int, datagram: bytes) -> bytes:
    """The same datagram without secrets, of the same length."""
    if family != NETLINK_ISCSI:
        return datagram
    from rdmactl.netlink import iscsi

    try:
        return iscsi.redacted(datagram)
    except (ValueError, IndexError, struct.error):
        return datagram[:_UEVENT_AT] + bytes(max(0, len(datagram) - _UEVENT_AT))


def _rdma(message: Message, inbound: bool) -> Described:
    client, op = message.type >> _CLIENT_SHIFT, message.type & 0x3FF
    if client != _RDMA_NL_IWCM or op >= len(_IWPM):
        return Described(f"client={client} op={op} seq={message.seq} {len(message.payload)} bytes")
    found = list(attributes(message.payload))
    text = f"{_IWPM[op]} seq={message.seq}" + "".join(f" {type_}={_attribute(value)}" for type_, value in found)
    if inbound:
        return Described(text, asks=message.seq if op in _IWPM_ASKING else None)
    first = dict(found).get(1)
    if op in _IWPM_ANSWERING and first is not None and len(first) >= 4:
        return Described(text, answers=struct.unpack_from("=I", first)[0])
    return Described(text)


def _attribute(value: bytes) -> str:
    """Told by its length: an address, a number, a name."""
    if len(value) >= _SOCKADDR_STORAGE_BYTES:
        from rdmactl.netlink.sockaddr import SockAddr

        return str(SockAddr.unpack(value))
    if len(value) in (2, 4):
        return str(struct.unpack("=H" if len(value) == 2 else "=I", value)[0])
    return repr(value.rstrip(b"\0").decode("latin-1"))


def _iscsi(message: Message, inbound: bool) -> Described:
    from rdmactl.netlink import iscsi

    kind, iferror, _, u, r = iscsi.UEVENT.unpack_from(message.payload)
    number = kind if message.type == 0 else message.type
    name = iscsi.Uevent(number).name if number in iscsi.Uevent.__members__.values() else f"type {number}"
    extra = len(message.payload) - iscsi.UEVENT.size
    if not inbound:
        return Described(f"{name} u={u.rstrip(bytes(1)).hex() or 0} {extra} bytes")
    state = f" error={iferror}" if kind == iscsi.Uevent.IF_ERROR else f" r={r.rstrip(bytes(1)).hex() or 0}"
    return Described(f"{'event ' if message.type == 0 else ''}{name}{state} {extra} bytes")


def _uevent(message: Message, inbound: bool) -> Described:
    from rdmactl.netlink import uevent

    event = uevent.parse(message.payload)
    return Described("no event of the kernel's" if event is None else f"{event.action} {event.devpath}")


def _route(message: Message, inbound: bool) -> Described:
    kind = _RTM_KINDS.get(message.type & ~3)
    name = f"type={message.type:#x}" if kind is None else ("NEW", "DEL", "GET", "SET")[message.type & 3] + kind
    return Described(f"{name} seq={message.seq} {len(message.payload)} bytes")


_DESCRIBERS: dict[int, Callable[[Message, bool], Described]] = {
    NETLINK_ROUTE: _route,
    NETLINK_ISCSI: _iscsi,
    NETLINK_KOBJECT_UEVENT: _uevent,
    NETLINK_RDMA: _rdma,
}
