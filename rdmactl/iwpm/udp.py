# SPDX-License-Identifier: Apache-2.0
"""The UDP sockets of the port mapper: two to be asked on port 3935, two to ask from. Shell ring.

The one door to UDP. What datagrams mean is `wire.py`, whom to send them is `active.py` and `passive.py`.

Sockets are bound to wildcard addresses, because the daemon starts before the network is configured. So answers leave
with the address the peer has used (IP_PKTINFO): a peer behind a packet filter would not get them otherwise.
Requests leave from sockets with IP_RECVERR: if nobody listens at the peer, ICMP tells within a round trip what silence
tells after nine seconds. See ip(7), ipv6(7), recvmsg(2).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial

from rdmactl.errors import Unavailable
from rdmactl.iwpm.events import Datagram, Door, Path, Unreachable
from rdmactl.iwpm.wire import IWPM_PORT
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr

__all__ = ["UdpDoors"]

_log = logging.getLogger(__name__)

DATAGRAM_BYTES = 65
"""One more than the longest message, so that longer ones are seen to be longer."""

BATCH = 64
"""Datagrams per turn of the loop: a flood must not keep the kernel waiting."""

RECEIVE_BUFFER_BYTES = 1 << 20
"""A few thousand datagrams: what comes in while the loop is busy, after a fail-over of many connections."""

_SO_RCVBUFFORCE = 33
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_MSG_ERRQUEUE = 0x2000
_IN_PKTINFO = struct.Struct("@i4s4s")  # ipi_ifindex, ipi_spec_dst, ipi_addr
_IN6_PKTINFO = struct.Struct("@16sI")  # ipi6_addr, ipi6_ifindex
_ANCILLARY_BYTES = 512

_TRANSIENT = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR})
"""Nothing was sent, but sending again in a second may work."""

_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})

Receiver = Callable[[Datagram | Unreachable], None]


class UdpDoors:
    """All sockets. `receiver` gets what comes in; `port` is that of the server sockets (tests: 0 for any)."""

    def __init__(self, receiver: Receiver, *, port: int = IWPM_PORT) -> None:
        self._receiver = receiver
        self._sockets: dict[tuple[Door, int], socket.socket] = {}
        self._port = port

    def open(self) -> None:
        """Open and bind. One address family may be missing; Unavailable if both are, or if the port is taken."""
        try:
            for door, port in ((Door.SERVER, self._port), (Door.CLIENT, 0)):
                for family in (socket.AF_INET, socket.AF_INET6):
                    self._open(door, family, port)
        except BaseException:
            self.close()
            raise
        if not self._sockets:
            raise Unavailable("neither IPv4 nor IPv6 is there", hint="the port mapper needs one of them for its peers")

    def sockets(self) -> Iterable[tuple[socket.socket, Callable[[], None]]]:
        """Each socket, with what to call when it is readable."""
        for (door, family), sock in self._sockets.items():
            yield sock, partial(self._readable, door, family, sock)

    def send(self, data: bytes, path: Path) -> None:
        """Send one datagram. What cannot arrive comes back to the receiver as Unreachable, before this returns."""
        sock = self._sockets.get((path.door, path.peer.family))
        if sock is None:
            self._receiver(Unreachable(data, path.peer))
            return
        for _ in range(2):  # the first failure may be the error of an earlier datagram, which is reported only once
            try:
                sock.sendmsg([data], _ancillary(path), 0, _sockaddr(path.peer))
            except OSError as error:
                failure = error
            else:
                return
        if failure.errno not in _TRANSIENT:
            self._receiver(Unreachable(data, path.peer))

    def close(self) -> None:
        """Close all sockets."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _open(self, door: Door, family: socket.AddressFamily, port: int) -> None:
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError as error:
            if error.errno in _NO_FAMILY:
                return
            raise Unavailable(f"cannot open a UDP socket: {error.strerror}") from error
        try:
            _configure(sock, door, family)
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 -- see the module's head
        except OSError as error:
            sock.close()
            if error.errno in _NO_FAMILY:
                return
            hint = "another port mapper may run on this host: ss -lunp 'sport = 3935' names it"
            raise Unavailable(f"UDP port {port} cannot be had: {error.strerror}", hint=hint) from error
        self._sockets[door, int(family)] = sock

    def _readable(self, door: Door, family: int, sock: socket.socket) -> None:
        """Take a batch of datagrams, or of errors."""
        for received in range(BATCH):
            try:
                data, ancillary, _, source = sock.recvmsg(DATAGRAM_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                if received == 0 and door is Door.CLIENT:
                    self._read_errors(family, sock)
                return
            except OSError:
                self._read_errors(family, sock)
                continue
            local, ifindex = _destination(ancillary)
            self._receiver(Datagram(data, Path(door, _peer(family, source), local, ifindex)))

    def _read_errors(self, family: int, sock: socket.socket) -> None:
        """Take what ICMP has reported; the data is the datagram that did not arrive, the address where it went."""
        for _ in range(BATCH):
            try:
                data, _, _, destination = sock.recvmsg(DATAGRAM_BYTES, _ANCILLARY_BYTES, _MSG_ERRQUEUE)
            except OSError:
                return
            if destination:
                self._receiver(Unreachable(data, _peer(family, destination)))


def _configure(sock: socket.socket, door: Door, family: int) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    if door is Door.CLIENT:
        level, option = (
            (socket.IPPROTO_IPV6, _IPV6_RECVERR) if family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_RECVERR)
        )
        sock.setsockopt(level, option, 1)
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:  # needs CAP_NET_ADMIN; a smaller buffer only loses more of a flood
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _ancillary(path: Path) -> list[tuple[int, int, bytes]]:
    """Leave with the address the peer has used."""
    if len(path.local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, path.local, bytes(4)))]
    if len(path.local) == 16:
        return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, _IN6_PKTINFO.pack(path.local, path.ifindex))]
    return []


def _destination(ancillary: list[tuple[int, int, bytes]]) -> tuple[bytes, int]:
    """Our address the datagram came to, and for a link-local one the interface."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _IN_PKTINFO.size:
            return _IN_PKTINFO.unpack_from(data)[1], 0
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO and len(data) >= _IN6_PKTINFO.size:
            address, ifindex = _IN6_PKTINFO.unpack_from(data)
            if address[0] == 0xFF:  # sent to a group: the kernel chooses what we answer from
                return b"", ifindex
            return address, ifindex
    return b"", 0


def _peer(family: int, source: tuple[str, int] | tuple[str, int, int, int]) -> SockAddr:
    """The address recvmsg gives, as bytes."""
    host = source[0].partition("%")[0]
    scope_id = source[3] if len(source) == 4 else 0
    return SockAddr(AF_INET6 if family == AF_INET6 else AF_INET, source[1], socket.inet_pton(family, host), scope_id)


def _sockaddr(peer: SockAddr) -> tuple[str, int] | tuple[str, int, int, int]:
    host = socket.inet_ntop(peer.family, peer.address)
    return (host, peer.port) if peer.family == AF_INET else (host, peer.port, 0, peer.scope_id)
