# SPDX-License-Identifier: Apache-2.0
"""Percentiles of many durations in little memory. Engine ring.

Durations are counted in buckets about 1 % wide, so that a minute of fast commands takes no more room than a second.
Not here: measuring (`perf.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["PERCENTILES", "Latencies", "percentile"]

PERCENTILES = ((50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9"))
_KEPT_BITS = 7
_PER_S = 1e6


class Latencies:
    """Add durations in seconds; ask for percentiles."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._least = self._most = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one."""
        microseconds = int(seconds * _PER_S)
        shift = max(0, microseconds.bit_length() - _KEPT_BITS)
        self._buckets[microseconds >> shift << shift] += 1
        if seconds > self._most:
            self._most = seconds
        if seconds < self._least or not self.count:
            self._least = seconds
        self.count += 1

    def summary(self) -> tuple[tuple[str, float], ...]:
        """(name, seconds): min, the percentiles, max; nothing when nothing was counted."""
        if not self.count:
            return ()
        found = [("min", self._least)]
        wanted = list(PERCENTILES)
        seen = 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            while wanted and seen >= self.count * wanted[0][0] / 100:
                value = min(max(bucket / _PER_S, self._least), self._most)
                found.append((wanted.pop(0)[1], value))
        return (*found, ("max", self._most))


def percentile(values: Iterable[float], percent: float) -> float:
    """The value that `percent` of a few values do not exceed; 0 for none."""
    ordered = sorted(values)
    place = min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100) - 1)) if ordered else 0
    return ordered[int(place)] if ordered else 0.0
