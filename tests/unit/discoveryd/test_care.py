# SPDX-License-Identifier: Apache-2.0
"""The rules of the discovery daemon: what an answer may do to a session, and what it may not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdmactl.discoveryd.care import MISSED_ANSWERS, MISSED_S, Answer, Care, Facts, Place, obstacle
from rdmactl.iscsi.portal import Portal

A, B, C = (Place(f"iqn.2026-11.test:{letter}", Portal("10.9.0.1"), "default") for letter in "abc")
OTHER = A._replace(iface="eth1")
MINE = "discovery:sendtargets 10.9.0.1:3260"


def answer(*places: Place, complete: bool = True, iface: str = "default") -> Answer:
    return Answer(iface, dict.fromkeys(places, 1), complete)


def told(*answers: Answer, step_s: float = 30.0) -> tuple[Care, float]:
    """A care that has heard these answers, one after another; and the time then."""
    care, now = Care(), 0.0
    for each in answers:
        now += step_s
        care.receive(each, now)
    return care, now


def test_what_is_named_and_has_no_session_is_wanted() -> None:
    care, now = told(answer(A, B))
    assert care.wanted({B}, now) == [(A, 1)]


def test_what_one_answer_misses_is_neither_wanted_nor_gone() -> None:
    care, now = told(answer(A, B), answer(A))
    assert care.wanted((), now) == [(A, 1)]
    assert care.gone(now) == []
    assert care.missing == 1


def test_what_is_missing_in_three_complete_answers_is_gone() -> None:
    care, now = told(answer(A, B), answer(A), answer(A), answer(A))
    assert care.gone(now) == [B]
    care.forget(B)
    assert (len(care), care.gone(now)) == (1, [])


def test_fast_answers_do_not_prove_more() -> None:
    care, now = told(answer(A, B), *[answer(A)] * 20, step_s=0.1)
    assert care.gone(now) == []
    care.receive(answer(A), now + MISSED_S)
    assert care.gone(now + MISSED_S) == [B]


def test_a_place_that_is_named_again_begins_anew() -> None:
    care, now = told(answer(A, B), answer(A), answer(A), answer(A, B), answer(A), answer(A))
    assert care.gone(now) == []


def test_an_answer_speaks_for_its_interface_only() -> None:
    care, now = told(answer(A), answer(OTHER, iface="eth1"), *[answer(A)] * 5)
    assert care.gone(now) == []


def test_sessions_from_before_are_not_made_again_but_may_go() -> None:
    care = Care()
    care.adopt([A, B])
    assert care.wanted((), 0.0) == []
    for now in (30.0, 60.0, 90.0):
        care.receive(answer(A), now)
    assert care.gone(90.0) == [B]
    assert care.wanted((), 90.0) == [(A, 1)]


def test_a_login_that_fails_is_tried_again_less_and_less_often() -> None:
    care, now = told(answer(A))
    pauses = []
    for turn in range(8):
        assert care.login_failed(A, now) is (turn == 0)
        assert care.wanted((), now) == []
        wake_at = care.wake_at()
        assert wake_at is not None
        pauses.append(wake_at - now)
        now = wake_at
        assert care.wanted((), now) == [(A, 1)]
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]


def test_a_session_ends_the_pauses() -> None:
    care, now = told(answer(A))
    care.login_failed(A, now)
    assert care.wanted({A}, now) == []
    assert care.wake_at() is None
    assert care.wanted((), now) == [(A, 1)]


def test_a_failed_login_to_what_is_forgotten_is_nothing() -> None:
    care = Care()
    care.login_failed(A, 0.0)
    assert care.wake_at() is None


def test_who_else_has_a_say() -> None:
    assert obstacle(Facts(1, frozenset({MINE}), ()), MINE) is None
    assert obstacle(Facts(1, frozenset(), ()), MINE) == "was not made for this discovery record"
    assert obstacle(Facts(1, frozenset({MINE, "admin", "boot"}), ()), MINE) == "is claimed by admin, boot"
    assert obstacle(Facts(1, frozenset({MINE}), ("sda is swap space",)), MINE) == "is in use: sda is swap space"


# What holds whatever happens

PLACES = st.sampled_from([A, B, C, OTHER])
NAMED = st.frozensets(PLACES, max_size=4)
ANSWERS = st.lists(
    st.tuples(st.sampled_from(["default", "eth1"]), NAMED, st.booleans(), st.floats(0.0, 60.0)), max_size=30
)


@given(ANSWERS)
def test_nothing_is_gone_that_was_not_missed_by_enough_complete_answers(
    history: list[tuple[str, frozenset[Place], bool, float]],
) -> None:
    care, now = Care(), 0.0
    missed: dict[Place, list[float]] = {}  # times of the complete answers without it, since it was named
    for iface, named, complete, pause_s in history:
        now += pause_s
        places = {place for place in named if place.iface == iface}
        care.receive(Answer(iface, dict.fromkeys(places, 1), complete), now)
        for place in places:
            missed[place] = []
        if complete and places:
            for place, times in missed.items():
                if place.iface == iface and place not in places:
                    times.append(now)
        expected = {p for p, times in missed.items() if len(times) >= MISSED_ANSWERS and now - times[0] >= MISSED_S}
        assert set(care.gone(now)) == expected
        assert not expected & {place for place, _ in care.wanted((), now)}


@given(st.lists(st.tuples(NAMED, st.booleans()), max_size=20))
def test_empty_and_partial_answers_take_nothing_away(history: list[tuple[frozenset[Place], bool]]) -> None:
    care = Care()
    care.receive(answer(A, B, C), 0.0)
    for turn, (named, empty) in enumerate(history):
        places = () if empty else tuple(place for place in named if place.iface == "default")
        care.receive(answer(*places, complete=empty), 100.0 * (turn + 1))
    assert care.missing == 0
    assert {place for place, _ in care.wanted((), 1e6)} == {A, B, C}


@given(st.frozensets(st.sampled_from([MINE, "admin", "boot", "unit x"])), st.lists(st.just("sda is swap"), max_size=2))
def test_only_what_is_ours_alone_and_unused_may_go(claims: frozenset[str], uses: list[str]) -> None:
    may_go = obstacle(Facts(7, claims, tuple(uses)), MINE) is None
    assert may_go == (claims == {MINE} and not uses)
