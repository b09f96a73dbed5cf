# SPDX-License-Identifier: Apache-2.0
"""A connection in memory: what `rdmactl.rdmacm.discovery.converse` needs, with a scripted target at the other end."""

from __future__ import annotations

import asyncio
from collections import deque

from rdmactl.errors import RdmactlError
from rdmactl.iscsi.iser import unwrap, wrap
from rdmactl.rdmacm import failures
from rdmactl.rdmacm.states import CmEvent
from tests.fake.target import FakeTarget


class MemoryLink:
    """Whole messages to and from a `FakeTarget`. `break_after` messages sent, the connection is lost."""

    def __init__(self, target: FakeTarget, peer: str, *, break_after: int | None = None, mute: bool = False) -> None:
        self.target, self.peer, self.mute = target, peer, mute
        self.sent: list[bytes] = []
        self.raw: deque[bytes] = deque()
        self._break_after = break_after

    async def send(self, message: bytes) -> None:
        self.sent.append(message)
        if self._break_after is not None and len(self.sent) > self._break_after:
            raise self._lost()
        if not self.mute:
            self.raw.extend(wrap(answer) for answer in self.target.receive(unwrap(message)))

    async def receive(self) -> bytes:
        if self.raw:
            return self.raw.popleft()
        if not self.target.closed:
            await asyncio.Event().wait()
        raise self._lost()

    def _lost(self) -> RdmactlError:
        return failures.event_failed(self.peer, CmEvent.DISCONNECTED, 0)
