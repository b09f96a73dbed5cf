# SPDX-License-Identifier: Apache-2.0
"""Reads and writes at a queue depth for some time, and how long each took. Shell ring.

The target moves real data by RDMA into and out of buffers of this process. Each of `depth` buffers has one command
under way; when it is answered, the next one goes out from the same callback.

A write overwrites what is on the unit with a pattern. Whoever calls this has asked for it: the face that offers it
makes its user say so twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.sense import BUSY, GOOD, TASK_SET_FULL, parse_sense, status_words
from rdmactl.iscsi.session import CommandDone
from rdmactl.rdmacm.latency import Latencies
from rdmactl.rdmacm.luns import ask, capacity
from rdmactl.rdmacm.report import Measured, Plan
from rdmactl.rdmacm.session import TRANSFER_BYTES_MAX, Session

__all__ = ["DEPTH_MAX", "Progress", "check_plan", "measure"]

DEPTH_MAX = 128
_DURATION_MAX_S = 3600.0
_PROGRESS_S = 1.0
_SEED = 20  # the same blocks in each run

Progress = Callable[[Measured], Awaitable[None] | None]


def check_plan(plan: Plan) -> None:
    """LocalError for a plan nobody can carry out."""
    if not 1 <= plan.depth <= DEPTH_MAX:
        raise LocalError(f"the queue depth must be from 1 to {DEPTH_MAX}")
    if not 512 <= plan.block_bytes <= TRANSFER_BYTES_MAX:
        raise LocalError(f"the block size must be from 512 to {TRANSFER_BYTES_MAX} bytes")
    if not 0 < plan.duration_s <= _DURATION_MAX_S:
        raise LocalError(f"the duration must be above 0 and at most {_DURATION_MAX_S:g} s")


async def measure(session: Session, plan: Plan, progress: Callable[[Measured], None]) -> Measured:
    """Carry out `plan`. `progress` gets what was seen so far about once a second. PeerError when a command fails."""
    check_plan(plan)
    lun = scsi.lun_bytes(plan.lun)
    await ask(session, lun, scsi.test_unit_ready())
    size = await capacity(session, lun)
    if plan.block_bytes % size.block_bytes:
        raise LocalError(f"the unit has blocks of {size.block_bytes} bytes, which do not divide {plan.block_bytes}")
    run = _Run(session, plan, lun, size)
    return await run.measure(progress)


class _Run:
    def __init__(self, session: Session, plan: Plan, lun: bytes, size: scsi.Capacity) -> None:
        self._session, self._plan, self._lun = session, plan, lun
        self._loop = asyncio.get_running_loop()
        self._blocks = plan.block_bytes // size.block_bytes
        self._places = size.blocks // self._blocks
        if not self._places:
            raise LocalError(f"the unit is smaller than {plan.block_bytes} bytes")
        self._random = random.Random(_SEED).random
        self._make_cdb = scsi.write_blocks if plan.write else scsi.read_blocks
        self._next = 0
        self._begun = self._end = 0.0
        self._commands = self._under_way = 0
        self._latencies = Latencies()
        self._failure: PeerError | None = None
        self._finished: asyncio.Future[None] = self._loop.create_future()

    async def measure(self, progress: Callable[[Measured], None]) -> Measured:
        self._begun = self._loop.time()
        self._end = self._begun + self._plan.duration_s
        for turn in [_Turn(self, self._buffer()) for _ in range(self._plan.depth)]:
            self.issue(turn)
        while not self._finished.done():
            done, _ = await asyncio.wait(
                (self._finished, self._session.ended), timeout=_PROGRESS_S, return_when=asyncio.FIRST_COMPLETED
            )
            if self._session.failure is not None:
                raise self._session.failure
            if not done:
                progress(self._measured(self._loop.time()))
        if self._failure is not None:
            raise self._failure
        return self._measured(self._loop.time())

    def _buffer(self) -> bytes:
        """The header that names a new buffer to the target."""
        buffer = self._session.share(self._plan.block_bytes, writable=not self._plan.write)
        if not self._plan.write:
            return buffer.read_header
        buffer.write(0, random.Random(_SEED).randbytes(self._plan.block_bytes))
        return buffer.write_header

    def issue(self, turn: _Turn) -> None:
        """Begin the next command, with this buffer."""
        if self._plan.sequential:
            place = self._next % self._places
            self._next += 1
        else:
            place = int(self._random() * self._places)
        cdb = self._make_cdb(place * self._blocks, self._blocks)
        turn.begun = self._loop.time()
        self._under_way += 1
        self._session.submit(self._lun, cdb, turn.done, buffer=turn.header, size_bytes=self._plan.block_bytes)

    def answered(self, event: CommandDone, turn: _Turn) -> None:
        """Count it, and begin the next one."""
        now = self._loop.time()
        self._under_way -= 1
        if event.status == GOOD and event.moved_bytes == self._plan.block_bytes:
            self._commands += 1
            self._latencies.add(now - turn.begun)
        elif not self._again(event):
            self._failure = self._failure or self._failed(event)
        if now < self._end and self._failure is None:
            self.issue(turn)
        elif not self._under_way and not self._finished.done():
            self._finished.set_result(None)

    def _again(self, event: CommandDone) -> bool:
        sense = parse_sense(event.sense)
        return event.status in (BUSY, TASK_SET_FULL) or (sense is not None and sense.unit_attention)

    def _failed(self, event: CommandDone) -> PeerError:
        what = "write" if self._plan.write else "read"
        if event.status == GOOD:
            return PeerError(f"a {what} moved {event.moved_bytes} bytes instead of {self._plan.block_bytes}")
        words = status_words(event.status, parse_sense(event.sense))
        return PeerError(f"a {what} of LUN {self._plan.lun} failed: {words}", code="scsi")

    def _measured(self, now: float) -> Measured:
        moved = self._commands * self._plan.block_bytes
        return Measured(self._commands, moved, now - self._begun, self._latencies.summary())


class _Turn:
    """One of the commands under way: the buffer it uses, as the iSER header names it, and when it was begun."""

    __slots__ = ("_run", "begun", "header")

    def __init__(self, run: _Run, header: bytes) -> None:
        self._run, self.header = run, header
        self.begun = 0.0

    def done(self, event: CommandDone) -> None:
        """The target has answered."""
        self._run.answered(event, self)
