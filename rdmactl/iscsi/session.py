# SPDX-License-Identifier: Apache-2.0
"""The full feature phase of an iSER session: commands, pings, numbering, logout. Engine ring.

It begins where a login ended (`LoginDone`). Commands are given tags and numbers and go out while the target's window
is open; those beyond wait in order. Output is a whole message to be sent (`bytes`), or an event; exactly one of
`LoggedOut` and `SessionFailed` ends a session, and with it every task that is not done.

    engine = SessionEngine(done, peer="...")
    itt = engine.command(lun, cdb, now, deadline_s, buffer=IserHeader(read=buffer).pack(), expected_bytes=4096)
    ... engine.receive(message); engine.tick(now) at engine.wake_at()
    for item in engine.take_output(): ...

Choices: a command that is late ends the session, because the target may write into its buffer until the connection is
gone. A window that cannot be (MaxCmdSN below ExpCmdSN - 1, as tgt begins) counts as one command. StatSN is followed,
not checked, as there is one connection and no recovery. A ping is immediate and does not wait for the window. What is
done for every command of a full queue is kept short: tuples without names, the iSER header made once for each buffer,
and one look at an answer that says nothing but GOOD.

Not here: buffers and their registration (`rdmactl.rdmacm`), what commands mean (`scsi.py`), retries.
Defined by RFC 7143 sections 4.2.2, 11.3, 11.4, 11.9, 11.18, 11.19 and RFC 7145 sections 5 and 7.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rdmactl.errors import DeadlineExceeded, LocalError, PeerError, RdmactlError
from rdmactl.iscsi.iser import IserHeader, RemoteBuffer, unwrap, wrap
from rdmactl.iscsi.login_model import LoginDone
from rdmactl.iscsi.pdu import (
    ALL_ONES,
    Async,
    AsyncEvent,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Opcode,
    Pdu,
    Reject,
    data_bytes,
    decode,
    next_serial,
)
from rdmactl.iscsi.scsi_pdu import ScsiResponse, command_header, good_answer, sense_of
from rdmactl.iscsi.sense import GOOD

__all__ = [
    "NO_BUFFER",
    "CommandDone",
    "LoggedOut",
    "PingDone",
    "SessionEngine",
    "SessionEvent",
    "SessionFailed",
]

_OPCODE_MASK = 0x3F
_SERIAL_HALF = 1 << 31
_TARGET_FAILURE = 1
_FIRST_ITT, _LAST_ITT = 1, 0xFFFFFFF0


class CommandDone(NamedTuple):
    """The target answered. `moved_bytes` of the expected length were moved; `status` 0 is GOOD."""

    itt: int
    status: int
    moved_bytes: int
    sense: bytes


class PingDone(NamedTuple):
    """The answer to a ping of ours."""

    itt: int


class LoggedOut(NamedTuple):
    """The session has ended as it should."""


class SessionFailed(NamedTuple):
    """The session has ended otherwise; nothing that was under way is done."""

    error: RdmactlError


SessionEvent = CommandDone | PingDone | LoggedOut | SessionFailed

_Task = tuple[float, int, int]
"""Deadline, first byte of the CDB (or `_PING`), expected bytes."""

_PING = -1
NO_BUFFER = IserHeader().pack()
"""Of a command without data."""
_DIRECTIONS = {NO_BUFFER[0]: (False, False)} | {
    IserHeader(write, read).pack()[0]: (read is not None, write is not None)
    for write, read in ((None, RemoteBuffer(0, 0)), (RemoteBuffer(0, 0), None))
}
"""Whether a command reads and writes, by the first byte of its iSER header."""


class SessionEngine:
    """One session on one connection. `peer` names target and portal in errors."""

    def __init__(self, login: LoginDone, *, peer: str, cmdsn: int = 1) -> None:
        self.peer = peer
        self._cmdsn = cmdsn
        self._exp_statsn = next_serial(login.statsn)
        self._max_cmdsn = cmdsn
        self._window(login.exp_cmdsn, login.max_cmdsn)
        self._itt = _FIRST_ITT
        self._tasks: dict[int, _Task] = {}
        self._waiting: deque[tuple[int, bytes, bytes, int, bytes]] = deque()
        self._output: list[bytes | SessionEvent] = []
        self._logout: tuple[int, float] | None = None
        self.ended = False

    @property
    def outstanding(self) -> int:
        """Commands and pings that have not been answered."""
        return len(self._tasks)

    @property
    def open_window(self) -> int:
        """How many commands may be sent at once now."""
        room = (self._max_cmdsn - self._cmdsn + 1) & 0xFFFFFFFF
        return room if room < _SERIAL_HALF else 0

    def command(
        self,
        lun: bytes,
        cdb: bytes,
        now: float,
        deadline_s: float,
        *,
        buffer: bytes = NO_BUFFER,
        expected_bytes: int = 0,
    ) -> int:
        """Begin a command; its tag. `buffer` is a packed `IserHeader`, which says what the target may read or write."""
        self._require_open()
        if buffer[0] not in _DIRECTIONS:
            raise LocalError("a command that reads and writes is not supported")
        itt = self._new_itt()
        self._tasks[itt] = now + deadline_s, cdb[0], expected_bytes
        self._waiting.append((itt, lun, cdb, expected_bytes, buffer))
        self._send_waiting()
        return itt

    def ping(self, now: float, deadline_s: float) -> int:
        """Send a NOP-Out; its tag."""
        self._require_open()
        itt = self._new_itt()
        self._tasks[itt] = now + deadline_s, _PING, 0
        self._send(NopOut(itt, cmdsn=self._cmdsn, exp_statsn=self._exp_statsn).pdu())
        return itt

    def log_out(self, now: float, deadline_s: float) -> None:
        """Ask for the end of the session; nothing else may be begun."""
        self._require_open()
        itt = self._new_itt()
        self._logout = itt, now + deadline_s
        self._send(LogoutRequest(itt, cmdsn=self._cmdsn, exp_statsn=self._exp_statsn).pdu())

    def receive(self, message: bytes) -> None:
        """Take one message of the target; ignored once the session ended."""
        if self.ended:
            return
        try:
            good = good_answer(message)
            if good is not None:
                self._on_good(*good)
                return
            pdu = unwrap(message)
            if pdu.header[0] & _OPCODE_MASK == Opcode.SCSI_RESPONSE:
                self._on_response(ScsiResponse.unpack(pdu.header), pdu.data)
            else:
                self._on_other(*pdu)
        except PeerError as error:
            self.fail(PeerError(f"{self.peer}: {error.message}", hint=error.hint, code=error.code))

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        if self.ended:
            return
        if self._logout is not None and now >= self._logout[1]:
            self._end(LoggedOut())  # a courtesy: the connection is taken down in any case
            return
        late = next((task for task in self._tasks.values() if now >= task[0]), None)
        if late is not None:
            self.fail(DeadlineExceeded(f"{self.peer} did not answer a {_words(late)} in time"))

    def wake_at(self) -> float | None:
        """When `tick` is to be called."""
        if self.ended:
            return None
        times = [deadline for deadline, _, _ in self._tasks.values()]
        if self._logout is not None:
            times.append(self._logout[1])
        return min(times, default=None)

    def lost(self, error: RdmactlError) -> None:
        """The connection ended. After a logout has been asked for, that is what was wanted."""
        if self._logout is not None:
            self._end(LoggedOut())
        else:
            self.fail(error)

    def fail(self, error: RdmactlError) -> None:
        """End the session with `error`; harmless when it has ended."""
        self._end(SessionFailed(error))

    def take_output(self) -> list[bytes | SessionEvent]:
        """Messages to send and events, in order."""
        output, self._output = self._output, []
        return output

    # Receiving

    def _on_good(self, itt: int, statsn: int, exp_cmdsn: int, max_cmdsn: int) -> None:
        _, _, expected_bytes = self._answered(itt)
        self._follow(statsn, exp_cmdsn, max_cmdsn)
        self._output.append(CommandDone(itt, GOOD, expected_bytes, b""))
        self._send_waiting()

    def _on_response(self, response: ScsiResponse, data: bytes) -> None:
        task = self._answered(response.itt)
        self._follow(response.statsn, response.exp_cmdsn, response.max_cmdsn)
        if response.response:
            failure = response.response == _TARGET_FAILURE
            words = "target failure" if failure else f"response {response.response:#04x}"
            raise PeerError(f"{_words(task)} was not carried out: {words}", code="iscsi-response")
        moved = response.moved_bytes(task[2])
        self._output.append(CommandDone(response.itt, response.status, moved, sense_of(data)))
        self._send_waiting()

    def _answered(self, itt: int) -> _Task:
        task = self._tasks.pop(itt, None)
        if task is None:
            raise PeerError(f"a SCSI response with the foreign task tag {itt:#x}", code="iscsi-protocol")
        return task

    def _on_other(self, header: bytes, data: bytes) -> None:
        message = decode(header)
        match message:
            case NopIn():
                self._on_nop(message)
            case LogoutResponse() if self._logout is not None and message.itt == self._logout[0]:
                self._end(LoggedOut())
            case Async():
                self._on_async(message)
            case Reject():
                about = f", of opcode {data[0] & _OPCODE_MASK:#04x}" if data_bytes(header) else ""
                raise PeerError(f"the target rejects a request{about}: {message.words}", code="iscsi-reject")
            case _:
                name = type(message).__name__
                raise PeerError(f"unexpected {name} in the full feature phase", code="iscsi-protocol")

    def _on_nop(self, nop: NopIn) -> None:
        if nop.itt == ALL_ONES:
            self._window(nop.exp_cmdsn, nop.max_cmdsn)
            if nop.ttt != ALL_ONES:
                answer = NopOut(ALL_ONES, nop.ttt, self._cmdsn, self._exp_statsn, nop.lun)
                self._send(answer.pdu())
        elif self._tasks.pop(nop.itt, None) is None:
            raise PeerError(f"the answer to a ping with the foreign task tag {nop.itt:#x}", code="iscsi-protocol")
        else:
            self._follow(nop.statsn, nop.exp_cmdsn, nop.max_cmdsn)
            self._output.append(PingDone(nop.itt))
        self._send_waiting()

    def _on_async(self, message: Async) -> None:
        self._follow(message.statsn, message.exp_cmdsn, message.max_cmdsn)
        if message.event in (AsyncEvent.LOGOUT_REQUEST, AsyncEvent.CONNECTION_DROP, AsyncEvent.SESSION_DROP):
            raise PeerError("the target ends the session", code="disconnected")
        self._send_waiting()

    def _follow(self, statsn: int, exp_cmdsn: int, max_cmdsn: int) -> None:
        self._exp_statsn = next_serial(statsn)
        self._window(exp_cmdsn, max_cmdsn)

    def _window(self, exp_cmdsn: int, max_cmdsn: int) -> None:
        """The window only grows; what is impossible is left as it was."""
        if (max_cmdsn - exp_cmdsn + 1) & 0xFFFFFFFF >= _SERIAL_HALF:
            return
        if (max_cmdsn - self._max_cmdsn) & 0xFFFFFFFF < _SERIAL_HALF:
            self._max_cmdsn = max_cmdsn

    # Sending

    def _send_waiting(self) -> None:
        while self._waiting and self.open_window:
            itt, lun, cdb, expected_bytes, buffer = self._waiting.popleft()
            read, write = _DIRECTIONS[buffer[0]]
            header = command_header(itt, lun, cdb, expected_bytes, read, write, self._cmdsn, self._exp_statsn)
            self._cmdsn = next_serial(self._cmdsn)
            self._output.append(buffer + header)

    def _send(self, pdu: Pdu) -> None:
        self._output.append(wrap(pdu))

    def _new_itt(self) -> int:
        itt = self._itt
        self._itt = itt + 1 if itt < _LAST_ITT else _FIRST_ITT
        return itt

    def _require_open(self) -> None:
        if self.ended or self._logout is not None:
            raise LocalError(f"the session with {self.peer} has ended")

    def _end(self, event: LoggedOut | SessionFailed) -> None:
        if not self.ended:
            self.ended = True
            self._tasks.clear()
            self._waiting.clear()
            self._output.append(event)


def _words(task: _Task) -> str:
    """What was asked, for an error."""
    return "ping" if task[1] == _PING else f"command {task[1]:#04x}"
