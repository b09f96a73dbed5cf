# SPDX-License-Identifier: Apache-2.0
"""A thousand sessions one after the other, on each transport: memory stays flat, and no verbs object is left."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path

import pytest

from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.login import Attempt
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.steps import Steps
from tests.lab import iser_world as world
from tests.lab.iser_world import ME, RXE, SIW, TARGET

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CYCLES = 1000
WARM_UP = 100
GROWTH_KIB_MAX = 1024


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    world.set_up()


def resident_kib() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])
def test_iser_23_a_thousand_sessions(address: str) -> None:
    async def cycle(channel: EventChannel) -> None:
        question = Question(Portal(address), ME, target=TARGET)
        attempt = Attempt(question, Steps(asyncio.get_running_loop().time), os.urandom)
        async with await attempt.session(channel, 4) as session:
            await session.ping()

    async def use(channel: EventChannel) -> None:
        for _ in range(WARM_UP):
            await cycle(channel)
        before = resident_kib(), descriptors()
        begun = time.monotonic()
        for _ in range(CYCLES - WARM_UP):
            await cycle(channel)
        after = resident_kib(), descriptors()
        print(f"{address}: {(time.monotonic() - begun) / (CYCLES - WARM_UP) * 1000:.1f} ms each, KiB {before} {after}")
        assert after[0] - before[0] < GROWTH_KIB_MAX, (before, after)
        assert after[1] == before[1]
        assert world.held() == []

    world.run(use, limit_s=800)
    world.wait_until_free()
