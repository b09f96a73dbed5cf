# SPDX-License-Identifier: Apache-2.0
"""NETLINK_RDMA, client RDMA_NL_IWCM: what the kernel's iWARP connection manager and a port mapper say. Engine ring.

Bytes to values and values to bytes, nothing else: what to answer is `rdmactl.iwpm`. The other clients of the family are
in `nldev.py`. Defined by include/uapi/rdma/rdma_netlink.h (operations, attributes, error codes) and
drivers/infiniband/core/iwpm_msg.c (which attributes each message has, and what the kernel checks in answers).

There is no family header; every attribute listed for a message must be there, longer ones are cut, unknown ones are
ignored and of two equal ones the last counts. Integers are host-endian, addresses a whole `sockaddr_storage`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rdmactl.errors import KernelError
from rdmactl.netlink.message import NETLINK_RDMA, align4, attributes
from rdmactl.netlink.sockaddr import AF_INET, SOCKADDR_STORAGE_BYTES, SockAddr

__all__ = [
    "IWPM_ABI_VERSION",
    "IWPM_ABI_VERSION_MIN",
    "IWPM_FLAGS_NO_PORT_MAP",
    "NETLINK_RDMA",
    "RDMA_NL_GROUP_IWPM",
    "RDMA_NL_IWCM",
    "RDMA_NL_IWPM_ADD_MAPPING",
    "RDMA_NL_IWPM_HANDLE_ERR",
    "RDMA_NL_IWPM_HELLO",
    "RDMA_NL_IWPM_MAPINFO",
    "RDMA_NL_IWPM_MAPINFO_NUM",
    "RDMA_NL_IWPM_QUERY_MAPPING",
    "RDMA_NL_IWPM_REG_PID",
    "RDMA_NL_IWPM_REMOTE_INFO",
    "RDMA_NL_IWPM_REMOVE_MAPPING",
    "ULIB_NAME",
    "IwpmErr",
    "MapInfo",
    "QueryMapping",
    "RegPid",
    "add_mapping_reply",
    "client_of",
    "handle_err",
    "hello",
    "iwcm_type",
    "mapinfo_num_ack",
    "mapinfo_request",
    "op_of",
    "parse_add_mapping",
    "parse_hello",
    "parse_mapinfo",
    "parse_mapinfo_num",
    "parse_query_mapping",
    "parse_reg_pid",
    "parse_remove_mapping",
    "query_mapping_reply",
    "reg_pid_reply",
    "remote_info",
    "seq_of",
]

RDMA_NL_IWCM = 2
RDMA_NL_GROUP_IWPM = 2  # group number; the bit in sockaddr_nl.nl_groups is 1 << 1

RDMA_NL_IWPM_REG_PID = 0
RDMA_NL_IWPM_ADD_MAPPING = 1
RDMA_NL_IWPM_QUERY_MAPPING = 2
RDMA_NL_IWPM_REMOVE_MAPPING = 3
RDMA_NL_IWPM_REMOTE_INFO = 4
RDMA_NL_IWPM_HANDLE_ERR = 5
RDMA_NL_IWPM_MAPINFO = 6
RDMA_NL_IWPM_MAPINFO_NUM = 7
RDMA_NL_IWPM_HELLO = 8

IWPM_ABI_VERSION = 4
IWPM_ABI_VERSION_MIN = 3
"""The kernel refuses less. With version 3 there is no HELLO and no FLAGS attribute."""
IWPM_FLAGS_NO_PORT_MAP = 1
ULIB_NAME = b"iWarpPortMapperUser\0"
"""What both ends call the port mapper's library; the kernel compares it exactly."""

_IFNAME_BYTES = 16
_DEVNAME_BYTES = 32
_ULIBNAME_BYTES = 32

_CLIENT_SHIFT = 10  # nlmsg_type is client << 10 | op
_OP_MASK = 0x3FF
_IWCM_TYPE = RDMA_NL_IWCM << _CLIENT_SHIFT

