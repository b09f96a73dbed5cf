# SPDX-License-Identifier: Apache-2.0
"""The parent's side of RDMA workers: start, ask, give up, end. Shell ring.

`SyncWorker` is for front ends: import-light, one worker, one request at a time. `WorkerPool` is for daemons: it can
start one worker ahead, lets used ones end by themselves, and bounds how many there are. With both, giving up (deadline
passed, task cancelled) ends the worker, and one that ended itself after its last answer is replaced by a new one. A
worker's process group is its own, so that an interrupt at the terminal reaches only the parent.

Not here: what a worker does (`worker.py`), what is asked (`report.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from rdmactl.errors import DeadlineExceeded, PeerError, Unavailable
from rdmactl.rdmacm.frames import Decoder, encode, unpack_error
from rdmactl.rdmacm.report import Report, measured_from_json

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, Self

    from rdmactl.rdmacm.report import Measured, Plan, Question

__all__ = ["SyncWorker", "WorkerPool", "worker_command"]

_GRACE_S = 1.0
"""A worker keeps its deadline itself and reports; this is how much later it is ended for not doing so."""

_START_S = 10.0
"""What starting may take on a very busy machine; counted apart, so that it is never taken for a slow target."""

_WORKERS_MAX = 8
_AT_ONCE_MAX = 32  # `worker.AT_ONCE_MAX`, which a front end does not import
_RECEIVE_BYTES = 65536


def worker_command() -> list[str]:
    """The words that start a worker, without the descriptor. -P: nothing is imported from the current directory."""
    return [sys.executable, "-P", "-m", "rdmactl.rdmacm.worker"]


class _Process:
    """A started worker: its pid and our end of the socket pair."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self.socket = pid, connection

    @classmethod
    def spawn(cls, command: list[str]) -> _Process:
        """From a process that may have threads: a new interpreter."""
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        words = [*command, str(theirs.fileno())]
        stdin = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        try:
            return cls(os.posix_spawn(words[0], words, dict(os.environ), file_actions=[stdin], setpgroup=0), ours)
        except OSError as error:
            ours.close()
            raise Unavailable(f"cannot start an RDMA worker: {error.strerror or error}") from None
        finally:
            theirs.close()

    @classmethod
    def fork(cls) -> _Process:
        """From a process without threads: saves an interpreter's start, which is most of what a front end takes."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            _be_worker(theirs, ours)
        theirs.close()
        return cls(pid, ours)

    def end(self) -> None:
        """End it, at once."""
        self.socket.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def reap(self) -> bool:
        """Whether it is gone."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True


def _be_worker(connection: socket.socket, parents_end: socket.socket) -> NoReturn:
    """The child of a fork. It never returns into the parent's frames, and shows nobody a traceback."""
    try:
        os.setpgid(0, 0)
        parents_end.close()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        from rdmactl.rdmacm.worker import serve

        serve(connection)
    finally:
        os._exit(1)


def _request(call: str, arguments: dict[str, Any], deadline_s: float) -> bytes:
    return encode({"id": 1, "call": call, "arguments": arguments, "deadline_s": deadline_s})


