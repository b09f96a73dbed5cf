# SPDX-License-Identifier: Apache-2.0
"""An iSER session in user space: SCSI commands with their data by RDMA, pings, logout. Shell ring.

The engine (`rdmactl.iscsi.session`) speaks, the connection carries, and here are the buffers between them. Each command
has a buffer of its own in registered memory, which the target reads or writes; it serves another command only when the
target has answered, whoever waited for that has given up or not.

Everything happens in callbacks on the loop, so that a command costs no task; `execute` and `ping` put a future on top.

Not here: the login (`login.py`), what commands mean (`rdmactl.iscsi.scsi`), block devices: there are none.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from rdmactl.errors import LocalError, PeerError, RdmactlError
from rdmactl.iscsi.login_model import LoginDone
from rdmactl.iscsi.negotiation import NegotiatedParameters
from rdmactl.iscsi.sense import GOOD, Sense, parse_sense, status_words
from rdmactl.iscsi.session import NO_BUFFER, CommandDone, LoggedOut, PingDone, SessionEngine, SessionFailed
from rdmactl.rdmacm.connection import Connection
from rdmactl.rdmacm.endpoint import BATCH, Arena

__all__ = ["TRANSFER_BYTES_MAX", "Completed", "Result", "Session"]

TRANSFER_BYTES_MAX = 512 << 10
"""Of one command: more gains nothing, and targets limit it."""

_BUFFER_BYTES_MIN = 4096
_LOGOUT_S = 2.0
_PING_S = 5.0
_COMMAND_S = 30.0


class Result(NamedTuple):
    """How a command ended. `status` 0 is GOOD; `data` is what the target has sent, at most what was asked for."""

    status: int
    data: bytes
    sense: Sense | None
    moved_bytes: int

    def require(self, what: str) -> Result:
        """Itself when the status is GOOD; else PeerError, which names `what` was tried."""
        if self.status != GOOD:
            raise PeerError(f"{what} failed: {status_words(self.status, self.sense)}", code="scsi")
        return self


Completed = Callable[[CommandDone], None]


class Session:
    """A session that is logged in. Use it as an asynchronous context manager, or `close` it, always.

    `depth` commands may be under way; others wait. The first failure ends the session: it is raised to everybody who
    waits, and to everybody who comes later.
    """

    def __init__(self, connection: Connection, login: LoginDone, target: str, depth: int) -> None:
        self.connection = connection
        self.target = target
        self.parameters: NegotiatedParameters = login.results
        self.tpgt = login.tpgt
        self.depth = depth
        self.failure: RdmactlError | None = None
        self._loop = asyncio.get_running_loop()
        self._engine = SessionEngine(login, peer=f"{target} at {connection.peer}")
        self._commands: dict[int, Completed] = {}
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._waiters: set[asyncio.Future[Result]] = set()
        self._outbox: deque[bytes] = deque()
        self._buffers: dict[tuple[int, bool], list[Arena]] = {}
        self._places = asyncio.Semaphore(depth)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the session has ended, for whatever reason; `failure` is set when it was one."""
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = math.inf
        self._busy = self._leaving = False
        connection.on_change = self._changed

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(
        self, lun: bytes, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"", deadline_s: float = _COMMAND_S
    ) -> Result:
        """One command. `read_bytes` is the most the target may send, `write` what it may fetch; not both.

        Raises PeerError or DeadlineExceeded when the session ends before the answer. A SCSI status other than GOOD is
        a result, not an error. Cancelled, the command goes on at the target, and the session stays usable.
        """
        if max(read_bytes, len(write)) > TRANSFER_BYTES_MAX:
            raise LocalError(f"a command can move {TRANSFER_BYTES_MAX} bytes at most")
        await self._places.acquire()
        try:
            answer = self._begin(lun, cdb, read_bytes, write, deadline_s)
        except BaseException:
            self._places.release()
            raise
        return await answer

    async def ping(self, deadline_s: float = _PING_S) -> float:
        """A NOP there and back, in seconds."""
        self._require_open()
        begin = self._loop.time()
        answer: asyncio.Future[None] = self._loop.create_future()
        self._pings[self._engine.ping(begin, deadline_s)] = answer
        self._watch_clock(begin + deadline_s)
        self._changed()
        await answer
        return self._loop.time() - begin

    def submit(
        self,
        lun: bytes,
        cdb: bytes,
        done: Completed,
        *,
        buffer: bytes = NO_BUFFER,
        size_bytes: int = 0,
        deadline_s: float = _COMMAND_S,
    ) -> None:
        """Begin a command without waiting; `done` is called on the loop when the target has answered.

        For those who keep their own buffers (`buffer` is the `read_header` or `write_header` of one, see `share`) and
        count their commands: at most `depth`.
        """
        self._require_open()
        now = self._loop.time()
        itt = self._engine.command(lun, cdb, now, deadline_s, buffer=buffer, expected_bytes=size_bytes)
        self._commands[itt] = done
        self._watch_clock(now + deadline_s)
        self._changed()

    def share(self, size_bytes: int, *, writable: bool) -> Arena:
        """Memory for `submit`: the target writes into it when `writable`, else it reads from it."""
        return self.connection.share(size_bytes, writable=writable)

    async def close(self) -> None:
        """Log out if that is possible, and take the connection down. Never raises."""
        try:
            await self.log_out()
        finally:
            await self.disconnect()

    async def log_out(self) -> None:
        """The logout alone; the connection is still to be taken down. Harmless when the session has ended."""
        if not self._engine.ended and not self._leaving:
            self._leaving = True
            now = self._loop.time()
            self._engine.log_out(now, _LOGOUT_S)
            self._watch_clock(now + _LOGOUT_S)
            self._changed()
        await asyncio.shield(self.ended)

    async def disconnect(self) -> None:
        """Take the connection down, without a logout."""
        self.connection.on_change = None
        self._set_timer(None)
        self._engine.fail(LocalError(f"the session with {self.target} was closed"))
        self._outputs()
        await self.connection.close()

    # Commands

    def _begin(
        self, lun: bytes, cdb: bytes, read_bytes: int, write: bytes, deadline_s: float
    ) -> asyncio.Future[Result]:
        self._require_open()
        size_bytes, writable = (len(write), False) if write else (read_bytes, True)
        buffer = self._borrow(size_bytes, writable=writable) if size_bytes else None
        header = NO_BUFFER
        if buffer is not None:
            header = buffer.read_header if writable else buffer.write_header
            if write:
                buffer.write(0, write)
        answer: asyncio.Future[Result] = self._loop.create_future()

        def done(event: CommandDone) -> None:
            moved = buffer.read(0, event.moved_bytes) if buffer is not None and writable else b""
            self._waiters.discard(answer)
            self._places.release()
            if buffer is not None:
                self._buffers[buffer.slot_bytes, writable].append(buffer)
            if not answer.done():
                answer.set_result(Result(event.status, moved, parse_sense(event.sense), event.moved_bytes))

        self._waiters.add(answer)
        self.submit(lun, cdb, done, buffer=header, size_bytes=size_bytes, deadline_s=deadline_s)
        return answer

    def _borrow(self, size_bytes: int, *, writable: bool) -> Arena:
        """A buffer of a fitting size; each is used by one command at a time."""
        room = max(_BUFFER_BYTES_MIN, 1 << (size_bytes - 1).bit_length())
        free = self._buffers.setdefault((room, writable), [])
        return free.pop() if free else self.share(room, writable=writable)

    def _require_open(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._engine.ended:
            raise LocalError(f"the session with {self.target} has ended")

    # Events

    def _changed(self) -> None:
        """Something arrived, became free, or was begun. What this calls may call it again: one at a time."""
        if self._busy:
            return
        self._busy = True
        try:
            self._receive()
            self._outputs()
            self._flush()
        finally:
            self._busy = False

    def _receive(self) -> None:
        for message in self.connection.take():
            self._engine.receive(message)
        if self.connection.failure is not None:
            self._engine.lost(self.connection.failure)

    def _outputs(self) -> None:
        """Handlers may begin commands, so that there may be more output behind the output."""
        while output := self._engine.take_output():
            for item in output:
                if isinstance(item, bytes):
                    self._outbox.append(item)
                elif isinstance(item, CommandDone):
                    self._commands.pop(item.itt)(item)
                elif isinstance(item, PingDone):
                    self._on_ping(item)
                else:
                    self._on_end(item)

    def _flush(self) -> None:
        while self._outbox and (room := self.connection.room):
            messages = [self._outbox.popleft() for _ in range(min(room, BATCH, len(self._outbox)))]
            try:
                self.connection.post(messages, quiet=True)
            except RdmactlError as error:
                self._engine.lost(error)
                self._outputs()

    def _on_ping(self, event: PingDone) -> None:
        answer = self._pings.pop(event.itt)
        if not answer.done():
            answer.set_result(None)

    def _on_end(self, event: LoggedOut | SessionFailed) -> None:
        error = event.error if isinstance(event, SessionFailed) else LocalError(f"{self.target} was logged out")
        if isinstance(event, SessionFailed):
            self.failure = event.error
        self._outbox.clear()
        waiters: list[asyncio.Future[Any]] = [*self._waiters, *self._pings.values()]
        self._waiters.clear()
        self._pings.clear()
        self._commands.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for _ in range(self.depth):  # those who wait for a place shall see that there is no session any more
            self._places.release()
        if not self.ended.done():
            self.ended.set_result(None)

    def _watch_clock(self, when: float) -> None:
        """One timer, for the earliest deadline it was told of since it fired last."""
        if when < self._wake_at:
            self._set_timer(when)

    def _set_timer(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = math.inf if when is None else when
        self._timer = None if when is None else self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._engine.tick(self._loop.time())
        self._set_timer(self._engine.wake_at())
        self._changed()
