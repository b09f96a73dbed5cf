# SPDX-License-Identifier: Apache-2.0
"""The port where an iSNS server reaches us: datagrams, or connections of its own. Shell ring.

Not here: what messages mean (`notices.py`), the connection we make (`watch.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Collection
from typing import Any, Protocol, Self

from rdmactl.errors import PeerError
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.isns.conversation import Conversation
from rdmactl.isns.pdu import Message

__all__ = ["Listener", "NoticePort", "plain_address"]

log = logging.getLogger(__name__)

_CONNECTIONS_MAX = 8  # a server has one, and one more for each message nobody has answered yet
_SEND_S = 5.0
_RECEIVE_BYTES = 65536


class Listener(Protocol):
    """Who takes what comes; returns the answer, None when there is none."""

    def datagram(self, data: bytes, sender: str) -> bytes | None: ...

    def message(self, message: Message, sender: str) -> bytes | None: ...

    def stranger(self, sender: str) -> None: ...


def plain_address(address: str) -> str:
    """An address as the sockets of both families would give it: without zone, IPv4 as such."""
    return address.partition("%")[0].removeprefix("::ffff:")


class NoticePort:
    """A context manager: inside, the port is open, and `number` is its number, also where 0 was asked for (any).

    Connections are taken from `senders` only; datagrams are the listener's to judge.
    """

    def __init__(self, listener: Listener, senders: Collection[str], *, udp: bool, number: int = 0) -> None:
        self._listener = listener
        self._senders = senders
        self._udp = udp
        self.number = number
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._connections: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        sock = self._bound()
        self.number = sock.getsockname()[1]
        loop = asyncio.get_running_loop()
        if self._udp:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._listener), sock=sock)
        else:
            self._server = await asyncio.start_server(self._serve, sock=sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.close()

    def _bound(self) -> socket.socket:
        """For IPv6 and IPv4 where the server may use both."""
        both = any(":" in sender for sender in self._senders)
        family = socket.AF_INET6 if both else socket.AF_INET
        sock = socket.socket(family, (socket.SOCK_DGRAM if self._udp else socket.SOCK_STREAM) | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            if both:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if not self._udp:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::" if both else "0.0.0.0", self.number))  # noqa: S104, the sender is checked
        except OSError as error:
            sock.close()
            text = f"port {self.number} for iSNS notifications cannot be opened: {error.strerror}"
            raise IscsiFailure(IscsiErr.ISNS_REG_FAILED, text, hint="choose another port, or 0 for any") from None
        return sock

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender = plain_address(str(writer.get_extra_info("peername")[0]))
        if sender not in self._senders or len(self._connections) >= _CONNECTIONS_MAX:
            self._listener.stranger(sender)
            writer.close()
            return
        self._connections.append(writer)
        try:
            await self._listen(reader, writer, sender)
        except (OSError, PeerError, TimeoutError) as error:
            log.debug("connection of iSNS server %s: %s", sender, error)
        finally:
            self._connections.remove(writer)
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str) -> None:
        conversation = Conversation()
        while data := await reader.read(_RECEIVE_BYTES):
            for item in conversation.receive(data):
                answer = self._listener.message(item, sender) if isinstance(item, Message) else None
                if answer is not None:
                    writer.write(answer)
                    async with asyncio.timeout(_SEND_S):
                        await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    """Answers go to where the datagram came from."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._listener.datagram(data, plain_address(str(addr[0])))
        if answer is not None and self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.sendto(answer, addr)
