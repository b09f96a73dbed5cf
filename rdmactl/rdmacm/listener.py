# SPDX-License-Identifier: Apache-2.0
"""The passive side: an address that takes RDMA connections. Shell ring.

Not here: what is said on a connection. See rdma_listen(3), rdma_accept(3), rdma_reject(3).
"""

from __future__ import annotations

import asyncio
from collections import deque

from rdmactl.errors import KernelError, RdmactlError
from rdmactl.netlink.sockaddr import SOCKADDR_STORAGE_BYTES, SockAddr
from rdmactl.rdmacm import failures, library
from rdmactl.rdmacm.channel import EventChannel, Notice, refuse
from rdmactl.rdmacm.connection import Connection
from rdmactl.rdmacm.endpoint import DISCOVERY, Sizes
from rdmactl.rdmacm.states import CmEvent

__all__ = ["Listener"]

_BACKLOG = 16


class Listener:
    """Listens on `address` (port 0: the kernel chooses) from the start. Raises KernelError."""

    def __init__(self, channel: EventChannel, address: SockAddr, *, sizes: Sizes = DISCOVERY) -> None:
        module = library.load()
        self._ffi, self._lib = module.ffi, module.lib
        self._channel, self._sizes = channel, sizes
        self._requests: deque[Notice] = deque()
        self._arrived = asyncio.Event()
        self.failure: RdmactlError | None = None
        self._id = channel.create_id(self._cm_event)
        try:
            self._start(address)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> SockAddr:
        """Where it listens, with the port the kernel chose."""
        room = self._ffi.new("char[]", SOCKADDR_STORAGE_BYTES)
        self._lib.cm_local_addr(self._id, room, SOCKADDR_STORAGE_BYTES)
        address = SockAddr.unpack(bytes(self._ffi.buffer(room)))
        assert address is not None
        return address

    async def request(self) -> Connection:
        """The next request, as a connection that is still to be accepted or closed; waits without a limit."""
        while not self._requests:
            if self.failure is not None:
                raise self.failure
            self._arrived.clear()
            await self._arrived.wait()
        notice = self._requests.popleft()
        connection = Connection(self._channel, "a connecting host", requested_id=notice.id, sizes=self._sizes)
        connection.peer = str(connection.remote or connection.peer)
        connection.private_data = notice.private_data
        return connection

    def close(self) -> None:
        """Stop listening and refuse what waits."""
        self._channel.forget(self._channel.key(self._id))
        while self._requests:
            refuse(self._lib, self._channel.handle(self._requests.popleft().id))
        self._lib.cm_destroy_id(self._id)

    def _start(self, address: SockAddr) -> None:
        packed = address.pack()
        self._check(self._lib.cm_bind_addr(self._id, packed, len(packed)), "rdma_bind_addr", address)
        self._check(self._lib.cm_listen(self._id, _BACKLOG), "rdma_listen", address)

    def _check(self, rc: int, operation: str, address: SockAddr) -> None:
        if rc < 0:
            raise KernelError(operation, -rc, f"cannot listen on {address} ({operation}: {-rc})")

    def _cm_event(self, notice: Notice) -> None:
        if notice.kind is CmEvent.CONNECT_REQUEST:
            self._requests.append(notice)
        elif notice.kind is CmEvent.DEVICE_REMOVAL:
            self.failure = failures.event_failed(str(self.address), notice.kind, notice.status)
        self._arrived.set()
