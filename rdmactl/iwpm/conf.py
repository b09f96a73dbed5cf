# SPDX-License-Identifier: Apache-2.0
"""`iwpmd.conf`, in the syntax of rdma-core's iwpmd: `name = number` lines. Engine ring.

Not here: reading the file (`read` does no more than that) and applying values. There is one parameter,
`nl_sock_rbuf_size`, the netlink socket's receive buffer in bytes; see iwpmd(8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CONFIG_FILE", "MapperConfig", "parse"]

CONFIG_FILE = "/etc/iwpmd.conf"

LINE_BYTES = 127
"""Longer lines are read in pieces, as by fgets(3) into rdma-core's buffer."""

_LINE = re.compile(r"(?P<name>[^=\s]+)[ \t]*=+[ \t]*(?P<value>[+-]?\d+)\s*")
_RECEIVE_BUFFER = "nl_sock_rbuf_size"


@dataclass(frozen=True, slots=True)
class MapperConfig:
    """What can be configured. `receive_buffer_bytes` is the netlink socket's; None leaves the kernel's default."""

    receive_buffer_bytes: int | None = None


def parse(text: str) -> tuple[MapperConfig, list[str]]:
    """The configuration, and what to log: values that were taken, lines and names that were not understood.

    Lines with `#` in the first column and empty lines are skipped; values of zero or less are ignored, as they always
    were. Nothing in the file can keep the daemon from starting.
    """
    receive_buffer_bytes = None
    notes = []
    for line in _lines(text):
        if line.startswith("#") or not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            notes.append(f"iwpmd.conf: line not understood, skipped: {line.strip()!r}")
        elif match["name"] != _RECEIVE_BUFFER:
            notes.append(f"iwpmd.conf: unknown parameter {match['name']!r}, skipped")
        elif int(match["value"]) > 0:
            receive_buffer_bytes = int(match["value"])
            notes.append(f"iwpmd.conf: {_RECEIVE_BUFFER} = {receive_buffer_bytes}")
    return MapperConfig(receive_buffer_bytes), notes


def _lines(text: str) -> list[str]:
    return [line[at : at + LINE_BYTES] for line in text.splitlines() for at in range(0, max(len(line), 1), LINE_BYTES)]
