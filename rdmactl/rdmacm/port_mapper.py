# SPDX-License-Identifier: Apache-2.0
"""The port mapper's part in a connection over iWARP, in words for a trace. Shell ring.

Before an iWARP adapter that has a TCP stack of its own connects, the kernel's iw_cm asks the host's port mapper which
port to use on the wire, and through it the peer's mapper where the listener really is. librdmacm shows nothing of
that: the ports it reports are those that were asked for. It is in the time of the connect step, and in the way of
firewalls (UDP 3935 and the mapped ports), so a trace says it. rdmactl's iwpmd is asked, as rdma-core's cannot be.

Not here: the port mapper (`rdmactl.iwpm`), the connection (`connection.py`).
"""

from __future__ import annotations

from rdmactl.control.client import Client
from rdmactl.errors import RdmactlError
from rdmactl.netlink.sockaddr import SockAddr

__all__ = ["part_of_port_mapper"]

_ANSWER_S = 1.0
"""A trace can do without it; meanwhile the target waits for a login."""


def part_of_port_mapper(local: SockAddr) -> str:
    """What iwpmd did for the connection that leaves from `local`, while that is up; blocks for a second at most."""
    try:
        with Client("iwpm", deadline_s=_ANSWER_S) as client:
            mappings = [each for part in client.more("io.rdmactl.PortMapper.List") for each in part["mappings"]]
    except RdmactlError as error:
        if error.code == "daemon-not-running":
            return "not asked: iwpmd does not run"
        return f"unknown: {error.message}"
    mapping = next((each for each in mappings if each["local"] == str(local)), None)
    if mapping is None:
        return f"not asked: iwpmd has no mapping of {local}"
    if not mapping["port_mapped"]:
        return f"asked: {local} is used as it is, because the device wants no mapped ports"
    return f"asked: {local} is {mapping['mapped']} on the wire"
