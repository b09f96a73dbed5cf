# SPDX-License-Identifier: Apache-2.0
"""Who gets what: the (family, client) and (family, group) pairs the services of one process have taken. Shell ring.

Not here: sockets, and roles across processes (who is *the* port mapper of a host is settled outside).
"""

from __future__ import annotations

import threading

from rdmactl.errors import LocalError
from rdmactl.netlink.message import NETLINK_KOBJECT_UEVENT, NETLINK_RDMA, NETLINK_ROUTE
from rdmactl.netlink.ports import ChannelSpec

__all__ = ["Claim", "Registry"]

_Key = tuple[int, str, int]
_EVERY_CLIENT = -1
# Their groups tell of the host's network and devices, which is everybody's business; nobody answers there.
_SHARED = (NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT)


class Claim:
    """What one open channel has taken. Compared by identity, so that a late release cannot free a successor's."""

    __slots__ = ("keys", "owner")

    def __init__(self, owner: str, keys: frozenset[_Key]) -> None:
        self.owner = owner
        self.keys = keys


class Registry:
    """Claims of all lanes; safe to use from their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: set[Claim] = set()

    def claim(self, owner: str, spec: ChannelSpec) -> Claim:
        """Take what `spec` routes to `owner`; LocalError if any of it is taken."""
        claim = Claim(owner, _keys(spec))
        with self._lock:
            for other in self._claims:
                for key in claim.keys:
                    if _overlaps(key, other.keys):
                        raise LocalError(f"{_text(key)} is already served by {other.owner}", code="duplicate")
            self._claims.add(claim)
        return claim

    def release(self, claim: Claim) -> None:
        """Give it back. Harmless when repeated."""
        with self._lock:
            self._claims.discard(claim)


def _keys(spec: ChannelSpec) -> frozenset[_Key]:
    keys: set[_Key] = set() if spec.family in _SHARED else {(spec.family, "group", group) for group in spec.groups}
    if spec.family == NETLINK_RDMA:
        keys.update((spec.family, "client", client) for client in spec.clients or (_EVERY_CLIENT,))
    return frozenset(keys)


def _overlaps(key: _Key, others: frozenset[_Key]) -> bool:
    if key in others:
        return True
    family, kind, number = key
    if kind != "client":
        return False
    if number == _EVERY_CLIENT:
        return any(other[:2] == (family, "client") for other in others)
    return (family, "client", _EVERY_CLIENT) in others


def _text(key: _Key) -> str:
    family, kind, number = key
    return f"netlink family {family}, {'every client' if number == _EVERY_CLIENT else f'{kind} {number}'}"