_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_EBADMSG = 74
_U16_ATTRIBUTE = struct.Struct("=HHH2x")  # nla_len, nla_type, value, padding
_U32_ATTRIBUTE = struct.Struct("=HHI")
_ADDRESS_HEAD = struct.Struct("=HH")
_ADDRESS_BYTES = _ADDRESS_HEAD.size + SOCKADDR_STORAGE_BYTES
_ADDRESS_HEADS = tuple(_ADDRESS_HEAD.pack(_ADDRESS_BYTES, type_) for type_ in range(7))


# What makes and ends a listener comes thousands of times a second, and the kernel writes it always in the same shape:
# that is read by one struct. Any other shape goes the long way, with the same result.
_ADD_SHAPE = struct.Struct("=4s4x4s128s8s")
_REMOVE_SHAPE = struct.Struct("=4s4x4s128s")
_ADD_BYTES, _REMOVE_BYTES = _ADD_SHAPE.size, _REMOVE_SHAPE.size
_SEQ_HEAD = _ADDRESS_HEAD.pack(8, 1)
_FLAGS = {_U32_ATTRIBUTE.pack(8, 3, flags): flags for flags in (0, IWPM_FLAGS_NO_PORT_MAP)}
_NO_ERROR = _U16_ATTRIBUTE.pack(6, 4, 0)
# The same for the answer: two IPv4 addresses, each with attribute head and family in front, and what is behind them.
_ADDED_SHAPE = struct.Struct("!6sH4s120x6sH4s120x8s")
_IPV4_HEADS = tuple(head + struct.pack("=H", AF_INET) for head in _ADDRESS_HEADS)


class IwpmErr:
    """`enum iwpm_err_code`, as carried by HANDLE_ERR and, for REMOTE_QUERY_REJECT, by the answer to a query."""

    INVALID_NLMSG = 10
    CREATE_MAPPING = 11
    DUPLICATE_MAPPING = 12
    UNKNOWN_MAPPING = 13
    CLIENT_DEV_INFO = 14
    USER_LIB_INFO = 15
    REMOTE_QUERY_REJECT = 16
    VERSION_MISMATCH = 17


class RegPid(NamedTuple):
    """Who is there? Asked by multicast, on behalf of the first device that needs a mapping."""

    if_name: str
    ibdev_name: str
    ulib_name: str


class QueryMapping(NamedTuple):
    """Map a connecting address and ask the peer for the mapping of its listener."""

    local: SockAddr
    remote: SockAddr
    flags: int


class MapInfo(NamedTuple):
    """One mapping the kernel has; one such record per connection manager id, so equal ones are normal."""

    local: SockAddr
    mapped: SockAddr
    flags: int


def iwcm_type(op: int) -> int:
    """The nlmsg_type of an operation of client RDMA_NL_IWCM."""
    return _IWCM_TYPE | op


def client_of(type: int) -> int:
    """The RDMA_NL_xxx client of an nlmsg_type."""
    return type >> _CLIENT_SHIFT & 0x3F


def op_of(type: int) -> int:
    """The operation of an nlmsg_type."""
    return type & _OP_MASK


# What the kernel says. All parsers raise KernelError for a message that breaks the rules above.


def parse_reg_pid(payload: bytes) -> RegPid:
    """PID_SEQ, IF_NAME, IBDEV_NAME, ULIB_NAME; the names are zero padded fields that must end with a zero byte."""
    found = _collect(payload, "REG_PID", 4)
    return RegPid(
        _string(found[2], _IFNAME_BYTES, "IF_NAME"),
        _string(found[3], _DEVNAME_BYTES, "IBDEV_NAME"),
        _string(found[4], _ULIBNAME_BYTES, "ULIB_NAME"),
    )


def parse_add_mapping(payload: bytes, version: int) -> tuple[SockAddr, int]:
    """MAPPING_SEQ, ADDR, and with ABI version 4 FLAGS: the listening address and the flags (0 with version 3)."""
    with_flags = version >= IWPM_ABI_VERSION
    if with_flags and len(payload) == _ADD_BYTES:
        seq_head, addr_head, storage, flags = _ADD_SHAPE.unpack(payload)
        if seq_head == _SEQ_HEAD and addr_head == _ADDRESS_HEADS[2] and flags in _FLAGS:
            local = SockAddr.unpack(storage)
            if local is not None:
                return local, _FLAGS[flags]
    found = _collect(payload, "ADD_MAPPING", 3 if with_flags else 2)
    return _address(found[2], "ADDR"), _u32(found[3], "FLAGS") if with_flags else 0


