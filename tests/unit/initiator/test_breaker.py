# SPDX-License-Identifier: Apache-2.0
"""A portal that cannot be reached is tried by one at a time."""

from __future__ import annotations

from rdmactl.initiator.breaker import LIMIT, Breakers
from rdmactl.iscsi.portal import Portal

DEAD, LIVE = Portal("192.0.2.1"), Portal("192.0.2.2")


def opened(now: float = 0.0) -> Breakers:
    breakers = Breakers()
    for _ in range(LIMIT):
        breakers.failed(DEAD, now)
    return breakers


def test_a_few_failures_hold_nobody_back() -> None:
    breakers = Breakers()
    for _ in range(LIMIT - 1):
        breakers.failed(DEAD, 0.0)
    assert breakers.admit(DEAD, 0.0) == 0.0


def test_then_one_goes_at_a_time_and_others_wait() -> None:
    breakers = opened()
    assert breakers.admit(DEAD, 0.5) == 0.5
    assert breakers.admit(DEAD, 1.0) == 0.0
    assert breakers.admit(DEAD, 1.0) > 0.0
    assert breakers.held_back == 2


def test_a_burst_of_failures_is_one() -> None:
    """A hundred sessions that lose their portal together do not make it be spared for half a minute."""
    breakers = Breakers()
    for _ in range(100):
        breakers.failed(DEAD, 7.0)
    assert breakers.admit(DEAD, 7.0) == 1.0


def test_another_portal_is_not_concerned() -> None:
    assert opened().admit(LIVE, 0.0) == 0.0


def test_pauses_double_up_to_half_a_minute() -> None:
    breakers, now, waits = opened(), 0.0, []
    for _ in range(8):
        waits.append(breakers.admit(DEAD, now))
        now += waits[-1]
        assert breakers.admit(DEAD, now) == 0.0
        breakers.failed(DEAD, now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_success_lets_everybody_go() -> None:
    breakers = opened()
    assert breakers.open() == [DEAD]
    assert breakers.succeeded(DEAD)
    assert not breakers.succeeded(DEAD)
    assert breakers.admit(DEAD, 0.0) == 0.0


def test_memory_is_bounded() -> None:
    breakers = Breakers()
    for number in range(5000):
        breakers.failed(Portal("192.0.2.1", number), 0.0)
    assert len(breakers._troubles) == 4096
