# SPDX-License-Identifier: Apache-2.0
"""Ports claimed in advance: handing one out costs no system call, and it is safe before that. Shell ring.

A claim is three system calls, and one more to have it kept elsewhere (`vault.py`), which wakes another process. None of
that happens while the kernel waits: one port is claimed after each answer, and new ones go to the vault many at a time.

Here is also how a port is claimed. The socket is bound to the wildcard address, so that the number is taken on every
address of this host; it does not listen, so that nothing is ever accepted there; and it is without SO_REUSEADDR, since
two sockets that both have it may share a port. An IPv6 claim is dual-stack and takes the number for IPv4 too. See
bind(2), ip(7), ipv6(7).

Not here: what becomes of a port that was handed out (`claims.py`). A port that was released is never handed out again
from here: peers may still be on their way to it. The kernel chooses the next one, at random.
"""

from __future__ import annotations

import os
import resource
import socket
from collections import deque
from collections.abc import Sized
from typing import NamedTuple

from rdmactl.iwpm.table import Claim
from rdmactl.iwpm.vault import Vaults

__all__ = ["BATCH", "GROUP", "STOCK", "Spares"]

STOCK = 64
"""Ports of a family held in advance, once one of that family has been needed."""

BATCH = 32
"""How many go to a vault in one datagram. A claimed port that waits for that is not handed out yet."""

RESERVED = 64
"""Descriptors never used for ports: without any left this process could not even be asked what is wrong."""

GROUP = 4
"""How many are claimed at once between messages: a tenth of a millisecond."""

LOOK_EACH = RESERVED // 2
"""Ports claimed between two looks at the limit on descriptors."""

_WILDCARDS = {int(socket.AF_INET): "0.0.0.0", int(socket.AF_INET6): "::"}  # noqa: S104 -- all addresses: that is it
_STREAM = int(socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
_tuple = tuple.__new__  # cheaper than a named tuple's own constructor


class Spare(NamedTuple):
    """A claimed port that nobody has been told of."""

    claim: Claim
    descriptor: int


class Spares:
    """The stock of each family. `in_use` are the claims handed out: they count for the limit on descriptors."""

    def __init__(self, vaults: Vaults, in_use: Sized) -> None:
        self.missing = 0
        """How many `refill` has still to claim."""
        self._vaults = vaults
        self._in_use = in_use
        self._safe: dict[int, deque[Spare]] = {}
        self._fresh: dict[int, list[Spare]] = {}  # not in a vault yet
        self._allowed = 0
        self._exhausted = False

    def take(self, family: int) -> Spare | None:
        """A port that is safe; None if there is none."""
        safe = self._safe.get(family)
        if safe is None:
            safe = self._begin(family)
        if not safe:
            self._hand_over(family)
        if safe:
            self.missing += 1
            return safe.popleft()
        return self.take_number(family, 0)

    def take_number(self, family: int, port: int) -> Spare | None:
        """This port, or for 0 a new one that is not of the stock; None if it cannot be had."""
        for some in (self._safe.get(family), self._fresh.get(family)) if port else ():
            found = next((spare for spare in some or () if spare.claim.port == port), None)
            if some is not None and found is not None:
                self._hand_over(family)
                self._safe[family].remove(found)
                self.missing += 1
                return found
        found = self._bind(family, port)
        if found is not None:
            self._vaults.keep({found.claim: found.descriptor})
        return found

    def prepare(self, family: int) -> None:
        """Fill the stock of a family: at the start, so that the first request does not wait for the vault to open."""
        self._begin(family)
        self.refill(STOCK)
        self._hand_over(family)

    def refill(self, limit: int) -> None:
        """Claim up to `limit` of the missing ones."""
        for family, fresh in self._fresh.items():
            lacking = STOCK - len(fresh) - len(self._safe[family])
            for _ in range(min(limit, lacking)):
                found = None if self._exhausted else self._bind(family, 0)
                if found is None:
                    self._exhausted = True  # looking for a free port where there is none takes milliseconds
                    self.missing = 0
                    return
                fresh.append(found)
                limit -= 1
                self.missing -= 1
            if len(fresh) >= BATCH:
                self._hand_over(family)

    def retry(self) -> None:
        """Once a second: look again for free ports, if there were none."""
        if self._exhausted:
            self._exhausted = False
            self.missing = sum(STOCK - len(fresh) - len(self._safe[family]) for family, fresh in self._fresh.items())

    def held(self) -> dict[Claim, int]:
        """All of the stock: it must be as safe as what is in use before it is handed out."""
        return dict(spare for some in (*self._safe.values(), *self._fresh.values()) for spare in some)

    def give_back(self) -> None:
        """Release all of the stock."""
        for some in (*self._safe.values(), *self._fresh.values()):
            for claim, descriptor in some:
                os.close(descriptor)
                self._vaults.drop(claim)
        self._safe.clear()
        self._fresh.clear()
        self.missing = 0

    def _begin(self, family: int) -> deque[Spare]:
        self.missing += STOCK
        self._fresh[family] = []
        safe = self._safe[family] = deque[Spare]()
        return safe

    def _hand_over(self, family: int) -> None:
        fresh = self._fresh[family]
        if fresh:
            self._vaults.keep(dict(fresh))
            self._safe[family].extend(fresh)
            fresh.clear()

    def _bind(self, family: int, port: int) -> Spare | None:
        """A new claim; None if it is taken, no port is free, or too few descriptors are."""
        if not self._allowed:
            stock = sum(map(len, self._safe.values())) + sum(map(len, self._fresh.values()))
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            self._allowed = max(0, min(LOOK_EACH, limit - len(self._in_use) - stock - RESERVED))
            if not self._allowed:
                return None
        self._allowed -= 1
        return _bind(family, port)


def _bind(family: int, port: int) -> Spare | None:
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
    return _tuple(Spare, (_tuple(Claim, (family, bound)), sock.detach()))
