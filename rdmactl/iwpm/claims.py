# SPDX-License-Identifier: Apache-2.0
"""Claimed TCP ports: sockets that are bound and do nothing else. Shell ring.

The one door to TCP sockets of the port mapper. Which port is claimed for what is `table.py`; who holds the sockets
while this process is not there is `vault.py`.

A claim is bound to the wildcard address, so that the number is taken on every address of this host; it does not listen,
so that nothing is ever accepted there; and it is without SO_REUSEADDR, since two sockets that both have it may share a
port. An IPv6 claim is dual-stack and takes the number for IPv4 too. See bind(2), ip(7), ipv6(7).

The sockets belong to a keeper that outlives the service: while an instance is replaced, nobody else can have the ports.
An instance works through a lease, which ends when the next one begins; an abandoned instance can then no longer give
ports back that its successor relies on, nor write into the journal.

A few ports are claimed in advance, between messages (`ClaimLease.refill`): handing one out costs no system call, and it
is in the vault before anybody is told of it, several in one datagram.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Set as AbstractSet

from rdmactl.iwpm.journal import MappingJournal
from rdmactl.iwpm.table import Claim, MappingState, MappingTable
from rdmactl.iwpm.vault import Vaults

__all__ = ["ClaimKeeper", "ClaimLease"]

_WILDCARDS = {int(socket.AF_INET): "0.0.0.0", int(socket.AF_INET6): "::"}  # noqa: S104 -- all addresses: that is it
_STREAM = int(socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

SPARE = 16
"""Ports of a family held in advance, once one of that family has been needed."""

REFILL = 8
"""How many are claimed in one go: tens of microseconds, in a gap between messages."""


RESERVED = 64
"""Descriptors never used for ports: without any left this process could not even be asked what is wrong."""


class ClaimKeeper:
    """Holds claims for as long as the process lives, and the table of the instance that uses them.

    With `vaults` and `journal` both outlive the process too: what an earlier one has left is taken over with the first
    lease.
    """

    def __init__(self, vaults: Vaults | None = None, journal: MappingJournal | None = None) -> None:
        self._vaults = Vaults(()) if vaults is None else vaults
        self._journal = journal
        self._sockets: dict[Claim, int] = {}
        self._lease: ClaimLease | None = None
        self.table: MappingTable | None = None

    @property
    def held(self) -> int:
        """How many ports are claimed and handed out."""
        return len(self._sockets)

    @property
    def unsafe(self) -> int:
        """How many of them would be free if this process were killed now."""
        return self._vaults.unsafe

    def lease(self) -> ClaimLease:
        """Give the claims to a new instance; the lease of the one before it ends."""
        if self._lease is None:
            self._sockets.update(self._vaults.adopt())
        else:
            self._lease.end()
        self._lease = ClaimLease(self._sockets, self._vaults, self._journal)
        return self._lease

    def recorded(self) -> list[MappingState]:
        """The table of an earlier process, if `lease` was the first one and there is a journal."""
        return [] if self._journal is None else self._journal.read()

    def close(self) -> None:
        """Give every port back."""
        if self._lease is not None:
            self._lease.give_back_spares()
            self._lease.retain(frozenset())
            self._lease.flush()
            self._lease.end()


class ClaimLease:
    """The right to claim and release ports (`table.PortClaims`). Without effect once it has ended."""

    def __init__(self, sockets: dict[Claim, int], vaults: Vaults, journal: MappingJournal | None) -> None:
        self._sockets = sockets
        self._vaults = vaults
        self._journal = journal
        self._spare: dict[int, list[tuple[int, int]]] = {}  # by family: (port, descriptor)
        self._exhausted = False
        self._ended = False

    def end(self) -> None:
        """From now on nothing is claimed or released here."""
        self.give_back_spares()
        self._ended = True

    def claim(self, family: int, port: int) -> int | None:
        """See `table.PortClaims.claim`. None: taken, no free port, or out of descriptors."""
        if self._ended:
            return None
        spare = self._spare.setdefault(family, [])
        if port:
            if Claim(family, port) in self._sockets:
                return port
            found = next((item for item in spare if item[0] == port), None)
            if found is not None:
                spare.remove(found)
        else:
            found = spare.pop() if spare else None
        if found is None:
            found = self._bind(family, port)
            if found is None:
                return None
            self._vaults.keep({Claim(family, found[0]): found[1]})
        bound, descriptor = found
        self._sockets[tuple.__new__(Claim, (family, bound))] = descriptor
        return bound

    def _bind(self, family: int, port: int) -> tuple[int, int] | None:
        spares = sum(map(len, self._spare.values()))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return _bind(family, port) if len(self._sockets) + spares + RESERVED < limit else None

    def release(self, claim: Claim) -> None:
        """See `table.PortClaims.release`. Other holders of the socket are told by the next `flush`."""
        if not self._ended:
            descriptor = self._sockets.pop(claim, None)
            if descriptor is not None:
                os.close(descriptor)
                self._vaults.drop(claim)

    def retain(self, held: AbstractSet[Claim]) -> None:
        """See `table.PortClaims.retain`."""
        for claim in [claim for claim in self._sockets if claim not in held]:
            self.release(claim)

    def refill(self) -> None:
        """Claim in advance, a few at a time; for a quiet moment."""
        if self._ended or self._exhausted:
            return
        for family, spare in self._spare.items():
            if len(spare) <= SPARE - REFILL:
                new: list[tuple[int, int]] = []
                while len(new) < REFILL and not self._exhausted:
                    found = self._bind(family, 0)
                    if found is None:
                        self._exhausted = True  # looking for a free port where there is none takes milliseconds
                    else:
                        new.append(found)
                self._vaults.keep({Claim(family, port): descriptor for port, descriptor in new})
                spare[:0] = new

    def give_back_spares(self) -> None:
        """Release what was claimed in advance."""
        if self._ended:
            return
        for family, spare in self._spare.items():
            for port, descriptor in spare:
                os.close(descriptor)
                self._vaults.drop(Claim(family, port))
            spare.clear()
        self.flush()

    @property
    def unfinished(self) -> bool:
        """Whether `flush` has something to do."""
        return self._vaults.unfinished and not self._ended

    def flush(self) -> None:
        """Have released ports really free: nobody else holds their sockets afterwards."""
        if not self._ended:
            self._vaults.flush()

    def record(self, table: MappingTable) -> None:
        """Put the changes of the table where they survive this process."""
        if self._ended:
            return
        if self._journal is None:
            table.changed.clear()
        elif table.changed:
            self._journal.append(table.take_changes())

    def tidy(self, table: MappingTable) -> None:
        """What needs no hurry, once a second: try again what failed, keep the journal short."""
        if self._ended:
            return
        self._exhausted = False
        self._vaults.mend(self._sockets)
        if self._journal is not None and self._journal.wants_rewrite(len(table)):
            self.rewrite(table)

    def rewrite(self, table: MappingTable) -> None:
        """Begin the journal anew with all of the table."""
        if self._journal is not None and not self._ended:
            table.take_changes()
            self._journal.rewrite(table.states())


def _bind(family: int, port: int) -> tuple[int, int] | None:
    """(port, descriptor) of a new claim; None if it cannot be had."""
    try:
        # The base class: socket.socket's own constructor takes as long as the three system calls together.
        sock = socket.SocketType(family, _STREAM)
    except OSError:
        return None
    try:
        sock.bind((_WILDCARDS[family], port))
        bound: int = sock.getsockname()[1]
    except OSError:
        sock.close()
        return None
    return bound, sock.detach()
