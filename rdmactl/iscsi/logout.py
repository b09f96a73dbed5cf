# SPDX-License-Identifier: Apache-2.0
"""What a Logout Response means. Engine ring.

The request is `pdu.LogoutRequest`. Not here: waiting for the response. Defined by RFC 7143 section 11.15.
"""

from __future__ import annotations

from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.iscsi.pdu import LogoutResponse, decode

__all__ = ["LogoutResult", "read_logout"]

_WORDS = {
    0: "logged out",
    1: "no such connection",
    2: "recovery of connections is not supported",
    3: "the target could not clean up",
}


class LogoutResult(NamedTuple):
    """`done`: the session is gone. `time2wait_s`: how long to wait before the same session may be logged in again."""

    done: bool
    words: str
    time2wait_s: int
    time2retain_s: int


def read_logout(header: bytes) -> LogoutResult:
    """Read the header of a Logout Response; PeerError when it is another PDU."""
    response = decode(header)
    if not isinstance(response, LogoutResponse):
        raise PeerError(f"unexpected opcode {header[0]:#04x} instead of a logout response", code="iscsi-protocol")
    words = _WORDS.get(response.response, f"response {response.response}")
    # 1: the connection is gone already, which is what a logout is for
    return LogoutResult(response.response in (0, 1), words, response.time2wait_s, response.time2retain_s)
