# SPDX-License-Identifier: Apache-2.0
"""Queries to an iSNS server over TCP. Shell ring.

A query ends within its limits whatever the server does, and with a complete answer or an `IscsiFailure` that names
server and cause. iSCSI interfaces do not bind it: the server usually stands in the network of management.
Not here: the protocol (`query.py`), registrations (`watch.py`), records.
"""

from __future__ import annotations

import asyncio
import socket

from rdmactl.errors import LocalError
from rdmactl.initiator.api import DiscoveredTarget
from rdmactl.initiator.connect import TcpOptions, resolve, tcp_connect
from rdmactl.initiator.failures import TryAgain
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.names import check_name
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.api import IsnsAnswer, IsnsRequest
from rdmactl.isns.query import QueryConfig, QueryDone, QueryEngine, QueryFailed, Reconnect
from rdmactl.isns.targets import TargetList
from rdmactl.netlink.ports import Lane

__all__ = ["ISNS_PORT", "RECEIVE_BYTES", "connect", "query_targets"]

ISNS_PORT = 3205
RECEIVE_BYTES = 65536


async def query_targets(lane: Lane, request: IsnsRequest) -> IsnsAnswer:
    """The targets a server shows us. IscsiFailure: 25 no answer or a bad one, 26 not registered, 4 unknown name."""
    try:
        for name in (request.initiator_name, *request.names):
            check_name(name)
    except LocalError as error:
        raise IscsiFailure(IscsiErr.INVAL, error.message, hint=error.hint) from None
    config = QueryConfig(request.initiator_name, request.names, request.timeout_s, request.total_s)
    found = await _Query(lane, request, config).run()
    targets = tuple(DiscoveredTarget(target.name, target.portals) for target in found.targets)
    return IsnsAnswer(targets, found.unreachable, found.skipped, found.warnings)


async def connect(lane: Lane, server: Portal, deadline_s: float) -> socket.socket:
    """A connection to a server. IscsiFailure."""
    begin = lane.now()
    try:
        addresses = await resolve(lane, server, deadline_s)
        return await tcp_connect(server, addresses, TcpOptions(), max(0.0, deadline_s - (lane.now() - begin)))
    except TryAgain as failure:
        hint = "check address and port, and that the iSNS server runs"
        text = f"iSNS server {server}: {failure.message.removeprefix(str(server)).strip()}"
        raise IscsiFailure(IscsiErr.ISNS_QUERY, text, hint=hint, code=failure.code) from None


class _Query:
    """One query and its connection."""

    def __init__(self, lane: Lane, request: IsnsRequest, config: QueryConfig) -> None:
        self._lane = lane
        self._server = request.server
        self._engine = QueryEngine(config)
        self._connect_s = min(request.timeout_s, request.total_s)
        self._sock: socket.socket | None = None

    async def run(self) -> TargetList:
        try:
            await self._reconnect()
            while True:
                output = self._engine.take_output()
                for item in output:
                    match item:
                        case bytes():
                            await self._send(item)
                        case Reconnect():
                            await self._reconnect()
                        case QueryDone():
                            return item.found
                        case QueryFailed():
                            text = f"iSNS server {self._server}: {item.message}"
                            raise IscsiFailure(item.err, text, hint=item.hint, code=item.code)
                if not output:
                    await self._receive()
        finally:
            self._close()

    async def _reconnect(self) -> None:
        self._close()
        self._sock = await connect(self._lane, self._server, self._connect_s)
        self._engine.connected(self._lane.now())

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None

    async def _send(self, data: bytes) -> None:
        """A server that does not read is noticed by the deadline of its answer."""
        assert self._sock is not None
        try:
            async with asyncio.timeout(self._left_s()):
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except TimeoutError:
            self._late()
        except OSError as error:
            self._engine.closed(self._lane.now(), error.strerror or "the connection failed")

    async def _receive(self) -> None:
        """Wait for the server, or for the end of the engine's patience."""
        assert self._sock is not None
        try:
            async with asyncio.timeout(self._left_s()):
                data = await asyncio.get_running_loop().sock_recv(self._sock, RECEIVE_BYTES)
        except TimeoutError:
            self._late()
        except OSError as error:
            self._engine.closed(self._lane.now(), error.strerror or "the connection failed")
        else:
            if data:
                self._engine.receive(data, self._lane.now())
                while self._engine.work(self._lane.now()):  # noqa: ASYNC110, it is work, not waiting
                    await asyncio.sleep(0)
            else:
                self._engine.closed(self._lane.now())

    def _late(self) -> None:
        self._engine.tick(max(self._lane.now(), self._engine.wake_at() or 0.0))

    def _left_s(self) -> float | None:
        wake_at = self._engine.wake_at()
        return None if wake_at is None else max(0.0, wake_at - self._lane.now())
