# SPDX-License-Identifier: Apache-2.0
"""States of a SendTargets discovery: the table, its guard, nothing else. Engine ring.

    START -> LOGIN -> TEXT -> LOGOUT -> DONE
                      |  ^
                      v  |
                     PAUSE

The list is complete when LOGOUT begins, so nothing that happens there can spoil it: a lost connection, a refusal and
the end of the patience all lead to DONE. Not here: what a PDU means (`discovery.py`).
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ENDED", "TRANSITIONS", "DiscoveryInput", "DiscoveryState"]


class DiscoveryState(Enum):
    """What is awaited; the text completes "while waiting for ..."."""

    START = "nothing"
    LOGIN = "the login"
    TEXT = "the answer to SendTargets"
    PAUSE = "the next part of the list"
    LOGOUT = "the logout"
    DONE = "nothing more"
    REDIRECTED = "nothing more, sent elsewhere"
    FAILED = "nothing more, failed"


class DiscoveryInput(Enum):
    """What happened."""

    BEGIN = "begin"
    LOGGED_IN = "full feature phase"
    PART = "a part of the list that is not the last"
    RESUME = "time for the next part"
    LIST_ENDED = "the last part"
    LOGGED_OUT = "logout answered, refused, too late, or connection lost"
    REDIRECT = "sent elsewhere"
    FAILURE = "refused, broken or late"


_S, _I = DiscoveryState, DiscoveryInput
ENDED = frozenset((_S.DONE, _S.REDIRECTED, _S.FAILED))

TRANSITIONS: dict[tuple[DiscoveryState, DiscoveryInput], DiscoveryState] = {
    (_S.START, _I.BEGIN): _S.LOGIN,
    (_S.LOGIN, _I.LOGGED_IN): _S.TEXT,
    (_S.LOGIN, _I.REDIRECT): _S.REDIRECTED,
    (_S.TEXT, _I.PART): _S.PAUSE,
    (_S.PAUSE, _I.RESUME): _S.TEXT,
    (_S.TEXT, _I.LIST_ENDED): _S.LOGOUT,
    (_S.LOGOUT, _I.LOGGED_OUT): _S.DONE,
    **{(state, _I.FAILURE): _S.FAILED for state in (_S.LOGIN, _S.TEXT, _S.PAUSE)},
}
