# SPDX-License-Identifier: Apache-2.0
"""Deadlines of many things at once, cheap to move and cheap to forget. Engine ring.

Not here: clocks. A deadline that is moved or dropped is not looked for in the heap; it is skipped when it comes up.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar

__all__ = ["Timed", "Timers", "earliest"]


def earliest(*times: float | None) -> float | None:
    """The first of the times that are given."""
    found = None
    for time in times:
        if time is not None and (found is None or time < found):
            found = time
    return found


class Timed(Protocol):
    """Something with a deadline: `due`, None for none."""

    due: float | None


T = TypeVar("T", bound=Timed)


class Timers(Generic[T]):
    """The things that wait, by the time they wait for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()

    def set(self, item: T, due: float) -> None:
        """Let `item` wait for `due` and for nothing else."""
        item.due = due
        heappush(self._heap, (due, next(self._order), item))

    def pop_due(self, now: float) -> list[T]:
        """The items whose time has come, earliest first; they wait for nothing any more."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            due, _, item = heappop(self._heap)
            if item.due == due:
                item.due = None
                found.append(item)
        return found

    def next_due(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and heap[0][2].due != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None