def _result(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise unpack_error(reply["error"])
    result = reply.get("result")
    if not isinstance(result, dict):
        raise PeerError("the RDMA worker's answer has no result")
    return result


def _late(deadline_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the RDMA worker did not answer within {deadline_s:g} s and was ended")


def _gone() -> Unavailable:
    return Unavailable("the RDMA worker ended before it had answered", hint="see the kernel log (dmesg)", code="worker")


class SyncWorker:
    """One worker for a front end without threads; a context manager. The process starts at once.

    `command` starts another program in its place, for tests.
    """

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command
        self._process: _Process | None = self._start()
        self._used = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def discover(self, question: Question) -> Report:
        """Ask for a discovery; see `Report`. Raises only for trouble with the worker itself."""
        return Report.from_json(self.call("discover", question.to_json(), question.deadline_s + _GRACE_S))

    def ping(self, question: Question, count: int, interval_s: float = 0.0) -> Report:
        """Log in, `count` pings, log out."""
        arguments = {"question": question.to_json(), "count": count, "interval_s": interval_s}
        return Report.from_json(self.call("ping", arguments, question.deadline_s + _GRACE_S))

    def discover_many(self, questions: Sequence[Question], done: Callable[[int, Report], None]) -> list[Report]:
        """Discoveries side by side, in one worker; `done` gets the place and the report of each as it comes."""
        return self._many("discover", questions, [question.to_json() for question in questions], done)

    def ping_many(self, questions: Sequence[Question], count: int, done: Callable[[int, Report], None]) -> list[Report]:
        """Pings side by side, in one worker, as `discover_many`."""
        each = [{"question": question.to_json(), "count": count, "interval_s": 0.0} for question in questions]
        return self._many("ping", questions, each, done)

    def luns(self, question: Question) -> Report:
        """The logical units of a target."""
        return Report.from_json(self.call("luns", {"question": question.to_json()}, question.deadline_s + _GRACE_S))

    def perf(self, question: Question, plan: Plan, progress: Callable[[Measured], None]) -> Report:
        """A measurement; `progress` gets what was seen so far, about once a second."""
        arguments = {"question": question.to_json(), "plan": plan._asdict()}
        deadline_s = question.deadline_s + plan.duration_s + _GRACE_S
        return Report.from_json(
            self.call("perf", arguments, deadline_s, lambda told: progress(measured_from_json(told["measured"])))
        )

    def _many(
        self,
        call: str,
        questions: Sequence[Question],
        each: list[dict[str, Any]],
        done: Callable[[int, Report], None],
    ) -> list[Report]:
        turns = -(-len(questions) // _AT_ONCE_MAX)
        deadline_s = turns * (max(question.deadline_s for question in questions) + _GRACE_S) + _GRACE_S
        answer = self.call(
            "many",
            {"call": call, "each": each},
            deadline_s,
            lambda told: done(told["index"], Report.from_json(told["result"])),
        )
        return [Report.from_json(result) for result in answer["results"]]

    def call(
        self,
        call: str,
        arguments: dict[str, Any],
        deadline_s: float,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """One question, one answer, and `progress` for what the worker tells meanwhile."""
        request = _request(call, arguments, deadline_s)
        try:
            try:
                reply = self._exchange(request, deadline_s, progress)
            except (OSError, EOFError) as error:
                if not self._used or isinstance(error, TimeoutError):
                    raise
                self.close()
                reply = self._exchange(request, deadline_s, progress)
        except TimeoutError:
            self.close()
            raise _late(deadline_s) from None
        except (OSError, EOFError):
            self.close()
            raise _gone() from None
        except BaseException:
            self.close()
            raise
        self._used = True
        return _result(reply)

    def close(self) -> None:
        """End the worker."""
        self._used = False
        if self._process is not None:
            self._process.end()
            self._process.reap()
            self._process = None

    def _start(self) -> _Process:
        return _Process.fork() if self._command is None else _Process.spawn(self._command)

    def _exchange(
        self, request: bytes, deadline_s: float, progress: Callable[[dict[str, Any]], None] | None
    ) -> dict[str, Any]:
        """With the worker that is there, else with a new one."""
        if self._process is None:
            self._process = self._start()
        until = time.monotonic() + deadline_s + _GRACE_S + (0.0 if self._used else _START_S)
        connection, decoder = self._process.socket, Decoder()
        connection.settimeout(max(0.001, until - time.monotonic()))
        connection.sendall(request)
        while True:
            connection.settimeout(max(0.001, until - time.monotonic()))
            data = connection.recv(_RECEIVE_BYTES)
            if not data:
                raise EOFError
            for message in decoder.receive(data):
                if "progress" not in message:
                    return message
                if progress is not None:
                    progress(message["progress"])


class _AsyncWorker:
    """A worker on the pool's loop."""

    def __init__(self, process: _Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.process, self._reader, self._writer = process, reader, writer
        self.used = False

    @classmethod
    async def start(cls, command: list[str]) -> _AsyncWorker:
        import asyncio

        process = _Process.spawn(command)
        process.socket.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=process.socket)
        return cls(process, reader, writer)

    @property
    def alive(self) -> bool:
        """False once the worker has closed its end: it was idle for too long, or it died."""
        return not self._reader.at_eof()

    async def exchange(self, request: bytes) -> dict[str, Any]:
        self._writer.write(request)
        await self._writer.drain()
        decoder = Decoder()
        while data := await self._reader.read(_RECEIVE_BYTES):
            for message in decoder.receive(data):
                if "progress" not in message:
                    self.used = True
                    return message
        raise EOFError

    def end(self) -> None:
        self._writer.close()
        self.process.end()


class WorkerPool:
    """Workers for a daemon, on one loop. `close` when done; calls beyond `workers_max` wait within their deadline."""

    def __init__(self, *, workers_max: int = _WORKERS_MAX, command: list[str] | None = None) -> None:
        import asyncio

        self._command = command or worker_command()
        self._places = asyncio.Semaphore(workers_max)
        self._idle: list[_AsyncWorker] = []
        self._ended: list[_Process] = []

    async def warm(self) -> None:
        """Have a worker started ahead; it opens no device before it is asked, and stays until it has been used."""
        self._drop_dead()
        if all(worker.used for worker in self._idle):
            self._idle.insert(0, await _AsyncWorker.start(self._command))  # those in use already are asked first

    async def discover(self, question: Question) -> Report:
        """A discovery over iSER; see `Report`. Raises only for trouble with the worker itself."""
        return Report.from_json(await self.call("discover", question.to_json(), question.deadline_s + _GRACE_S))

    async def call(self, call: str, arguments: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """One question, one answer. When this is cancelled or late, the worker is ended."""
        import asyncio

        request = _request(call, arguments, deadline_s)
        try:
            async with asyncio.timeout(deadline_s + _GRACE_S + _START_S), self._places:
                reply = await self._exchange(request)
        except TimeoutError:
            raise _late(deadline_s) from None
        except (OSError, EOFError):
            raise _gone() from None
        return _result(reply)

    async def close(self) -> None:
        """End all workers that are not at work; those at work end with their calls."""
        while self._idle:
            self._end(self._idle.pop())
        self._reap()

    async def _exchange(self, request: bytes) -> dict[str, Any]:
        """With a worker that is there, else with a new one. A used one may end itself the moment it is asked."""
        self._drop_dead()
        while self._idle:
            worker = self._idle.pop()
            used = worker.used
            try:
                return await self._ask(worker, request)
            except (OSError, EOFError):
                if not used:
                    raise
        return await self._ask(await _AsyncWorker.start(self._command), request)

    async def _ask(self, worker: _AsyncWorker, request: bytes) -> dict[str, Any]:
        try:
            reply = await worker.exchange(request)
        except BaseException:
            self._end(worker)
            raise
        self._idle.append(worker)
        return reply

    def _drop_dead(self) -> None:
        for worker in [worker for worker in self._idle if not worker.alive]:
            self._idle.remove(worker)
            self._end(worker)
        self._reap()

    def _end(self, worker: _AsyncWorker) -> None:
        worker.end()
        self._ended.append(worker.process)
        self._reap()

    def _reap(self) -> None:
        self._ended = [process for process in self._ended if not process.reap()]
