# SPDX-License-Identifier: Apache-2.0
"""A breaker per portal: who cannot be reached is tried by one session at a time, not by all that want it. Engine ring.

After `LIMIT` connections in a row that did not come about, only one attempt goes through per pause; the pauses double
with each that goes. Attempts that were under way when the breaker opened count no more: they tell the same.
One success closes the breaker, and whoever waited may go. Only connecting counts: a target that refuses a login says
nothing about the other targets at its portal.

Not here: waiting (`recovery_engine.py`, `service.py`), connecting (`login.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from rdmactl.iscsi.portal import Portal

__all__ = ["Breakers"]

LIMIT = 3
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_PORTALS_MAX = 4096  # more dead portals than that are no memory's worth: the oldest is forgotten, and tried anew


@dataclass(slots=True)
class _Trouble:
    failures: int = 0
    pause_s: float = _FIRST_PAUSE_S
    probe_at: float = 0.0


class Breakers:
    """All portals of a service. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._troubles: dict[Portal, _Trouble] = {}
        self.held_back = 0

    def admit(self, portal: Portal, now: float) -> float:
        """0: go; else ask again in so many seconds. Whoever may go while the breaker is open is the only one."""
        trouble = self._troubles.get(portal)
        if trouble is None or trouble.failures < LIMIT:
            return 0.0
        if now < trouble.probe_at:
            self.held_back += 1
            return trouble.probe_at - now
        trouble.pause_s = min(trouble.pause_s * 2, _LONGEST_PAUSE_S)
        trouble.probe_at = now + trouble.pause_s
        return 0.0

    def failed(self, portal: Portal, now: float) -> None:
        """A connection did not come about."""
        trouble = self._troubles.setdefault(portal, _Trouble())
        trouble.failures += 1
        if trouble.failures == LIMIT:
            trouble.probe_at = now + trouble.pause_s
        if len(self._troubles) > _PORTALS_MAX:
            del self._troubles[next(iter(self._troubles))]

    def succeeded(self, portal: Portal) -> bool:
        """A connection came about; whether it had been in trouble."""
        return self._troubles.pop(portal, None) is not None

    def open(self) -> list[Portal]:
        """The portals that are being spared."""
        return [portal for portal, trouble in self._troubles.items() if trouble.failures >= LIMIT]
