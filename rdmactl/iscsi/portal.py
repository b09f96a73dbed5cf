# SPDX-License-Identifier: Apache-2.0
"""Portals: the address and TCP or RDMA port of a target. Engine ring.

Two readers, because two kinds of text exist:

* `Portal.parse`: strict "host[:port]", the inverse of `str(portal)`; for our own settings and requests;
* `parse_target_address`: what a target claims (SendTargets, redirects); strict, because it is hostile until checked.

A portal is compared as written: "2001:db8::1" and "2001:0db8::1" are two portals. Not here: resolving names (a shell's
work), the `-p` option (`portal_option.py`), portal group tags beyond their number. Defined by RFC 7143 section 13.8
(TargetAddress).
"""

from __future__ import annotations

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.names import printable
from rdmactl.values import NamedTuple

__all__ = [
    "DEFAULT_PORT",
    "UNKNOWN_TPGT",
    "Portal",
    "TargetAddress",
    "parse_target_address",
    "target_address",
]

DEFAULT_PORT = 3260
UNKNOWN_TPGT = -1
_MAX_PORT = 65535
_MAX_TPGT = 65535
_MAX_HOST = 255  # RFC 1035: the longest domain name
# Sets, not patterns: front ends import this module, and the module re is a sixth of their start.
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_DNS = _LETTERS | {".", "-"}
_IPV6 = frozenset("0123456789ABCDEFabcdef:.")
_DIGITS = frozenset("0123456789")
_PORT_DIGITS = 5


class Portal(NamedTuple):
    """Where a target listens: an IPv4 or IPv6 address (without brackets) or a name, and a port."""

    address: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> Portal:
        """Read "host", "host:port", "[ipv6]", "[ipv6]:port" or a bare IPv6 address; LocalError when it is none."""
        try:
            return cls(*_strict(text))
        except ValueError as error:
            raise LocalError(
                f'portal "{printable(text)}" {error}',
                hint="a portal looks like 192.0.2.10, 192.0.2.10:3260 or [2001:db8::10]:3260",
                code="invalid-portal",
            ) from None

    def __str__(self) -> str:
        """ "address:port", an address with colons in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class TargetAddress(NamedTuple):
    """A portal with its group tag (`UNKNOWN_TPGT` when none was given).

    `warning` says what was odd but readable about the text, as the end of a sentence; None when nothing was.
    """

    portal: Portal
    tpgt: int = UNKNOWN_TPGT
    warning: str | None = None


def parse_target_address(text: str) -> TargetAddress:
    """Read a TargetAddress value "host[:port][,tpgt]" a target sent; PeerError with the reason when it is unusable.

    Host names are kept as names. An empty tag counts as unknown. Brackets are looked for before colons, so that
    "[fd00::1],1" is the address fd00::1 on the default port.
    """
    rest, comma, tag_text = text.rpartition(",")
    if not comma:
        rest, tag_text = text, ""
    try:
        tpgt = _tpgt(tag_text)
        address, port = _strict(rest)
    except ValueError as error:
        raise PeerError(f'target address "{printable(text)}" {error}', code="invalid-portal") from None
    warning = "is an IPv6 address without brackets" if ":" in address and not rest.startswith("[") else None
    if "%" in address:
        address = address.partition("%")[0]
        warning = "has a zone, which means nothing outside the target; it is left out"
    return TargetAddress(Portal(address, port), tpgt, warning)


def target_address(portal: Portal, tpgt: int) -> str:
    """The inverse of `parse_target_address`."""
    return str(portal) if tpgt == UNKNOWN_TPGT else f"{portal},{tpgt}"


def _strict(text: str) -> tuple[str, int]:
    """(address, port) of "host[:port]"; ValueError with the end of a sentence."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError("has no closing bracket")
        if rest and not rest.startswith(":"):
            raise ValueError("has something other than a port behind the bracket")
        return _ipv6(host), _port(rest[1:]) if rest else DEFAULT_PORT
    if text.count(":") > 1:
        return _ipv6(text), DEFAULT_PORT
    host, colon, port_text = text.partition(":")
    if not _is_name(host):
        raise ValueError("has no address" if not host else "has a host with characters that are not allowed")
    return host, _port(port_text) if colon else DEFAULT_PORT


def _is_name(host: str) -> bool:
    """Or an IPv4 address."""
    if not 0 < len(host) <= _MAX_HOST or not _DNS.issuperset(host):
        return False
    return host[0] in _LETTERS and host[-1] != "-"


def _ipv6(host: str) -> str:
    address, percent, zone = host.partition("%")
    good = _IPV6.issuperset(address) and _DNS.issuperset(zone) and bool(zone) == bool(percent)
    if len(host) > _MAX_HOST or address.count(":") < 2 or not good:
        raise ValueError("has no IPv6 address where one belongs")
    return host


def _port(text: str) -> int:
    if not _is_number(text) or not 1 <= int(text) <= _MAX_PORT:
        raise ValueError(f"has a port outside 1-{_MAX_PORT}")
    return int(text)


def _is_number(text: str) -> bool:
    return 0 < len(text) <= _PORT_DIGITS and _DIGITS.issuperset(text)


def _tpgt(text: str) -> int:
    if not text:
        return UNKNOWN_TPGT
    if not _is_number(text) or int(text) > _MAX_TPGT:
        raise ValueError(f"has a portal group tag outside 0-{_MAX_TPGT}")
    return int(text)
