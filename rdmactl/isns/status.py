# SPDX-License-Identifier: Apache-2.0
"""What an iSNS server answers when it says no. Engine ring.

Not here: what a client does about it (`query.py`, `registration.py`). Defined by RFC 4171 section 5.4.
"""

from __future__ import annotations

from enum import IntEnum

from rdmactl.errors import PeerError

__all__ = ["Status", "refusal", "words"]


class Status(IntEnum):
    """The first word of an answer."""

    SUCCESSFUL = 0
    UNKNOWN_ERROR = 1
    MESSAGE_FORMAT_ERROR = 2
    INVALID_REGISTRATION = 3
    INVALID_QUERY = 5
    SOURCE_UNKNOWN = 6
    SOURCE_ABSENT = 7
    SOURCE_UNAUTHORIZED = 8
    NO_SUCH_ENTRY = 9
    VERSION_NOT_SUPPORTED = 10
    INTERNAL_ERROR = 11
    BUSY = 12
    OPTION_NOT_UNDERSTOOD = 13
    INVALID_UPDATE = 14
    MESSAGE_NOT_SUPPORTED = 15
    SCN_EVENT_REJECTED = 16
    SCN_REGISTRATION_REJECTED = 17
    ATTRIBUTE_NOT_IMPLEMENTED = 18
    FC_DOMAIN_ID_NOT_AVAILABLE = 19
    FC_DOMAIN_ID_NOT_ALLOCATED = 20
    ESI_NOT_AVAILABLE = 21
    INVALID_DEREGISTRATION = 22
    REGISTRATION_FEATURE_NOT_SUPPORTED = 23


_HINTS = {
    Status.SOURCE_UNKNOWN: "the server answers registered initiators only, and did not take our registration",
    Status.SOURCE_ABSENT: "the server answers registered initiators only, and did not take our registration",
    Status.SOURCE_UNAUTHORIZED: "allow this initiator at the server, or correct its name (iface.initiatorname)",
    Status.INVALID_REGISTRATION: "the name may be registered by another host; every host needs a name of its own",
    Status.BUSY: "try again later",
}


def words(status: int) -> str:
    """A status for a person: its number and its name in the standard."""
    known = next((member for member in Status if member == status), None)
    return f"status {status} ({'unknown' if known is None else known.name.lower().replace('_', ' ')})"


def refusal(status: int, what: str) -> PeerError:
    """The failure of `what`, which the server refused."""
    hint = next((text for member, text in _HINTS.items() if member == status), None)
    return PeerError(f"the server refuses {what} with {words(status)}", hint=hint, code="isns-status")
