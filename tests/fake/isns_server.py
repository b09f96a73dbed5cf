# SPDX-License-Identifier: Apache-2.0
"""An iSNS server in memory: bytes in, bytes out. It has isnsd's weaknesses where a test asks for them.

`twist` is between it and the wire: it gets the request and the answer, and returns the bytes to send, any bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rdmactl.isns.attributes import DELIMITER, Attribute, Tag, of_address, of_number, of_text, pack, read_text, unpack
from rdmactl.isns.pdu import RESPONSE, Assembler, Flag, Function, Message, StreamDecoder, encode
from rdmactl.isns.requests import NODE_TARGET
from rdmactl.isns.status import Status

__all__ = ["Connection", "Entity", "FakeIsnsServer", "Node", "Twist", "answer_of", "node_attributes"]

Twist = Callable[[Message, Message], bytes]

Portal = tuple[str, int, int | None]
"""Address, port, tag of the portal group; None is a tag of length 0."""


@dataclass
class Node:
    """A registered iSCSI node."""

    portals: list[Portal] = field(default_factory=list)
    type: int = NODE_TARGET


@dataclass
class Entity:
    """A registered network entity: what it said of itself."""

    names: set[str]
    attributes: dict[int, bytes]
    notified: bool = False


@dataclass
class FakeIsnsServer:
    """One server, any number of connections."""

    nodes: dict[str, Node] = field(default_factory=dict)
    buffer_bytes: int = 16 * 1024 * 1024  # a longer answer is status 11; isnsd has 8192
    members_only: bool = False  # who is not registered gets status 6
    period_s: int = 120
    esi: bool = True
    esi_interval_s: int = 10
    scn: bool = True
    twist: Twist = lambda request, answer: encode(answer)
    entities: dict[str, Entity] = field(default_factory=dict)
    requests: list[Message] = field(default_factory=list)
    """Everything it was asked."""

    def answer(self, request: Message) -> bytes:
        """The bytes for a request."""
        self.requests.append(request)
        return self.twist(request, self._answer(request))

    def _answer(self, request: Message) -> Message:
        source, key, operating = _parts(request.payload)
        known = any(source in entity.names for entity in self.entities.values())
        if self.members_only and not known and request.function != Function.DEV_ATTR_REG:
            return answer_of(request, Status.SOURCE_UNKNOWN)
        match request.function:
            case Function.DEV_ATTR_QRY:
                return self._queried(request, key)
            case Function.DEV_GET_NEXT:
                return self._walked(request, key[0].value)
            case Function.DEV_ATTR_REG:
                return self._registered(request, key, operating)
            case Function.DEV_DEREG:
                return self._deregistered(request, operating)
            case Function.SCN_REG | Function.SCN_DEREG:
                return self._subscribed(request, source)
        return answer_of(request, Status.MESSAGE_NOT_SUPPORTED)

    def _queried(self, request: Message, key: list[Attribute]) -> Message:
        found: list[Attribute] = []
        if key[0].tag == Tag.ENTITY_IDENTIFIER:
            entity = self.entities.get(read_text(key[0]))
            found = [] if entity is None else [of_number(Tag.ENTITY_PROTOCOL, 2)]
        else:
            for name, node in self.nodes.items():
                if (key[0].tag == Tag.ISCSI_NODE_TYPE and node.type & NODE_TARGET) or read_text(key[0]) == name:
                    found += node_attributes(name, node)
        answer = answer_of(request, Status.SUCCESSFUL, *key, DELIMITER, *found)
        return answer if len(answer.payload) <= self.buffer_bytes else answer_of(request, Status.INTERNAL_ERROR)

    def _walked(self, request: Message, after: bytes) -> Message:
        names = sorted(self.nodes)
        following = [name for name in names if name.encode() > after.rstrip(b"\0")]
        if not following:
            return answer_of(request, Status.NO_SUCH_ENTRY)
        name = following[0]
        type = of_number(Tag.ISCSI_NODE_TYPE, self.nodes[name].type)
        return answer_of(request, Status.SUCCESSFUL, of_text(Tag.ISCSI_NAME, name), DELIMITER, type)

    def _registered(self, request: Message, key: list[Attribute], operating: list[Attribute]) -> Message:
        said = {attribute.tag: attribute.value for attribute in operating}
        entity = read_text(key[0]) if key else f"isns.entity.{len(self.entities) + 1:04}"
        names = {read_text(attribute) for attribute in operating if attribute.tag == Tag.ISCSI_NAME}
        if Tag.ESI_PORT in said and not self.esi:
            return answer_of(request, Status.ESI_NOT_AVAILABLE)
        if any(names & other.names for name, other in self.entities.items() if name != entity):
            return answer_of(request, Status.INVALID_REGISTRATION)
        self.entities[entity] = Entity(names, said)
        granted = [of_number(Tag.REGISTRATION_PERIOD, self.period_s)]
        if Tag.ESI_PORT in said:
            granted.append(of_number(Tag.ESI_INTERVAL, self.esi_interval_s))
        return answer_of(request, Status.SUCCESSFUL, of_text(Tag.ENTITY_IDENTIFIER, entity), DELIMITER, *granted)

    def _deregistered(self, request: Message, operating: list[Attribute]) -> Message:
        for attribute in operating:
            gone = read_text(attribute)
            self.entities = {
                name: entity for name, entity in self.entities.items() if name != gone and gone not in entity.names
            }
        return answer_of(request, Status.SUCCESSFUL, DELIMITER)

    def _subscribed(self, request: Message, source: str) -> Message:
        if not self.scn:
            return answer_of(request, Status.SCN_REGISTRATION_REJECTED)
        for entity in self.entities.values():
            if source in entity.names:
                entity.notified = request.function == Function.SCN_REG
        return answer_of(request, Status.SUCCESSFUL, DELIMITER)


class Connection:
    """One connection to a server."""

    def __init__(self, server: FakeIsnsServer) -> None:
        self._server = server
        self._decoder = StreamDecoder()
        self._assembler = Assembler()

    def receive(self, data: bytes) -> bytes:
        """The answers to what is complete."""
        return b"".join(self._answers(data))

    def _answers(self, data: bytes) -> Iterator[bytes]:
        for pdu in self._decoder.receive(data):
            message = self._assembler.receive(pdu)
            if message is not None and not message.function & RESPONSE:
                yield self._server.answer(message)


def answer_of(request: Message, status: int, *attributes: Attribute) -> Message:
    """An answer with this content."""
    payload = struct.pack(">I", status) + pack(attributes)
    return Message(request.function | RESPONSE, request.transaction, payload, int(Flag.SERVER))


def node_attributes(name: str, node: Node) -> Iterable[Attribute]:
    """A node in the answer to a query, as isnsd lists it."""
    yield of_text(Tag.ISCSI_NAME, name)
    yield of_number(Tag.ISCSI_NODE_TYPE, node.type)
    for address, port, tag in node.portals:
        yield of_address(Tag.PORTAL_IP, address)
        yield of_number(Tag.PORTAL_PORT, port)
        yield of_text(Tag.PG_ISCSI_NAME, name)
        yield of_address(Tag.PG_PORTAL_IP, address)
        yield of_number(Tag.PG_PORTAL_PORT, port)
        yield Attribute(Tag.PG_TAG) if tag is None else of_number(Tag.PG_TAG, tag)


def _parts(payload: bytes) -> tuple[str, list[Attribute], list[Attribute]]:
    """(source, key attributes, operating attributes)."""
    source, *rest = unpack(payload)
    at = rest.index(DELIMITER) if DELIMITER in rest else len(rest)
    return read_text(source), rest[:at], rest[at + 1 :]
