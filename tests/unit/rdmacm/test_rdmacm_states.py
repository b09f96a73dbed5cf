# SPDX-License-Identifier: Apache-2.0
"""The table of a connection's states: every pair, and random walks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.rdmacm.states import DEVICE_EVENTS, TRANSITIONS, CmEvent, Event, Own, State, UnexpectedEvent, next_state

EVENTS: list[Event] = [*CmEvent, *Own]
PAIRS = [(state, event) for state in State for event in EVENTS]


def walk(state: State, *events: Event) -> State:
    for event in events:
        state = next_state(state, event)
    return state


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda part: part.name)
def test_every_pair_is_in_the_table_or_raises(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(UnexpectedEvent, match=f"{event.name} in state {state.value}"):
            next_state(state, event)


def test_the_way_up_and_down() -> None:
    up = walk(
        State.NEW,
        Own.RESOLVE,
        CmEvent.ADDR_RESOLVED,
        CmEvent.ROUTE_RESOLVED,
        Own.CONNECT,
        CmEvent.ESTABLISHED,
        Own.ALIVE,
    )
    assert up is State.UP
    assert walk(up, CmEvent.DISCONNECTED, Own.CLOSE, CmEvent.TIMEWAIT_EXIT, Own.FREED, Own.CLOSE) is State.CLOSED


def test_the_passive_side_may_hear_the_first_message_before_it_is_established() -> None:
    assert walk(State.BUILD, Own.CONNECT, Own.ALIVE, CmEvent.ESTABLISHED) is State.UP


def test_a_working_connection_survives_what_a_new_one_does_not() -> None:
    assert walk(State.UP, CmEvent.UNREACHABLE) is State.SUSPECT
    assert walk(State.UP, Own.PORT_ERROR, Own.PORT_ACTIVE, Own.ALIVE) is State.UP
    assert walk(State.CONNECT, CmEvent.UNREACHABLE) is State.FAILED


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_the_way_out_is_always_open(state: State) -> None:
    assert walk(state, Own.CLOSE, Own.FREED) is State.CLOSED


@pytest.mark.parametrize("state", [State.FAILED, State.CLOSING])
@pytest.mark.parametrize("event", CmEvent)
def test_late_events_change_nothing(state: State, event: CmEvent) -> None:
    assert next_state(state, event) is state


def test_device_events_are_our_own_events() -> None:
    assert set(DEVICE_EVENTS.values()) <= set(Own)


@given(st.sampled_from([State.NEW, State.BUILD]), st.lists(st.sampled_from(EVENTS), max_size=40))
def test_random_walks_end_only_through_closing(start: State, events: list[Event]) -> None:
    state, seen = start, [start]
    for event in events:
        try:
            state = next_state(state, event)
        except UnexpectedEvent:
            continue
        seen.append(state)
    if State.CLOSED in seen:
        assert State.CLOSING in seen[: seen.index(State.CLOSED)]
        assert seen[-1] is State.CLOSED
    if State.FAILED in seen:
        assert set(seen[seen.index(State.FAILED) :]) <= {State.FAILED, State.CLOSING, State.CLOSED}
