# SPDX-License-Identifier: Apache-2.0
"""The state tables: what every pair does, and the invariants of their essay."""

from __future__ import annotations

import enum
import re

import pytest

from rdmactl.errors import LocalError
from rdmactl.iwpm import states
from rdmactl.iwpm.states import (
    ACTIVE,
    HOLDING,
    LINK,
    PASSIVE,
    ActiveEvent,
    ActiveState,
    LinkEvent,
    LinkState,
    PassiveEvent,
    PassiveState,
)
from rdmactl.states import advance

TABLES = [(LINK, LinkState, LinkEvent), (ACTIVE, ActiveState, ActiveEvent), (PASSIVE, PassiveState, PassiveEvent)]

IMPOSSIBLE: set[tuple[enum.Enum, enum.Enum]] = {
    *((LinkState.IDLE, event) for event in LinkEvent if event is not LinkEvent.START),
    *((state, LinkEvent.START) for state in LinkState if state is not LinkState.IDLE),
    *(
        (state, event)
        for state in (LinkState.GREETING, LinkState.SERVING, LinkState.PROBING, LinkState.REFUSED)
        for event in (LinkEvent.REPORTED, LinkEvent.REPORT_REFUSED)
    ),
    (LinkState.SERVING, LinkEvent.TIME_UP),
    *((ActiveState.CLOSED, event) for event in ActiveEvent),
    *((PassiveState.CLOSED, event) for event in PassiveEvent),
}
"""Pairs the callers rule out: nothing is outstanding there, or the object is gone."""


@pytest.mark.parametrize(("table", "state_type", "event_type"), TABLES)
def test_every_pair_is_decided(table, state_type, event_type) -> None:  # type: ignore[no-untyped-def]
    for state in state_type:
        for event in event_type:
            if (state, event) in IMPOSSIBLE:
                with pytest.raises(LocalError, match="cannot happen"):
                    advance(table, state, event)
            else:
                assert advance(table, state, event) in state_type


@pytest.mark.parametrize(("table", "state_type", "event_type"), TABLES)
def test_every_state_is_reached_and_described(table, state_type, event_type) -> None:  # type: ignore[no-untyped-def]
    first = next(iter(state_type))
    reached = {first}
    while new := {to for (start, _), to in table.items() if start in reached} - reached:
        reached |= new
    assert reached == set(state_type)
    for state in state_type:
        assert re.search(rf"^    {state.name} ", states.__doc__ or "", re.MULTILINE)


def test_holding_always_ends() -> None:
    """From each state that holds requests back, time alone leads to one that does not."""
    for state in HOLDING - {LinkState.IDLE}:
        outcomes = {advance(LINK, state, LinkEvent.TIME_UP), advance(LINK, state, LinkEvent.HELLO_REFUSED)}
        assert any(after is not state for after in outcomes)


def test_closed_is_the_end() -> None:
    assert all(start not in (ActiveState.CLOSED, PassiveState.CLOSED) for start, _ in [*ACTIVE, *PASSIVE])
