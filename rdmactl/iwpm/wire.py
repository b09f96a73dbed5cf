# SPDX-License-Identifier: Apache-2.0
"""The messages port mappers exchange over UDP port 3935: bytes to values and back. Engine ring.

When to send which is `active.py` and `passive.py`. The layout is that of the port mapper chapter of the SDP-for-iWARP
draft (draft-pinkerton-iwarp-sdp-v1.0), with the mapped address of the connecting peer that Linux puts behind REQ:

    0   version (2 bits) | type (2) | IP version (4)         8   assochandle, chosen by cp, echoed by ap
    1   pmtime: no function, echoed                          16  cp IP address, unmapped
    2   REQ: mapped cp port                                  32  ap IP address; ACCEPT and ACK: mapped
    4   ap port; ACCEPT and ACK: the mapped one              48  REQ only: mapped cp IP address
    6   cp port, unmapped

cp is the connecting peer, ap the accepting peer. Everything is big-endian; an IPv4 address fills the first 4 bytes of
its field. What other implementations put into the other 12 is undefined, so it is never read, and written as zeros.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr

__all__ = ["ACCEPT", "ACK", "IWPM_PORT", "REJECT", "REQUEST", "WireMessage", "parse"]

IWPM_PORT = 3935

REQUEST = 0
ACCEPT = 1
ACK = 2
REJECT = 3

_HEAD = struct.Struct("!BBHHHQ16s16s")
_MAPPED_CP = struct.Struct("!16s")
_SHORT_BYTES = _HEAD.size
_LONG_BYTES = _HEAD.size + _MAPPED_CP.size
_FAMILIES = {4: AF_INET, 6: AF_INET6}
_IP_VERSIONS = {AF_INET: 4, AF_INET6: 6}


class WireMessage(NamedTuple):
    """One message. All addresses are of the same family; scope ids are not carried on the wire and are 0.

    `ap` is the address asked for (REQUEST, REJECT) or the mapped one (ACCEPT, ACK). `mapped_cp` is None but in a
    REQUEST. `version` and `pmtime` have no function; answers echo them.
    """

    type: int
    handle: int
    cp: SockAddr
    ap: SockAddr
    mapped_cp: SockAddr | None = None
    version: int = 0
    pmtime: int = 0

    def build(self) -> bytes:
        """The datagram: 64 bytes for a REQUEST with mapped address, 48 for the others."""
        cp, ap, mapped = self.cp, self.ap, self.mapped_cp
        head = _HEAD.pack(
            self.version << 6 | self.type << 4 | _IP_VERSIONS[cp.family],
            self.pmtime,
            mapped.port if mapped else 0,
            ap.port,
            cp.port,
            self.handle,
            cp.address,
            ap.address,
        )
        return head + _MAPPED_CP.pack(mapped.address) if mapped else head

    def accept(self, mapped_ap: SockAddr) -> WireMessage:
        """The ACCEPT that answers this REQUEST."""
        return self._replace(type=ACCEPT, ap=mapped_ap, mapped_cp=None)

    def reject(self) -> WireMessage:
        """The REJECT that answers this REQUEST."""
        return self._replace(type=REJECT, mapped_cp=None)

    def ack(self) -> WireMessage:
        """The ACK that answers this ACCEPT."""
        return self._replace(type=ACK)


def parse(datagram: bytes) -> WireMessage:
    """Read a datagram. PeerError for a wrong length (48, and 64 for a REQUEST; nothing else) or IP version.

    Of a 64-byte message that is no REQUEST the last 16 bytes are ignored. A REQUEST of 48 bytes is the form from before
    2014, whose cp fields carry the mapped address: the peer is then taken to be unmapped.
    """
    length = len(datagram)
    if length not in (_SHORT_BYTES, _LONG_BYTES):
        raise PeerError(f"a port mapper message has 48 or 64 bytes, not {length}", code="malformed")
    head, pmtime, mapped_port, ap_port, cp_port, handle, cp_bytes, ap_bytes = _HEAD.unpack_from(datagram)
    family = _FAMILIES.get(head & 0xF)
    if family is None:
        raise PeerError(f"IP version {head & 0xF} in a port mapper message", code="malformed")
    size = 4 if family == AF_INET else 16
    type_ = head >> 4 & 3
    cp = SockAddr(family, cp_port, cp_bytes[:size])
    mapped_cp = None
    if type_ == REQUEST:
        mapped_cp = cp
        if length == _LONG_BYTES:
            mapped_cp = SockAddr(family, mapped_port, datagram[_SHORT_BYTES : _SHORT_BYTES + size])
    return WireMessage(type_, handle, cp, SockAddr(family, ap_port, ap_bytes[:size]), mapped_cp, head >> 6, pmtime)
