# SPDX-License-Identifier: Apache-2.0
"""The list of targets a SendTargets request returns, read as a stream. Engine ring.

    record = "TargetName=" name NUL *( "TargetAddress=" host [":" port] ["," tag] NUL )

Parts are cut anywhere, with or without the C bit, so bytes are joined first and read up to the last NUL. One bad entry
never costs the others: it is left out, counted and named. Everything is bounded, because a target may never end.
Not here: asking for parts (`discovery.py`), resolving names. Defined by RFC 7143 appendix C.
"""

from __future__ import annotations

from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.iscsi.names import name_problem, printable
from rdmactl.iscsi.portal import UNKNOWN_TPGT, Portal, parse_target_address

__all__ = ["MAX_ADDRESSES", "MAX_TARGETS", "MAX_TOTAL_BYTES", "SendTargetsReader", "TargetList", "TargetRecord"]

MAX_TOTAL_BYTES = 64 * 1024 * 1024  # 200 000 targets with long names and two addresses each fit
MAX_TARGETS = 200_000
MAX_ADDRESSES = 1_000_000
_MAX_ITEM_BYTES = 8192  # of one key=value; the longest legal one has less than 600
_KNOWN_MAX = 1024
_MAX_WARNINGS = 100  # kept as sentences; the count goes on


class TargetRecord(NamedTuple):
    """A target and its portals with their group tags, in the target's order, each once."""

    name: str
    portals: tuple[tuple[Portal, int], ...]


class TargetList(NamedTuple):
    """The whole list. `skipped` entries were left out; `warnings` has a sentence for the first of everything odd."""

    targets: tuple[TargetRecord, ...]
    skipped: int
    warnings: tuple[str, ...]


class SendTargetsReader:
    """Collects the parts of one list. `portal` is where it was asked for: a target without an address is there."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._tail = b""
        self._bytes = 0
        self._addresses = 0
        self._names = 0
        self._targets: dict[str, dict[tuple[Portal, int], None]] = {}
        self._current: dict[tuple[Portal, int], None] | None = None
        self._known: dict[str, tuple[Portal, int]] = {}  # most targets of a list share their portals
        self._addressless: set[str] = set()  # no address line seen, not even a bad one
        self._name = ""
        self._ignoring = False  # the addresses of a name that was left out
        self._skipped = 0
        self._warnings: list[str] = []

    @property
    def records(self) -> int:
        """Targets read so far."""
        return len(self._targets)

    def receive(self, part: bytes) -> None:
        """Take the next bytes. PeerError when a limit is reached, or when the target rejects the request."""
        self._bytes += len(part)
        if self._bytes > MAX_TOTAL_BYTES:
            raise PeerError(f"a list of targets of more than {MAX_TOTAL_BYTES} bytes", code="iscsi-limit")
        *items, self._tail = (self._tail + part).split(b"\0")
        if len(self._tail) > _MAX_ITEM_BYTES:
            raise PeerError(f"a value of more than {_MAX_ITEM_BYTES} bytes in a list of targets", code="iscsi-limit")
        for item in items:
            self._item(item)

    def finish(self) -> TargetList:
        """The list; a last pair without its NUL counts."""
        self._item(self._tail)
        self._tail = b""
        for name in self._addressless:
            self._targets[name][self._portal, UNKNOWN_TPGT] = None
        records = (TargetRecord(name, tuple(portals)) for name, portals in self._targets.items() if portals)
        return TargetList(tuple(records), self._skipped, tuple(self._warnings))

    def _item(self, item: bytes) -> None:
        if not item:
            return  # a run of NULs, or the end
        key, equals, raw = item.partition(b"=")
        value = raw.decode("utf-8", "surrogateescape")  # no valid name or address survives as such
        if not equals:
            self._skip(f'"{printable(item)}" has no "="')
        elif key == b"TargetName":
            self._target(value)
        elif key == b"TargetAddress":
            self._address(value)
        elif key == b"SendTargets":
            raise PeerError(f'the target answers SendTargets="{printable(value)}"', code="iscsi-reject")
        else:
            self._warn(f'key "{printable(key)}" does not belong into a list of targets')

    def _target(self, name: str) -> None:
        self._names += 1
        if self._names > MAX_TARGETS:
            raise PeerError(f"a list of more than {MAX_TARGETS} targets", code="iscsi-limit")
        problem = name_problem(name)
        self._ignoring = problem is not None
        if problem is not None:
            self._current = None
            self._skip(f'target name "{printable(name)}" {problem}')
            return
        self._name = name
        if name not in self._targets:
            self._targets[name] = {}
            self._addressless.add(name)
        self._current = self._targets[name]

    def _address(self, text: str) -> None:
        self._addresses += 1
        if self._addresses > MAX_ADDRESSES:
            raise PeerError(f"a list of more than {MAX_ADDRESSES} addresses", code="iscsi-limit")
        if self._current is None:
            if not self._ignoring:
                self._skip(f'target address "{printable(text)}" comes before any target name')
            return
        self._addressless.discard(self._name)
        portal = self._known.get(text) or self._read(text)
        if portal is not None:
            self._current[portal] = None

    def _read(self, text: str) -> tuple[Portal, int] | None:
        """The portal and tag in an address that was not met before, or is odd; None for one that is left out."""
        try:
            address = parse_target_address(text)
        except PeerError as error:
            self._skip(f"{error.message} (target {self._name})")
            return None
        portal = address.portal, address.tpgt
        if address.warning is not None:
            self._warn(f'target address "{printable(text)}" {address.warning}')
        elif len(self._known) < _KNOWN_MAX:
            self._known[text] = portal
        return portal

    def _skip(self, reason: str) -> None:
        self._skipped += 1
        self._warn(f"{reason}; left out")

    def _warn(self, text: str) -> None:
        if len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(text)
