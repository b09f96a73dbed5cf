# SPDX-License-Identifier: Apache-2.0
"""Requests and answers on one connection to an iSNS server. Engine ring.

An answer belongs to the request with its function and transaction; one that belongs to none is ignored and counted.
The server may use the same connection to tell us something, so that its messages can come between ours.
Not here: time, what an answer means. Defined by RFC 4171 section 5.1.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.isns.pdu import RESPONSE, SMALL_MESSAGE_BYTES, Assembler, Function, Message, Pdu, StreamDecoder, encode
from rdmactl.isns.requests import Request

__all__ = ["Answer", "Conversation", "read_status"]

_STATUS = struct.Struct(">I")
_TELLING = (Function.SCN, Function.ESI)


class Answer(NamedTuple):
    """What came for `transaction`. The attributes begin behind the status, at `start` of `payload`."""

    transaction: int
    status: int
    payload: bytes
    start: int = _STATUS.size


class Conversation:
    """One connection. Messages are small, unless `expect` says that a long one is to come."""

    def __init__(self) -> None:
        self._decoder = StreamDecoder()
        self._assembler = Assembler(SMALL_MESSAGE_BYTES)
        self._open: dict[int, Function] = {}  # function asked for, by transaction
        self._transaction = 0
        self._ignored = 0

    @property
    def ignored(self) -> int:
        """PDUs nobody asked for."""
        return self._ignored + self._assembler.ignored

    def partial(self) -> tuple[int, int] | None:
        """(bytes there, bytes wanted) of a PDU that began and has not ended."""
        return self._decoder.partial()

    def request(self, request: Request) -> tuple[int, bytes]:
        """Begin a transaction: its number, and the bytes to send."""
        self._transaction = self._transaction % 0xFFFF + 1
        self._open[self._transaction] = request.function
        message = Message(request.function, self._transaction, request.payload, request.flags)
        return self._transaction, encode(message)

    def expect(self, max_message_bytes: int) -> None:
        """How long messages may be from now on."""
        self._assembler.max_message_bytes = max_message_bytes

    def forget(self) -> None:
        """Nobody waits for the open answers any more."""
        self._open.clear()

    def receive(self, data: bytes) -> list[Answer | Message]:
        """Take bytes as they came: answers, and messages of the server's own. PeerError for what is neither."""
        found: list[Answer | Message] = []
        for pdu in self._decoder.receive(data):
            if not self._expected(pdu):
                self._ignored += 1
                continue
            message = self._assembler.receive(pdu)
            if message is not None:
                found.append(self._answer(message) if message.function & RESPONSE else message)
        return found

    def _expected(self, pdu: Pdu) -> bool:
        if not pdu.function & RESPONSE:
            return pdu.function in _TELLING
        return self._open.get(pdu.transaction) == pdu.function & ~RESPONSE

    def _answer(self, message: Message) -> Answer:
        del self._open[message.transaction]
        return Answer(message.transaction, read_status(message.payload), message.payload)


def read_status(payload: bytes) -> int:
    """The status of an answer; PeerError when it is too short to have one."""
    if len(payload) < _STATUS.size:
        raise PeerError(f"malformed answer: {len(payload)} bytes, too short for a status", code="isns-malformed")
    return int(_STATUS.unpack_from(payload)[0])
