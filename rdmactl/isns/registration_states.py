# SPDX-License-Identifier: Apache-2.0
"""States of a registration with an iSNS server: the table, its guard, nothing else. Engine ring.

    AWAY -> REGISTER -> SUBSCRIBE -> REGISTERED <-> CHECK
              |  ^                                    |
              v  |                                    v
              DROP                       AWAY (no answer) or REGISTER (forgotten)

Everything that fails leads to AWAY and, after a pause, to a new registration, which replaces what the server may have.
Not here: times and messages (`registration.py`).
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ASKING", "TRANSITIONS", "RegistrationInput", "RegistrationState"]


class RegistrationState(Enum):
    """What is going on; of those that ask, the text completes "no answer to ..."."""

    AWAY = "nothing"
    REGISTER = "the registration"
    DROP = "the deregistration of an older entry"
    SUBSCRIBE = "the registration for notifications"
    REGISTERED = "nothing, registered"
    CHECK = "the question whether we are registered"
    LEAVE = "the deregistration"
    ENDED = "nothing more"


class RegistrationInput(Enum):
    """What happened."""

    TIME = "the pause is over"
    ACCEPTED = "the server accepts"
    WITHOUT_ESI = "the server makes no inquiries: register without"
    TAKEN = "our name belongs to another entity"
    DROPPED = "the older entry is gone, or was not there"
    DUE = "time to refresh, or no inquiry for too long"
    KNOWN = "the server knows us"
    FORGOTTEN = "the server does not know us"
    FAILURE = "refused, broken, late, or no connection"
    STOP = "end"
    LEFT = "deregistered, or no answer to that"


_S, _I = RegistrationState, RegistrationInput
ASKING = frozenset((_S.REGISTER, _S.DROP, _S.SUBSCRIBE, _S.CHECK, _S.LEAVE))
_TRYING = (_S.REGISTER, _S.DROP, _S.SUBSCRIBE, _S.CHECK)

TRANSITIONS: dict[tuple[RegistrationState, RegistrationInput], RegistrationState] = {
    (_S.AWAY, _I.TIME): _S.REGISTER,
    (_S.REGISTER, _I.ACCEPTED): _S.SUBSCRIBE,
    (_S.REGISTER, _I.WITHOUT_ESI): _S.REGISTER,
    (_S.REGISTER, _I.TAKEN): _S.DROP,
    (_S.DROP, _I.DROPPED): _S.REGISTER,
    (_S.SUBSCRIBE, _I.ACCEPTED): _S.REGISTERED,
    (_S.REGISTERED, _I.DUE): _S.CHECK,
    (_S.CHECK, _I.KNOWN): _S.REGISTERED,
    (_S.CHECK, _I.FORGOTTEN): _S.REGISTER,
    **{(state, _I.FAILURE): _S.AWAY for state in _TRYING},
    (_S.AWAY, _I.STOP): _S.ENDED,
    **{(state, _I.STOP): _S.LEAVE for state in (*_TRYING, _S.REGISTERED)},
    (_S.LEAVE, _I.LEFT): _S.ENDED,
}
