# SPDX-License-Identifier: Apache-2.0
"""Socket addresses as the kernel writes them: `struct sockaddr_storage`, and as people write them. Engine ring.

Not here: names, resolution, sockets. Layouts: include/uapi/linux/in.h, in6.h, socket.h.
Import-light, because front ends use it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["AF_INET", "AF_INET6", "SOCKADDR_STORAGE_BYTES", "SockAddr", "address_text"]

AF_INET = 2
AF_INET6 = 10
SOCKADDR_STORAGE_BYTES = 128

_IN = struct.Struct("!2xH4s")  # sin_port, sin_addr; the family in front is host-endian
_IN6 = struct.Struct("!2xHI16s")  # sin6_port, sin6_flowinfo, sin6_addr
_SCOPE = struct.Struct("=I")  # sin6_scope_id, host-endian
_SCOPE_OFFSET = 24
_FAMILY = struct.Struct("=H")
_IN_HEAD = _FAMILY.pack(AF_INET)
_IN6_HEAD = _FAMILY.pack(AF_INET6)
_IN_PACK = struct.Struct("!2sH4s120x")
_IN6_PACK = struct.Struct("!2sHI16s4s100x")
_WILDCARDS = {AF_INET: bytes(4), AF_INET6: bytes(16)}
_tuple = tuple.__new__  # cheaper than a named tuple's own constructor: this runs for every message of the kernel
_V4_MAPPED = bytes(10) + b"\xff\xff"


class SockAddr(NamedTuple):
    """An IPv4 or IPv6 address with its port.

    `address` has 4 or 16 bytes; `scope_id` is the interface index of an IPv6 link-local address, else 0.
    """

    family: int
    port: int
    address: bytes
    scope_id: int = 0

    @classmethod
    def unpack(cls, storage: bytes) -> SockAddr | None:
        """From a sockaddr_storage (128 bytes or more); None if the family is neither IPv4 nor IPv6."""
        head = storage[:2]
        if head == _IN_HEAD:
            port, address = _IN.unpack_from(storage)
            return _tuple(cls, (AF_INET, port, address, 0))
        if head == _IN6_HEAD:
            port, _, address = _IN6.unpack_from(storage)
            return cls(AF_INET6, port, address, _SCOPE.unpack_from(storage, _SCOPE_OFFSET)[0])
        return None

    def pack(self) -> bytes:
        """A sockaddr_storage of 128 bytes: no flow label, zeros up to the end."""
        if self.family == AF_INET:
            return _IN_PACK.pack(_IN_HEAD, self.port, self.address)
        return _IN6_PACK.pack(_IN6_HEAD, self.port, 0, self.address, _SCOPE.pack(self.scope_id))

    @classmethod
    def parse(cls, text: str) -> SockAddr:
        """The inverse of str(): "10.7.0.1:7174", "[fd00::1]:7174", "[fe80::1%2]:7174". ValueError if it is neither."""
        from ipaddress import ip_address

        host, _, port_text = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host, _, scope = (host[1:-1] if bracketed else host).partition("%")
        ip = ip_address(host)
        port, scope_id = int(port_text), int(scope or 0)
        if bracketed != (ip.version == 6) or not 0 <= port <= 0xFFFF or (scope and not bracketed):
            raise ValueError(f"not an address with a port: {text!r}")
        return cls(AF_INET6 if bracketed else AF_INET, port, ip.packed, scope_id)

    def __str__(self) -> str:
        if self.family == AF_INET:
            return f"{address_text(self.address)}:{self.port}"
        scope = f"%{self.scope_id}" if self.scope_id else ""
        return f"[{address_text(self.address)}{scope}]:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether the address is 0.0.0.0 or ::."""
        return self.address == _WILDCARDS[self.family]

    @property
    def is_link_local(self) -> bool:
        """Whether the address means nothing without its interface (fe80::/10)."""
        return self.family == AF_INET6 and self.address[0] == 0xFE and self.address[1] & 0xC0 == 0x80

    def with_port(self, port: int) -> SockAddr:
        """The same address with another port."""
        family, _, address, scope_id = self
        return _tuple(SockAddr, (family, port, address, scope_id))

    def as_v4_mapped(self) -> SockAddr:
        """An IPv4 address as IPv6 sockets see it (::ffff:a.b.c.d); an IPv6 address unchanged."""
        if self.family == AF_INET6:
            return self
        return SockAddr(AF_INET6, self.port, _V4_MAPPED + self.address)


def address_text(address: bytes) -> str:
    """4 or 16 address bytes as inet_ntop(3) writes them (RFC 5952)."""
    if len(address) == 4:
        return "{}.{}.{}.{}".format(*address)
    if address.startswith(_V4_MAPPED):
        return "::ffff:" + address_text(address[12:])
    groups = [f"{high << 8 | low:x}" for high, low in zip(address[::2], address[1::2], strict=True)]
    start, length = _longest_zero_run(groups)
    if length < 2:
        return ":".join(groups)
    return ":".join(groups[:start]) + "::" + ":".join(groups[start + length :])


def _longest_zero_run(groups: list[str]) -> tuple[int, int]:
    """(start, length) of the first longest run of "0"."""
    best = (0, 0)
    start = 0
    for index, group in enumerate(groups):
        if group != "0":
            start = index + 1
        elif index + 1 - start > best[1]:
            best = (start, index + 1 - start)
    return best
