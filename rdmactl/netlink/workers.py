# SPDX-License-Identifier: Apache-2.0
"""A bounded pool of threads for calls that block in the kernel (scan, unbind, configuration). Shell ring.

Not here: what is called, and NETLINK_ISCSI requests, which have a thread of their own (`requests.py`).

Why not concurrent.futures.ThreadPoolExecutor: it joins its threads when the interpreter ends, and a thread that waits
for a dead target inside the kernel would keep the daemon from ending. These threads are daemonic, and one that does not
come back costs its slot and nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rdmactl.errors import DeadlineExceeded, Unavailable

__all__ = ["WorkerPool", "block_signals"]

T = TypeVar("T")

# Threads of one service. Scans of different hosts run side by side in the kernel; more than this many at once only
# queue up inside it.
LIMIT = 16

# Calls waiting for a thread or running. Beyond it the kernel does not keep up and more waiting helps nobody.
QUEUE_LIMIT = 4096

# A worker without work ends after this time: an idle daemon has no idle threads.
IDLE_S = 30.0


def block_signals() -> None:
    """Leave every signal to the main thread; a signal would also interrupt what the kernel does for this thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class _Job:
    """A call and where its result goes."""

    __slots__ = ("function", "future", "loop")

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def run(self) -> None:
        if self.future.done():  # its deadline came first: do not start what nobody waits for
            return
        try:
            result = self.function()
        except BaseException as error:
            self._post(self._fail, error)
        else:
            self._post(self._succeed, result)

    def _post(self, settle: Callable[[Any], None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
            self.loop.call_soon_threadsafe(settle, outcome)

    def _succeed(self, result: object) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class WorkerPool:
    """Up to `limit` daemonic threads, started when needed. `run` may be used from the loops of several threads."""

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self._name = name
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting = 0  # jobs queued or running

    async def run(self, function: Callable[[], T], *, deadline_s: float, what: str = "the call") -> T:
        """`function()` in a worker thread. DeadlineExceeded after `deadline_s`, time in the queue included."""
        job = _Job(function, asyncio.get_running_loop())
        self._submit(job)
        try:
            async with asyncio.timeout(deadline_s):
                result: T = await job.future
        except TimeoutError:
            if not job.future.cancelled():
                raise  # the function's own
            raise DeadlineExceeded(f"{self._name}: {what} did not end within {deadline_s:g} s") from None
        return result

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._waiting >= QUEUE_LIMIT:
                raise Unavailable(f"{self._name}: {QUEUE_LIMIT} blocking calls are waiting already", code="queue-full")
            self._waiting += 1
            start = self._waiting > self._threads and self._threads < self._limit
            self._threads += start
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._work, name=f"{self._name}-worker", daemon=True).start()

    def _work(self) -> None:
        block_signals()
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._waiting >= self._threads:  # one is on its way to the queue
                        continue
                    self._threads -= 1
                return
            job.run()
            del job  # hold nothing while idle
            with self._lock:
                self._waiting -= 1
