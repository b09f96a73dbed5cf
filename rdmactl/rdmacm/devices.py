# SPDX-License-Identifier: Apache-2.0
"""The RDMA devices of this host, as the kernel describes them: NLDEV, and sysfs for what NLDEV lacks. Shell ring.

Reading this opens no device, so nothing is held. Import-light: `rdmactl dev` is judged by its start-up time. A device
that goes away while it is being read is left out, or shown without what was gone.
Not here: limits of the verbs (`verbs_limits.py`, which must open the device), text and JSON (`rdmactl.cli.dev`).
sysfs: Documentation/ABI/stable/sysfs-class-infiniband.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.errors import DeadlineExceeded, KernelError
from rdmactl.netlink import message, nldev, sockets
from rdmactl.netlink.ports import ChannelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmactl.netlink.ports import NetlinkSocket, SocketDoor

__all__ = ["DeviceView", "Gid", "PortView", "read_devices", "read_iwarp_ids", "transport"]

SYSFS = "/sys/class/infiniband"

_DEADLINE_S = 5.0
_RECEIVE_BYTES = 32768  # the kernel fills dumps in pages; this is the most netlink makes of one datagram
_FILE_BYTES = 4096
_TRANSPORTS = {"ib": "InfiniBand", "roce": "RoCE", "iw": "iWARP", "usnic": "usNIC"}


class Gid(NamedTuple):
    """One entry of a port's GID table; `netdev` and `type` ("IB/RoCE v1", "RoCE v2") as the kernel writes them."""

    number: int
    gid: str
    type: str
    netdev: str


class PortView(NamedTuple):
    """A port. `rate` is the kernel's text, "100 Gb/sec (4X EDR)"; `lid` None where the link has none."""

    number: int
    state: str
    physical_state: str
    link_layer: str
    transport: str
    netdev: str
    rate: str
    lid: int | None
    gids: tuple[Gid, ...]


class DeviceView(NamedTuple):
    """A device with its ports. `transport` is that of the first port (a device may have two)."""

    name: str
    transport: str
    node_type: str
    firmware: str
    node_guid: str
    system_image_guid: str
    ports: tuple[PortView, ...]


def read_devices(door: SocketDoor = sockets.open_socket, sysfs: str = SYSFS) -> list[DeviceView]:
    """All devices, by name. Unavailable without RDMA in the kernel; KernelError, DeadlineExceeded."""
    socket = door(ChannelSpec(family=message.NETLINK_RDMA, receive_bytes=_RECEIVE_BYTES))
    try:
        dump = _Dump(socket, time.monotonic)
        views = []
        for payload in dump.read(nldev.RDMA_NLDEV_CMD_GET, b""):
            device = nldev.parse_device(payload)
            if device is not None:
                ports = dump.read(nldev.RDMA_NLDEV_CMD_PORT_GET, nldev.ports_request(device.device_index), gone=19)
                views.append(_view(device, ports, os.path.join(sysfs, device.name)))
        return sorted(views)
    finally:
        socket.close()


def read_iwarp_ids(door: SocketDoor = sockets.open_socket) -> tuple[list[str], list[nldev.CmId]]:
    """The iWARP devices of this host, and the connection manager's ids on them. Raises as `read_devices`."""
    socket = door(ChannelSpec(family=message.NETLINK_RDMA, receive_bytes=_RECEIVE_BYTES))
    try:
        dump = _Dump(socket, time.monotonic)
        devices = [nldev.parse_device(payload) for payload in dump.read(nldev.RDMA_NLDEV_CMD_GET, b"")]
        names: list[str] = []
        ids: list[nldev.CmId] = []
        for device in devices:
            if device is not None and transport(device.protocol, device.node_type, "") == "iWARP":
                names.append(device.name)
                request = nldev.ports_request(device.device_index)
                for payload in dump.read(nldev.RDMA_NLDEV_CMD_RES_CM_ID_GET, request, gone=19):
                    ids += nldev.parse_cm_ids(payload)
        return names, ids
    finally:
        socket.close()


