# SPDX-License-Identifier: Apache-2.0
"""What the port mapper counts. Engine ring.

Not here: what the dispatcher counts of the same socket (`rdmactl.netlink.counters`), names of metrics, text.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields

__all__ = ["ANSWER_TIME_BOUNDS_S", "Histogram", "Stats"]

ANSWER_TIME_BOUNDS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 9.0)
"""Upper bounds of the histogram's buckets; three a decade, up to the limit beyond which nothing is answered."""


class Histogram:
    """How long answers took. `counts[i]` are those of at most `ANSWER_TIME_BOUNDS_S[i]`; the last one is the rest."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * (len(ANSWER_TIME_BOUNDS_S) + 1)

    def add(self, elapsed_s: float) -> None:
        """Count one answer."""
        self.counts[bisect_left(ANSWER_TIME_BOUNDS_S, elapsed_s)] += 1


@dataclass(slots=True)
class Stats:
    """Totals since the service started."""

    requests: int = 0
    """REG_PID, ADD_MAPPING and QUERY_MAPPING from the kernel."""
    answers: int = 0
    """Answers to those, refusals included."""
    refusals: int = 0
    """Answers that were HANDLE_ERR."""
    too_late: int = 0
    """Requests left without an answer because it would have come after the kernel's limit."""
    removes: int = 0
    """REMOVE_MAPPING from the kernel."""
    reports: int = 0
    """Complete or partial reports of the kernel's mappings."""
    overruns: int = 0
    """Times messages from the kernel were lost."""
    stalls: int = 0
    """Times this process itself did not run for seconds."""
    kernel_malformed: int = 0
    """Messages from the kernel that could not be understood."""
    kernel_refused: int = 0
    """Messages of ours the kernel refused."""
    foreign: int = 0
    """Netlink messages that did not come from the kernel."""
    queries_sent: int = 0
    """Peers asked."""
    query_rejects: int = 0
    """Queries the peer rejected."""
    query_unreachable: int = 0
    """Queries given up because nobody listens at the peer."""
    query_timeouts: int = 0
    """Queries given up because the peer was silent."""
    retransmissions: int = 0
    """Datagrams sent again."""
    peer_requests: int = 0
    """REQUESTs of peers, copies included."""
    peer_accepts: int = 0
    """ACCEPTs for new exchanges: each one told the kernel a remote address."""
    peer_rejects: int = 0
    """REJECTs sent."""
    peer_limited: int = 0
    """REQUESTs ignored because too many of them were open."""
    peer_malformed: int = 0
    """Datagrams that are no port mapper message."""
    peer_dropped: int = 0
    """Datagrams the kernel has dropped for us: no port mapper messages, or more at once than fit into the buffer."""
    peer_denied: int = 0
    """Datagrams of peers that are not allowed, or sent too many, not looked at."""
    peer_unsolicited: int = 0
    """ACCEPT, ACK and REJECT that belong to nothing."""
    claim_failures: int = 0
    """Ports that could not be claimed."""
    answer_times: Histogram = field(default_factory=Histogram)

    def counters(self) -> dict[str, int]:
        """All totals by name."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "answer_times"}
