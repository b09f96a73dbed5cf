# SPDX-License-Identifier: Apache-2.0
"""What the port mapper finds when it looks at itself and its host, without disturbing anything. Shell ring.

Not here: answering the kernel or peers. Each check is a sentence with a result; what cannot be known is said as such.

Listeners without a mapping. iw_cm asks a port mapper when a listener is made; if none is registered at that moment it
goes on without, silently, and never asks again. The kernel's list of connection manager ids (NLDEV) shows listeners
with the address they were made for: one on an iWARP device that the table does not know is such a listener. Peers reach
it unmapped, which works only where the adapter and TCP do not share the port. Connections cannot be judged this way:
the list does not tell those that were made here, and should be mapped, from those that were accepted, which never are.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

from rdmactl.iwpm.table import MappingTable
from rdmactl.iwpm.wire import REJECT, REQUEST, WireMessage, parse
from rdmactl.netlink.nldev import CmId
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr, address_text

__all__ = ["Check", "Result", "claim_check", "peer_check", "unmapped_listeners", "unmapped_text"]

PEER_S = 2.0
"""What the way through the loopback interface and our own loop may take."""

SHOWN = 5
"""Names in one line."""

_UNUSED_PORT = 1  # of TCPMUX: nobody has a mapping for it, and asking leaves no state
_WILDCARDS = {AF_INET: "0.0.0.0", AF_INET6: "::"}  # noqa: S104 -- as a claim


class Result(enum.Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Check(NamedTuple):
    """One check: what was looked at, how it ended, and what to know of it."""

    name: str
    result: Result
    text: str


def unmapped_listeners(table: MappingTable, cm_ids: Iterable[CmId]) -> list[CmId]:
    """Those of the listeners that have no entry in the table."""
    return [cm_id for cm_id in cm_ids if cm_id.listens and table.find_listener(cm_id.local) is None]


def unmapped_text(unmapped: list[CmId]) -> str:
    """One line about them."""
    shown = ", ".join(f"{item.local} on {item.device} ({item.owner})" for item in unmapped[:SHOWN])
    rest = f" and {len(unmapped) - SHOWN} more" if len(unmapped) > SHOWN else ""
    return (
        f"the kernel runs {len(unmapped)} listeners without a mapping, because no port mapper was there when they were "
        f"made: {shown}{rest}; restart what listens there to have them mapped"
    )


def claim_check(family: int = AF_INET) -> Check:
    """Claim a port and give it back."""
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.bind((_WILDCARDS[family], 0))
            port = sock.getsockname()[1]
    except OSError as error:
        hint = "see LimitNOFILE= and net.ipv4.ip_local_port_range"
        return Check("port", Result.FAILED, f"no port can be claimed: {os.strerror(error.errno or 0)}; {hint}")
    return Check("port", Result.OK, f"a port can be claimed ({port}) and given back")


async def peer_check(address: SockAddr, port: int) -> Check:
    """Ask ourselves over UDP, as a peer would, for something nobody has; the answer must be REJECT."""
    name = f"udp {address_text(address.address)}"
    loop = asyncio.get_running_loop()
    handle = int.from_bytes(os.urandom(8), "big") | 1
    plain = address._replace(scope_id=0)
    asked = WireMessage(REQUEST, handle, plain, plain.with_port(_UNUSED_PORT), plain)
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.connect(_name(address, port))
            sock.send(asked.build())
            async with asyncio.timeout(PEER_S):
                answer = parse(await loop.sock_recv(sock, 65))
    except TimeoutError:
        return Check(
            name, Result.FAILED, f"no answer on UDP port {port}: a packet filter, or peers are limited to others"
        )
    except OSError as error:
        return Check(name, Result.FAILED, f"UDP port {port}: {os.strerror(error.errno or 0)}")
    if answer.type != REJECT or answer.handle != handle:
        return Check(name, Result.FAILED, f"an unexpected answer on UDP port {port}")
    return Check(name, Result.OK, f"UDP port {port} answers")


def _name(address: SockAddr, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    host = address_text(address.address)
    return (host, port) if address.family == AF_INET else (host, port, 0, address.scope_id)
