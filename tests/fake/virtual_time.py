# SPDX-License-Identifier: Apache-2.0
"""An event loop whose clock jumps: hours of waiting take no time, and every run is the same.

For code whose clock is the loop's, and that does not wait for sockets or threads.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLane", "run"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Nothing is ever waited for: the time it would have taken is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for somebody else"
            self.now += max(timeout, 0.0)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """`asyncio.run`, in virtual time from 0."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main())


class VirtualLane:
    """What services need of a lane; blocking calls are made on the spot."""

    def __init__(self) -> None:
        self.is_ready = False

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def ready(self) -> None:
        self.is_ready = True

    async def blocking(self, function: Callable[[], T], *, deadline_s: float) -> T:
        assert deadline_s > 0
        return function()
