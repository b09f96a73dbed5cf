# SPDX-License-Identifier: Apache-2.0
"""Blocking calls: off the loop, bounded in number and in time."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from rdmactl.errors import DeadlineExceeded, Unavailable
from rdmactl.netlink import workers
from rdmactl.netlink.workers import WorkerPool
from tests.fake.services import DEADLINE_S, until

pytestmark = pytest.mark.fake


def test_a_call_runs_in_another_thread_and_returns() -> None:
    async def main() -> None:
        pool = WorkerPool("test")
        assert await pool.run(threading.current_thread, deadline_s=DEADLINE_S) is not threading.current_thread()

    asyncio.run(main())


def test_what_a_call_raises_is_raised() -> None:
    def fail() -> None:
        raise FileNotFoundError("scan")

    def time_out() -> None:
        raise TimeoutError("its own")

    async def main() -> None:
        pool = WorkerPool("test")
        with pytest.raises(FileNotFoundError):
            await pool.run(fail, deadline_s=DEADLINE_S)
        with pytest.raises(TimeoutError, match="its own"):
            await pool.run(time_out, deadline_s=DEADLINE_S)

    asyncio.run(main())


def test_a_deadline_leaves_the_call_behind_and_the_loop_alive() -> None:
    started, go, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        go.wait(DEADLINE_S)
        ended.set()

    async def main() -> None:
        pool = WorkerPool("initiator")
        while not started.is_set():  # on a busy machine the time may be up before a thread has it
            with pytest.raises(DeadlineExceeded, match="initiator: scan of host1"):
                await pool.run(block, deadline_s=0.01, what="scan of host1")
        assert not ended.is_set()
        go.set()
        await until(ended.is_set)

    asyncio.run(main())


def test_the_number_of_threads_is_bounded_and_the_time_in_the_queue_counts() -> None:
    go = threading.Event()
    started: list[int] = []

    def block(number: int) -> int:
        started.append(number)
        go.wait(DEADLINE_S)
        return number

    async def main() -> None:
        pool = WorkerPool("test", limit=2)
        tasks = [asyncio.create_task(pool.run(partial(block, n), deadline_s=DEADLINE_S)) for n in range(4)]
        await until(lambda: len(started) == 2)
        with pytest.raises(DeadlineExceeded):
            await pool.run(lambda: block(99), deadline_s=0.01)
        assert len(started) == 2
        go.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2, 3]
        assert 99 not in started  # nobody waited for it any more

    asyncio.run(main())


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "QUEUE_LIMIT", 1)
    go = threading.Event()

    async def main() -> None:
        pool = WorkerPool("test")
        task = asyncio.create_task(pool.run(lambda: go.wait(DEADLINE_S), deadline_s=DEADLINE_S))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await pool.run(lambda: None, deadline_s=DEADLINE_S)
        go.set()
        await task

    asyncio.run(main())


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE_S", 0.01)

    async def main() -> None:
        pool = WorkerPool("idle-test")
        await pool.run(lambda: None, deadline_s=DEADLINE_S)
        await until(lambda: not any("idle-test" in thread.name for thread in threading.enumerate()))
        assert await pool.run(lambda: 5, deadline_s=DEADLINE_S) == 5  # and come back

    asyncio.run(main())
