# SPDX-License-Identifier: Apache-2.0
"""What the port mapper shows of its table: values for programs, and the lines of SIGUSR1. Engine ring.

Not here: the table itself (`table.py`), control messages, tables for people (`rdmactl.cli.iwpmctl`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rdmactl.iwpm.table import Mapping, MappingTable
from rdmactl.netlink.sockaddr import AF_INET, SockAddr, address_text

__all__ = ["MappingInfo", "Snapshot", "dump_lines", "mapping_list"]


class MappingInfo(NamedTuple):
    """One mapping.

    `kind` is "listener", "connection", or "restored" (from the kernel's report, which does not say which);
    `references` counts the kernel's ids; `port_mapped` is False if the local port itself is used; `claimed` says
    whether the mapped port is held; `age_s` is since it was made, or restored.
    """

    local: SockAddr
    mapped: SockAddr
    kind: str
    references: int
    port_mapped: bool
    claimed: bool
    age_s: float


class Snapshot(NamedTuple):
    """The mappings there were at `now`, oldest first: taken at once, to be shown a part at a time."""

    mappings: list[Mapping]
    now: float


def mapping_list(mappings: Iterable[Mapping], now: float) -> list[MappingInfo]:
    """These mappings, in their order."""
    return [
        MappingInfo(
            mapping.local,
            mapping.mapped,
            mapping.kind.name.lower(),
            mapping.refs,
            mapping.claim is not None,
            mapping.claimed,
            now - mapping.created,
        )
        for mapping in mappings
    ]


def dump_lines(table: MappingTable) -> list[str]:
    """What rdma-core's iwpmd logs on SIGUSR1, line by line: newest mapping first. Programs read these lines."""
    lines = ["iwpm_signal_handler: Received SIGUSR1 signal", "print_iwpm_mapped_ports:"]
    for index, mapping in enumerate(reversed(list(table))):
        lines.append(f"Mapping #{index}")
        lines.append(f"Local address {_dumped(mapping.local)}")
        lines.append(f"Mapped address {_dumped(mapping.mapped)}")
    return lines


def _dumped(address: SockAddr) -> str:
    version = "IPV4" if address.family == AF_INET else "IPV6"
    return f"{version} {address_text(address.address)}:{address.port}(0x{address.port:04X})"
