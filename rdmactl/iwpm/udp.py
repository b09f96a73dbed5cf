# SPDX-License-Identifier: Apache-2.0
"""The UDP sockets of the port mapper: some to be asked on port 3935, two to ask from. Shell ring.

The one door to UDP. What datagrams mean is `wire.py`, whom to send them is `active.py` and `passive.py`.

There is a server socket for each address peers may use (`addresses.py` finds them, `listen_on` follows), or one for all
of a family. The loopback addresses are always among them: whoever wants the port for all addresses, another port mapper
above all, is then refused, also while no other address is known. Sockets for all addresses answer with the one the peer
has used (IP_PKTINFO): a peer behind a packet filter would not get the answer otherwise.

What comes in is thinned out in three steps, the cheapest first: the kernel drops what cannot be a message
(`filter.py`), `admit` drops what is too much of one peer or not allowed, and only then is a datagram looked at. A turn
takes at most BATCH datagrams of one socket, so that a flood does not keep the kernel's requests waiting.

Requests leave from sockets with IP_RECVERR: if nobody listens at the peer, ICMP tells within a round trip what silence
tells after nine seconds. See ip(7), ipv6(7), recvmsg(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from rdmactl.errors import Unavailable
from rdmactl.iwpm.events import Datagram, Door, Path, Unreachable
from rdmactl.iwpm.filter import program
from rdmactl.iwpm.wire import IWPM_PORT
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr

__all__ = ["UdpDoors"]

_log = logging.getLogger(__name__)

DATAGRAM_BYTES = 65
"""One more than the longest message, so that longer ones are seen to be longer."""

BATCH = 32
"""Datagrams per turn of the loop, of each socket: a fraction of a millisecond."""

RECEIVE_BUFFER_BYTES = 1 << 20
"""A thousand datagrams: what comes in while the loop is busy, after a fail-over of many connections."""

_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26
_SO_MEMINFO = 55
_SK_MEMINFO = struct.Struct("=9I")  # the last one is SK_MEMINFO_DROPS
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_SOCK_FPROG = struct.Struct("@HxxxxxxP" if struct.calcsize("P") == 8 else "@HxxP")
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
Watcher = Callable[[socket.socket, Callable[[], None] | None], None]


class _Place(NamedTuple):
    """What a socket is for. An empty address means all of the family."""

    door: Door
    family: int
    address: bytes = b""
    scope_id: int = 0


EVERYWHERE = frozenset({_Place(Door.SERVER, AF_INET), _Place(Door.SERVER, AF_INET6)})
LOOPBACK = frozenset({_Place(Door.SERVER, AF_INET, b"\x7f\0\0\1"), _Place(Door.SERVER, AF_INET6, bytes(15) + b"\1")})


class UdpDoors:
    """All sockets. `receiver` gets what comes in; `port` is that of the server sockets (tests: 0 for any).

    `admit` is asked with each source address, in text, whether to look at its datagram. `watch` is called with each new
    socket and what to call when it is readable, and with None before a socket is closed.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        port: int = IWPM_PORT,
        admit: Callable[[str], bool] = lambda source: True,
        watch: Watcher = lambda sock, readable: None,
    ) -> None:
        self._receiver = receiver
        self._admit = admit
        self._watch = watch
        self._sockets: dict[_Place, socket.socket] = {}
        self._port = port
        self._dropped_by_closed = 0

    def open(self, *, everywhere: bool = True) -> None:
        """Open and bind, for all addresses or for the loopback ones only.

        One address family may be missing; Unavailable if both are, or if the port is taken.
        """
        try:
            for place in sorted(EVERYWHERE if everywhere else LOOPBACK, key=lambda place: place.family):
                self._open(place)
            for family in (AF_INET, AF_INET6):
                self._open(_Place(Door.CLIENT, family))
        except BaseException:
            self.close()
            raise
        if not self._sockets:
            raise Unavailable("neither IPv4 nor IPv6 is there", hint="the port mapper needs one of them for its peers")

    def listen_on(self, addresses: Iterable[SockAddr] | None) -> None:
        """Serve these addresses (ports are ignored) and the loopback ones; None means all there are.

        Addresses that cannot be had are logged and left out; they are tried again with the next call.
        """
        wanted = EVERYWHERE
        if addresses is not None:
            wanted = LOOPBACK | {_Place(Door.SERVER, a.family, a.address, a.scope_id) for a in addresses}
        for place in [place for place in self._sockets if place.door is Door.SERVER and place not in wanted]:
            self._close(place)
        for place in wanted - self._sockets.keys():
            try:
                self._open(place)
            except Unavailable as error:
                _log.warning("%s", error)

    @property
    def listening(self) -> list[SockAddr]:
        """The addresses served; one with no bytes set stands for all of its family."""
        return [
            SockAddr(
                place.family,
                sock.getsockname()[1],
                place.address or bytes(4 if place.family == AF_INET else 16),
                place.scope_id,
            )
            for place, sock in self._sockets.items()
            if place.door is Door.SERVER
        ]

    @property
    def dropped(self) -> int:
        """Datagrams the kernel has dropped: filtered, or too many at once."""
        return self._dropped_by_closed + sum(map(_drops, self._sockets.values()))

    def sockets(self) -> Iterable[tuple[socket.socket, Callable[[], None]]]:
        """Each socket, with what to call when it is readable."""
        for place, sock in self._sockets.items():
            yield sock, partial(self._readable, place.door, place.family, sock)

    def _socket(self, path: Path) -> socket.socket | None:
        """The one to send from: that which the peer has used, if it is still there."""
        family = path.peer.family
        if path.door is Door.CLIENT:
            return self._sockets.get(_Place(Door.CLIENT, family))
        for place in (
            _Place(Door.SERVER, family),
            _Place(Door.SERVER, family, path.local),
            _Place(Door.SERVER, family, path.local, path.ifindex),
        ):
            if place in self._sockets:
                return self._sockets[place]
        return None

    def send(self, data: bytes, path: Path) -> None:
        """Send one datagram. What cannot arrive comes back to the receiver as Unreachable, before this returns."""
        sock = self._socket(path)
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
        for place in list(self._sockets):
            self._close(place)

    def _close(self, place: _Place) -> None:
        sock = self._sockets.pop(place)
        self._dropped_by_closed += _drops(sock)
        self._watch(sock, None)
        sock.close()

    def _open(self, place: _Place) -> None:
        family = socket.AddressFamily(place.family)
        port = self._port if place.door is Door.SERVER else 0
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError as error:
            if error.errno in _NO_FAMILY:
                return
            raise Unavailable(f"cannot open a UDP socket: {error.strerror}") from error
        try:
            _configure(sock, place.door, family)
            host = socket.inet_ntop(family, place.address or bytes(4 if family == socket.AF_INET else 16))
            sock.bind((host, port) if family == socket.AF_INET else (host, port, 0, place.scope_id))
        except OSError as error:
            sock.close()
            if error.errno in _NO_FAMILY:
                return
            hint = "another port mapper may run on this host: ss -lunp 'sport = 3935' names it"
            where = f" on {host}" if place.address else ""
            raise Unavailable(f"UDP port {port} cannot be had{where}: {error.strerror}", hint=hint) from error
        self._sockets[place] = sock
        self._watch(sock, partial(self._readable, place.door, place.family, sock))

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
            if not self._admit(source[0].partition("%")[0]):
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
    _attach(sock, program(door, family))
    if door is Door.CLIENT:
        return
    # An address may come up a moment after it is told of (duplicate address detection).
    with contextlib.suppress(OSError):
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:  # needs CAP_NET_ADMIN; a smaller buffer only loses more of a flood
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _attach(sock: socket.socket, instructions: bytes) -> None:
    """SO_ATTACH_FILTER; without it everything is looked at here, which is only slower."""
    memory = ctypes.create_string_buffer(instructions, len(instructions))
    with contextlib.suppress(OSError):
        filter_program = _SOCK_FPROG.pack(len(instructions) // 8, ctypes.addressof(memory))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)


def _drops(sock: socket.socket) -> int:
    try:
        return int(_SK_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _SK_MEMINFO.size))[8])
    except (OSError, struct.error):
        return 0


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
