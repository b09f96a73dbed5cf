# SPDX-License-Identifier: Apache-2.0
"""The process that may call librdmacm, at one end of a socket pair. Shell ring.

Why a process: librdmacm keeps a device open for the life of its process, and the removal of a soft-RoCE or soft-iWARP
device waits for that; some of its calls block without an end. So a worker is short-lived: it ends when its parent
closes the socket or dies (also while a call blocks: PR_SET_PDEATHSIG), when it has been used and then idle for a
moment, and when something in it is stuck. Cancelling an operation is ending the worker: the kernel cleans up.

It is started (`python -m rdmactl.rdmacm.worker DESCRIPTOR`) or forked warm: everything is imported, and the libraries
have looked for devices, before the first request; but no device is opened before it. One request at a time, each with
its deadline; {"id", "call", "arguments", "deadline_s"} is answered by {"id", "result"} or {"id", "error"}, with any
number of {"id", "progress"} before. Framing: `frames.py`. The other end: `client.py`.
Not here: any RDMA (`discovery.py`, `operations.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from rdmactl.errors import DeadlineExceeded, LocalError, RdmactlError
from rdmactl.rdmacm import library
from rdmactl.rdmacm.frames import Decoder, encode, pack_error

__all__ = ["AT_ONCE_MAX", "IDLE_S", "Operation", "Tell", "Worker", "many", "serve"]

IDLE_S = 2.0
"""How long a used worker waits for more: a device in use by nobody must not stay open for longer."""

AT_ONCE_MAX = 32
"""Connections at a time: soft-iWARP has no completion queues for more than 48 of one process."""

Tell = Callable[[dict[str, Any]], None]
Operation = Callable[[dict[str, Any], Tell], Awaitable[dict[str, Any]]]
"""Takes the arguments, and what tells the parent of progress."""


class Worker(asyncio.Protocol):
    """Answers one request after the other. `ended` is done when there is nothing left to stay for."""

    def __init__(
        self, operations: dict[str, Operation], *, stuck: Callable[[], bool] = lambda: False, idle_s: float = IDLE_S
    ) -> None:
        self._operations, self._stuck, self._idle_s = operations, stuck, idle_s
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for request in self._decoder.receive(data):
                self._take(request)
        except RdmactlError:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _take(self, request: dict[str, Any]) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._task is not None:
            raise LocalError("an RDMA worker does one thing at a time")
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"id": request.get("id")}
        deadline_s = float(request.get("deadline_s", 0.0))
        try:
            async with asyncio.timeout(deadline_s):
                operation = self._operations[request["call"]]
                reply["result"] = await operation(request["arguments"], lambda told: self._tell(request, told))
        except RdmactlError as error:
            reply["error"] = pack_error(error)
        except TimeoutError:
            reply["error"] = pack_error(DeadlineExceeded(f"the RDMA worker was not done after {deadline_s:g} s"))
        except Exception as error:
            # The parent must hear of it, whatever it was; the name is what there is to report.
            reply["error"] = pack_error(LocalError(f"the RDMA worker failed ({type(error).__name__})", code="internal"))
        self._task = None
        if self._transport is not None:
            self._transport.write(encode(reply))
            if self._stuck():
                self._transport.close()
        self._idle = self._loop.call_later(self._idle_s, self._end)

    def _tell(self, request: dict[str, Any], told: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(encode({"id": request.get("id"), "progress": told}))

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def many(operations: dict[str, Operation]) -> Operation:
    """An operation that does one of the others for each of {"call", "each": [arguments, ...]}, side by side.

    Answers {"results": [...]} in the order asked; tells of each, as {"index", "result"}, when it is done.
    """

    async def run(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
        places = asyncio.Semaphore(AT_ONCE_MAX)
        operation = operations[arguments["call"]]

        async def one(index: int, each: dict[str, Any]) -> dict[str, Any]:
            async with places:
                result = await operation(each, lambda told: None)
            tell({"index": index, "result": result})
            return result

        return {"results": await asyncio.gather(*(one(*pair) for pair in enumerate(arguments["each"])))}

    return run


async def _serve(connection: socket.socket, idle_s: float) -> None:
    from rdmactl.rdmacm.discovery import Discoverer

    discoverer = Discoverer()
    discoverer.rehearse()

    def in_session(name: str) -> Operation:
        """Imported when it is asked for: a discovery does without, and most of what it takes is importing."""

        async def run(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
            from rdmactl.rdmacm.operations import Operations

            return await Operations(discoverer).answers()[name](arguments, tell)

        return run

    operations: dict[str, Operation] = {"discover": discoverer.answer}
    operations |= {name: in_session(name) for name in ("ping", "luns", "perf")}
    operations["many"] = many(dict(operations))
    loop = asyncio.get_running_loop()
    # Each connection may keep one thread for as long as a silent host lets a call block.
    loop.set_default_executor(ThreadPoolExecutor(2 * AT_ONCE_MAX))
    _, worker = await loop.connect_accepted_socket(
        lambda: Worker(operations, stuck=lambda: discoverer.stuck, idle_s=idle_s), connection
    )
    await worker.ended
    os._exit(0)  # no farewell: a stuck thread would hold it up, and what is held the kernel gives back


def serve(connection: socket.socket) -> NoReturn:
    """Be a worker; ends the process."""
    with contextlib.suppress(RdmactlError):  # a missing library is reported when the first request needs it
        library.load().lib.die_with_parent()
    asyncio.run(_serve(connection, IDLE_S))
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
