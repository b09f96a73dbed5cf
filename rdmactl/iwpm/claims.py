# SPDX-License-Identifier: Apache-2.0
"""Claimed TCP ports: sockets that are bound and do nothing else. Shell ring.

Which port is claimed for what is `table.py`; how a port is claimed, and that some are in advance, is `spares.py`; who
holds the sockets while this process is not there is `vault.py`.

The sockets belong to a keeper that outlives the service: while an instance is replaced, nobody else can have the ports.
An instance works through a lease, which ends when the next one begins; an abandoned instance can then no longer give
ports back that its successor relies on, nor write into the journal.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Set as AbstractSet

from rdmactl.iwpm.journal import MappingJournal
from rdmactl.iwpm.spares import GROUP, Spares
from rdmactl.iwpm.table import Claim, MappingState, MappingTable
from rdmactl.iwpm.vault import Vaults
from rdmactl.netlink.sockaddr import AF_INET

__all__ = ["ClaimKeeper", "ClaimLease"]


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
        self._spares = Spares(vaults, sockets)
        self._ended = False

    def end(self) -> None:
        """From now on nothing is claimed or released here."""
        self.give_back_spares()
        self._ended = True

    def claim(self, family: int, port: int) -> Claim | None:
        """See `table.PortClaims.claim`. None: taken, no free port, or out of descriptors."""
        if self._ended:
            return None
        if not port:
            found = self._spares.take(family)
        elif (claim := Claim(family, port)) in self._sockets:
            return claim
        else:
            found = self._spares.take_number(family, port)
        if found is None:
            return None
        claim, descriptor = found
        self._sockets[claim] = descriptor
        return claim

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

    def prepare(self) -> None:
        """Claim ports in advance, and find out where they are kept, before anybody waits."""
        if not self._ended:
            self._spares.prepare(AF_INET)

    def refill(self) -> None:
        """Claim in advance what is missing, a few at a time; for the moment behind an answer."""
        if self._spares.missing >= GROUP and not self._ended:
            self._spares.refill(GROUP)

    def give_back_spares(self) -> None:
        """Release what was claimed in advance."""
        if not self._ended:
            self._spares.give_back()
            self.flush()

    @property
    def unfinished(self) -> int:
        """How many released ports `flush` would tell of."""
        return 0 if self._ended else self._vaults.unfinished

    def flush(self) -> None:
        """Have released ports really free: nobody else holds their sockets afterwards."""
        if not self._ended:
            self._vaults.flush()

    def record(self, table: MappingTable) -> None:
        """Put the changes of the table where they survive this process."""
        changes = table.take_changes()
        if self._journal is not None and not self._ended:
            self._journal.append(changes)

    def tidy(self, table: MappingTable) -> None:
        """What needs no hurry, once a second: try again what failed, keep the journal short."""
        if self._ended:
            return
        self._spares.retry()
        self._vaults.mend(ChainMap(self._sockets, self._spares.held()))
        if self._journal is not None and self._journal.wants_rewrite(len(table)):
            self.rewrite(table)

    def rewrite(self, table: MappingTable) -> None:
        """Begin the journal anew with all of the table."""
        if self._journal is not None and not self._ended:
            table.take_changes()
            self._journal.rewrite(table.states())
