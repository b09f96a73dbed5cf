# SPDX-License-Identifier: Apache-2.0
"""RDMA devices and their ports as NETLINK_RDMA's client NLDEV reports them. Engine ring, import-light.

Requests are dumps: one message per device, or per port of one device, then NLMSG_DONE. Attributes this module does
not know are skipped: each kernel release adds some. Not here: sockets (`rdmactl.rdmacm.devices`), the port mapper's
messages (`rdma.py`), GIDs (NLDEV has none: they are in sysfs).
Defined by include/uapi/rdma/rdma_netlink.h and ib_user_verbs.h; filled in by drivers/infiniband/core/nldev.c.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rdmactl.netlink.message import attribute, attributes
from rdmactl.netlink.sockaddr import SOCKADDR_STORAGE_BYTES, SockAddr

__all__ = [
    "RDMA_NLDEV_CMD_GET",
    "RDMA_NLDEV_CMD_PORT_GET",
    "RDMA_NLDEV_CMD_RES_CM_ID_GET",
    "RDMA_NL_NLDEV",
    "CmId",
    "Device",
    "Port",
    "message_type",
    "parse_cm_ids",
    "parse_device",
    "parse_port",
    "ports_request",
]

RDMA_NL_NLDEV = 5

RDMA_NLDEV_CMD_GET = 1
RDMA_NLDEV_CMD_PORT_GET = 5
RDMA_NLDEV_CMD_RES_CM_ID_GET = 11

RDMA_NLDEV_ATTR_DEV_INDEX = 1  # u32
RDMA_NLDEV_ATTR_DEV_NAME = 2  # string
RDMA_NLDEV_ATTR_PORT_INDEX = 3  # u32: a port's number, or the last port of a device
RDMA_NLDEV_ATTR_FW_VERSION = 5  # string
RDMA_NLDEV_ATTR_NODE_GUID = 6  # u64
RDMA_NLDEV_ATTR_SYS_IMAGE_GUID = 7  # u64
RDMA_NLDEV_ATTR_LID = 9  # u32, InfiniBand only
RDMA_NLDEV_ATTR_PORT_STATE = 12  # u8
RDMA_NLDEV_ATTR_PORT_PHYS_STATE = 13  # u8
RDMA_NLDEV_ATTR_DEV_NODE_TYPE = 14  # u8
RDMA_NLDEV_ATTR_RES_STATE = 27  # u8: enum rdma_cm_state
RDMA_NLDEV_ATTR_RES_PID = 28  # u32, for user space's
RDMA_NLDEV_ATTR_RES_KERN_NAME = 29  # string, for the kernel's own
RDMA_NLDEV_ATTR_RES_CM_ID = 30  # nested: entries
RDMA_NLDEV_ATTR_RES_CM_ID_ENTRY = 31
RDMA_NLDEV_ATTR_RES_PS = 32  # u32: port space
RDMA_NLDEV_ATTR_RES_SRC_ADDR = 33  # struct __kernel_sockaddr_storage
RDMA_NLDEV_ATTR_NDEV_NAME = 51  # string
RDMA_NLDEV_ATTR_DEV_PROTOCOL = 67  # string: ib, roce, iw, usnic; of port 1

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_RDMA_PS_TCP = 0x0106
_RDMA_CM_LISTEN = b"\x08"

_NODE_TYPES = {1: "CA", 2: "switch", 3: "router", 4: "RNIC", 5: "usNIC", 6: "usNIC UDP", 7: "unspecified"}
_STATES = {0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
_PHYSICAL_STATES = {
    0: "NOP",
    1: "SLEEP",
    2: "POLLING",
    3: "DISABLED",
    4: "PORT_CONFIGURATION_TRAINING",
    5: "LINK_UP",
    6: "LINK_ERROR_RECOVERY",
    7: "PHY_TEST",
}


class Device(NamedTuple):
    """One device. `protocol` is "" on kernels before 5.2; GUIDs are written as sysfs writes them."""

    device_index: int
    name: str
    protocol: str
    node_type: str
    firmware: str
    node_guid: str
    system_image_guid: str
    ports: int


class Port(NamedTuple):
    """One port of a device; `netdev` is "" when none belongs to it, or none of the reader's namespace."""

    number: int
    state: str
    physical_state: str
    netdev: str
    lid: int | None