def transport(protocol: str, node_type: str, link_layer: str) -> str:
    """The transport of a port, from what the kernel says; "" when it does not say enough.

    `protocol` is that of the device's first port only: between InfiniBand and RoCE the port's own link layer decides.
    """
    if protocol in ("ib", "roce", "") and node_type in ("CA", "switch", "router"):
        by_link = {"InfiniBand": "InfiniBand", "Ethernet": "RoCE"}.get(link_layer, "")
        return by_link or _TRANSPORTS.get(protocol, "")
    if not protocol and node_type == "RNIC":
        return "iWARP"
    return _TRANSPORTS.get(protocol, protocol)


def _view(device: nldev.Device, payloads: list[bytes], directory: str) -> DeviceView:
    ports = tuple(
        _port(device, port, os.path.join(directory, "ports", str(port.number)))
        for port in map(nldev.parse_port, payloads)
        if port is not None
    )
    first = ports[0].transport if ports else transport(device.protocol, device.node_type, "")
    return DeviceView(
        device.name, first, device.node_type, device.firmware, device.node_guid, device.system_image_guid, ports
    )


def _port(device: nldev.Device, port: nldev.Port, directory: str) -> PortView:
    link_layer = _line(os.path.join(directory, "link_layer"))
    return PortView(
        port.number,
        port.state,
        port.physical_state,
        link_layer,
        transport(device.protocol, device.node_type, link_layer),
        port.netdev,
        _line(os.path.join(directory, "rate")),
        port.lid,
        tuple(_gids(directory)),
    )


def _gids(directory: str) -> list[Gid]:
    """The used entries of the GID table. Tables have up to 1024 entries and holes, so each is looked at."""
    try:
        indexes = sorted(map(int, os.listdir(os.path.join(directory, "gids"))))
    except (OSError, ValueError):
        return []
    gids = []
    for index in indexes:
        gid = _line(f"{directory}/gids/{index}")
        if gid.strip("0:"):
            kind = _line(f"{directory}/gid_attrs/types/{index}")
            gids.append(Gid(index, gid, kind, _line(f"{directory}/gid_attrs/ndevs/{index}")))
    return gids


def _line(path: str) -> str:
    """A sysfs attribute without its line end; "" when it cannot be read (entries without a value say EINVAL)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, _FILE_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


class _Dump:
    """Dump requests on one socket, one at a time, all within one deadline."""

    def __init__(self, socket: NetlinkSocket, clock: Callable[[], float]) -> None:
        self._socket, self._clock = socket, clock
        self._until = clock() + _DEADLINE_S
        self._seq = 0

    def read(self, command: int, payload: bytes, *, gone: int = 0) -> list[bytes]:
        """The payloads of a dump's messages; empty when the kernel answers with errno `gone`."""
        self._seq += 1
        flags = message.NLM_F_REQUEST | message.NLM_F_DUMP
        kind = nldev.message_type(command)
        self._socket.send(message.build(kind, payload, flags=flags, seq=self._seq, pid=self._socket.portid))
        payloads: list[bytes] = []
        while True:
            for part in message.split(self._receive()):
                if part.seq != self._seq:
                    continue
                if part.type in (message.NLMSG_DONE, message.NLMSG_ERROR):
                    return self._finished(payloads, -(message.reply_code(part) or 0), gone)
                payloads.append(part.payload)

    def _finished(self, payloads: list[bytes], errno: int, gone: int) -> list[bytes]:
        if errno and errno != gone:
            raise KernelError("RDMA_NL_NLDEV", errno, f"the kernel does not list RDMA devices: {os.strerror(errno)}")
        return payloads

    def _receive(self) -> bytes:
        while True:
            received = self._socket.receive()
            if received is not None:
                return received[0]
            left_s = self._until - self._clock()
            if left_s <= 0 or not select.select([self._socket.fileno()], [], [], left_s)[0]:
                raise DeadlineExceeded(f"the kernel did not list RDMA devices within {_DEADLINE_S:g} s")
