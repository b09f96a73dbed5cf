# SPDX-License-Identifier: Apache-2.0
"""What the answers of one discovery record mean for sessions: which are wanted, which may go. Engine ring.

The rules, of which the second is the important one:

* What an answer names, and has no session, is logged in to. A login that failed is tried again after a growing pause.
* Silence is not absence. Only an answer that is complete and names something can miss a place; errors, lists that were
  cut short or had entries left out, and empty lists change nothing. A place has to be missing in several such answers,
  over some time: targets that start, or fail over, announce themselves piece by piece.
* A session goes only if the discovery record alone claims it and nothing uses its disks (`obstacle`).

open-iscsi's discoveryd logs out of what one answer does not name, however that answer came about.

Not here: when to ask (`schedule.py`), asking, logging in and out (`watcher.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rdmactl.iscsi.portal import Portal

__all__ = ["MISSED_ANSWERS", "MISSED_S", "Answer", "Care", "Facts", "Place", "obstacle"]

MISSED_ANSWERS = 3
"""Complete answers in a row without a place before it counts as gone."""

MISSED_S = 10.0
"""The least time these answers span, however fast the record polls."""

_FIRST_PAUSE_S = 30.0
_DOUBLINGS_MAX = 16
_LONGEST_PAUSE_S = 600.0  # between attempts to log in to a target that refuses: accounts can be locked by many


class Place(NamedTuple):
    """What makes two sessions the same: target, portal as announced, and the interface it was found through."""

    target: str
    portal: Portal
    iface: str


class Answer(NamedTuple):
    """What one interface found: places with their portal group tags.

    `complete`: the server has sent its whole list, and nothing in it had to be left out.
    """

    iface: str
    places: Mapping[Place, int]
    complete: bool


class Facts(NamedTuple):
    """A session at a place that is gone: who claims it, and what uses its disks ("sda1 is mounted on /srv")."""

    sid: int
    claims: frozenset[str]
    uses: tuple[str, ...]


@dataclass(slots=True)
class _Known:
    tpgt: int
    named: bool  # by an answer of this life
    missed: int = 0
    missed_since: float = 0.0
    failures: int = 0
    try_at: float = 0.0


class Care:
    """The places of one discovery record, over time."""

    def __init__(self) -> None:
        self._places: dict[Place, _Known] = {}

    def __len__(self) -> int:
        """How many places there are, missing ones included."""
        return len(self._places)

    def adopt(self, places: Iterable[Place]) -> None:
        """Sessions the record claims from before: of an earlier life of this daemon."""
        for place in places:
            self._places.setdefault(place, _Known(tpgt=-1, named=False))

    def receive(self, answer: Answer, now: float) -> None:
        """Take what one interface found."""
        for place, tpgt in answer.places.items():
            known = self._places.setdefault(place, _Known(tpgt, named=True))
            known.tpgt, known.named, known.missed = tpgt, True, 0
        if not (answer.complete and answer.places):
            return
        for place, known in self._places.items():
            if place.iface == answer.iface and place not in answer.places:
                known.missed_since = known.missed_since if known.missed else now
                known.missed += 1

    def wanted(self, present: Container[Place], now: float) -> list[tuple[Place, int]]:
        """Places without a session, with their tags, that are to be logged in to now."""
        for place, known in self._places.items():
            if place in present:
                known.failures, known.try_at = 0, 0.0
        return [
            (place, known.tpgt)
            for place, known in self._places.items()
            if known.named and not known.missed and place not in present and now >= known.try_at
        ]

    def login_failed(self, place: Place, now: float) -> bool:
        """A wanted place did not let us in. It is wanted again after a pause that doubles each time.

        Whether this is news: the first time since it had a session, or was named at all.
        """
        known = self._places.get(place)
        if known is None:
            return True
        first = not known.failures
        known.try_at = now + min(_FIRST_PAUSE_S * 2**known.failures, _LONGEST_PAUSE_S)
        known.failures = min(known.failures + 1, _DOUBLINGS_MAX)
        return first

    def gone(self, now: float) -> list[Place]:
        """Places that have been missing for long enough."""
        return [
            place
            for place, known in self._places.items()
            if known.missed >= MISSED_ANSWERS and now - known.missed_since >= MISSED_S
        ]

    def forget(self, place: Place) -> None:
        """Its session is gone, or was never there."""
        self._places.pop(place, None)

    @property
    def missing(self) -> int:
        """How many places the last complete answers did not name."""
        return sum(known.missed > 0 for known in self._places.values())

    def wake_at(self) -> float | None:
        """When the next pause before a login ends, if one has not ended."""
        pauses = (known.try_at for known in self._places.values() if known.try_at and not known.missed)
        return min(pauses, default=None)


def obstacle(facts: Facts, claim: str) -> str | None:
    """Why a session whose place is gone has to stay, as the end of a sentence; None when it may go."""
    if claim not in facts.claims:
        return "was not made for this discovery record"
    others = sorted(facts.claims - {claim})
    if others:
        return f"is claimed by {', '.join(others)}"
    if facts.uses:
        return f"is in use: {', '.join(facts.uses)}"
    return None
