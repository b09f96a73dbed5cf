# SPDX-License-Identifier: Apache-2.0
"""The request channel: strict pairing, deadlines that leave the kernel alone, losses."""

from __future__ import annotations

import asyncio
import errno
import signal
import threading
from collections.abc import Awaitable, Callable

import pytest

from rdmactl.errors import DeadlineExceeded, KernelError, LocalError
from rdmactl.netlink import requests as requests_module
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.message import NETLINK_ISCSI, Message, build, split
from rdmactl.netlink.ports import ChannelSpec
from rdmactl.netlink.requests import NetlinkRequestChannel
from tests.fake.kernel import FakeKernel, FakeSocket
from tests.fake.services import DEADLINE_S, FakeIscsi, until

pytestmark = pytest.mark.fake

SPEC = ChannelSpec(NETLINK_ISCSI)
SLOW = 99


class SlowIscsi(FakeIscsi):
    """Holds a request of type SLOW inside send(2) until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Event()
        self.go = threading.Event()

    def handle(self, sender: FakeSocket, message: Message) -> None:
        if message.type == SLOW:
            self.inside.set()
            assert self.go.wait(DEADLINE_S)
        super().handle(sender, message)


def converse(
    kernel: FakeKernel, scenario: Callable[[NetlinkRequestChannel], Awaitable[None]], spec: ChannelSpec = SPEC
) -> Counters:
    """Run `scenario` with a request channel; returns what it counted."""

    async def main() -> Counters:
        channel = NetlinkRequestChannel(kernel.open(spec), spec, clock=lambda: 0.0)
        try:
            await scenario(channel)
        finally:
            channel.close()
        await until(lambda: not kernel.sockets)  # the thread has ended and closed the socket
        return channel.counters

    return asyncio.run(main())


def types(replies: list[bytes]) -> list[int]:
    return [message.type for reply in replies for message in split(reply)]


def test_one_reply_per_message_in_order_from_one_datagram() -> None:
    datagrams: list[bytes] = []

    class Watching(FakeIscsi):
        def take(self, sender: FakeSocket, datagram: bytes) -> None:
            datagrams.append(datagram)
            super().take(sender, datagram)

    async def scenario(channel: NetlinkRequestChannel) -> None:
        replies = await channel.exchange([build(16, b"abc"), build(17, b"abcd"), build(16)], deadline_s=DEADLINE_S)
        assert types(replies) == [16, 17, 16]
        assert [split(reply)[0].payload for reply in replies] == [b"abc", b"abcd", b""]

    counters = converse(Watching(), scenario)
    assert [len(datagram) for datagram in datagrams] == [20 + 20 + 16]  # each starts at a multiple of four
    assert (counters.sent, counters.replies) == (3, 3)


def test_exchanges_of_several_tasks_are_paired_one_at_a_time() -> None:
    async def scenario(channel: NetlinkRequestChannel) -> None:
        async def ask(number: int) -> None:
            (reply,) = await channel.exchange([build(16, number.to_bytes(4, "little"))], deadline_s=DEADLINE_S)
            assert split(reply)[0].payload == number.to_bytes(4, "little")

        await asyncio.gather(*(ask(number) for number in range(200)))

    converse(FakeIscsi(), scenario)


def test_an_empty_queue_means_that_there_is_no_reply() -> None:
    class Dropping(FakeIscsi):
        def handle(self, sender: FakeSocket, message: Message) -> None:
            if message.type != SLOW:
                super().handle(sender, message)

    async def scenario(channel: NetlinkRequestChannel) -> None:
        with pytest.raises(KernelError, match="1 of 2") as caught:
            await channel.exchange([build(16), build(SLOW)], deadline_s=DEADLINE_S)
        assert caught.value.errno == errno.ENODATA
        assert types(await channel.exchange([build(17)], deadline_s=DEADLINE_S)) == [17]

    converse(Dropping(), scenario)


def test_a_deadline_ends_the_wait_and_the_late_reply_is_discarded() -> None:
    kernel = SlowIscsi()

    async def scenario(channel: NetlinkRequestChannel) -> None:
        while not kernel.inside.is_set():  # on a busy machine the time may be up before the thread has it
            with pytest.raises(DeadlineExceeded):
                await channel.exchange([build(SLOW)], deadline_s=0.01)
        following = asyncio.create_task(channel.exchange([build(17)], deadline_s=DEADLINE_S))
        kernel.go.set()
        assert types(await following) == [17]

    counters = converse(kernel, scenario)
    assert counters.late == 1


def test_an_exchange_whose_time_is_up_in_the_queue_is_never_sent() -> None:
    kernel = SlowIscsi()

    async def scenario(channel: NetlinkRequestChannel) -> None:
        slow = asyncio.create_task(channel.exchange([build(SLOW)], deadline_s=DEADLINE_S))
        await until(kernel.inside.is_set)
        with pytest.raises(DeadlineExceeded):
            await channel.exchange([build(17)], deadline_s=0.01)
        kernel.go.set()
        assert types(await slow) == [SLOW]
        assert types(await channel.exchange([build(18)], deadline_s=DEADLINE_S)) == [18]

    converse(kernel, scenario)
    assert [message.type for _, message in kernel.sent] == [SLOW, 18]


def test_leftovers_in_the_queue_are_not_taken_for_replies() -> None:
    kernel = FakeIscsi()

    async def scenario(channel: NetlinkRequestChannel) -> None:
        kernel.unicast(channel.portid, build(55))
        assert types(await channel.exchange([build(16)], deadline_s=DEADLINE_S)) == [16]

    assert converse(kernel, scenario).unmatched == 1


def test_messages_of_other_processes_are_not_taken_for_replies() -> None:
    class Disturbed(FakeIscsi):
        def handle(self, sender: FakeSocket, message: Message) -> None:
            sender.deliver(build(message.type, b"evil"), sender=4711)
            super().handle(sender, message)

    async def scenario(channel: NetlinkRequestChannel) -> None:
        (reply,) = await channel.exchange([build(16, b"good")], deadline_s=DEADLINE_S)
        assert split(reply)[0].payload == b"good"

    converse(Disturbed(), scenario)


def test_replies_that_did_not_fit_are_named_as_lost() -> None:
    async def scenario(channel: NetlinkRequestChannel) -> None:
        with pytest.raises(KernelError, match="dropped 5 of 10") as caught:
            await channel.exchange([build(16)] * 10, deadline_s=DEADLINE_S)
        assert caught.value.errno == errno.ENOBUFS
        assert types(await channel.exchange([build(17)], deadline_s=DEADLINE_S)) == [17]

    counters = converse(FakeIscsi(), scenario, ChannelSpec(NETLINK_ISCSI, receive_buffer_bytes=4000))
    assert counters.overruns == 1


def test_a_refused_send_is_a_kernel_error() -> None:
    class Refusing(FakeIscsi):
        def handle(self, sender: FakeSocket, message: Message) -> None:
            raise OSError(errno.ECONNREFUSED, "refused")

    async def scenario(channel: NetlinkRequestChannel) -> None:
        with pytest.raises(KernelError) as caught:
            await channel.exchange([build(16)], deadline_s=DEADLINE_S)
        assert caught.value.errno == errno.ECONNREFUSED

    converse(Refusing(), scenario)


def test_close_in_the_middle_of_a_request() -> None:
    kernel = SlowIscsi()

    async def scenario(channel: NetlinkRequestChannel) -> None:
        running = asyncio.create_task(channel.exchange([build(SLOW)], deadline_s=DEADLINE_S))
        waiting = asyncio.create_task(channel.exchange([build(17)], deadline_s=DEADLINE_S))
        await until(kernel.inside.is_set)
        channel.close()
        for task in (running, waiting):
            with pytest.raises(LocalError, match="closed"):
                await task
        with pytest.raises(LocalError, match="closed"):
            await channel.exchange([build(18)], deadline_s=DEADLINE_S)
        assert kernel.sockets  # the thread is still inside the kernel
        kernel.go.set()

    converse(kernel, scenario)
    assert [message.type for _, message in kernel.sent] == [SLOW]


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "QUEUE_LIMIT", 2)
    kernel = SlowIscsi()

    async def scenario(channel: NetlinkRequestChannel) -> None:
        tasks = [asyncio.create_task(channel.exchange([build(SLOW)], deadline_s=DEADLINE_S)) for _ in range(2)]
        await until(kernel.inside.is_set)
        with pytest.raises(LocalError, match="waiting"):
            await channel.exchange([build(17)], deadline_s=DEADLINE_S)
        kernel.go.set()
        await asyncio.gather(*tasks)

    converse(kernel, scenario)


def test_the_thread_of_requests_takes_no_signal() -> None:
    masks: list[set[int]] = []

    class Looking(FakeIscsi):
        def handle(self, sender: FakeSocket, message: Message) -> None:
            masks.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())})
            super().handle(sender, message)

    async def scenario(channel: NetlinkRequestChannel) -> None:
        await channel.exchange([build(16)], deadline_s=DEADLINE_S)

    converse(Looking(), scenario)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1} <= masks[0]
