# SPDX-License-Identifier: Apache-2.0
"""When a discovery record is asked next. Engine ring.

Every pause is spread by a tenth, so that a thousand hosts that were started together do not ask together. An address
that does not answer is asked less and less often, at least every ten minutes. News (state change notifications of
iSNS) bring a question forward, after a moment in which more of them gather. While places are missing, a record that
otherwise waits for news asks on its own, because one answer is no proof.

Not here: what an answer means (`care.py`). `discoveryd_poll_inval` is iscsid.conf's: seconds; 0 is once; below 0 is
the default for SendTargets and "wait for news" for iSNS.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DEFAULT_POLL_S", "LONGEST_PAUSE_S", "QUIET_S", "Timetable"]

DEFAULT_POLL_S = 30.0
LONGEST_PAUSE_S = 600.0
QUIET_S = 900.0
"""Between questions where notifications are awaited: they travel over UDP, and may be lost with their repetitions."""

_GATHER_S = 1.0
_CONFIRM_S = 5.0
_SPREAD = 0.1
_DOUBLINGS_MAX = 16


class Timetable:
    """The questions of one record: the first one is due at once.

    `poll_s`: seconds between them; 0 is one question only. `uniform(a, b)` is a random number.
    """

    def __init__(self, poll_s: float, uniform: Callable[[float, float], float]) -> None:
        self._listens = False
        self._poll_s = poll_s
        self._uniform = uniform
        self._due: float | None = float("-inf")
        self._failures = 0

    @property
    def failures(self) -> int:
        """Questions without an answer since the last answer."""
        return self._failures

    def wake_at(self) -> float | None:
        """When to ask; None for never again."""
        return self._due

    def answered(self, now: float, *, missing: bool) -> None:
        """The question was answered. `missing`: the answer does not name all that is known."""
        self._failures = 0
        pause_s = self._poll_s
        if self._listens:
            pause_s = _CONFIRM_S if missing else QUIET_S
        self._due = self._later(now, pause_s) if pause_s else None

    def failed(self, now: float) -> None:
        """There was no answer. Who asks only once goes on until there is one."""
        first_s = DEFAULT_POLL_S if self._listens else self._poll_s or DEFAULT_POLL_S
        pause_s = min(first_s * 2 ** min(self._failures, _DOUBLINGS_MAX), LONGEST_PAUSE_S)
        self._failures += 1
        self._due = self._later(now, max(pause_s, first_s))

    def listening(self, now: float, *, heard: bool) -> None:
        """Whether news would reach us from now on: then `poll_s` does not count. Who goes deaf asks again soon."""
        if self._listens and not heard and self._due is not None:
            self._due = min(self._due, self._later(now, self._poll_s))
        self._listens = heard

    def news(self, now: float) -> None:
        """Something has changed over there."""
        soon = now + _GATHER_S
        self._due = soon if self._due is None else min(self._due, soon)

    def _later(self, now: float, pause_s: float) -> float:
        return now + self._uniform((1 - _SPREAD) * pause_s, (1 + _SPREAD) * pause_s)
