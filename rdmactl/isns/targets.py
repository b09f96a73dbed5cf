# SPDX-License-Identifier: Apache-2.0
"""The targets and portals an iSNS server lists. Engine ring.

    answer = key attributes | delimiter | { 32 name, 33 type, { 16, 17 portal, 48, 49, 50, 51 portal group }* }*

A portal counts when a portal group joins it with the name and gives it a tag; a tag of length 0 says that the target is
not to be reached there. Servers without portal groups list portals behind the name. One bad entry never costs the
others: it is left out, counted and named; a message that contradicts itself is an error, and nothing of it counts.
Not here: asking (`query.py`). Defined by RFC 4171 sections 3.4, 5.6.5.2 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.iscsi.names import name_problem, printable
from rdmactl.iscsi.portal import DEFAULT_PORT, UNKNOWN_TPGT, Portal
from rdmactl.isns.attributes import UDP_PORT, Attribute, Tag, read_address, read_number, read_text, unpack
from rdmactl.isns.conversation import Answer
from rdmactl.isns.requests import NODE_TARGET

__all__ = ["MAX_PORTALS", "MAX_TARGETS", "IsnsTarget", "TargetList", "TargetReader"]

MAX_TARGETS = 200_000
MAX_PORTALS = 1_000_000
_MAX_TAG = 0xFFFF
_MAX_PORT = 0xFFFF
_AT_A_TIME = 4096  # attributes: some ten milliseconds
_MAX_WARNINGS = 100  # kept as sentences; the count goes on

PortalOfGroup = tuple[Portal, int]


class IsnsTarget(NamedTuple):
    """A target and its portals with their group tags, in the server's order, each once."""

    name: str
    portals: tuple[PortalOfGroup, ...]


class TargetList(NamedTuple):
    """What was listed.

    `unreachable` targets are there without a portal we could use; `skipped` entries were left out; `warnings` has a
    sentence for the first of everything odd.
    """

    targets: tuple[IsnsTarget, ...]
    unreachable: tuple[str, ...]
    skipped: int
    warnings: tuple[str, ...]


class _Portal:
    """A portal in the making. What is missing is None, also where the server has sent something unusable."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.port: int | None = None

    def take(self, attribute: Attribute, *, address: Tag) -> None:
        if attribute.tag == address:
            self.address = read_address(attribute)
        else:
            self.port = read_number(attribute)


class _Group(_Portal):
    """A portal group in the making: a name, a portal, a tag."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.tag: int | None = UNKNOWN_TPGT  # None: not to be reached there


class TargetReader:
    """Collects the answers to one discovery."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[PortalOfGroup, None]] = {}  # by name, for every node that is no other thing
        self._bare: dict[str, list[tuple[str, int]]] = {}  # portals behind a name, for servers without groups
        self._grouped: set[str] = set()  # names with a portal group, whatever it says
        self._others: set[str] = set()  # nodes that are no targets
        self._name: str | None = None
        self._portal: _Portal | None = None
        self._group: _Group | None = None
        self._portals = 0
        self._skipped = 0
        self._warnings: list[str] = []

    @property
    def records(self) -> int:
        """Targets read so far."""
        return len(self._groups)

    def receive(self, answer: Answer) -> None:
        """Take a whole answer. PeerError when it is malformed; what was read of it is then of no use."""
        for _ in self.read(answer):
            pass

    def read(self, answer: Answer) -> Iterator[None]:
        """The same a little at a time: a long answer takes seconds, and other work waits for none of it."""
        listed = False
        for count, attribute in enumerate(unpack(answer.payload, answer.start), 1):
            if listed:
                self._take(attribute)
            listed = listed or attribute.tag == Tag.DELIMITER
            if not count % _AT_A_TIME:
                yield
        self._end_node()

    def known(self, name: str) -> str | None:
        """The name as an acceptable one, listed from now on; None when it is none."""
        if name in self._groups:
            return name
        problem = name_problem(name)
        if problem is not None:
            self._skip(f'target name "{printable(name)}" {problem}')
            return None
        if len(self._groups) >= MAX_TARGETS:
            raise PeerError(f"a list of more than {MAX_TARGETS} targets", code="isns-limit")
        self._groups[name] = {}
        return name

    def finish(self) -> TargetList:
        """Everything that was listed."""
        targets, unreachable = [], []
        for name, portals in self._groups.items():
            if name in self._others:
                continue
            for address, port in () if name in self._grouped else self._bare.get(name, ()):
                self._add(name, address, port, UNKNOWN_TPGT)
            if portals:
                targets.append(IsnsTarget(name, tuple(portals)))
            else:
                unreachable.append(name)
        return TargetList(tuple(targets), tuple(unreachable), self._skipped, tuple(self._warnings))

    def _take(self, attribute: Attribute) -> None:
        match attribute.tag:
            case Tag.ISCSI_NAME:
                self._end_node()
                self._name = self.known(read_text(attribute))
            case Tag.ISCSI_NODE_TYPE:
                if not read_number(attribute) & NODE_TARGET and self._name is not None:
                    self._others.add(self._name)
            case Tag.PORTAL_IP:
                self._end_portal()
                self._portal = _Portal()
                self._portal.take(attribute, address=Tag.PORTAL_IP)
            case Tag.PORTAL_PORT if self._portal is not None:
                self._portal.take(attribute, address=Tag.PORTAL_IP)
            case Tag.PG_ISCSI_NAME:
                self._end_group()
                self._group = _Group(read_text(attribute))
            case Tag.PG_PORTAL_IP | Tag.PG_PORTAL_PORT if self._group is not None:
                self._group.take(attribute, address=Tag.PG_PORTAL_IP)
            case Tag.PG_TAG if self._group is not None:
                self._group.tag = read_number(attribute) if attribute.value else None

    def _end_node(self) -> None:
        self._end_portal()
        self._end_group()
        self._name = None

    def _end_portal(self) -> None:
        portal, self._portal = self._portal, None
        if portal is None or self._name is None or portal.address is None or portal.port is None:
            return
        self._count_portal()
        self._bare.setdefault(self._name, []).append((portal.address, portal.port))

    def _end_group(self) -> None:
        group, self._group = self._group, None
        name = None if group is None else self.known(group.name)
        if group is None or name is None:
            return
        self._grouped.add(name)
        self._count_portal()
        if group.address is None or group.port is None:
            self._skip(f"a portal of {name} has no address or no port")
        elif group.tag is not None:
            self._add(name, group.address, group.port, group.tag)

    def _count_portal(self) -> None:
        self._portals += 1
        if self._portals > MAX_PORTALS:
            raise PeerError(f"a list of more than {MAX_PORTALS} portals", code="isns-limit")

    def _add(self, name: str, address: str, port: int, tag: int) -> None:
        if port & ~_MAX_PORT:
            what = "is one of UDP" if port & ~_MAX_PORT == UDP_PORT else f"has the port {port}"
            self._skip(f"portal {address} of {name} {what}")
        elif tag > _MAX_TAG:
            self._skip(f"portal {address} of {name} has the portal group tag {tag}")
        else:
            self._groups[name][Portal(address, port or DEFAULT_PORT), tag] = None

    def _skip(self, reason: str) -> None:
        self._skipped += 1
        if len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(f"{reason}; left out")
