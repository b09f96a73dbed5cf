# SPDX-License-Identifier: Apache-2.0
"""When a lost session is tried again: exact times, no sleep; and random lives that keep the invariants."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rdmactl.initiator.recovery_engine import (
    Action,
    Attempt,
    Goodbye,
    News,
    Policy,
    Recovery,
    Release,
    Remove,
    Rescan,
    Told,
)
from rdmactl.initiator.recovery_states import TRANSITIONS, Event, State

POLICY = Policy(replacement_s=20.0)


def longest(low: float, high: float) -> float:
    return high


def new(policy: Policy = POLICY, *, time2wait_s: float = 0.0) -> Recovery:
    return Recovery(policy, longest, 100.0, time2wait_s=time2wait_s)


def doing(engine: Recovery) -> list[Action]:
    """What it asks for, without what it tells."""
    return [action for action in engine.take_output() if not isinstance(action, Told)]


def told(engine: Recovery) -> list[str]:
    return [action.reason for action in engine.take_output() if isinstance(action, Told)]


def step(engine: Recovery) -> float:
    """Go to the time it asks for."""
    wake_at = engine.wake_at()
    assert wake_at is not None
    engine.tick(wake_at)
    return wake_at


def test_the_first_attempt_is_at_once_and_later_ones_double() -> None:
    engine = new(Policy(replacement_s=-1))
    engine.receive(News(Event.LOST, "cut"), 200.0)
    assert doing(engine) == [Release()]
    times = []
    for _ in range(9):
        times.append(step(engine))
        assert doing(engine) == [Attempt()]
        engine.receive(News(Event.FAILED, "refused"), times[-1])
    pauses = [after - before for before, after in pairwise(times)]
    assert times[0] == 200.0
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert engine.attempts == 9


def test_a_repeated_reason_is_told_once() -> None:
    engine = new(Policy(replacement_s=-1))
    engine.receive(News(Event.LOST, "cut"), 200.0)
    reasons = []
    for reason in ("refused", "refused", "silent", "refused"):
        step(engine)
        engine.receive(News(Event.FAILED, reason), 200.0)
        reasons += told(engine)
    assert reasons == ["cut", "refused", "silent", "refused"]


def test_time2wait_of_the_login_is_kept_even_when_a_link_comes() -> None:
    """Checklist 39."""
    engine = new(time2wait_s=2.0)
    engine.receive(News(Event.LOST), 200.0)
    engine.receive(News(Event.TRY_NOW), 200.5)
    assert engine.wake_at() == 202.0


def test_a_drop_that_was_announced_sets_the_wait() -> None:
    """Checklist 39: event 2 with Time2Wait 5."""
    engine = new()
    engine.receive(News(Event.DROP_ANNOUNCED, seconds=5), 199.0)
    engine.receive(News(Event.LOST), 200.0)
    assert engine.wake_at() == 205.0


def test_a_logout_the_target_asks_for() -> None:
    engine = new()
    engine.receive(News(Event.LOGOUT_ASKED, seconds=3), 200.0)
    assert doing(engine) == [Goodbye(3)]
    engine.receive(News(Event.GOODBYE_DONE, seconds=4), 201.0)
    assert doing(engine) == [Release()]
    assert step(engine) == 205.0
    assert doing(engine) == [Attempt()]


def test_a_link_that_comes_ends_the_pause_but_not_more_often_than_twice_a_second() -> None:
    engine = new(Policy(replacement_s=-1))
    engine.receive(News(Event.LOST), 200.0)
    for _ in range(6):
        now = step(engine)
        engine.receive(News(Event.FAILED), now)
    engine.receive(News(Event.TRY_NOW), now + 0.1)
    assert engine.wake_at() == now + 0.5
    engine.receive(News(Event.TRY_NOW), now + 0.9)
    assert engine.wake_at() == now + 0.5


def test_a_link_that_comes_during_an_attempt_counts_for_the_next() -> None:
    engine = new(Policy(replacement_s=-1))
    engine.receive(News(Event.LOST), 200.0)
    for _ in range(6):
        now = step(engine)
        engine.receive(News(Event.FAILED), now)
    now = step(engine)
    engine.receive(News(Event.TRY_NOW), now)
    engine.receive(News(Event.FAILED), now + 3)
    assert engine.wake_at() == now + 3.5


def test_an_open_breaker_is_no_attempt() -> None:
    engine = new(Policy(reopen_max=1, replacement_s=-1))
    engine.receive(News(Event.LOST), 200.0)
    step(engine)
    engine.receive(News(Event.POSTPONED, seconds=7), 200.0)
    assert (engine.state, engine.wake_at(), engine.attempts) == (State.WAITING, 207.0, 0)


def test_the_limit_of_attempts() -> None:
    engine = new(Policy(reopen_max=2, replacement_s=-1))
    engine.receive(News(Event.LOST), 200.0)
    for _ in range(2):
        assert engine.state is State.WAITING
        engine.receive(News(Event.FAILED, "refused"), step(engine))
    assert (engine.state, engine.wake_at()) == (State.GIVEN_UP, None)


def test_the_kernels_clock_is_the_one_that_counts() -> None:
    """An administrator may have changed it since the login; what runs already goes on."""
    engine = new(Policy(replacement_s=-1))
    engine.kernel_waits(3.0)
    engine.receive(News(Event.LOST, "cut"), 200.0)
    engine.kernel_waits(-1)
    engine.tick(202.9)
    assert not [text for text in told(engine) if text.startswith("I/O fails")]
    engine.tick(203.0)
    assert "I/O fails from now on: replacement timeout is over" in told(engine)


def test_the_replacement_timeout_is_told_and_ends_nothing() -> None:
    """Checklist 36."""
    engine = new()
    engine.receive(News(Event.LOST, "cut"), 200.0)
    engine.receive(News(Event.FAILED), step(engine))
    while engine.wake_at() != 220.0:
        engine.receive(News(Event.FAILED), step(engine))
    told(engine)
    engine.tick(220.0)
    assert told(engine) == ["I/O fails from now on: replacement timeout is over"]
    engine.receive(News(Event.FAILED), step(engine))
    step(engine)
    engine.receive(News(Event.LOGGED_IN), 300.0)
    assert (engine.state, engine.wake_at()) == (State.UP, None)


def test_lost_again_at_once_goes_on_with_the_pauses() -> None:
    """Checklist 62: two hosts of one name and ISID throw each other out, less and less often."""
    engine = new(Policy(replacement_s=-1))
    now, pauses = 200.0, []
    for _ in range(6):
        engine.receive(News(Event.LOST), now)
        at = step(engine)
        pauses.append(at - now)
        now = at + 0.1
        engine.receive(News(Event.LOGGED_IN), now)
    assert pauses[0] == 0.0
    assert [round(pause, 3) for pause in pauses[1:]] == [0.5, 1.0, 2.0, 4.0, 8.0]
    engine.receive(News(Event.LOST), now + 61)
    assert engine.wake_at() == now + 61


def test_lun_changes_are_rescanned_once_in_ten_seconds() -> None:
    engine = new()
    for second in range(5):
        engine.receive(News(Event.LUNS_CHANGED), 200.0 + second)
        engine.tick(200.0 + second)
    assert doing(engine) == [Rescan()]
    assert step(engine) == 210.0
    assert doing(engine) == [Rescan()]
    assert engine.wake_at() is None


def test_no_rescan_when_the_record_says_so() -> None:
    engine = new(Policy(rescan=False))
    engine.receive(News(Event.LUNS_CHANGED), 200.0)
    assert engine.wake_at() is None


def test_a_host_that_is_removed_waits_for_the_session() -> None:
    """iscsi_err 1018: even in the middle of an attempt."""
    engine = new()
    engine.receive(News(Event.LOST), 200.0)
    step(engine)
    doing(engine)
    engine.receive(News(Event.HOST_REMOVED), 200.1)
    assert doing(engine) == [Remove()]
    assert (engine.state, engine.wake_at()) == (State.GONE, None)


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 40), st.floats(0, 10)), max_size=60))
def test_any_life_keeps_the_invariants(life: list[tuple[Event, float, float]]) -> None:
    """A release before each attempt, and none without; always a time for the next one while waiting."""
    engine, now, released = new(Policy(reopen_max=5)), 100.0, False
    for event, later_s, seconds in life:
        now += later_s
        if engine.wake_at() is not None:
            now = max(now, engine.wake_at() or now)
            engine.tick(now)
        if event not in (Event.DUE, Event.EXHAUSTED, Event.EXPIRED) and (engine.state, event) in TRANSITIONS:
            engine.receive(News(event, event.name, seconds), now)
        for action in engine.take_output():
            if isinstance(action, Release):
                released = True
            if isinstance(action, Attempt):
                assert released
        assert (engine.state is State.WAITING) == (engine._attempt_at is not None)
        assert engine.state is not State.GONE or engine.wake_at() is None
        released = released and engine.state is not State.UP
