# SPDX-License-Identifier: Apache-2.0
"""Which datagrams are looked at: an allow-list, and a rate for each peer. Engine ring.

Asked for each datagram before anything else is done with it, so it is cheap: one dictionary, no object but for new
peers. Not here: the limits on exchanges (`passive.py`), and what the kernel drops before (`filter.py`).

A source address is not authentic. One liar can use up another peer's rate for as long as he keeps sending, but no more
than that; and with many addresses he only makes this forget some that were silent longest: SOURCES bounds the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

__all__ = ["PeerLimits"]

BURST_S = 2.0
"""A peer that was silent may send as much at once as it may in this time: a fail-over of many connections."""

SOURCES = 4096
"""Peers remembered."""


class PeerLimits:
    """`admit` says whether to look at a datagram. `rate` is in datagrams a second; no `peers` means everybody."""

    def __init__(self, peers: Sequence[IPv4Network | IPv6Network], rate: float) -> None:
        self._peers = peers
        self._interval_s = 1.0 / rate
        self._spent: dict[str, float | None] = {}  # when all that was taken would be paid for; None: not allowed

    def admit(self, source: str, now: float) -> bool:
        """`source` is the address in text, without scope id."""
        spent = self._spent.get(source, 0.0)
        if spent is None:
            return False
        if spent == 0.0:
            if not self._introduce(source, now):
                return False
            spent = now
        spent = max(spent, now) + self._interval_s
        if spent > now + BURST_S:
            return False
        self._spent[source] = spent
        return True

    def _introduce(self, source: str, now: float) -> bool:
        """Take note of a source not seen lately; whether it is allowed."""
        if len(self._spent) >= SOURCES:
            kept = [(name, spent) for name, spent in self._spent.items() if spent is not None and spent > now]
            self._spent = dict(kept[-SOURCES // 2 :])
        allowed = not self._peers or any(ip_address(source) in network for network in self._peers)
        self._spent[source] = now if allowed else None
        return allowed
