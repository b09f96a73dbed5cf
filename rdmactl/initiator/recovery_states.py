# SPDX-License-Identifier: Apache-2.0
"""The life of a session after its first login: states, events, and the table that joins them. Engine ring.

    UP         logged in; the kernel carries the I/O, nothing is done here
    LEAVING    the target asked for a logout; its answer, or the end of the connection, is awaited
    WAITING    no connection; the kernel holds the I/O back; the next attempt has a time
    ATTEMPT    a login is under way
    GIVEN_UP   the record's limit of attempts is reached; the session stays in the kernel until somebody logs it out
    GONE       there is no session any more

A pair that is not in the table cannot happen and raises. Events of an old connection do arrive late: the kernel's
events carry no generation, and the target may speak while it is being left; those pairs are in the table and change
nothing.

Invariants: an attempt begins only out of WAITING, and the connection before it has been released by then; GONE is
never left; UP is entered through LOGGED_IN alone.

Nothing else belongs in this module: times and actions are in `recovery_engine.py`; docs/recovery.md is made from the
table (tests/unit/initiator/test_recovery_states.py compares).
"""

from __future__ import annotations

from enum import Enum

__all__ = ["TRANSITIONS", "Event", "State", "diagram"]


class State(Enum):
    """As a person reads it."""

    UP = "logged in"
    LEAVING = "logging out, as the target asked"
    WAITING = "connection lost, waiting for the next attempt"
    ATTEMPT = "connection lost, being brought back"
    GIVEN_UP = "given up"
    GONE = "gone"


class Event(Enum):
    """What happens to a session."""

    LOST = "connection error or NOP time-out"
    HOST_REMOVED = "the adapter's host is being removed"
    DESTROYED = "destroyed by somebody else"
    LOGOUT_ASKED = "the target asks for a logout"
    DROP_ANNOUNCED = "the target announces that it will drop the connection"
    RENEGOTIATE = "the target asks for a new negotiation"
    LUNS_CHANGED = "the target reports other LUNs"
    OTHER_NEWS = "another asynchronous message"
    GOODBYE_DONE = "logout answered, or its time is up"
    DUE = "time for an attempt"
    TRY_NOW = "link, address, route, RDMA device or portal is back"
    POSTPONED = "the portal's breaker is open"
    LOGGED_IN = "login done"
    FAILED = "login failed"
    EXHAUSTED = "login failed, and it was the last one allowed"
    EXPIRED = "replacement timeout is over: the kernel fails I/O"


_FROM_OUTSIDE = (
    Event.LOST, Event.LOGOUT_ASKED, Event.DROP_ANNOUNCED, Event.RENEGOTIATE, Event.LUNS_CHANGED, Event.OTHER_NEWS,
    Event.GOODBYE_DONE, Event.TRY_NOW,
)  # fmt: skip
"""Nobody can keep these from coming late."""


def _table() -> dict[tuple[State, Event], State]:
    table = {(state, event): state for state in State for event in _FROM_OUTSIDE}
    del table[State.UP, Event.GOODBYE_DONE]
    for state in State:
        table[state, Event.DESTROYED] = table[state, Event.HOST_REMOVED] = State.GONE
    for state in (State.WAITING, State.ATTEMPT, State.GIVEN_UP, State.GONE):
        table[state, Event.EXPIRED] = state
    table.update(
        {
            (State.UP, Event.LOST): State.WAITING,
            (State.UP, Event.LOGOUT_ASKED): State.LEAVING,
            (State.UP, Event.RENEGOTIATE): State.WAITING,
            (State.LEAVING, Event.GOODBYE_DONE): State.WAITING,
            (State.LEAVING, Event.LOST): State.WAITING,
            (State.WAITING, Event.DUE): State.ATTEMPT,
            (State.ATTEMPT, Event.POSTPONED): State.WAITING,
            (State.ATTEMPT, Event.LOGGED_IN): State.UP,
            (State.ATTEMPT, Event.FAILED): State.WAITING,
            (State.ATTEMPT, Event.EXHAUSTED): State.GIVEN_UP,
        }
    )
    return table


TRANSITIONS = _table()


def diagram() -> str:
    """The table as a Mermaid diagram and a list of what changes nothing, for docs/recovery.md."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> UP", "    [*] --> WAITING: adopted without connection"]
    ways: dict[tuple[State, State], list[str]] = {}
    for (state, event), after in TRANSITIONS.items():
        if state is not after:
            ways.setdefault((state, after), []).append(event.name)
    lines += [f"    {state.name} --> {after.name}: {', '.join(names)}" for (state, after), names in ways.items()]
    lines += ["    GONE --> [*]", "```", "", "Noted, but without a change of state:", ""]
    for state in State:
        names = [event.name for event in Event if TRANSITIONS.get((state, event)) is state]
        lines.append(f"* {state.name}: {', '.join(names)}")
    return "\n".join(lines) + "\n"
