# SPDX-License-Identifier: Apache-2.0
"""Work that must be finished even when whoever asked for it goes away. Shell ring.

A login that is cancelled between the request that makes a kernel object and its answer would leave that object behind:
the answer alone says which one it is. So such requests run in tasks of their own, and cancelling the caller hands their
result to an undo.

Not here: what the tasks do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from rdmactl.errors import RdmactlError

__all__ = ["Tasks"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The background tasks of a service; `finish` ends them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run `work`; the task is kept referenced until it is done."""
        task = asyncio.get_running_loop().create_task(work, name=name or None)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def acquire(self, making: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]]) -> T:
        """The result of `making`; when the caller is cancelled meanwhile, `making` still ends and is undone first."""
        task = self.spawn(making)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self.complete(_undo(task, undo))
            raise

    async def complete(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, also when the caller is cancelled while it waits."""
        await asyncio.shield(self.spawn(work))

    async def finish(self, deadline_s: float) -> None:
        """Wait for what is running; what is not done by then is cancelled."""
        pending = self._running - {asyncio.current_task()}
        if pending:
            _, late = await asyncio.wait(pending, timeout=deadline_s)
            for task in late:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """An expected error whose caller has gone is told here; anything else is a defect and ends the service."""
        self._running.discard(task)
        if not task.cancelled() and isinstance(task.exception(), RdmactlError):
            log.debug("%s: %s", task.get_name(), task.exception())


async def _undo(task: asyncio.Task[T], undo: Callable[[T], Awaitable[None]]) -> None:
    with contextlib.suppress(Exception):  # there is nothing to undo when making failed, and nobody left to tell
        await undo(await task)
