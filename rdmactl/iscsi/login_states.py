# SPDX-License-Identifier: Apache-2.0
"""States of a login and what moves it between them: the table, its guard, nothing else. Engine ring.

    START -> SECURITY -> CHAP_OFFER -> CHAP_RESPONSE -> OPERATIONAL -> DONE
      |          |                          |               ^
      |          +----> AUTHENTICATED <-----+               |
      |                       +-----------------------------+
      +---- no credentials ---------------------------------+

The security stage is left when the target sends T=1, not when we think it could be: a target may confirm the
authentication first and change the stage later, which is what AUTHENTICATED waits for. A text in several parts (C bit,
in either direction) stays in its state. A pair that is not in the table is a defect of the engine and raises.
Not here: what a response means (`login.py`). Defined by RFC 7143 section 6.3 (stages) and 12.1.3 (CHAP).
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ENDED", "TRANSITIONS", "LoginInput", "LoginState"]


class LoginState(Enum):
    """What was sent last; the text completes "sent last: ..."."""

    START = "nothing sent"
    SECURITY = "AuthMethod"
    CHAP_OFFER = "CHAP_A"
    CHAP_RESPONSE = "CHAP_N and CHAP_R"
    AUTHENTICATED = "a request to end the security stage"
    OPERATIONAL = "operational keys"
    DONE = "full feature phase"
    REDIRECTED = "sent elsewhere"
    FAILED = "failed"


class LoginInput(Enum):
    """What happened."""

    BEGIN_SECURITY = "begin, with credentials"
    BEGIN_OPERATIONAL = "begin, without credentials"
    PART = "a text goes on"
    CHAP_CHOSEN = "the target wants CHAP"
    CHALLENGED = "the target sent its challenge"
    CONFIRMED = "nothing more to prove, but T=0"
    STAGE_ENDED = "T=1 in the security stage"
    KEYS = "operational keys, but T=0"
    COMPLETED = "T=1 to the full feature phase"
    REDIRECT = "status class 1"
    FAILURE = "refused, broken or late"


_S, _I = LoginState, LoginInput
ENDED = frozenset((_S.DONE, _S.REDIRECTED, _S.FAILED))
_WAITING = (_S.SECURITY, _S.CHAP_OFFER, _S.CHAP_RESPONSE, _S.AUTHENTICATED, _S.OPERATIONAL)

TRANSITIONS: dict[tuple[LoginState, LoginInput], LoginState] = {
    (_S.START, _I.BEGIN_SECURITY): _S.SECURITY,
    (_S.START, _I.BEGIN_OPERATIONAL): _S.OPERATIONAL,
    (_S.SECURITY, _I.CHAP_CHOSEN): _S.CHAP_OFFER,
    (_S.SECURITY, _I.CONFIRMED): _S.AUTHENTICATED,  # AuthMethod=None
    (_S.SECURITY, _I.STAGE_ENDED): _S.OPERATIONAL,  # AuthMethod=None
    (_S.CHAP_OFFER, _I.CHALLENGED): _S.CHAP_RESPONSE,
    (_S.CHAP_RESPONSE, _I.CONFIRMED): _S.AUTHENTICATED,
    (_S.CHAP_RESPONSE, _I.STAGE_ENDED): _S.OPERATIONAL,
    (_S.AUTHENTICATED, _I.CONFIRMED): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, _I.STAGE_ENDED): _S.OPERATIONAL,
    (_S.OPERATIONAL, _I.KEYS): _S.OPERATIONAL,
    (_S.OPERATIONAL, _I.COMPLETED): _S.DONE,
    **{(state, _I.PART): state for state in _WAITING},
    **{(state, _I.REDIRECT): _S.REDIRECTED for state in _WAITING},
    **{(state, _I.FAILURE): _S.FAILED for state in _WAITING},
}
