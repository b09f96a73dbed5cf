# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes and RDMA devices that come: a reason to try lost sessions again at once. Shell ring.

Only that something has come is told, not what: which session it helps is found out by trying, and what does not help
costs one attempt. Not here: when an attempt is allowed (`recovery_engine.py`), the messages (`rdmactl.netlink.route`,
`rdmactl.netlink.uevent`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rdmactl.errors import RdmactlError
from rdmactl.netlink import route, uevent
from rdmactl.netlink.message import NETLINK_KOBJECT_UEVENT, NETLINK_ROUTE, Message
from rdmactl.netlink.ports import Channel, ChannelSpec, Lane, Received, Reply

__all__ = ["DEVICES", "PATHS", "Paths", "watch"]

log = logging.getLogger(__name__)

PATHS = ChannelSpec(
    NETLINK_ROUTE,
    groups=(
        route.RTNLGRP_LINK,
        route.RTNLGRP_IPV4_IFADDR,
        route.RTNLGRP_IPV4_ROUTE,
        route.RTNLGRP_IPV6_IFADDR,
        route.RTNLGRP_IPV6_ROUTE,
    ),
)

DEVICES = ChannelSpec(NETLINK_KOBJECT_UEVENT, groups=(uevent.GROUP_KERNEL,))


def watch(lane: Lane, opened: Callable[[str], None]) -> list[Channel]:
    """Begin to tell `opened` what has come; the channels are for closing.

    Recovery works without, only later: whatever comes back is then found by an attempt.
    """
    channels = []
    for spec, what in ((PATHS, "links, addresses and routes"), (DEVICES, "RDMA devices")):
        try:
            channels.append(lane.open(spec, Paths(opened)))
        except RdmactlError as error:
            log.warning("changes of %s are not seen: %s", what, error)
    return channels


class Paths:
    """The handler of a channel (`ports.ChannelHandler`). `opened` is called once for a batch, with what came last."""

    def __init__(self, opened: Callable[[str], None]) -> None:
        self._opened = opened
        self._news = ""

    def received(self, received: Received, now: float) -> None:
        """A change; those that take something away are the kernel's to tell, by a connection error."""
        self._news = _opened(received.message) or self._news

    def replied(self, reply: Reply, now: float) -> None:
        """Nothing is sent on this channel."""

    def overrun(self, now: float) -> None:
        self._news = "network changes"

    def drained(self, now: float) -> None:
        news, self._news = self._news, ""
        if news:
            self._opened(news)


def _opened(message: Message) -> str:
    """The kernel announces an RDMA device when it can be used (ib_register_device)."""
    if message.type != 0:
        return route.opened(message)
    event = uevent.parse(message.payload) if b"\0SUBSYSTEM=infiniband\0" in message.payload else None
    if event is None or event.action != "add":
        return ""
    return f"RDMA device {event.devpath.rpartition('/')[2]} has come"
