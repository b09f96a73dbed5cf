# SPDX-License-Identifier: Apache-2.0
"""When to restart a service that has ended. Engine ring.

Not here: recognising that it has ended (`supervisor.py`), and reconnecting sessions, which has rules of its own.

The first restart comes almost at once (most faults are one bad message), then the pause doubles up to a cap, for a
service that cannot start (no kernel module, a port taken) must cost nothing. The jitter keeps several services, or many
hosts after one common event, from marching in step. A service that stayed up for a while has earned a fresh start.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CAP_S", "FIRST_S", "RestartBackoff"]

FIRST_S = 0.1
FACTOR = 2.0
CAP_S = 30.0

# Up for this long, and the fault is taken for a new one.
FRESH_S = 60.0

# The pause is drawn from 75 % to 125 %.
JITTER = 0.25


class RestartBackoff:
    """`random` gives floats in [0, 1)."""

    def __init__(self, random: Callable[[], float], *, first_s: float = FIRST_S, cap_s: float = CAP_S) -> None:
        self._random = random
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def pause_s(self, up_s: float) -> float:
        """How long to wait now, after the service was up for `up_s`."""
        if up_s >= FRESH_S:
            self._next_s = self._first_s
        pause_s = self._next_s
        self._next_s = min(pause_s * FACTOR, self._cap_s)
        return pause_s * (1 - JITTER + 2 * JITTER * self._random())
