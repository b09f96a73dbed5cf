# SPDX-License-Identifier: Apache-2.0
"""The -p option, and which records and sessions it means. Face ring.

A portal is stored and shown as it was written, but found by what it means: a name finds the session made by its
address. Names are resolved only where the texts differ, and each once.
"""

from __future__ import annotations

from rdmactl.iscsi.portal_option import PortalOption, parse_option

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rdmactl.initiator.sysfs import SessionView
    from rdmactl.records.operations import Selection

__all__ = ["PortalOption", "read_portal", "resolver", "sessions_matching"]

ISNS_PORT = 3205


def read_portal(text: str, default_port: int = 3260) -> PortalOption | None:
    """The option taken apart; None where iscsiadm sees no portal. Numbers are C integers, never refused."""
    given = parse_option(text, default_port)
    if given is None:
        return None
    return PortalOption(given.address, _int32(given.port), _int32(given.tpgt))


def resolver() -> Callable[[str], frozenset[str]]:
    """A function from a name or an address to its numeric addresses, that remembers; empty when there are none."""
    known: dict[str, frozenset[str]] = {}

    def resolve(host: str) -> frozenset[str]:
        if host not in known:
            known[host] = _addresses(host)
        return known[host]

    return resolve


def sessions_matching(sessions: Iterable[SessionView], selection: Selection) -> list[SessionView]:
    """The live sessions a selection means: by target, configured portal and interface."""
    resolve = resolver()

    def means(session: SessionView) -> bool:
        portal = session.persistent
        if selection.target is not None and session.target != selection.target:
            return False
        if selection.iface is not None and (session.iface_name or "default") != selection.iface:
            return False
        if selection.address is None:
            return True
        if portal is None or portal.port != selection.port:
            return False
        return portal.address == selection.address or bool(resolve(selection.address) & resolve(portal.address))

    return [session for session in sessions if means(session)]


def _addresses(host: str) -> frozenset[str]:
    import socket

    try:
        return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return frozenset()


def _int32(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number
