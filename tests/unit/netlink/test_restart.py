# SPDX-License-Identifier: Apache-2.0
"""The pause between restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink.restart import CAP_S, FIRST_S, RestartBackoff


def middle() -> float:
    return 0.5  # no jitter


def test_it_starts_fast_doubles_and_is_capped() -> None:
    backoff = RestartBackoff(middle, first_s=1.0, cap_s=10.0)
    assert [backoff.pause_s(0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_being_up_for_a_while_starts_it_afresh() -> None:
    backoff = RestartBackoff(middle, first_s=1.0)
    assert [backoff.pause_s(up_s) for up_s in (0.0, 59.9, 60.0, 0.0)] == [1.0, 2.0, 1.0, 2.0]


@given(st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 1e6)), max_size=50))
def test_every_pause_is_within_the_jitter_of_its_bounds(rounds: list[tuple[float, float]]) -> None:
    draws = iter([draw for draw, _ in rounds])
    backoff = RestartBackoff(lambda: next(draws))
    for _, up_s in rounds:
        assert 0.75 * FIRST_S <= backoff.pause_s(up_s) <= 1.25 * CAP_S
