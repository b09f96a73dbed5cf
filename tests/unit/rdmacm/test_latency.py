# SPDX-License-Identifier: Apache-2.0
"""Percentiles: exact at the ends, within a percent between, whatever comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdmactl.rdmacm.latency import Latencies, percentile


def test_nothing() -> None:
    assert Latencies().summary() == ()
    assert percentile([], 50) == 0.0


def test_a_thousand_milliseconds() -> None:
    latencies = Latencies()
    for number in range(1, 1001):
        latencies.add(number / 1000)
    found = dict(latencies.summary())
    assert list(found) == ["min", "p50", "p90", "p99", "p99.9", "max"]
    assert (found["min"], found["max"]) == (0.001, 1.0)
    assert abs(found["p50"] - 0.5) < 0.006
    assert abs(found["p99"] - 0.99) < 0.011


@given(st.lists(st.floats(0, 100), min_size=1))
def test_they_are_ordered_and_close(values: list[float]) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    found = [seconds for _, seconds in latencies.summary()]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (min(values), max(values))
    exact = percentile(values, 50)
    assert abs(dict(latencies.summary())["p50"] - exact) <= exact / 50 + 2e-6


def test_a_few_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], percent) for percent in (0, 34, 50, 99, 100)] == [1.0, 2.0, 2.0, 3.0, 3.0]
