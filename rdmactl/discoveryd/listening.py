# SPDX-License-Identifier: Apache-2.0
"""News from an iSNS server: they bring the next question forward, and decide nothing. Shell ring.

Who waits for news and cannot have them (the server refuses the registration, or is away) polls meanwhile.
Not here: registration and notifications (`rdmactl.isns.watch`), what is done about an answer (`watcher.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from rdmactl.isns.api import Change, WatchConfig, WatchStatus
from rdmactl.netlink.ports import Lane

__all__ = ["Ear", "Subscription", "listen"]

_LOOK_S = 15.0


class Subscription(Protocol):
    """What is needed of `rdmactl.isns.watch.Watch`."""

    async def run(self) -> None: ...

    async def next_change(self) -> Change: ...

    @property
    def status(self) -> WatchStatus: ...


Ear = Callable[[Lane, WatchConfig], Subscription]


async def listen(
    subscription: Subscription, news: Callable[[], None], heard: Callable[[bool], None], *, look_s: float = _LOOK_S
) -> None:
    """Until cancelled: call `news` for every change, and `heard` with whether the server tells of changes now."""
    running = asyncio.create_task(subscription.run())
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await subscription.next_change()
                    news()
            if running.done():
                return running.result()
            heard(subscription.status.notified)
    finally:
        running.cancel()
        await asyncio.wait([running])
