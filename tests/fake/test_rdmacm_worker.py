# SPDX-License-Identifier: Apache-2.0
"""RDMA workers: the protocol at both ends, and every way a worker can end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from rdmactl.errors import DeadlineExceeded, LocalError, PeerError, RdmactlError, Unavailable
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm import client
from rdmactl.rdmacm.client import SyncWorker, WorkerPool, worker_command
from rdmactl.rdmacm.frames import Decoder, encode, unpack_error
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.worker import Operation, Tell, Worker, many

pytestmark = pytest.mark.fake


# The worker's end, in this process


async def double(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    return {"twice": arguments["number"] * 2}


async def refuse(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    raise PeerError("no", hint="try", code="refused")


async def hang(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def crash(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    raise ZeroDivisionError


async def count(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    for number in range(arguments["to"]):
        tell({"number": number})
    return {"done": True}


OPERATIONS: dict[str, Operation] = {"double": double, "refuse": refuse, "hang": hang, "crash": crash, "count": count}
OPERATIONS["many"] = many(dict(OPERATIONS))


def ask(*requests: dict[str, Any] | bytes, ends: bool = False, **options: Any) -> list[dict[str, Any]]:
    """The worker's replies to the requests, sent one after the other; `ends`: wait until the worker wants to end."""

    async def run() -> list[dict[str, Any]]:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, worker = await loop.connect_accepted_socket(lambda: Worker(OPERATIONS, **options), theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        replies, decoder = [], Decoder()
        async with asyncio.timeout(10):
            for request in requests:
                writer.write(request if isinstance(request, bytes) else encode(request))
                while not ends or isinstance(request, dict):
                    data = await reader.read(65536)
                    replies += decoder.receive(data)
                    if not data or (replies and "progress" not in replies[-1]):
                        break
            if ends:
                await worker.ended
            else:
                assert not worker.ended.done()
        writer.close()
        return replies

    return asyncio.run(run())


def request(call: str, deadline_s: float = 5.0, **arguments: Any) -> dict[str, Any]:
    return {"id": 1, "call": call, "arguments": arguments, "deadline_s": deadline_s}


def error(reply: dict[str, Any]) -> RdmactlError:
    return unpack_error(reply["error"])


def test_one_after_the_other() -> None:
    replies = ask(request("double", number=4), request("double", number=5))
    assert replies == [{"id": 1, "result": {"twice": 8}}, {"id": 1, "result": {"twice": 10}}]


def test_errors_come_back() -> None:
    refused, crashed, unknown = map(error, ask(request("refuse"), request("crash"), request("fly")))
    assert (refused.code, refused.hint) == ("refused", "try")
    assert "ZeroDivisionError" in crashed.message
    assert unknown.code == "internal"


def test_a_late_operation_is_cut_off_and_the_next_one_served() -> None:
    late, fine = ask(request("hang", deadline_s=0.01), request("double", number=1))
    assert isinstance(error(late), DeadlineExceeded)
    assert fine["result"] == {"twice": 2}


def test_a_used_worker_ends_when_it_is_idle() -> None:
    assert ask(request("double", number=1), ends=True, idle_s=0.01)[0]["result"] == {"twice": 2}


def test_a_stuck_worker_answers_and_ends() -> None:
    assert ask(request("double", number=1), ends=True, stuck=lambda: True)[0]["result"] == {"twice": 2}


@pytest.mark.parametrize(
    "rubbish",
    [b"\xff\xff\xff\xff", b"\0\0\0\2[]", encode(request("hang")) + encode(request("hang"))],
    ids=["length", "no object", "two at once"],
)
def test_rubbish_ends_it(rubbish: bytes) -> None:
    assert ask(rubbish, ends=True) == []


# The parent's end, with other programs in the worker's place

READ = """
import json, os, socket, struct, sys, time
s = socket.socket(fileno=int(sys.argv[1]))
def take():
    head = s.recv(4)
    if not head: os._exit(0)
    return json.loads(s.recv(struct.unpack(">I", head)[0]))
def give(message):
    text = json.dumps(message).encode(); s.sendall(struct.pack(">I", len(text)) + text)
"""
ECHO = READ + "while 1: give({'id': 1, 'result': {**take()['arguments'], 'pid': os.getpid()}})"
ONCE = READ + "give({'id': 1, 'result': {**take()['arguments'], 'pid': os.getpid()}})"
HANGS = READ + "take(); time.sleep(600)"
DIES = READ + "take(); os.kill(os.getpid(), 9)"
RUBBISH = READ + "take(); s.sendall(b'\\xff' * 8)"


def program(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_GRACE_S", 0.0)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_START_S", 0.1)


def gone(pid: int, *, limit_s: float = 10.0) -> bool:
    """Whether the process ends soon; one that waits to be reaped counts."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.005)
    return False


def test_sync_asks_the_same_worker_again() -> None:
    with SyncWorker(program(ECHO)) as worker:
        first, second = (worker.call("x", {"n": n}, 5.0) for n in (1, 2))
    assert (first["n"], second["n"]) == (1, 2)
    assert first["pid"] == second["pid"]
    assert gone(first["pid"])


def test_progress_comes_before_the_result() -> None:
    result = ask(request("count", to=2))
    told = [reply["progress"] for reply in result if "progress" in reply]
    assert told == [{"number": 0}, {"number": 1}]
    assert result[-1]["result"] == {"done": True}


def test_many_side_by_side_answer_in_order() -> None:
    each = [{"number": number} for number in range(100)]
    result = ask({**request("many"), "arguments": {"call": "double", "each": each}})
    assert result[-1]["result"] == {"results": [{"twice": 2 * number} for number in range(100)]}
    assert sorted(reply["progress"]["index"] for reply in result[:-1]) == list(range(100))


TELLS = READ + "take(); [give({'id': 1, 'progress': {'n': n}}) for n in (1, 2)]; give({'id': 1, 'result': {'n': 3}})"


def test_sync_hands_progress_on_and_may_ignore_it() -> None:
    seen: list[Any] = []
    with SyncWorker(program(TELLS)) as worker:
        assert worker.call("x", {}, 5.0, seen.append) == {"n": 3}
    with SyncWorker(program(TELLS)) as worker:
        assert worker.call("x", {}, 5.0) == {"n": 3}
    assert seen == [{"n": 1}, {"n": 2}]


def test_sync_replaces_a_worker_that_ended_itself() -> None:
    with SyncWorker(program(ONCE)) as worker:
        pids = {worker.call("x", {}, 5.0)["pid"] for _ in range(3)}
    assert len(pids) == 3


def test_sync_reports_a_worker_that_died() -> None:
    with SyncWorker(program(DIES)) as worker, pytest.raises(Unavailable, match="ended before it had answered"):
        worker.call("x", {}, 5.0)


@pytest.mark.usefixtures("no_patience")
def test_sync_ends_a_worker_that_hangs() -> None:
    with SyncWorker(program(HANGS)) as worker:
        assert worker._process is not None
        pid = worker._process.pid
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            worker.call("x", {}, 0.05)
        assert gone(pid)


def test_sync_does_not_believe_rubbish() -> None:
    with SyncWorker(program(RUBBISH)) as worker, pytest.raises(PeerError):
        worker.call("x", {}, 5.0)


def test_sync_cannot_start() -> None:
    with pytest.raises(Unavailable, match="cannot start"):
        SyncWorker(["/nonexistent/python"])


def test_a_message_too_long_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdmactl.rdmacm.frames.FRAME_BYTES_MAX", 100)
    with SyncWorker(program(ECHO)) as worker, pytest.raises(LocalError):
        worker.call("x", {"n": "y" * 100}, 5.0)


def pooled(text: str, use: Callable[[WorkerPool], Any], **options: Any) -> Any:
    async def run() -> Any:
        pool = WorkerPool(command=program(text), **options)
        try:
            async with asyncio.timeout(20):
                return await use(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def test_pool_starts_ahead_and_reuses() -> None:
    async def use(pool: WorkerPool) -> None:
        await pool.warm()
        await pool.warm()
        first, second = [(await pool.call("x", {}, 5.0))["pid"] for _ in range(2)]
        assert first == second

    pooled(ECHO, use)


def test_pool_works_in_parallel_up_to_its_limit() -> None:
    async def use(pool: WorkerPool) -> None:
        replies = await asyncio.gather(*(pool.call("x", {"n": n}, 10.0) for n in range(6)))
        assert [reply["n"] for reply in replies] == list(range(6))
        assert len({reply["pid"] for reply in replies}) <= 2

    pooled(ECHO, use, workers_max=2)


def test_pool_replaces_a_worker_that_ended_itself() -> None:
    async def use(pool: WorkerPool) -> None:
        assert len({(await pool.call("x", {}, 5.0))["pid"] for _ in range(3)}) == 3

    pooled(ONCE, use)


def test_pool_reports_a_worker_that_died() -> None:
    async def use(pool: WorkerPool) -> None:
        with pytest.raises(Unavailable, match="ended before it had answered"):
            await pool.call("x", {}, 5.0)

    pooled(DIES, use)


def test_cancelling_ends_the_worker() -> None:
    async def use(pool: WorkerPool) -> None:
        await pool.warm()
        pid = pool._idle[0].process.pid
        call = asyncio.ensure_future(pool.call("x", {}, 60.0))
        await asyncio.sleep(0)  # it takes the worker and waits for the answer
        assert not pool._idle
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert gone(pid)

    pooled(HANGS, use)


@pytest.mark.usefixtures("no_patience")
def test_pool_ends_a_worker_that_hangs() -> None:
    async def use(pool: WorkerPool) -> None:
        await pool.warm()
        pid = pool._idle[0].process.pid
        with pytest.raises(DeadlineExceeded):
            await pool.call("x", {}, 0.05)
        assert gone(pid)

    pooled(HANGS, use)


# The real program

ASKING = Question(Portal("127.0.0.1"), "iqn.2026-11.test:me", deadline_s=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("command", [None, worker_command()], ids=["forked", "spawned"])
def test_the_real_worker_reports_that_loopback_has_no_rdma(command: list[str] | None) -> None:
    with SyncWorker(command) as worker:
        report = worker.discover(ASKING)
    assert isinstance(report.error, Unavailable)
    assert report.targets == ()


@pytest.mark.slow
def test_a_worker_does_not_outlive_its_parent() -> None:
    script = (
        "import os; from rdmactl.rdmacm.client import SyncWorker, worker_command\n"
        "w = SyncWorker(worker_command()); print(w._process.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert gone(int(done.stdout))


@pytest.mark.slow
def test_the_kernel_ends_a_blocked_worker_with_its_parent() -> None:
    pytest.importorskip("rdmactl._rdmacm")
    blocked = (
        "import time; from rdmactl._rdmacm import lib; lib.die_with_parent(); print(1, flush=True); time.sleep(600)"
    )
    script = (
        "import os, subprocess, sys\n"
        f"c = subprocess.Popen([sys.executable, '-c', {blocked!r}], stdout=subprocess.PIPE)\n"
        "c.stdout.readline(); print(c.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert gone(int(done.stdout))