def parse_query_mapping(payload: bytes, version: int) -> QueryMapping:
    """MAPPING_SEQ, LOCAL_ADDR, REMOTE_ADDR, and with ABI version 4 FLAGS."""
    with_flags = version >= IWPM_ABI_VERSION
    found = _collect(payload, "QUERY_MAPPING", 4 if with_flags else 3)
    flags = _u32(found[4], "FLAGS") if with_flags else 0
    return QueryMapping(_address(found[2], "LOCAL_ADDR"), _address(found[3], "REMOTE_ADDR"), flags)


def parse_remove_mapping(payload: bytes) -> SockAddr:
    """MAPPING_SEQ, ADDR: the local address of the mapping that ended."""
    if len(payload) == _REMOVE_BYTES:
        seq_head, addr_head, storage = _REMOVE_SHAPE.unpack(payload)
        if seq_head == _SEQ_HEAD and addr_head == _ADDRESS_HEADS[2]:
            local = SockAddr.unpack(storage)
            if local is not None:
                return local
    return _address(_collect(payload, "REMOVE_MAPPING", 2)[2], "ADDR")


def parse_mapinfo(payload: bytes, version: int) -> MapInfo:
    """LOCAL_ADDR, MAPPED_ADDR, and with ABI version 4 FLAGS."""
    with_flags = version >= IWPM_ABI_VERSION
    found = _collect(payload, "MAPINFO", 3 if with_flags else 2, has_seq=False)
    flags = _u32(found[3], "FLAGS") if with_flags else 0
    return MapInfo(_address(found[1], "LOCAL_ADDR"), _address(found[2], "MAPPED_ADDR"), flags)


def parse_mapinfo_num(payload: bytes) -> int:
    """MAPINFO_SEQ, SEND_NUM: how many records the kernel has sent."""
    return _u32(_collect(payload, "MAPINFO_NUM", 2)[2], "SEND_NUM")


def parse_hello(payload: bytes) -> int:
    """ABI_VERSION: what the kernel will speak."""
    value = _collect(payload, "HELLO", 1, has_seq=False)[1]
    if len(value) < _U16.size:
        raise _malformed("HELLO", "attribute ABI_VERSION is too short")
    version: int = _U16.unpack_from(value)[0]
    return version


def _collect(payload: bytes, message: str, last: int, *, has_seq: bool = True) -> dict[int, bytes]:
    """The attributes by type; 1 to `last` must be there, and 1 is a sequence number unless the message has none."""
    found = dict(attributes(payload))
    for type_ in range(1, last + 1):
        if type_ not in found:
            raise _malformed(message, f"attribute {type_} is missing")
    if has_seq and len(found[1]) < 4:
        raise _malformed(message, "the sequence attribute is too short")
    return found


def _malformed(message: str, what: str) -> KernelError:
    return KernelError(f"RDMA_NL_IWPM_{message}", _EBADMSG, f"malformed {message} from the kernel: {what}")


def _u32(value: bytes, name: str) -> int:
    if len(value) < 4:
        raise KernelError(name, _EBADMSG, f"attribute {name} is too short")
    number: int = _U32.unpack_from(value)[0]
    return number


def _address(value: bytes, name: str) -> SockAddr:
    if len(value) < SOCKADDR_STORAGE_BYTES:
        raise KernelError(name, _EBADMSG, f"attribute {name} is no whole sockaddr_storage")
    address = SockAddr.unpack(value)
    if address is None:
        raise KernelError(name, _EBADMSG, f"attribute {name} is neither IPv4 nor IPv6")
    return address


def _string(value: bytes, limit: int, name: str) -> str:
    if not value or len(value) > limit or value[-1]:
        raise KernelError(name, _EBADMSG, f"attribute {name} is no terminated string of at most {limit} bytes")
    return value[: value.index(0)].decode("latin-1")


