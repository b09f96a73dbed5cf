# SPDX-License-Identifier: Apache-2.0
"""Endpoints that are being connected, asked about together. Shell ring.

The kernel sends no event when an iser endpoint is connected; it has to be asked (EP_POLL), and the question takes its
turn with all other requests of the machine. A hundred logins that ask each for itself would fill that one queue with
questions; one datagram asks for all.

Not here: making and releasing endpoints (`kernel.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rdmactl.errors import RdmactlError
from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import Reply

__all__ = ["EndpointPoll"]

_FIRST_POLL_S = 0.002
_POLL_GROWTH = 1.3
_LONGEST_POLL_S = 0.05
_AT_ONCE = 128  # of one datagram: its answers fit in the default receive buffer
_ERESTARTSYS = 512  # a signal interrupted EP_POLL: says nothing about the endpoint

_Key = tuple[int, int]


class EndpointPoll:
    """`exchange` sends requests in one datagram and gives their answers."""

    def __init__(self, exchange: Callable[[Sequence[bytes]], Awaitable[list[Reply]]]) -> None:
        self._exchange = exchange
        self._waiting: dict[_Key, asyncio.Future[bool]] = {}
        self._pause_s = _FIRST_POLL_S
        self._task: asyncio.Task[None] | None = None

    async def connected(self, handle: int, endpoint: int) -> bool:
        """True when the endpoint is connected, which the kernel tells once; False when that failed."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[handle, endpoint] = future
        self._pause_s = _FIRST_POLL_S
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            return await future
        finally:
            if self._waiting.get((handle, endpoint)) is future:
                del self._waiting[handle, endpoint]

    async def _poll(self) -> None:
        """Until nobody waits."""
        while self._waiting:
            waiting = list(self._waiting.items())
            for first in range(0, len(waiting), _AT_ONCE):
                await self._ask([item for item in waiting[first : first + _AT_ONCE] if not item[1].done()])
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * _POLL_GROWTH, _LONGEST_POLL_S)

    async def _ask(self, waiting: list[tuple[_Key, asyncio.Future[bool]]]) -> None:
        if not waiting:
            return
        try:
            replies = await self._exchange([iscsi.ep_poll(*key) for key, _ in waiting])
        except RdmactlError as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), reply in zip(waiting, replies, strict=True):
            if reply.code not in (0, -_ERESTARTSYS) and not future.done():
                future.set_result(reply.code > 0)
