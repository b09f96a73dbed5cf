# SPDX-License-Identifier: Apache-2.0
"""Claimed TCP ports: sockets that are bound and do nothing else. Shell ring.

The one door to TCP sockets of the port mapper. Which port is claimed for what is `table.py`.

A claim is bound to the wildcard address, so that the number is taken on every address of this host; it does not listen,
so that nothing is ever accepted there; and it is without SO_REUSEADDR, since two sockets that both have it may share a
port. An IPv6 claim is dual-stack and takes the number for IPv4 too. See bind(2), ip(7), ipv6(7).

The sockets belong to a keeper that outlives the service: while an instance is replaced, nobody else can have the ports.
An instance works through a lease, which ends when the next one begins; an abandoned instance can then no longer give
ports back that its successor relies on.
"""

from __future__ import annotations

import socket
from collections.abc import Set as AbstractSet

from rdmactl.iwpm.table import Claim, MappingTable

__all__ = ["ClaimKeeper", "ClaimLease"]

_WILDCARDS = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 -- taking all addresses is the point


class ClaimKeeper:
    """Holds claims for as long as the process lives, and the table of the instance that uses them."""

    def __init__(self) -> None:
        self._sockets: dict[Claim, socket.socket] = {}
        self._lease: ClaimLease | None = None
        self.table: MappingTable | None = None

    @property
    def held(self) -> int:
        """How many ports are claimed."""
        return len(self._sockets)

    def lease(self) -> ClaimLease:
        """Give the claims to a new instance; the lease of the one before it ends."""
        if self._lease is not None:
            self._lease.end()
        self._lease = ClaimLease(self._sockets)
        return self._lease

    def close(self) -> None:
        """Give every port back."""
        if self._lease is not None:
            self._lease.end()
        while self._sockets:
            self._sockets.popitem()[1].close()


class ClaimLease:
    """The right to claim and release ports (`table.PortClaims`). Without effect once it has ended."""

    def __init__(self, sockets: dict[Claim, socket.socket]) -> None:
        self._sockets = sockets
        self._ended = False

    def end(self) -> None:
        """From now on nothing is claimed or released here."""
        self._ended = True

    def claim(self, family: int, port: int) -> int | None:
        """See `table.PortClaims.claim`. None: taken, no free port, or out of descriptors."""
        if self._ended:
            return None
        if port and Claim(family, port) in self._sockets:
            return port
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError:
            return None
        try:
            sock.bind((_WILDCARDS[socket.AddressFamily(family)], port))
            bound: int = sock.getsockname()[1]
        except OSError:
            sock.close()
            return None
        self._sockets[Claim(family, bound)] = sock
        return bound

    def release(self, claim: Claim) -> None:
        """See `table.PortClaims.release`."""
        if not self._ended:
            sock = self._sockets.pop(claim, None)
            if sock is not None:
                sock.close()

    def retain(self, held: AbstractSet[Claim]) -> None:
        """See `table.PortClaims.retain`."""
        for claim in [claim for claim in self._sockets if claim not in held]:
            self.release(claim)
