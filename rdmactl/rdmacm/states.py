# SPDX-License-Identifier: Apache-2.0
"""The states of one RDMA connection, as a table. Engine ring.

Problem: librdmacm reports life and death of a connection as events on a descriptor of their own, without an order
towards completions, and some of them arrive where nobody expects them (UNREACHABLE while traffic flows, a second
DISCONNECTED, TIMEWAIT_EXIT half a second after the end). Choice: every event moves the connection along this table
and nowhere else; a pair the table does not have raises `UnexpectedEvent`, which the shell turns into a failure.

Invariants, walked by a test: from every state but CLOSED the way to CLOSED is open (CLOSE, then FREED); FAILED and
CLOSING take every event of the kernel without leaving; nothing leaves CLOSED. The passive side starts in BUILD.

Not here: what is done on entering a state (`connection.py`), what an event says to a person (`failures.py`).
Event numbers are enum rdma_cm_event_type of <rdma/rdma_cma.h>, device events enum ibv_event_type of
<infiniband/verbs.h>; `rdmactl/_cffi_build.py` asserts them at compile time.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEVICE_EVENTS", "TRANSITIONS", "CmEvent", "Event", "Own", "State", "UnexpectedEvent", "next_state"]


class State(Enum):
    """Where a connection is."""

    NEW = "new"
    ADDRESS = "address"
    ROUTE = "route"
    BUILD = "build"
    CONNECT = "connect"
    UP = "up"
    SUSPECT = "suspect"
    FAILED = "failed"
    CLOSING = "closing"
    CLOSED = "closed"


class CmEvent(IntEnum):
    """RDMA_CM_EVENT_xxx. Multicast events (12, 13) and what newer libraries add behind 15 concern no connection."""

    ADDR_RESOLVED = 0
    ADDR_ERROR = 1
    ROUTE_RESOLVED = 2
    ROUTE_ERROR = 3
    CONNECT_REQUEST = 4
    CONNECT_RESPONSE = 5
    CONNECT_ERROR = 6
    UNREACHABLE = 7
    REJECTED = 8
    ESTABLISHED = 9
    DISCONNECTED = 10
    DEVICE_REMOVAL = 11
    ADDR_CHANGE = 14
    TIMEWAIT_EXIT = 15


class Own(Enum):
    """What this side does or notices itself."""

    RESOLVE = auto()
    """rdma_resolve_addr is about to be called."""
    CONNECT = auto()
    """rdma_connect (active side) or rdma_accept (passive side) is about to be called."""
    ALIVE = auto()
    """A message arrived."""
    PORT_ERROR = auto()
    """IBV_EVENT_PORT_ERR: the port went down."""
    PORT_ACTIVE = auto()
    """IBV_EVENT_PORT_ACTIVE: the port came up."""
    FAIL = auto()
    """A call or a work request failed, or a deadline passed."""
    CLOSE = auto()
    """The owner wants no more of it."""
    FREED = auto()
    """Everything the connection held has been given back."""


Event = CmEvent | Own

DEVICE_EVENTS: Mapping[int, Own] = {8: Own.FAIL, 9: Own.PORT_ACTIVE, 10: Own.PORT_ERROR}
"""IBV_EVENT_DEVICE_FATAL, PORT_ACTIVE, PORT_ERR; the others (GID and LID changes above all) are noise to us."""


class UnexpectedEvent(Exception):
    """The table has no row for this pair."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.name} in state {state.value}")
        self.state = state
        self.event = event


_OPEN = (State.NEW, State.ADDRESS, State.ROUTE, State.BUILD, State.CONNECT, State.UP, State.SUSPECT)

_BROKEN = (
    CmEvent.CONNECT_RESPONSE,  # only without a QP, which our ids always have by then
    CmEvent.CONNECT_ERROR,
    CmEvent.REJECTED,
    CmEvent.DISCONNECTED,
    CmEvent.ADDR_CHANGE,  # the QP still holds the old source address
)


def _table() -> dict[tuple[State, Event], State]:
    table: dict[tuple[State, Event], State] = {
        (State.NEW, Own.RESOLVE): State.ADDRESS,
        (State.ADDRESS, CmEvent.ADDR_RESOLVED): State.ROUTE,
        (State.ADDRESS, CmEvent.ADDR_ERROR): State.FAILED,
        (State.ADDRESS, CmEvent.ADDR_CHANGE): State.FAILED,
        (State.ROUTE, CmEvent.ROUTE_RESOLVED): State.BUILD,
        (State.ROUTE, CmEvent.ROUTE_ERROR): State.FAILED,
        (State.ROUTE, CmEvent.ADDR_CHANGE): State.FAILED,
        (State.BUILD, Own.CONNECT): State.CONNECT,
        (State.CONNECT, CmEvent.ESTABLISHED): State.UP,
        (State.UP, CmEvent.ESTABLISHED): State.UP,  # passive side: a message may overtake it, and it may come twice
        (State.SUSPECT, CmEvent.ESTABLISHED): State.SUSPECT,
        (State.SUSPECT, Own.ALIVE): State.UP,
        # Passive side: the first message can be read before ESTABLISHED is.
        (State.CONNECT, Own.ALIVE): State.CONNECT,
        # A device event says nothing about an exchange that has its own deadline.
        (State.CONNECT, Own.PORT_ERROR): State.CONNECT,
        (State.CONNECT, Own.PORT_ACTIVE): State.CONNECT,
        (State.BUILD, Own.PORT_ERROR): State.BUILD,
        (State.BUILD, Own.PORT_ACTIVE): State.BUILD,
        (State.CLOSING, Own.FREED): State.CLOSED,
    }
    for state in (State.BUILD, State.CONNECT):
        table.update({(state, event): State.FAILED for event in (*_BROKEN, CmEvent.UNREACHABLE)})
    for state in (State.UP, State.SUSPECT):
        table.update({(state, event): State.FAILED for event in _BROKEN})
        # Linux raises UNREACHABLE on a working connection when the neighbour's MAC address changes.
        table.update({(state, event): State.SUSPECT for event in (CmEvent.UNREACHABLE, Own.PORT_ERROR)})
        table.update({(state, event): state for event in (Own.PORT_ACTIVE, CmEvent.TIMEWAIT_EXIT)})
    table[State.UP, Own.ALIVE] = State.UP
    for state in _OPEN:
        table.update({(state, event): State.FAILED for event in (Own.FAIL, CmEvent.DEVICE_REMOVAL)})
    for state in (*_OPEN, State.FAILED):
        table[state, Own.CLOSE] = State.CLOSING
    for state in (State.FAILED, State.CLOSING):
        late = (*CmEvent, Own.ALIVE, Own.PORT_ERROR, Own.PORT_ACTIVE, Own.FAIL)
        table.update({(state, event): state for event in late})
    table[State.CLOSING, Own.CLOSE] = State.CLOSING
    table[State.CLOSED, Own.CLOSE] = State.CLOSED  # closing twice is no mistake
    return table


TRANSITIONS: Mapping[tuple[State, Event], State] = _table()


def next_state(state: State, event: Event) -> State:
    """Where `event` leads from `state`; UnexpectedEvent when the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise UnexpectedEvent(state, event) from None
