# SPDX-License-Identifier: Apache-2.0
"""From a portal to the address librdmacm wants. Shell ring.

Not here: which device leads there, which the kernel finds out (rdma_resolve_addr).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.sockaddr import SockAddr

__all__ = ["resolve"]


async def resolve(portal: Portal) -> SockAddr:
    """The first address of a portal. A number is read at once, a name is looked up in a thread."""
    try:
        found = socket.getaddrinfo(
            portal.address, portal.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror:
        found = await _look_up(portal)
    family, _, _, _, address = found[0]
    number = socket.inet_pton(family, str(address[0]).partition("%")[0])
    return SockAddr(family, portal.port, number, int(address[3]) if len(address) > 3 else 0)


async def _look_up(portal: Portal) -> list[Any]:
    try:
        return await asyncio.get_running_loop().getaddrinfo(portal.address, portal.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise IscsiFailure(
            IscsiErr.HOST_NOT_FOUND, f"there is no address for {portal.address}: {error.strerror}"
        ) from None
