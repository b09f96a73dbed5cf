# SPDX-License-Identifier: Apache-2.0
"""NETLINK_ROUTE: messages about links, addresses and routes, as events. Shell ring.

Not here: sockets, and what follows from an event. pyroute2 decodes; only what recovery asks for is taken from it. It is
imported with the first message (a tenth of a second: a service calls `preload` before it says that it is ready).
Defined by include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from rdmactl.netlink.message import NLM_F_DUMP, NLM_F_REQUEST, Message, build

__all__ = [
    "ANY",
    "DUMP",
    "RTM_GETADDR",
    "RTM_GETLINK",
    "RTM_GETROUTE",
    "RTNLGRP_IPV4_IFADDR",
    "RTNLGRP_IPV4_ROUTE",
    "RTNLGRP_IPV6_IFADDR",
    "RTNLGRP_IPV6_ROUTE",
    "RTNLGRP_LINK",
    "AddressEvent",
    "LinkEvent",
    "RouteEvent",
    "opened",
    "parse",
    "preload",
]

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV4_ROUTE = 7
RTNLGRP_IPV6_IFADDR = 9
RTNLGRP_IPV6_ROUTE = 11

DUMP = NLM_F_DUMP | NLM_F_REQUEST
"""Flags of a GET for everything there is; its family header is `ANY`."""
ANY = bytes(16)
"""A zeroed struct ifinfomsg, the longest of the family headers: no filter."""

_LINK = struct.Struct("=4xiI")  # struct ifinfomsg: family, type, then index and flags
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000


class LinkEvent(NamedTuple):
    """`up`: switched on; `carrier`: and connected. `master` is the index of its bridge or bond, or None."""

    gone: bool
    ifindex: int
    name: str
    up: bool
    carrier: bool
    mtu: int
    mac: str
    master: int | None


class AddressEvent(NamedTuple):
    """An address of a link, in text, without scope id."""

    gone: bool
    ifindex: int
    address: str
    prefix_length: int


class RouteEvent(NamedTuple):
    """`destination` is None for a default route; `gateway` and `ifindex` None where it has none or several."""

    gone: bool
    destination: str | None
    prefix_length: int
    gateway: str | None
    ifindex: int | None
    table: int


def preload() -> None:
    """Import the decoder now."""
    _decoders()


def opened(message: Message) -> str:
    """What a message says has come that packets may take: words for a log; "" when nothing has.

    Without pyroute2: who only wants to know this need not pay for it.
    """
    if message.type == RTM_NEWLINK and len(message.payload) >= _LINK.size:
        flags = _LINK.unpack_from(message.payload)[1]
        return "a link is up" if flags & _IFF_UP and flags & _IFF_LOWER_UP else ""
    return {RTM_NEWADDR: "an address has come", RTM_NEWROUTE: "a route has come"}.get(message.type, "")


def parse(message: Message) -> LinkEvent | AddressEvent | RouteEvent | None:
    """None for other kinds of message, and for one that pyroute2 cannot read."""
    read = _READERS.get(message.type)
    decoded = None if read is None else _decode(message)
    return None if read is None or decoded is None else read(decoded, message.type in _GONE)


def _decode(message: Message) -> Any:
    from pyroute2.netlink.exceptions import NetlinkDecodeError

    decoded = _decoders()[message.type](build(message.type, message.payload, flags=message.flags))
    try:
        decoded.decode()
    except (NetlinkDecodeError, struct.error, ValueError, IndexError, KeyError, TypeError):
        return None
    return decoded


def _decoders() -> Any:
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl

    return MarshalRtnl.msg_map


def _link(decoded: Any, gone: bool) -> LinkEvent:
    flags = decoded["flags"]
    return LinkEvent(
        gone,
        decoded["index"],
        decoded.get_attr("IFLA_IFNAME") or "",
        bool(flags & _IFF_UP),
        bool(flags & _IFF_LOWER_UP),
        decoded.get_attr("IFLA_MTU") or 0,
        decoded.get_attr("IFLA_ADDRESS") or "",
        decoded.get_attr("IFLA_MASTER"),
    )


def _address(decoded: Any, gone: bool) -> AddressEvent:
    # On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL, where there is one, is ours.
    address = decoded.get_attr("IFA_LOCAL") or decoded.get_attr("IFA_ADDRESS") or ""
    return AddressEvent(gone, decoded["index"], address, decoded["prefixlen"])


def _route(decoded: Any, gone: bool) -> RouteEvent:
    return RouteEvent(
        gone,
        decoded.get_attr("RTA_DST"),
        decoded["dst_len"],
        decoded.get_attr("RTA_GATEWAY"),
        decoded.get_attr("RTA_OIF"),
        decoded.get_attr("RTA_TABLE") or decoded["table"],
    )


_GONE = (RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE)
_READERS: dict[int, Callable[[Any, bool], LinkEvent | AddressEvent | RouteEvent]] = {
    RTM_NEWLINK: _link,
    RTM_DELLINK: _link,
    RTM_NEWADDR: _address,
    RTM_DELADDR: _address,
    RTM_NEWROUTE: _route,
    RTM_DELROUTE: _route,
}
