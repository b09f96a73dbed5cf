# SPDX-License-Identifier: Apache-2.0
"""Spacing of attempts, tasks that end by themselves, modules."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import pytest

from rdmactl.initiator import modules
from rdmactl.initiator.recovery import pauses
from rdmactl.initiator.tasks import Tasks
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from tests.fake.iscsi_sysfs import FakeSysfs


def test_pauses_double_up_to_their_limit() -> None:
    longest = islice(pauses(0.5, 30.0, lambda low, high: high), 9)
    assert list(longest) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    shortest = islice(pauses(0.5, 30.0, lambda low, high: low), 3)
    assert list(shortest) == [0.25, 0.5, 1.0]


def test_what_is_being_made_is_undone_when_the_caller_goes() -> None:
    undone: list[int] = []

    async def main() -> None:
        tasks = Tasks()
        made = asyncio.Event()

        async def make() -> int:
            await made.wait()
            return 7

        async def undo(value: int) -> None:
            undone.append(value)

        caller = asyncio.ensure_future(tasks.acquire(make(), undo))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        assert undone == []
        made.set()
        await asyncio.wait([caller])
        assert caller.cancelled()
        assert undone == [7]

    asyncio.run(main())


def test_what_is_being_made_is_undone_even_when_the_caller_is_in_a_hurry() -> None:
    undone: list[int] = []

    async def main() -> None:
        tasks = Tasks()
        made = asyncio.Event()

        async def make() -> int:
            await made.wait()
            return 7

        async def undo(value: int) -> None:
            undone.append(value)

        caller = asyncio.ensure_future(tasks.acquire(make(), undo))
        for _ in range(3):
            await asyncio.sleep(0)
            caller.cancel()
        await asyncio.wait([caller])
        made.set()
        await tasks.finish(5.0)

    asyncio.run(main())
    assert undone == [7]


def test_what_was_made_is_not_undone() -> None:
    async def main() -> int:
        async def make() -> int:
            return 7

        async def undo(value: int) -> None:
            raise AssertionError("undone")

        return await Tasks().acquire(make(), undo)

    assert asyncio.run(main()) == 7


def test_completion_survives_its_caller() -> None:
    done: list[str] = []

    async def main() -> None:
        tasks = Tasks()
        go = asyncio.Event()

        async def work() -> None:
            await go.wait()
            done.append("yes")

        caller = asyncio.ensure_future(tasks.complete(work()))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        go.set()
        await tasks.finish(5.0)

    asyncio.run(main())
    assert done == ["yes"]


def test_transport_that_is_loaded(tmp_path: Path) -> None:
    FakeSysfs(tmp_path).add_transport("iser", 4711, 0x89)
    assert modules.transport_ready("iser", str(tmp_path)) == 4711


def test_transport_nobody_has_heard_of(tmp_path: Path) -> None:
    with pytest.raises(IscsiFailure, match="qla4xxx") as caught:
        modules.transport_ready("qla4xxx", str(tmp_path))
    assert caught.value.err is IscsiErr.TRANS_NOT_FOUND


def test_module_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IscsiFailure, match="ib_iser for transport iser is not there") as caught:
        modules.transport_ready("iser", str(tmp_path))
    assert caught.value.err is IscsiErr.TRANS_NOT_FOUND
    assert caught.value.hint == "modprobe is not installed"
