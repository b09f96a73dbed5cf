# SPDX-License-Identifier: Apache-2.0
"""Requests about adapters with their own iSCSI stack: CHAP table, flash nodes, network settings, ping. Engine ring.

The kernel passes these to the adapter's driver. CHAP table and host statistics come back to the whole event group, a
ping's outcome as an event later, everything else as the answer to the request.
Not here: which key of a record is which parameter (`iscsi_iface`, `rdmactl.records.adapter`), sockets.
Defined by include/scsi/iscsi_if.h; the attributes by drivers/scsi/qla4xxx, which is the driver that has all of this.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.netlink.iscsi import UEVENT, Uevent, request
from rdmactl.netlink.message import align4

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rdmactl.netlink.message import Message

__all__ = [
    "PING_FAILURES",
    "ChapEntry",
    "ChapParam",
    "IfaceParam",
    "answer_of",
    "delete_chap",
    "flashnode_request",
    "get_chap",
    "get_host_stats",
    "new_flashnode",
    "parse_chap",
    "ping",
    "ping_status",
    "set_chap",
    "set_flashnode",
    "set_iface_params",
]

_CHAP_ENTRY = struct.Struct("=H2xi256s256sB3x")
_PARAM = struct.Struct("=IH")  # length of the value, number of the parameter
_IFACE_PARAM = struct.Struct("=IIHBB")  # interface, length, number, family, kind

PING_FAILURES = {
    1: "Firmware disabled",
    2: "Invalid IP address",
    3: "Invalid link local IPv6 address",
    4: "Timed out",
    5: "Invalid destination address",
    6: "Oversized packet",
    7: "ICMP error",
    8: "Max request exceeded",
    9: "No ARP response received",
}
"""enum iscsi_ping_status_code, in open-iscsi's words."""


class ChapParam(IntEnum):
    """enum iscsi_chap_param."""

    INDEX = 0
    TYPE = 1
    USERNAME = 2
    PASSWORD = 3
    PASSWORD_LEN = 4


class ChapEntry(NamedTuple):
    """One line of an adapter's CHAP table. `incoming`: what a target has to prove (mutual CHAP)."""

    number: int
    incoming: bool
    username: str
    password: str

    def __repr__(self) -> str:
        return f"ChapEntry({self.number}, incoming={self.incoming}, {self.username!r}, secret hidden)"


class IfaceParam(NamedTuple):
    """A setting of an adapter's interface: `number` within its `kind` (2 network, 5 iSCSI), for one IP family."""

    number: int
    kind: int
    value: bytes


def get_chap(handle: int, host_no: int, entries: int, first: int) -> bytes:
    """Up to `entries` lines of the CHAP table, from index `first` on."""
    return request(Uevent.GET_CHAP, handle, struct.pack("=IIH", host_no, entries, first))


def parse_chap(u: bytes, payload: bytes) -> list[ChapEntry] | None:
    """The answer to `get_chap`; None when it is cut short."""
    count = struct.unpack_from("=I", u, 4)[0]
    if count * _CHAP_ENTRY.size > len(payload):
        return None
    found = []
    for at in range(count):
        index, kind, username, password, length = _CHAP_ENTRY.unpack_from(payload, at * _CHAP_ENTRY.size)
        found.append(ChapEntry(index, kind == 1, _text(username), _text(password[:length])))
    return found


def set_chap(handle: int, host_no: int, entry: ChapEntry) -> bytes:
    """Write one line of the CHAP table."""
    password = entry.password.encode()
    params = (
        (ChapParam.INDEX, struct.pack("=H", entry.number)),
        (ChapParam.TYPE, bytes((entry.incoming,))),
        (ChapParam.USERNAME, entry.username.encode() + b"\0"),
        (ChapParam.PASSWORD, password + b"\0"),
        (ChapParam.PASSWORD_LEN, bytes((len(password),))),
    )
    return request(Uevent.SET_CHAP, handle, struct.pack("=I", host_no), _params(params))


def delete_chap(handle: int, host_no: int, index: int) -> bytes:
    """Clear one line of the CHAP table."""
    return request(Uevent.DELETE_CHAP, handle, struct.pack("=IH", host_no, index))


def new_flashnode(handle: int, host_no: int, family: str) -> bytes:
    """A new flash node; `family` is "ipv4" or "ipv6". The answer has its index."""
    text = family.encode() + b"\0"
    return request(Uevent.NEW_FLASHNODE, handle, struct.pack("=II", host_no, len(text)), text)


def flashnode_request(kind: Uevent, handle: int, host_no: int, index: int) -> bytes:
    """DEL_FLASHNODE, LOGIN_FLASHNODE or LOGOUT_FLASHNODE."""
    return request(kind, handle, struct.pack("=II", host_no, index))


def set_flashnode(handle: int, host_no: int, index: int, params: Iterable[tuple[int, bytes]]) -> bytes:
    """Change a flash node."""
    listed = tuple(params)
    u = struct.pack("=III", host_no, index, len(listed))
    return request(Uevent.SET_FLASHNODE_PARAMS, handle, u, _params(listed))


def set_iface_params(handle: int, host_no: int, iface_num: int, *, ipv6: bool, params: Iterable[IfaceParam]) -> bytes:
    """Network settings of one interface of the adapter, all at once."""
    listed = tuple(params)
    payload = b"".join(
        _attribute(p.number, _IFACE_PARAM.pack(iface_num, len(p.value), p.number, 2 if ipv6 else 1, p.kind) + p.value)
        for p in listed
    )
    return request(Uevent.SET_IFACE_PARAMS, handle, struct.pack("=II", host_no, len(listed)), payload)


def ping(
    handle: int, host_no: int, iface_num: int, number: int, size_bytes: int, sockaddr: bytes, *, ipv6: bool
) -> bytes:
    """One ping by the adapter; its outcome is an event that names `number`."""
    u = struct.pack("=IIIII", host_no, iface_num, 2 if ipv6 else 1, size_bytes, number)
    return request(Uevent.PING, handle, u, sockaddr)


def ping_status(received: Message, host_no: int, number: int) -> int | None:
    """The outcome in an event, 0 for an answer; None when it is about something else."""
    if received.type != 0 or len(received.payload) < UEVENT.size:
        return None
    kind, _, _, _, r = UEVENT.unpack_from(received.payload)
    host, status, pid = struct.unpack_from("=III", r)
    return int(status) if (kind, host, pid) == (Uevent.PING_COMP, host_no, number) else None


def get_host_stats(handle: int, host_no: int) -> bytes:
    """Counters of the adapter's whole host."""
    return request(Uevent.GET_HOST_STATS, handle, struct.pack("=I", host_no))


def answer_of(received: Message, kind: Uevent, host_no: int) -> tuple[bytes, bytes] | None:
    """(union u, payload) of an answer that went to the event group; None when the message is something else."""
    if received.type != 0 or len(received.payload) < UEVENT.size:
        return None
    number, _, _, u, _ = UEVENT.unpack_from(received.payload)
    if number != kind or struct.unpack_from("=I", u)[0] != host_no:
        return None
    return u, received.payload[UEVENT.size :]


def _params(params: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(_attribute(number, _PARAM.pack(len(value), number) + value) for number, value in params)


def _attribute(number: int, body: bytes) -> bytes:
    length = 4 + len(body)
    return struct.pack("=HH", length, number) + body + bytes(align4(length) - length)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace")
