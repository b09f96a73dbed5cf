# SPDX-License-Identifier: Apache-2.0
"""The state machines of the port mapper, as tables: who may do what when. Engine ring.

Nothing else belongs here; what is *done* on a transition is in `link.py`, `active.py` and `passive.py`.
A pair that is not in a table is a defect and raises. Where late events are normal, the table has a row that says so.

**The link to the kernel.** The kernel forgets who its port mapper is when asked by HELLO or by a MAPINFO request, and
asks again (REG_PID) before the next mapping. HELLO exists since kernel 5.1; an older one, one without iw_cm, and any
kernel seen from a network namespace of its own refuse it alike. So a refusal never is the last word: HELLO is offered
again, by a timer and whenever REG_PID shows that there is a kernel after all.

    IDLE       nothing sent yet
    GREETING   HELLO sent; requests are held back, since the version they must be answered with is not known
    RESTORING  first report of the kernel's mappings is coming; requests are held back, since the table is not known
    SERVING    normal
    CHECKING   a further report is coming; requests are served meanwhile, the table is nearly right
    PROBING    serving an old kernel, HELLO offered again; requests are held back as in GREETING
    REFUSED    neither HELLO nor a report was had; a REG_PID or the timer leads back to GREETING

**Asking a peer** (one per QUERY_MAPPING). The kernel is answered on leaving ASKING, and only then: by ACCEPT with the
mapped address, by anything else but REMOVE with a reject. REMOVE means that the kernel has stopped waiting.

    ASKING     REQUEST sent, and sent again every second
    ACCEPTED   done; remembered for as long as ACCEPT may come again and want an ACK
    CLOSED     forgotten

**Being asked** (one per REQUEST for a listener; a REQUEST that finds none is rejected and leaves no state).

    OFFERED    the kernel knows the remote address, ACCEPT sent, and sent again a few times
    CONFIRMED  ACK came; remembered so that a delayed REQUEST does not tell the kernel again
    CLOSED     forgotten
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = [
    "ACTIVE",
    "HOLDING",
    "LINK",
    "PASSIVE",
    "ActiveEvent",
    "ActiveState",
    "LinkEvent",
    "LinkState",
    "PassiveEvent",
    "PassiveState",
]


class LinkState(enum.Enum):
    IDLE = "idle"
    GREETING = "greeting"
    RESTORING = "restoring"
    SERVING = "serving"
    CHECKING = "checking"
    PROBING = "probing"
    REFUSED = "refused"


class LinkEvent(enum.Enum):
    START = "start"
    GREETED = "greeted"  # HELLO from the kernel
    HELLO_REFUSED = "hello refused"
    TOO_NEW = "too new"  # HELLO from the kernel with a version we do not speak
    REPORTED = "reported"  # the MAPINFO request is done
    REPORT_REFUSED = "report refused"
    CHECK = "check"  # the table may be wrong: ask for a report
    PROBE = "probe"  # offer HELLO again
    TIME_UP = "time up"  # no answer to HELLO or MAPINFO


class ActiveState(enum.Enum):
    ASKING = "asking"
    ACCEPTED = "accepted"
    CLOSED = "closed"


class ActiveEvent(enum.Enum):
    ACCEPT = "accept"
    REJECT = "reject"
    UNREACHABLE = "unreachable"
    REMOVE = "remove"
    TIME_UP = "time up"


class PassiveState(enum.Enum):
    OFFERED = "offered"
    CONFIRMED = "confirmed"
    CLOSED = "closed"


class PassiveEvent(enum.Enum):
    REQUEST = "request"
    ACK = "ack"
    REMOVE = "remove"
    TIME_UP = "time up"


HOLDING = frozenset({LinkState.IDLE, LinkState.GREETING, LinkState.RESTORING, LinkState.PROBING})
"""States in which requests of the kernel wait."""

_L, _LE = LinkState, LinkEvent

LINK: Mapping[tuple[LinkState, LinkEvent], LinkState] = {
    (_L.IDLE, _LE.START): _L.GREETING,
    (_L.GREETING, _LE.GREETED): _L.RESTORING,
    (_L.GREETING, _LE.HELLO_REFUSED): _L.RESTORING,  # with ABI version 3
    (_L.GREETING, _LE.TOO_NEW): _L.REFUSED,
    (_L.GREETING, _LE.CHECK): _L.GREETING,  # a report follows anyway
    (_L.GREETING, _LE.PROBE): _L.GREETING,
    (_L.GREETING, _LE.TIME_UP): _L.GREETING,  # offered again
    (_L.RESTORING, _LE.GREETED): _L.RESTORING,  # an answer to an earlier offer
    (_L.RESTORING, _LE.HELLO_REFUSED): _L.RESTORING,  # late
    (_L.RESTORING, _LE.TOO_NEW): _L.REFUSED,
    (_L.RESTORING, _LE.REPORTED): _L.SERVING,
    (_L.RESTORING, _LE.REPORT_REFUSED): _L.REFUSED,
    (_L.RESTORING, _LE.CHECK): _L.RESTORING,  # once more when this one is done
    (_L.RESTORING, _LE.PROBE): _L.RESTORING,
    (_L.RESTORING, _LE.TIME_UP): _L.GREETING,
    (_L.SERVING, _LE.GREETED): _L.CHECKING,  # somebody greets in our name, or a late answer: see what is true
    (_L.SERVING, _LE.HELLO_REFUSED): _L.SERVING,  # late
    (_L.SERVING, _LE.TOO_NEW): _L.REFUSED,
    (_L.SERVING, _LE.CHECK): _L.CHECKING,
    (_L.SERVING, _LE.PROBE): _L.PROBING,
    (_L.CHECKING, _LE.GREETED): _L.CHECKING,
    (_L.CHECKING, _LE.HELLO_REFUSED): _L.CHECKING,  # late
    (_L.CHECKING, _LE.TOO_NEW): _L.REFUSED,
    (_L.CHECKING, _LE.REPORTED): _L.SERVING,
    (_L.CHECKING, _LE.REPORT_REFUSED): _L.GREETING,  # iw_cm went away: begin anew
    (_L.CHECKING, _LE.CHECK): _L.CHECKING,  # once more when this one is done
    (_L.CHECKING, _LE.PROBE): _L.CHECKING,
    (_L.CHECKING, _LE.TIME_UP): _L.GREETING,
    (_L.PROBING, _LE.GREETED): _L.RESTORING,  # iw_cm speaks a newer version than we thought
    (_L.PROBING, _LE.HELLO_REFUSED): _L.SERVING,
    (_L.PROBING, _LE.TOO_NEW): _L.REFUSED,
    (_L.PROBING, _LE.CHECK): _L.RESTORING,  # the report tells as much as the probe would
    (_L.PROBING, _LE.PROBE): _L.PROBING,
    (_L.PROBING, _LE.TIME_UP): _L.SERVING,
    (_L.REFUSED, _LE.GREETED): _L.RESTORING,
    (_L.REFUSED, _LE.HELLO_REFUSED): _L.REFUSED,  # late
    (_L.REFUSED, _LE.TOO_NEW): _L.REFUSED,
    (_L.REFUSED, _LE.CHECK): _L.GREETING,
    (_L.REFUSED, _LE.PROBE): _L.GREETING,
    (_L.REFUSED, _LE.TIME_UP): _L.REFUSED,  # nothing was outstanding
}

_A, _AE = ActiveState, ActiveEvent

ACTIVE: Mapping[tuple[ActiveState, ActiveEvent], ActiveState] = {
    (_A.ASKING, _AE.ACCEPT): _A.ACCEPTED,
    (_A.ASKING, _AE.REJECT): _A.CLOSED,
    (_A.ASKING, _AE.UNREACHABLE): _A.CLOSED,
    (_A.ASKING, _AE.REMOVE): _A.CLOSED,
    (_A.ASKING, _AE.TIME_UP): _A.CLOSED,
    (_A.ACCEPTED, _AE.ACCEPT): _A.ACCEPTED,  # our ACK was lost: again
    (_A.ACCEPTED, _AE.REJECT): _A.ACCEPTED,  # to a REQUEST sent twice, overtaken; the kernel has its answer
    (_A.ACCEPTED, _AE.UNREACHABLE): _A.ACCEPTED,  # the peer went after it had answered
    (_A.ACCEPTED, _AE.REMOVE): _A.CLOSED,
    (_A.ACCEPTED, _AE.TIME_UP): _A.CLOSED,
}

_P, _PE = PassiveState, PassiveEvent

PASSIVE: Mapping[tuple[PassiveState, PassiveEvent], PassiveState] = {
    (_P.OFFERED, _PE.REQUEST): _P.OFFERED,  # our ACCEPT was lost: again, but nothing new for the kernel
    (_P.OFFERED, _PE.ACK): _P.CONFIRMED,
    (_P.OFFERED, _PE.REMOVE): _P.CLOSED,
    (_P.OFFERED, _PE.TIME_UP): _P.CLOSED,
    (_P.CONFIRMED, _PE.REQUEST): _P.CONFIRMED,  # a delayed copy
    (_P.CONFIRMED, _PE.ACK): _P.CONFIRMED,  # a copy
    (_P.CONFIRMED, _PE.REMOVE): _P.CLOSED,
    (_P.CONFIRMED, _PE.TIME_UP): _P.CLOSED,
}
