# SPDX-License-Identifier: Apache-2.0
"""Endpoints that are being connected are asked about in common datagrams."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

import pytest

from rdmactl.errors import KernelError
from rdmactl.initiator.endpoints import EndpointPoll
from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import Reply, Uevent

HANDLE = 77


class FakeClass:
    """Answers of the kernel by endpoint, one after the other; the last one for ever."""

    def __init__(self, answers: dict[int, list[int]]) -> None:
        self.answers = answers
        self.datagrams: list[list[int]] = []

    async def exchange(self, requests: Sequence[bytes]) -> list[Reply]:
        known = {iscsi.ep_poll(HANDLE, number): number for number in self.answers}
        numbers = [known[request] for request in requests]
        self.datagrams.append(numbers)
        return [Reply(Uevent.TRANSPORT_EP_POLL, self._next(number), 0, 0, 0, b"") for number in numbers]

    def _next(self, number: int) -> int:
        codes = self.answers[number]
        return codes.pop(0) if len(codes) > 1 else codes[0]


def test_many_are_asked_about_at_once() -> None:
    kernel = FakeClass({number: [0, 0, 1] for number in range(1, 301)})

    async def run() -> None:
        poll = EndpointPoll(kernel.exchange)
        assert all(await asyncio.gather(*(poll.connected(HANDLE, number) for number in kernel.answers)))

    asyncio.run(run())
    assert [len(numbers) for numbers in kernel.datagrams] == [128, 128, 44] * 3


def test_one_that_failed_and_one_that_was_interrupted() -> None:
    kernel = FakeClass({1: [-errno.ECONNREFUSED], 2: [-512, 1]})

    async def run() -> None:
        poll = EndpointPoll(kernel.exchange)
        refused, interrupted = await asyncio.gather(poll.connected(HANDLE, 1), poll.connected(HANDLE, 2))
        assert (refused, interrupted) == (False, True)

    asyncio.run(run())


def test_whom_nobody_waits_for_is_not_asked_about() -> None:
    kernel = FakeClass({1: [0], 2: [0, 0, 0, 1]})

    async def run() -> None:
        poll = EndpointPoll(kernel.exchange)
        impatient = asyncio.create_task(poll.connected(HANDLE, 1))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        assert await poll.connected(HANDLE, 2)

    asyncio.run(run())
    assert kernel.datagrams[-1] == [2]


def test_a_failure_of_the_kernel_reaches_everybody() -> None:
    async def refuse(requests: Sequence[bytes]) -> list[Reply]:
        raise KernelError("sendto", errno.ENOBUFS, "no")

    async def run() -> None:
        poll = EndpointPoll(refuse)
        for result in await asyncio.gather(
            *(poll.connected(HANDLE, number) for number in (1, 2)), return_exceptions=True
        ):
            with pytest.raises(KernelError):
                raise result  # type: ignore[misc]

    asyncio.run(run())
