# SPDX-License-Identifier: Apache-2.0
"""How long each step of an exchange took, and which one it is in. Engine ring: the clock is given.

Not here: deadlines, and what a step does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Steps"]


class Steps:
    """A list of (name, seconds), in order; `current` is the step under way, or the last one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self.current = "start"
        self.taken: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside; a step that fails is listed as well."""
        self.current = name
        before = self._clock()
        try:
            yield
        finally:
            self.taken.append((name, self._clock() - before))

    def total_s(self) -> float:
        """Seconds since this object was made."""
        return self._clock() - self._started
