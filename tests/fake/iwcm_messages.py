# SPDX-License-Identifier: Apache-2.0
"""What the kernel's iw_cm says, as bytes: the other half of `rdmactl.netlink.rdma`, for fakes and tests."""

from __future__ import annotations

import struct

from rdmactl.netlink.message import NLM_F_MULTI, NLM_F_REQUEST, attribute, build
from rdmactl.netlink.rdma import (
    RDMA_NL_IWPM_ADD_MAPPING,
    RDMA_NL_IWPM_HELLO,
    RDMA_NL_IWPM_MAPINFO,
    RDMA_NL_IWPM_MAPINFO_NUM,
    RDMA_NL_IWPM_QUERY_MAPPING,
    RDMA_NL_IWPM_REG_PID,
    RDMA_NL_IWPM_REMOVE_MAPPING,
    ULIB_NAME,
    iwcm_type,
)
from rdmactl.netlink.sockaddr import SockAddr

__all__ = [
    "add_mapping",
    "done",
    "error",
    "hello",
    "mapinfo",
    "mapinfo_num",
    "query_mapping",
    "reg_pid",
    "remove_mapping",
    "u16",
    "u32",
]


def u16(type: int, value: int) -> bytes:
    return attribute(type, struct.pack("=H", value))


def u32(type: int, value: int) -> bytes:
    return attribute(type, struct.pack("=I", value))


def _addr(type: int, address: SockAddr) -> bytes:
    return attribute(type, address.pack())


def _flags(type: int, flags: int | None) -> bytes:
    return b"" if flags is None else u32(type, flags)


def hello(seq: int, version: int) -> bytes:
    return build(iwcm_type(RDMA_NL_IWPM_HELLO), u16(1, version), flags=NLM_F_REQUEST, seq=seq)


def reg_pid(seq: int, if_name: str, ibdev_name: str, echo: int = 0) -> bytes:
    payload = (
        u32(1, echo)
        + attribute(2, if_name.encode().ljust(16, b"\0"))
        + attribute(3, ibdev_name.encode().ljust(32, b"\0"))
        + attribute(4, ULIB_NAME.ljust(32, b"\0"))
    )
    return build(iwcm_type(RDMA_NL_IWPM_REG_PID), payload, seq=seq)


def add_mapping(seq: int, local: SockAddr, flags: int | None = 0, echo: int = 0) -> bytes:
    payload = u32(1, echo) + _addr(2, local) + _flags(3, flags)
    return build(iwcm_type(RDMA_NL_IWPM_ADD_MAPPING), payload, seq=seq)


def query_mapping(seq: int, local: SockAddr, remote: SockAddr, flags: int | None = 0, echo: int = 0) -> bytes:
    payload = u32(1, echo) + _addr(2, local) + _addr(3, remote) + _flags(4, flags)
    return build(iwcm_type(RDMA_NL_IWPM_QUERY_MAPPING), payload, seq=seq)


def remove_mapping(seq: int, local: SockAddr, echo: int = 0) -> bytes:
    return build(iwcm_type(RDMA_NL_IWPM_REMOVE_MAPPING), u32(1, echo) + _addr(2, local), seq=seq)


def mapinfo(local: SockAddr, mapped: SockAddr, flags: int | None = 0) -> bytes:
    payload = _addr(1, local) + _addr(2, mapped) + _flags(3, flags)
    return build(iwcm_type(RDMA_NL_IWPM_MAPINFO), payload, flags=NLM_F_MULTI)


def mapinfo_num(seq: int, sent: int) -> bytes:
    return build(iwcm_type(RDMA_NL_IWPM_MAPINFO_NUM), u32(1, 0) + u32(2, sent), seq=seq)


def done(seq: int, portid: int, code: int = 0) -> bytes:
    return build(3, struct.pack("=i", code), flags=NLM_F_MULTI, seq=seq, pid=portid)


def error(request: bytes, code: int) -> bytes:
    seq, portid = struct.unpack_from("=II", request, 8)
    return build(2, struct.pack("=i", code) + request, flags=0, seq=seq, pid=portid)
