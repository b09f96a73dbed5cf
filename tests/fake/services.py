# SPDX-License-Identifier: Apache-2.0
"""Services and small helpers for tests of the dispatcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rdmactl.netlink.channel import NetlinkChannel
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.message import NETLINK_ISCSI, NETLINK_RDMA, Message
from rdmactl.netlink.ports import Channel, ChannelSpec, Lane, Received, Reply
from tests.fake.kernel import FakeKernel, FakeSocket

DEADLINE_S = 20.0  # of everything a test waits for; reached only when something is broken

IWPM = ChannelSpec(NETLINK_RDMA, groups=(2,), clients=(2,))
ISCSI = ChannelSpec(NETLINK_ISCSI, groups=(1,))


class FakeRdma(FakeKernel):
    """NETLINK_RDMA: every message gets its DONE."""

    family = NETLINK_RDMA


class FakeIscsi(FakeKernel):
    """NETLINK_ISCSI without meaning: each request gets one unicast of the same type and payload."""

    family = NETLINK_ISCSI

    def handle(self, sender: FakeSocket, message: Message) -> None:
        self.unicast(sender.portid, self.request(message.type, message.payload, seq=0))


class Log:
    """A channel handler that notes everything, and runs `react` on each message."""

    def __init__(self, react: Callable[[Received], object] = lambda received: None) -> None:
        self.events: list[Any] = []
        self.react = react

    def received(self, received: Received, now: float) -> None:
        self.events.append(received)
        self.react(received)

    def replied(self, reply: Reply, now: float) -> None:
        self.events.append(reply)

    def overrun(self, now: float) -> None:
        self.events.append("overrun")

    def drained(self, now: float) -> None:
        self.events.append("drained")

    def news(self) -> list[Any]:
        return [event for event in self.events if event != "drained"]


class Driven:
    """A channel on a fake socket, driven by hand: no loop, no thread, a clock that stands still."""

    def __init__(self, kernel: FakeKernel, handler: Log, spec: ChannelSpec, **options: Any) -> None:
        self.soon: list[Callable[[], None]] = []
        self.failures: list[Exception] = []
        self.counters = Counters()
        self.socket = kernel.open(spec)
        self.channel = NetlinkChannel(
            self.socket,
            spec,
            handler,
            clock=lambda: 5.0,
            schedule=self.soon.append,
            failed=self.failures.append,
            counters=self.counters,
            **options,
        )

    def run_soon(self) -> int:
        """Everything scheduled, until nothing is; how many turns that took."""
        turns = 0
        while self.soon:
            self.soon.pop(0)()
            turns += 1
        return turns


class Server(Log):
    """A service with one channel: answers each message of type `asking` with one of the same type and payload."""

    def __init__(self, spec: ChannelSpec, react: Callable[[Server, Received], object] | None = None) -> None:
        super().__init__(self._react)
        self.spec = spec
        self.lane: Lane | None = None
        self.channel: Channel | None = None
        self._reaction = react

    async def run(self, lane: Lane) -> None:
        self.lane = lane
        self.channel = lane.open(self.spec, self)
        lane.ready()
        await asyncio.Event().wait()

    def _react(self, received: Received) -> None:
        if self._reaction is not None:
            self._reaction(self, received)
        else:
            assert self.channel is not None
            self.channel.send(received.message.type, received.message.payload)


async def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition of another thread."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.0005)


def dispatch(dispatcher: Dispatcher, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run `scenario` under a started dispatcher whose services are ready."""

    async def main() -> None:
        await dispatcher.start(DEADLINE_S)
        try:
            await dispatcher.wait_ready(DEADLINE_S)
            await scenario()
        finally:
            await dispatcher.stop(DEADLINE_S)

    asyncio.run(main())
