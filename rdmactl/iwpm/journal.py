# SPDX-License-Identifier: Apache-2.0
"""The port mapper's own record of its table, which outlives its process: a file in the runtime directory. Shell ring.

Why it is needed: after a restart the kernel reports at most 227 mappings, and for none of them whether it listens.

What it must survive is the death of the process, at any instruction; not that of the machine, which takes the mappings
with it. So the file is on a tmpfs, and a record is safe when write(2) has returned: no fsync, no lock, one system call
for all that one message of the kernel has changed. Each record is the whole new state of one local address, the last
one counts; a record that was cut off by the end of the process is left out. When the file has grown to several times
what it says, it is written anew beside the old one and renamed.

Not here: what is recorded (`table.MappingState`), when (`service.py`), sockets (`vault.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Iterable
from typing import Any

from rdmactl.iwpm.table import Kind, MappingKey, MappingState
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr

__all__ = ["MappingJournal", "pack", "unpack"]

_log = logging.getLogger(__name__)

_HEAD = b"iwpm journal 1\n\0"
_RECORD = struct.Struct("!BBBBHHIII16s16s")  # family, kind, port mapped, 0, local and mapped port, refs, refused, scope
_pack_record = _RECORD.pack
_KINDS = tuple(Kind)
_tuple = tuple.__new__  # cheaper than a named tuple's own constructor: there may be thousands
_ADDRESS_BYTES = {AF_INET: 4, AF_INET6: 16}

SLACK_RECORDS = 4096
"""Superseded records the file may hold beyond one for each live address: 200 KiB of memory."""


def pack(states: Iterable[MappingState]) -> bytes:
    """Records as they are in the file, behind its head."""
    records = []
    for (family, port, address, scope_id), mapped, kind, refs, refused, port_mapped in states:
        records.append(
            _pack_record(family, kind, port_mapped, 0, port, mapped[1], refs, refused, scope_id, address, mapped[2])
        )
    return b"".join(records)


def unpack(content: bytes) -> list[MappingState]:
    """The last state of each address, in the order they were first seen; nothing from a file that is none of ours."""
    if not content.startswith(_HEAD):
        return []
    whole = (len(content) - len(_HEAD)) // _RECORD.size * _RECORD.size
    last: dict[MappingKey, tuple[int, ...]] = {}
    for fields in _RECORD.iter_unpack(content[len(_HEAD) : len(_HEAD) + whole]):
        family, kind, _, _, port, _, refs, refused, _, address, _ = fields
        size = _ADDRESS_BYTES.get(family)
        if size is None or kind >= len(_KINDS):
            continue
        key = (family, port, address[:size])
        if refs or refused:
            last[key] = fields
        else:
            last.pop(key, None)
    return [_state(key, *fields) for key, fields in last.items()]


def _state(key: MappingKey, *fields: Any) -> MappingState:
    family, kind, port_mapped, _, _, mapped_port, refs, refused, scope_id, _, mapped = fields
    local = _tuple(SockAddr, (*key, scope_id))
    to = _tuple(SockAddr, (family, mapped_port, mapped[: len(key[2])], scope_id))
    return _tuple(MappingState, (local, to, _KINDS[kind], refs, refused, bool(port_mapped)))


class MappingJournal:
    """The file. `read` first, then `rewrite` once, then `append`.

    A failure is logged once and ends the journal until the next `rewrite` succeeds: a mapper without it still works.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._records = 0
        self._failed = False

    def read(self) -> list[MappingState]:
        """What an earlier process has left."""
        try:
            with open(self._path, "rb") as file:
                return unpack(file.read())
        except FileNotFoundError:
            return []
        except OSError as error:
            self._fail(error)
            return []

    def append(self, states: list[MappingState]) -> None:
        """Record changes. They are safe when this returns."""
        if self._descriptor is None:
            return
        records = pack(states)
        self._records += len(states)
        try:
            if os.write(self._descriptor, records) != len(records):
                raise OSError(28, os.strerror(28))
        except OSError as error:
            self._fail(error)

    def wants_rewrite(self, live: int) -> bool:
        """Whether the file holds much more than `live` addresses are worth, or could not be written."""
        return self._descriptor is None or self._records > 2 * live + SLACK_RECORDS

    def rewrite(self, states: list[MappingState]) -> None:
        """Begin a new file with exactly this content; the old one stays until the new one is whole."""
        self.close()
        beside = f"{self._path}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(beside, flags, 0o600)
            self._descriptor = descriptor
            content = memoryview(_HEAD + pack(states))
            while content:
                content = content[os.write(descriptor, content) :]
            os.rename(beside, self._path)
        except OSError as error:
            self._fail(error)
            return
        self._records = len(states)
        self._failed = False

    def close(self) -> None:
        """Write no more. The file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _fail(self, error: OSError) -> None:
        self.close()
        if not self._failed:
            self._failed = True
            _log.warning(
                "%s: %s; after a restart only what the kernel reports will be known", self._path, error.strerror
            )
