# SPDX-License-Identifier: Apache-2.0
"""States of a query for targets: the table, its guard, nothing else. Engine ring.

    START -> LIST ------------------------> LEAVE -> DONE       the whole list in one answer
               |                              ^
               +--> WALK (name by name) --> PORTALS             where it is too large for that
    START -------------------------------> PORTALS              of targets whose names are known

A server that answers registered sources only sends any of them to REGISTER, and from there back to where it was.
The list is complete when LEAVE begins, so nothing that happens there can spoil it. LEAVE is left out by who has not
registered. Not here: what an answer means (`query.py`).
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ENDED", "TRANSITIONS", "QueryInput", "QueryState"]


class QueryState(Enum):
    """What is awaited; the text completes "no answer to ..."."""

    START = "nothing"
    LIST = "the query for targets"
    WALK = "the query for the next target"
    PORTALS = "the query for the portals of targets"
    REGISTER = "the registration"
    LEAVE = "the deregistration"
    DONE = "nothing more"
    FAILED = "nothing more, failed"


class QueryInput(Enum):
    """What happened."""

    ALL_WANTED = "the first connection; every target is wanted"
    SOME_WANTED = "the first connection; some targets are wanted"
    UNREGISTERED = "the server answers registered sources only"
    BACK_TO_LIST = "registered; the list was asked for"
    BACK_TO_WALK = "registered; the next target was asked for"
    BACK_TO_PORTALS = "registered; portals were asked for"
    TOO_LARGE = "the server cannot answer in one message"
    WALKED = "the last target"
    COMPLETE = "everything has been answered, as a registered source"
    END = "everything has been answered, or the deregistration has ended somehow"
    FAILURE = "refused, broken or late"


_S, _I = QueryState, QueryInput
ENDED = frozenset((_S.DONE, _S.FAILED))
_ASKING = (_S.LIST, _S.WALK, _S.PORTALS)

TRANSITIONS: dict[tuple[QueryState, QueryInput], QueryState] = {
    (_S.START, _I.ALL_WANTED): _S.LIST,
    (_S.START, _I.SOME_WANTED): _S.PORTALS,
    (_S.LIST, _I.TOO_LARGE): _S.WALK,
    (_S.WALK, _I.WALKED): _S.PORTALS,
    **{(state, _I.UNREGISTERED): _S.REGISTER for state in _ASKING},
    (_S.REGISTER, _I.BACK_TO_LIST): _S.LIST,
    (_S.REGISTER, _I.BACK_TO_WALK): _S.WALK,
    (_S.REGISTER, _I.BACK_TO_PORTALS): _S.PORTALS,
    **{(state, _I.COMPLETE): _S.LEAVE for state in (_S.LIST, _S.PORTALS)},
    **{(state, _I.END): _S.DONE for state in (_S.LIST, _S.PORTALS, _S.LEAVE)},
    **{(state, _I.FAILURE): _S.FAILED for state in (_S.START, *_ASKING, _S.REGISTER)},
}
