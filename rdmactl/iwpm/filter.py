# SPDX-License-Identifier: Apache-2.0
"""A socket filter: the kernel drops what cannot be a port mapper message before it costs a system call. Engine ring.

Classic BPF, see socket(7), SO_ATTACH_FILTER. It sees a datagram from its UDP header on, so that the message begins at
byte 8. Checked are the length, the IP version, and the direction: REQUEST and ACK go to port 3935, ACCEPT and REJECT to
where the REQUEST came from. Everything else is left to `wire.py`, which must not rely on the filter: it may be missing.
"""

from __future__ import annotations

import struct

from rdmactl.iwpm.events import Door
from rdmactl.netlink.sockaddr import AF_INET

__all__ = ["program"]

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, k

_LD_LENGTH = 0x80  # BPF_LD | BPF_W | BPF_LEN
_LD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JEQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RET = 0x06  # BPF_RET | BPF_K

_UDP_HEADER = 8
_ANSWER_BIT = 0x10  # set in ACCEPT (1) and REJECT (3), not in REQUEST (0) and ACK (2): bits 4 and 5 are the type


def program(door: Door, family: int) -> bytes:
    """An array of struct sock_filter for one of the sockets."""
    version = (4 if family == AF_INET else 6) | (_ANSWER_BIT if door is Door.CLIENT else 0)
    instructions = (
        (_LD_LENGTH, 0, 0, 0),
        (_JEQ, 1, 0, _UDP_HEADER + 48),
        (_JEQ, 0, 4, _UDP_HEADER + 64),
        (_LD_BYTE, 0, 0, _UDP_HEADER),
        (_AND, 0, 0, _ANSWER_BIT | 0xF),
        (_JEQ, 0, 1, version),
        (_RET, 0, 0, 0xFFFF),
        (_RET, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)
