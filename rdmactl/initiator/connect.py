# SPDX-License-Identifier: Apache-2.0
"""Reach a portal: names to addresses, TCP connections. Shell ring.

A name has several addresses; they are tried in the resolver's order within one deadline. Whatever fails here may work
a second later, so that all failures but an unknown name are worth another attempt.

Not here: RDMA connections of kernel sessions (`kernel.py`), anything sent over the connection, retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import NamedTuple

from rdmactl.errors import DeadlineExceeded
from rdmactl.initiator import sysfs
from rdmactl.initiator.failures import TryAgain
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.ports import Lane
from rdmactl.netlink.sockaddr import SockAddr

__all__ = ["TcpOptions", "bound_device", "resolve", "tcp_connect"]

_SO_BINDTODEVICE = 25
_ADDRESSES_LIMIT = 8  # of one name: beyond it is a mistake in DNS, not redundancy


class TcpOptions(NamedTuple):
    """What a connection is given before it is made. Empty or 0: the system's choice."""

    window_size: int = 0
    type_of_service: int = 0
    netdev: str = ""
    source_address: str = ""


def bound_device(netdev: str, hw_address: str, root: str = "/sys") -> str:
    """The network device an interface is bound to, by its name or by its hardware address; empty when to none.

    IscsiFailure (8, as open-iscsi has it) when no device has that address.
    """
    if netdev or not hw_address:
        return netdev
    for name in sysfs.names(f"{root}/class/net"):
        if (sysfs.read(f"{root}/class/net/{name}/address") or "").lower() == hw_address.lower():
            return name
    raise IscsiFailure(
        IscsiErr.TRANS_TIMEOUT,
        f"no network device has the hardware address {hw_address}",
        hint="correct iface.hwaddress, or bind the interface by iface.net_ifacename",
    )


async def resolve(lane: Lane, portal: Portal, deadline_s: float) -> list[SockAddr]:
    """The addresses of a portal; IscsiFailure (4) when its name has none.

    An address is read on the spot, with its scope ("fe80::1%eth0"); a name is looked up in a worker thread.
    """
    try:
        return _lookup(portal, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass
    try:
        return await lane.blocking(lambda: _lookup(portal, socket.AI_ADDRCONFIG), deadline_s=deadline_s)
    except DeadlineExceeded:
        raise TryAgain(
            IscsiErr.TRANS, f'name service did not answer within {deadline_s:g} s about "{portal.address}"'
        ) from None
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a host name"
        raise IscsiFailure(
            IscsiErr.TRANS,
            f'cannot resolve "{portal.address}": {reason}',
            hint="check the portal's spelling and the name service, or use an address",
            code="unresolved",
        ) from error


async def tcp_connect(
    portal: Portal, addresses: list[SockAddr], options: TcpOptions, deadline_s: float
) -> socket.socket:
    """A connected, non-blocking socket, close-on-exec. TryAgain: 8 when silent, 4 when refused or unreachable."""
    last: OSError | None = None
    try:
        async with asyncio.timeout(deadline_s):
            for address in addresses:
                try:
                    return await _connect(address, options)
                except OSError as error:
                    last = error
    except TimeoutError:
        raise TryAgain(
            IscsiErr.TRANS_TIMEOUT,
            f"{portal} did not answer a TCP connection within {deadline_s:g} s",
            hint="check address, routing and firewall",
            code="silent",
        ) from None
    raise _unreachable(portal, options, last)


def _lookup(portal: Portal, flags: int) -> list[SockAddr]:
    found = socket.getaddrinfo(portal.address, portal.port, type=socket.SOCK_STREAM, flags=flags)
    addresses = []
    for family, _, _, _, name in found[:_ADDRESSES_LIMIT]:
        if family == socket.AF_INET:
            addresses.append(SockAddr(family, int(name[1]), socket.inet_pton(family, str(name[0]))))
        elif family == socket.AF_INET6:
            host = str(name[0]).partition("%")[0]
            scope = int(name[3]) if len(name) > 3 else 0
            addresses.append(SockAddr(family, int(name[1]), socket.inet_pton(family, host), scope))
    return addresses


async def _connect(address: SockAddr, options: TcpOptions) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _configure(sock, address.family, options)
        host = socket.inet_ntop(address.family, address.address)
        name = (host, address.port) if address.family == socket.AF_INET else (host, address.port, 0, address.scope_id)
        await asyncio.get_running_loop().sock_connect(sock, name)
    except BaseException:
        sock.close()
        raise
    return sock


def _configure(sock: socket.socket, family: int, options: TcpOptions) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if options.window_size:
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # a wish: the system's limits win
                sock.setsockopt(socket.SOL_SOCKET, buffer, options.window_size)
    if options.type_of_service and family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, options.type_of_service)
    elif options.type_of_service:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, options.type_of_service)
    if options.netdev:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, options.netdev.encode())
    if options.source_address:
        sock.bind((options.source_address, 0))


def _unreachable(portal: Portal, options: TcpOptions, error: OSError | None) -> TryAgain:
    via = f" from {options.netdev or options.source_address}" if options.netdev or options.source_address else ""
    if isinstance(error, ConnectionRefusedError):
        return TryAgain(
            IscsiErr.TRANS,
            f"{portal} refused the TCP connection{via}",
            hint="no target listens there; check address and port",
            code="refused",
        )
    reason = "no address" if error is None else os.strerror(error.errno or 0)
    return TryAgain(IscsiErr.TRANS, f"cannot connect to {portal}{via}: {reason}")