# What the port mapper says. A sequence attribute holds the nlmsg_seq of the request that is answered.


def hello(version: int) -> bytes:
    """RDMA_NL_IWPM_HELLO: offer an ABI version."""
    return _u16_attribute(1, version)


def mapinfo_request(version: int) -> bytes:
    """RDMA_NL_IWPM_MAPINFO: ask for every mapping the kernel has."""
    return _name_attribute(1, ULIB_NAME) + _u16_attribute(2, version)


def mapinfo_num_ack(seq: int, sent: int, processed: int) -> bytes:
    """RDMA_NL_IWPM_MAPINFO_NUM: how many of the `sent` records have been understood."""
    return _u32_attribute(1, seq) + _u32_attribute(2, sent) + _u32_attribute(3, processed)


def reg_pid_reply(seq: int, ibdev_name: str, version: int) -> bytes:
    """RDMA_NL_IWPM_REG_PID: here I am."""
    device = ibdev_name.encode("latin-1") + b"\0"
    return (
        _u32_attribute(1, seq)
        + _name_attribute(2, device)
        + _name_attribute(3, ULIB_NAME)
        + _u16_attribute(4, version)
        + _u16_attribute(5, 0)
    )


def add_mapping_reply(seq: int, local: SockAddr, mapped: SockAddr) -> bytes:
    """RDMA_NL_IWPM_ADD_MAPPING: `local` shall listen as `mapped`. Failure is told by `handle_err` only."""
    head = _U32_ATTRIBUTE.pack(8, 1, seq)
    family, port, address, _ = local
    mapped_family, mapped_port, mapped_address, _ = mapped
    if family == mapped_family == AF_INET:
        heads = _IPV4_HEADS
        return head + _ADDED_SHAPE.pack(heads[2], port, address, heads[3], mapped_port, mapped_address, _NO_ERROR)
    return b"".join((head, _ADDRESS_HEADS[2], local.pack(), _ADDRESS_HEADS[3], mapped.pack(), _NO_ERROR))


def query_mapping_reply(
    seq: int, local: SockAddr, remote: SockAddr, mapped_local: SockAddr, mapped_remote: SockAddr, err: int = 0
) -> bytes:
    """RDMA_NL_IWPM_QUERY_MAPPING. `err` is 0 or REMOTE_QUERY_REJECT: the kernel takes any other value for success."""
    return b"".join(
        (
            _U32_ATTRIBUTE.pack(8, 1, seq),
            _ADDRESS_HEADS[2],
            local.pack(),
            _ADDRESS_HEADS[3],
            remote.pack(),
            _ADDRESS_HEADS[4],
            mapped_local.pack(),
            _ADDRESS_HEADS[5],
            mapped_remote.pack(),
            _U16_ATTRIBUTE.pack(6, 6, err),
        )
    )


def remote_info(local: SockAddr, remote: SockAddr, mapped_local: SockAddr, mapped_remote: SockAddr) -> bytes:
    """RDMA_NL_IWPM_REMOTE_INFO: who really connects when `mapped_remote` comes to the listener `mapped_local`."""
    return query_mapping_reply(0, local, remote, mapped_local, mapped_remote)


def handle_err(seq: int, code: int) -> bytes:
    """RDMA_NL_IWPM_HANDLE_ERR: request `seq` has failed. A code of 0 would count as success with no addresses."""
    assert code != 0
    return _u32_attribute(1, seq) + _u16_attribute(2, code)


def seq_of(payload: bytes) -> int:
    """The sequence attribute of an answer built here: it comes first."""
    seq: int = _U32.unpack_from(payload, 4)[0]
    return seq


def _u16_attribute(type: int, value: int) -> bytes:
    return _U16_ATTRIBUTE.pack(6, type, value)


def _u32_attribute(type: int, value: int) -> bytes:
    return _U32_ATTRIBUTE.pack(8, type, value)


def _name_attribute(type: int, value: bytes) -> bytes:
    length = len(value)
    return _ADDRESS_HEAD.pack(4 + length, type) + value + bytes(align4(length) - length)
