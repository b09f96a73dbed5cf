# SPDX-License-Identifier: Apache-2.0
"""The table of a session's states: every pair is walked, and the document is made from it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from rdmactl.errors import LocalError
from rdmactl.initiator.recovery_states import TRANSITIONS, Event, State, diagram
from rdmactl.states import advance

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/recovery.md"
IMPOSSIBLE = {
    State.UP: {Event.GOODBYE_DONE, Event.DUE, Event.POSTPONED, Event.LOGGED_IN, Event.FAILED, Event.EXHAUSTED,
               Event.EXPIRED},
    State.LEAVING: {Event.DUE, Event.POSTPONED, Event.LOGGED_IN, Event.FAILED, Event.EXHAUSTED, Event.EXPIRED},
    State.WAITING: {Event.POSTPONED, Event.LOGGED_IN, Event.FAILED, Event.EXHAUSTED},
    State.ATTEMPT: {Event.DUE},
    State.GIVEN_UP: {Event.DUE, Event.POSTPONED, Event.LOGGED_IN, Event.FAILED, Event.EXHAUSTED},
    State.GONE: {Event.DUE, Event.POSTPONED, Event.LOGGED_IN, Event.FAILED, Event.EXHAUSTED},
}  # fmt: skip


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda value: value.name)
def test_every_pair(state: State, event: Event) -> None:
    if event in IMPOSSIBLE[state]:
        with pytest.raises(LocalError):
            advance(TRANSITIONS, state, event)
    else:
        assert advance(TRANSITIONS, state, event) in State


@pytest.mark.parametrize("state", list(State))
def test_what_ends_a_session_ends_it_in_every_state(state: State) -> None:
    assert advance(TRANSITIONS, state, Event.DESTROYED) is State.GONE
    assert advance(TRANSITIONS, state, Event.HOST_REMOVED) is State.GONE


def test_gone_is_for_ever() -> None:
    assert {after for (state, _), after in TRANSITIONS.items() if state is State.GONE} == {State.GONE}


def test_up_is_entered_by_a_login_alone() -> None:
    ways = {pair for pair, after in TRANSITIONS.items() if after is State.UP and pair[0] is not State.UP}
    assert ways == {(State.ATTEMPT, Event.LOGGED_IN)}


def test_an_attempt_begins_out_of_waiting() -> None:
    ways = {pair for pair, after in TRANSITIONS.items() if after is State.ATTEMPT and pair[0] is not State.ATTEMPT}
    assert ways == {(State.WAITING, Event.DUE)}


def test_the_document_shows_the_table() -> None:
    assert diagram() in DOCUMENT.read_text()