class CmId(NamedTuple):
    """One id of the connection manager that is bound to a device. `owner` is a process id, or a name in the kernel."""

    device: str
    listens: bool
    local: SockAddr
    owner: str


def message_type(command: int) -> int:
    """nlmsg_type of an NLDEV command."""
    return (RDMA_NL_NLDEV << 10) | command


def ports_request(device_index: int) -> bytes:
    """The payload of a dump for one device: ports, or ids. (RDMA_NLDEV_CMD_GET needs none.)"""
    return attribute(RDMA_NLDEV_ATTR_DEV_INDEX, _U32.pack(device_index))


def parse_device(payload: bytes) -> Device | None:
    """A message of an RDMA_NLDEV_CMD_GET dump; None when it names no device."""
    found = dict(attributes(payload))
    index = _u32(found.get(RDMA_NLDEV_ATTR_DEV_INDEX))
    name = _text(found.get(RDMA_NLDEV_ATTR_DEV_NAME))
    if index is None or not name:
        return None
    return Device(
        index,
        name,
        _text(found.get(RDMA_NLDEV_ATTR_DEV_PROTOCOL)),
        _named(_NODE_TYPES, found.get(RDMA_NLDEV_ATTR_DEV_NODE_TYPE)),
        _text(found.get(RDMA_NLDEV_ATTR_FW_VERSION)),
        _guid(found.get(RDMA_NLDEV_ATTR_NODE_GUID)),
        _guid(found.get(RDMA_NLDEV_ATTR_SYS_IMAGE_GUID)),
        _u32(found.get(RDMA_NLDEV_ATTR_PORT_INDEX)) or 0,
    )


def parse_port(payload: bytes) -> Port | None:
    """A message of an RDMA_NLDEV_CMD_PORT_GET dump; None when it names no port."""
    found = dict(attributes(payload))
    number = _u32(found.get(RDMA_NLDEV_ATTR_PORT_INDEX))
    if number is None:
        return None
    return Port(
        number,
        _named(_STATES, found.get(RDMA_NLDEV_ATTR_PORT_STATE)),
        _named(_PHYSICAL_STATES, found.get(RDMA_NLDEV_ATTR_PORT_PHYS_STATE)),
        _text(found.get(RDMA_NLDEV_ATTR_NDEV_NAME)),
        _u32(found.get(RDMA_NLDEV_ATTR_LID)),
    )


def parse_cm_ids(payload: bytes) -> list[CmId]:
    """A message of an RDMA_NLDEV_CMD_RES_CM_ID_GET dump: those ids that have an address and the port space of TCP."""
    found = dict(attributes(payload))
    device = _text(found.get(RDMA_NLDEV_ATTR_DEV_NAME))
    ids = []
    for kind, entry in attributes(found.get(RDMA_NLDEV_ATTR_RES_CM_ID, b"")):
        fields = dict(attributes(entry))
        local = SockAddr.unpack(fields.get(RDMA_NLDEV_ATTR_RES_SRC_ADDR, b"").ljust(SOCKADDR_STORAGE_BYTES, b"\0"))
        if kind != RDMA_NLDEV_ATTR_RES_CM_ID_ENTRY or local is None:
            continue
        if _u32(fields.get(RDMA_NLDEV_ATTR_RES_PS)) == _RDMA_PS_TCP:
            process = _u32(fields.get(RDMA_NLDEV_ATTR_RES_PID))
            owner = _text(fields.get(RDMA_NLDEV_ATTR_RES_KERN_NAME)) if process is None else f"process {process}"
            ids.append(CmId(device, fields.get(RDMA_NLDEV_ATTR_RES_STATE) == _RDMA_CM_LISTEN, local, owner))
    return ids


def _u32(value: bytes | None) -> int | None:
    if value is None or len(value) != _U32.size:
        return None
    number: int = _U32.unpack(value)[0]
    return number


def _text(value: bytes | None) -> str:
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")


def _named(names: dict[int, str], value: bytes | None) -> str:
    if value is None or len(value) != 1:
        return ""
    return names.get(value[0], str(value[0]))


def _guid(value: bytes | None) -> str:
    """ "5054:00ff:fe12:3456", as in sysfs; "" when there is none."""
    if value is None or len(value) != _U64.size:
        return ""
    digits = f"{_U64.unpack(value)[0]:016x}"
    return ":".join(digits[at : at + 4] for at in range(0, 16, 4))
