# SPDX-License-Identifier: Apache-2.0
"""How long each step of an exchange took, and which one it is in. Engine ring: the clock is given.

Not here: deadlines, and what a step does.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Steps"]


class Steps:
    """Steps follow each other without a gap; `current` is the one under way, or the last one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = self._started = clock()
        self._taken: list[tuple[str, float]] = []
        self._open = False
        self.current = "start"

    def begin(self, name: str) -> None:
        """The step before ends, this one begins. Naming the current one again changes nothing."""
        if self._open and name == self.current:
            return
        self.end()
        self.current, self._open = name, True

    def end(self) -> None:
        """The current step ends, and none begins."""
        now = self._clock()
        if self._open:
            self._taken.append((self.current, now - self._since))
        self._since, self._open = now, False

    def taken(self) -> tuple[tuple[str, float], ...]:
        """(name, seconds) of the steps that ended, in order."""
        return tuple(self._taken)

    def total_s(self) -> float:
        """Seconds since this object was made."""
        return self._clock() - self._started
