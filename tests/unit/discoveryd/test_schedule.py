# SPDX-License-Identifier: Apache-2.0
"""When discovery records are asked: exact times, with chance taken out."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from rdmactl.discoveryd.schedule import DEFAULT_POLL_S, LONGEST_PAUSE_S, QUIET_S, Timetable


def middle(a: float, b: float) -> float:
    return (a + b) / 2


def listening() -> Timetable:
    table = Timetable(30.0, middle)
    table.listening(0.0, heard=True)
    return table


def due(table: Timetable) -> float:
    wake_at = table.wake_at()
    assert wake_at is not None
    return wake_at


def test_the_first_question_is_due_at_once() -> None:
    assert due(Timetable(30.0, middle)) < 0.0


def test_an_answer_is_followed_by_a_pause() -> None:
    table = Timetable(6.0, middle)
    table.answered(100.0, missing=False)
    assert due(table) == 106.0
    table.answered(106.0, missing=True)
    assert due(table) == 112.0


def test_zero_is_once_but_until_there_is_an_answer() -> None:
    table = Timetable(0.0, middle)
    table.failed(100.0)
    assert due(table) == 100.0 + DEFAULT_POLL_S
    table.answered(130.0, missing=False)
    assert table.wake_at() is None


def test_silence_is_asked_less_and_less_often() -> None:
    table, now, pauses = Timetable(30.0, middle), 0.0, []
    for _ in range(8):
        table.failed(now)
        pauses.append(due(table) - now)
        now = due(table)
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]
    assert table.failures == 8
    table.answered(now, missing=False)
    assert (due(table) - now, table.failures) == (30.0, 0)


def test_a_long_pause_is_never_made_shorter_by_silence() -> None:
    table = Timetable(3600.0, middle)
    table.failed(0.0)
    assert due(table) == 3600.0


def test_who_listens_asks_seldom_unless_something_is_missing() -> None:
    table = listening()
    table.answered(0.0, missing=False)
    assert due(table) == QUIET_S
    table.answered(QUIET_S, missing=True)
    assert due(table) == QUIET_S + 5.0


def test_news_gather_for_a_moment() -> None:
    table = listening()
    table.answered(0.0, missing=False)
    for at in (10.0, 10.2, 10.9):
        table.news(at)
    assert due(table) == 11.0


def test_who_goes_deaf_asks_again_soon() -> None:
    table = listening()
    table.answered(0.0, missing=False)
    table.listening(100.0, heard=False)
    assert due(table) == 130.0
    table.listening(110.0, heard=False)
    assert due(table) == 130.0


def test_news_reach_who_asked_once_only() -> None:
    table = Timetable(0.0, middle)
    table.answered(0.0, missing=False)
    table.news(50.0)
    assert due(table) == 51.0


Step = Callable[[Timetable, float], None]
STEPS = st.sampled_from(
    [
        lambda table, now: table.answered(now, missing=False),
        lambda table, now: table.answered(now, missing=True),
        lambda table, now: table.failed(now),
        lambda table, now: table.news(now),
    ]
)


@given(st.floats(1.0, 7200.0), st.booleans(), st.lists(STEPS, min_size=1, max_size=30), st.integers())
def test_there_is_always_a_next_question(poll_s: float, listens: bool, steps: list[Step], seed: int) -> None:
    table, now = Timetable(poll_s, random.Random(seed).uniform), 0.0
    table.listening(now, heard=listens)
    table.answered(now, missing=False)
    for step in steps:
        step(table, now)
        assert now <= due(table) <= now + 1.1 * max(poll_s, QUIET_S, LONGEST_PAUSE_S)
        now = due(table)


@given(st.integers())
def test_hosts_that_were_started_together_drift_apart(seed: int) -> None:
    dice = random.Random(seed)
    tables = [Timetable(30.0, dice.uniform) for _ in range(8)]
    for table in tables:
        table.answered(0.0, missing=False)
    moments = {due(table) for table in tables}
    assert len(moments) == 8
    assert all(27.0 <= moment <= 33.0 for moment in moments)
