# SPDX-License-Identifier: Apache-2.0
"""Which addresses of this host belong to RDMA devices: asked of the kernel, and followed. Shell ring.

Devices and their network interfaces come from NETLINK_RDMA (client NLDEV), addresses from NETLINK_ROUTE. The kernel
tells of changes (route groups, uevents); with any of them, and every REFRESH_S, all is asked for again. Three kinds of
message are read here, in a few lines: a library for them would cost the daemon more memory than all its mappings.

At the start of a host there are no devices and no addresses yet. That is normal: the set is empty, and grows.

Not here: sockets bound to the addresses (`udp.py`). Defined by include/uapi/linux/{rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from rdmactl.netlink.message import (
    NETLINK_KOBJECT_UEVENT,
    NETLINK_RDMA,
    NETLINK_ROUTE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attributes,
)
from rdmactl.netlink.nldev import (
    RDMA_NL_NLDEV,
    RDMA_NLDEV_CMD_GET,
    RDMA_NLDEV_CMD_PORT_GET,
    message_type,
    parse_device,
    parse_port,
    ports_request,
)
from rdmactl.netlink.ports import Channel, ChannelSpec, Lane, Received, Reply
from rdmactl.netlink.route import RTM_GETADDR, RTM_GETLINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_LINK
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr
from rdmactl.netlink.uevent import GROUP_KERNEL

__all__ = ["Address", "AddressWatch", "Link", "RdmaAddresses", "parse_address", "parse_link", "rdma_addresses"]

REFRESH_S = 30.0
"""How often everything is asked for unprompted, should an event have been lost."""

SETTLE_S = 0.05
"""Between a change and the question what there is now: several changes are then one question."""

_RTM_NEWLINK, _RTM_NEWADDR = 16, 20
_DUMP = NLM_F_REQUEST | NLM_F_DUMP
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_INT = struct.Struct("=i")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 3, 5, 10, 18
_IFLA_INFO_KIND = 1


class Link(NamedTuple):
    """A network interface; `below` is what a VLAN is made on, `master` its bond or bridge; 0 for none."""

    ifindex: int
    name: str
    below: int
    master: int


class Address(NamedTuple):
    """An address of an interface, as bytes."""

    family: int
    ifindex: int
    address: bytes


class RdmaAddresses(NamedTuple):
    """`hidden` names iWARP devices whose interface is in another network namespace: their addresses are not known."""

    addresses: frozenset[SockAddr]
    hidden: tuple[str, ...]


def parse_link(message: Message) -> Link | None:
    """RTM_NEWLINK; None for anything else."""
    if message.type != _RTM_NEWLINK or len(message.payload) < _IFINFOMSG.size:
        return None
    found = dict(attributes(message.payload[_IFINFOMSG.size :]))
    name = found.get(_IFLA_IFNAME, b"").split(b"\0")[0].decode(errors="replace")
    is_vlan = dict(attributes(found.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND, b"").rstrip(b"\0") == b"vlan"
    below = _int(found, _IFLA_LINK) if is_vlan else 0
    return Link(_IFINFOMSG.unpack_from(message.payload)[2], name, below, _int(found, _IFLA_MASTER))


def parse_address(message: Message) -> Address | None:
    """RTM_NEWADDR of IPv4 or IPv6; None for anything else."""
    if message.type != _RTM_NEWADDR or len(message.payload) < _IFADDRMSG.size:
        return None
    family, _, _, _, ifindex = _IFADDRMSG.unpack_from(message.payload)
    found = dict(attributes(message.payload[_IFADDRMSG.size :]))
    # On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL, where there is one, is ours.
    address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    if len(address) != {AF_INET: 4, AF_INET6: 16}.get(family):
        return None
    return Address(family, ifindex, address)


def rdma_addresses(
    netdevs: dict[str, tuple[str, ...]], links: dict[int, Link], addresses: list[Address]
) -> RdmaAddresses:
    """`netdevs`: the interface of each port, by device; "" where it cannot be seen."""
    names = {name for ports in netdevs.values() for name in ports if name}
    wanted = {link.ifindex for link in links.values() if link.name in names}
    while True:
        more = {link.ifindex for link in links.values() if link.below in wanted}
        more |= {links[ifindex].master for ifindex in wanted if ifindex in links and links[ifindex].master}
        if more <= wanted:
            break
        wanted |= more
    found = (
        SockAddr(entry.family, 0, entry.address, entry.ifindex if entry.address[:1] == b"\xfe" else 0)
        for entry in addresses
        if entry.ifindex in wanted
    )
    local = frozenset(address if address.is_link_local else address._replace(scope_id=0) for address in found)
    return RdmaAddresses(local, tuple(sorted(device for device, ports in netdevs.items() if "" in ports)))


class AddressWatch:
    """Calls `changed` with the addresses when they are first known, and whenever they have changed.

    `schedule` runs a function in some seconds, on the lane's loop.
    """

    def __init__(
        self, changed: Callable[[RdmaAddresses], None], schedule: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._changed = changed
        self._schedule = schedule
        self._scheduled = False
        self._lane: Lane | None = None
        self._told: RdmaAddresses | None = None
        self._route: Channel | None = None
        self._rdma: Channel | None = None
        self._events: Channel | None = None
        self._links: dict[int, Link] = {}
        self._addresses: list[Address] = []
        self._netdevs: dict[str, tuple[str, ...]] = {}
        self._asked: dict[int, str] = {}  # the device of each question for ports, by seq
        self._awaited: set[tuple[int, int]] = set()  # (type, seq): the channels count for themselves
        self._due = 0.0

    def open(self, lane: Lane) -> None:
        """Open the channels and ask."""
        self._lane = lane
        self._events = lane.open(ChannelSpec(NETLINK_KOBJECT_UEVENT, groups=(GROUP_KERNEL,)), self)
        groups = (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR)
        self._route = lane.open(ChannelSpec(NETLINK_ROUTE, groups=groups), self)
        self._rdma = lane.open(ChannelSpec(NETLINK_RDMA, clients=(RDMA_NL_NLDEV,)), self)
        self.refresh(lane.now())

    def close(self) -> None:
        """Ask no more."""
        self._lane = None
        for channel in (self._route, self._rdma, self._events):
            if channel is not None:
                channel.close()

    def tick(self, now: float) -> None:
        """Called every second or so."""
        if now >= self._due:
            self.refresh(now)

    def refresh(self, now: float) -> None:
        """Ask for everything."""
        self._due = now + REFRESH_S
        if self._route is None or self._rdma is None:
            return
        self._asked.clear()
        # One at a time: the kernel runs one dump on a socket.
        get = message_type(RDMA_NLDEV_CMD_GET)
        self._awaited = {
            (RTM_GETLINK, self._route.send(RTM_GETLINK, bytes(_IFINFOMSG.size), flags=_DUMP)),
            (get, self._rdma.send(get, b"", flags=_DUMP)),
        }

    # From the channels (`ports.ChannelHandler`).

    def received(self, received: Received, now: float) -> None:
        """A link, an address or a device has come, changed, or gone: soon, because they come in crowds."""
        message = received.message
        if message.type == 0 and b"\0SUBSYSTEM=infiniband\0" not in message.payload:
            return  # an event of some other device
        if not self._scheduled:
            self._scheduled = True
            self._schedule(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._scheduled = False
        if self._lane is not None:
            self.refresh(self._lane.now())

    def replied(self, reply: Reply, now: float) -> None:
        """The answer to a question."""
        seq, kind = reply.request.seq, reply.request.type
        if (kind, seq) not in self._awaited:
            return
        self._awaited.discard((kind, seq))
        if kind == RTM_GETLINK:
            links = (parse_link(message) for message in reply.messages)
            self._links = {link.ifindex: link for link in links if link is not None}
            if self._route is not None:
                seq = self._route.send(RTM_GETADDR, bytes(_IFADDRMSG.size), flags=_DUMP)
                self._awaited.add((RTM_GETADDR, seq))
        elif kind == RTM_GETADDR:
            addresses = (parse_address(message) for message in reply.messages)
            self._addresses = [address for address in addresses if address is not None]
        elif kind == message_type(RDMA_NLDEV_CMD_GET):
            self._devices(reply)
        else:
            ports = [parse_port(message.payload) for message in reply.messages]
            self._netdevs[self._asked.pop(seq)] = tuple(port.netdev for port in ports if port is not None)
        if not self._awaited:
            self._tell()

    def overrun(self, now: float) -> None:
        """Something was lost: ask again."""
        self._due = now

    def drained(self, now: float) -> None:
        """Nothing is sent in batches here."""

    def _devices(self, reply: Reply) -> None:
        """Ask for the ports of each iWARP device; on old kernels, which do not say what a device is, of each."""
        self._netdevs = {"of a kind the kernel cannot list": ("",)} if reply.code else {}
        for message in reply.messages:
            device = parse_device(message.payload)
            if device is not None and device.protocol in ("iw", "") and self._rdma is not None:
                request = ports_request(device.device_index)
                get = message_type(RDMA_NLDEV_CMD_PORT_GET)
                seq = self._rdma.send(get, request, flags=_DUMP)
                self._asked[seq] = device.name
                self._awaited.add((get, seq))

    def _tell(self) -> None:
        found = rdma_addresses(self._netdevs, self._links, self._addresses)
        if found != self._told:
            self._told = found
            self._changed(found)


def _int(found: dict[int, bytes], type: int) -> int:
    value = found.get(type, b"")
    return int(_INT.unpack(value)[0]) if len(value) == _INT.size else 0
