# SPDX-License-Identifier: Apache-2.0
"""What the service logs of faults that go on: one line at once, then one a minute."""

from __future__ import annotations

import pytest

from rdmactl.iwpm.service import REPEAT_S, _Watch
from rdmactl.iwpm.stats import ANSWER_TIME_BOUNDS_S, Histogram, Stats


def test_a_fault_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    stats, watch = Stats(), _Watch()
    watch.last_source = "10.7.0.9:1"
    watch.look(stats.counters(), 100.0)
    assert caplog.messages == []
    for second in range(120):
        stats.peer_malformed += 1000
        watch.look(stats.counters(), 100.0 + second)
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == "1000 datagrams that are no port mapper messages, dropped; last from 10.7.0.9:1"
    assert caplog.messages[1].startswith(f"{1000 * int(REPEAT_S)} ")


def test_every_watched_counter_exists() -> None:
    assert set(_Watch()._seen) <= set(Stats().counters())


def test_histogram() -> None:
    histogram = Histogram()
    for elapsed_s in (0.0, ANSWER_TIME_BOUNDS_S[0], 0.0002, 8.9, 50.0):
        histogram.add(elapsed_s)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-2:] == [1, 1]
