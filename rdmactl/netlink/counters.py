# SPDX-License-Identifier: Apache-2.0
"""What a lane counts. Engine ring.

Not here: names of metrics, rates, text. A counter only ever rises; what repeats is counted, not logged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Totals of one service. Written by its lane's thread only; any thread may read."""

    messages: int = 0
    """Messages the kernel sent unasked and a handler took."""
    sent: int = 0
    """Messages sent to the kernel."""
    replies: int = 0
    """Answers paired with what they answer."""
    overruns: int = 0
    """Times the kernel, or a limit of ours, had to drop messages; the service was told to resynchronise."""
    foreign: int = 0
    """Messages dropped because of their sender (not the kernel) or their client (not this service's)."""
    unmatched: int = 0
    """Answers to nothing outstanding: late, repeated or unknown."""
    unanswered: int = 0
    """Sent messages given up: their answer was lost, or the table of outstanding ones was full."""
    malformed: int = 0
    """Datagrams with bytes that are no message."""
    late: int = 0
    """Exchanges answered after their deadline; the answer was discarded."""
    turns: int = 0
    """Batches handled."""

    def add(self, other: Counters) -> None:
        """Add `other` to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
