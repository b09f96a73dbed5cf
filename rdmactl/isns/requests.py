# SPDX-License-Identifier: Apache-2.0
"""The messages an initiator sends to an iSNS server, and its answers to those it gets. Engine ring.

    request:  source | key attributes | delimiter | operating attributes
    answer:   status u32 | attributes

Every message names its source, our initiator: the server shows it what its discovery domains allow. A registration says
everything in one message that replaces what the server had of us, because servers differ in what they take as updates.
Not here: transactions (`conversation.py`), the order of messages (`query.py`, `registration.py`).
Defined by RFC 4171 sections 5.6 and 5.7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from rdmactl.isns.attributes import DELIMITER, UDP_PORT, Attribute, Tag, ask, of_address, of_number, of_text, pack
from rdmactl.isns.pdu import RESPONSE, Flag, Function, Message
from rdmactl.isns.status import Status

__all__ = [
    "NODE_INITIATOR",
    "NODE_TARGET",
    "Registration",
    "Request",
    "answer",
    "deregister_entity",
    "deregister_node",
    "deregister_notifications",
    "next_node",
    "query_entity",
    "query_target",
    "query_targets",
    "register",
    "register_node",
    "register_notifications",
]

NODE_TARGET = 0x1
NODE_INITIATOR = 0x2
_PROTOCOL_ISCSI = 2
# Bit 0 is the least significant here; the standard counts from the other end.
_SCN_BITS = 0x40 | 0x10 | 0x08 | 0x04  # about targets: removed, added, updated
_ABOUT_TARGETS = ask(
    Tag.ISCSI_NAME,
    Tag.ISCSI_NODE_TYPE,
    Tag.PORTAL_IP,
    Tag.PORTAL_PORT,
    Tag.PG_ISCSI_NAME,
    Tag.PG_PORTAL_IP,
    Tag.PG_PORTAL_PORT,
    Tag.PG_TAG,
)


class Request(NamedTuple):
    """A message without its transaction."""

    function: Function
    payload: bytes
    flags: int = int(Flag.CLIENT)


class Registration(NamedTuple):
    """What the server is told of us.

    `address` and `port` are where notifications reach us, over UDP if `udp`; `esi_interval_s` 0: no status inquiries.
    """

    entity: str
    initiator_name: str
    address: str
    port: int
    udp: bool = True
    esi_interval_s: int = 0


def query_targets(source: str) -> Request:
    """All targets `source` may see, with their portals: byte for byte what open-iscsi asks."""
    return _request(Function.DEV_ATTR_QRY, source, [of_number(Tag.ISCSI_NODE_TYPE, NODE_TARGET)], _ABOUT_TARGETS)


def query_target(source: str, name: str) -> Request:
    """One node with its portals."""
    return _request(Function.DEV_ATTR_QRY, source, [of_text(Tag.ISCSI_NAME, name)], _ABOUT_TARGETS)


def next_node(source: str, after: bytes) -> Request:
    """The target that follows `after`, a name as the server has sent it, in the server's order; b"": its first one."""
    key = [Attribute(Tag.ISCSI_NAME, after)]
    return _request(Function.DEV_GET_NEXT, source, key, [of_number(Tag.ISCSI_NODE_TYPE, NODE_TARGET)])


def query_entity(source: str, entity: str) -> Request:
    """Whether an entity is registered. Any message of a source keeps its registration alive, this one does no more."""
    key = [of_text(Tag.ENTITY_IDENTIFIER, entity)]
    return _request(Function.DEV_ATTR_QRY, source, key, ask(Tag.ENTITY_PROTOCOL))


def register_node(source: str) -> Request:
    """The name alone, for servers that answer registered sources only. The server chooses an entity."""
    node = [of_text(Tag.ISCSI_NAME, source), of_number(Tag.ISCSI_NODE_TYPE, NODE_INITIATOR)]
    return _request(Function.DEV_ATTR_REG, source, [], node)


def register(registration: Registration) -> Request:
    """Everything about us, in place of what the server had."""
    entity = of_text(Tag.ENTITY_IDENTIFIER, registration.entity)
    port = registration.port | (UDP_PORT if registration.udp else 0)
    portal = [
        of_address(Tag.PORTAL_IP, registration.address),
        of_number(Tag.PORTAL_PORT, registration.port),
        of_number(Tag.SCN_PORT, port),
    ]
    if registration.esi_interval_s:
        portal += [of_number(Tag.ESI_INTERVAL, registration.esi_interval_s), of_number(Tag.ESI_PORT, port)]
    name = registration.initiator_name
    node = [of_text(Tag.ISCSI_NAME, name), of_number(Tag.ISCSI_NODE_TYPE, NODE_INITIATOR)]
    operating = [entity, of_number(Tag.ENTITY_PROTOCOL, _PROTOCOL_ISCSI), *portal, *node]
    request = _request(Function.DEV_ATTR_REG, name, [entity], operating)
    return request._replace(flags=int(Flag.CLIENT | Flag.REPLACE))


def deregister_node(source: str) -> Request:
    """Takes back `register_node`; without error when the server knows no such node."""
    return _request(Function.DEV_DEREG, source, [], [of_text(Tag.ISCSI_NAME, source)])


def deregister_entity(source: str, entity: str) -> Request:
    """Takes back `register`."""
    return _request(Function.DEV_DEREG, source, [], [of_text(Tag.ENTITY_IDENTIFIER, entity)])


def register_notifications(source: str) -> Request:
    """Asks for state change notifications about targets."""
    key = [of_text(Tag.ISCSI_NAME, source)]
    return _request(Function.SCN_REG, source, key, [of_number(Tag.SCN_BITMAP, _SCN_BITS)])


def deregister_notifications(source: str) -> Request:
    """Takes back `register_notifications`."""
    name = of_text(Tag.ISCSI_NAME, source)
    return Request(Function.SCN_DEREG, pack([name, name]))


def answer(message: Message, status: Status, attributes: Iterable[Attribute]) -> Message:
    """Our answer to a message of the server."""
    payload = struct.pack(">I", status) + pack(attributes)
    return Message(message.function | RESPONSE, message.transaction, payload)


def _request(function: Function, source: str, key: Iterable[Attribute], operating: Iterable[Attribute]) -> Request:
    return Request(function, pack([of_text(Tag.ISCSI_NAME, source), *key, DELIMITER, *operating]))
