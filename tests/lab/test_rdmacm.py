# SPDX-License-Identifier: Apache-2.0
"""rdma_cm on a real kernel: `rdmactl iser ping` and the connections below it, over soft-RoCE and soft-iWARP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdmactl.errors import DeadlineExceeded, PeerError, RdmactlError
from rdmactl.iscsi.iser import PRIVATE_DATA, unwrap, wrap
from rdmactl.iscsi.pdu import Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.client import WorkerPool
from rdmactl.rdmacm.connection import Connection, Deadlines
from rdmactl.rdmacm.discovery import Discoverer
from rdmactl.rdmacm.endpoint import DISCOVERY
from rdmactl.rdmacm.listener import Listener
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.states import State
from tests.fake.target import FakeTarget, TargetScript
from tests.lab.guest import sh, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RXE, SIW = "10.9.0.1", "10.9.1.1"
TARGET = "iqn.2026-11.test:t0"
ME = "iqn.2026-11.test:me"
NOBODY = 65534
RDMACTL = str(Path(sys.executable).parent / "rdmactl")

both = pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])


@pytest.fixture(scope="module", autouse=True)
def world() -> None:
    """Soft-RoCE with LIO on it (one iSER portal, one for TCP only), soft-iWARP, and LIO's iSER on that as well.

    A LIO portal always opens a TCP listener too, which takes soft-iWARP's port: it is made in another namespace.
    """
    sh(
        f"""
        siw stock
        link rxe0 rxe d0 {RXE}/24
        link siw0 siw d1 {SIW}/24
        target {TARGET} {RXE}:3260 iser
        target {TARGET} {RXE}:3261 tcp
        target {TARGET} {SIW}:3261 tcp
        ip netns add aside
        ip -n aside link set lo up
        ip -n aside address add {SIW}/32 dev lo
        np=/sys/kernel/config/target/iscsi/{TARGET}/tpgt_1/np/{SIW}:3260
        nsenter --net=/run/netns/aside mkdir $np
        echo 1 > $np/iser
        """
    )
    for address in (RXE, SIW):
        ping(address)  # LIO keeps the completion queue it makes for its first connection


@dataclass
class Done:
    status: int
    output: str
    error: str
    seconds: float

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output)
        return found


def rdmactl(*words: str, uid: int = 0, environment: dict[str, str] | None = None) -> Done:
    started = time.monotonic()
    done = subprocess.run(
        [RDMACTL, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
        env={**os.environ, **(environment or {})},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def ping(address: str, *words: str, uid: int = 0) -> Done:
    return rdmactl("iser", "ping", address, "-n", ME, *words, uid=uid)


def resources(device: str) -> dict[str, int]:
    """What the kernel counts for a device."""
    (entry,) = (entry for entry in json.loads(sh("rdma resource show -j")) if entry["ifname"] == device)
    return {name: count for name, count in entry.items() if name in ("pd", "cq", "qp", "cm_id", "mr", "ctx")}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test the devices hold what they held before.

    Except for the context: librdmacm keeps that for the life of a process, and some tests run in this one.
    """

    def held() -> dict[str, dict[str, int]]:
        return {device: {**resources(device), "ctx": 0} for device in ("rxe0", "siw0")}

    before = held()
    yield
    wait_for(lambda: held() == before, f"resources to go back to {before}", limit_s=10)


# rdmactl iser ping


@both
def test_iser_13_ping(address: str) -> None:
    done = ping(address, "-j")
    assert done.status == 0, done.error
    (result,) = done.json()["pings"]
    assert result["ok"]
    over_iwarp = ["port mapper"] if address == SIW else []
    steps = ["address", "route", "resources", "connect", *over_iwarp, "login", "sendtargets", "logout", "teardown"]
    assert [step["name"] for step in result["steps"]] == steps
    assert sum(step["seconds"] for step in result["steps"]) <= result["total_s"] < 5
    assert (result["device"], result["transport"]) == {RXE: ("rxe0", "RoCE"), SIW: ("siw0", "iWARP")}[address]
    assert [target["name"] for target in result["targets"]] == [TARGET]
    assert {"address": address, "port": 3260, "tpgt": 1} in result["targets"][0]["portals"]


def test_ping_for_people() -> None:
    done = ping(RXE, "--count", "3")
    assert done.status == 0, done.error
    assert done.output.count(f"{RXE}:3260: 1 target in ") == 3
    assert re.search(r"^3 of 3 answered; min/avg/max [\d.]+/[\d.]+/[\d.]+ ms$", done.output, re.MULTILINE)


@both
def test_iser_33_twenty_pings_leak_nothing_and_block_nobody(address: str) -> None:
    before = resources("rxe0"), resources("siw0")
    done = ping(address, "-c", "20", "-j")
    assert done.status == 0, done.error
    totals = [result["total_s"] for result in done.json()["pings"]]
    assert len(totals) == 20
    assert max(totals) < 3, "a login waited for another one's leftovers"
    wait_for(lambda: (resources("rxe0"), resources("siw0")) == before, "resources as before", limit_s=10)


@pytest.mark.parametrize(
    ("address", "words"),
    [(f"{RXE}:3299", "reject reason 8"), (f"{SIW}:3299", "rdma_connect: 111"), (f"{RXE}:3261", "reject reason 8")],
    ids=["rxe", "siw", "rxe, portal for TCP only"],
)
def test_iser_15_16_refused(address: str, words: str) -> None:
    done = ping(address)
    assert done.status == 11
    assert f"{address} refused the RDMA connection" in done.error
    assert words in done.error
    tcp = address.endswith(":3261")
    hint = "a plain iSCSI target answers there: enable iSER on that portal" if tcp else "or check the port"
    assert hint in done.error
    assert len(done.error.splitlines()) == 1


def test_iser_17_26_a_tcp_portal_behind_soft_iwarp_is_silent() -> None:
    """It has taken the connection for a login, and answers nobody else meanwhile."""
    done = ping(f"{SIW}:3261", "-t", "2")
    assert done.status == 11
    assert "the portal is TCP only" in done.error


@pytest.mark.parametrize("address", ["10.9.0.77", "10.9.1.77"], ids=["rxe", "siw"])
def test_iser_18_silent_hosts_end_at_the_deadline(address: str) -> None:
    done = ping(address, "-t", "1.5", "-j")
    assert done.status == 11
    (result,) = done.json()["pings"]
    assert result["error"]["code"] == "deadline"
    assert "(stage: connect)" in result["error"]["message"]
    assert 1.4 < result["total_s"] < 3
    assert done.seconds < 12


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("10.77.0.1", 10, "no route"),
        ("127.0.0.1", 3, "cannot be reached over RDMA"),
        ("no-such-host.invalid", 10, "there is no address for no-such-host.invalid"),
    ],
)
def test_iser_20_no_way(address: str, status: int, words: str) -> None:
    done = ping(address)
    assert (done.status, words in done.error) == (status, True), done.error


def test_iser_20_22_the_source_address_chooses_the_device() -> None:
    (result,) = ping(f"{RXE}:3299", "-s", SIW, "-j", "-t", "2").json()["pings"]
    assert result["device"] == "siw0"
    assert ping(RXE, "-s", "10.9.0.99").status == 10


@both
def test_iser_24_without_privilege(address: str) -> None:
    done = ping(address, uid=NOBODY)
    assert done.status == 0, done.error


def test_iser_28_a_login_that_is_refused_names_portal_and_reason() -> None:
    """LIO often closes the connection before its answer is read; both is said as what it is."""
    auth = Path("/sys/kernel/config/target/iscsi/discovery_auth")
    (auth / "userid").write_text("joe")
    (auth / "password").write_text("secret-of-joe")
    (auth / "enforce_discovery_auth").write_text("1")
    try:
        done = ping(RXE)
    finally:
        (auth / "enforce_discovery_auth").write_text("0")
    assert done.status in (12, 13)
    assert f"{RXE}:3260" in done.error
    assert "CHAP" in done.error
    assert ping(RXE).status == 0


def test_killed_in_the_middle_it_leaves_nothing() -> None:
    process = subprocess.Popen([RDMACTL, "iser", "ping", "10.9.0.77", "-n", ME, "-t", "60"])
    wait_for(lambda: resources("rxe0")["ctx"] > 0, "the worker to open the device")
    process.kill()
    process.wait()
    wait_for(lambda: resources("rxe0")["ctx"] == 0, "the worker to be gone", limit_s=10)


def test_interrupted_it_says_nothing_and_leaves_nothing() -> None:
    process = subprocess.Popen(
        [RDMACTL, "iser", "ping", "10.9.1.77", "-n", ME, "-t", "60"], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: resources("siw0")["ctx"] > 0, "the worker to open the device")
    process.send_signal(2)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "")
    wait_for(lambda: resources("siw0")["ctx"] == 0, "the worker to be gone", limit_s=10)


# A daemon's pool


def test_a_pool_discovers_and_lets_go_of_the_device() -> None:
    async def use() -> None:
        pool = WorkerPool()
        await pool.warm()
        assert resources("rxe0")["ctx"] == 0
        reports = await asyncio.gather(*(pool.discover(Question(Portal(RXE), ME)) for _ in range(4)))
        assert [report.error for report in reports] == [None] * 4
        end = time.monotonic() + 15
        while resources("rxe0")["ctx"] > 0:  # without any call from us: workers end when they are idle
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        assert (await pool.discover(Question(Portal(RXE), ME))).error is None
        await pool.close()

    asyncio.run(use())


# Connections, with both ends in this process


def run(function: Callable[[EventChannel], Awaitable[None]]) -> None:
    async def inside() -> None:
        channel = EventChannel()
        async with asyncio.timeout(60):
            await function(channel)
        channel.close()

    asyncio.run(inside())


async def echo(listener: Listener) -> None:
    """Accept one connection and send each message back, until it ends."""
    connection = await listener.request()
    assert connection.private_data[:4] == PRIVATE_DATA
    try:
        await connection.accept(b"\xc0\0\0\1")
        while True:
            await connection.send((await connection.receive())[::-1])
    except PeerError as ended:
        expect_disconnected(ended)
    finally:
        await connection.close()
        assert connection.state is State.CLOSED


def expect_disconnected(error: PeerError) -> None:
    assert error.code == "disconnected", error


@both
def test_connect_accept_disconnect(address: str) -> None:
    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"))
        for _ in range(5):
            server = asyncio.create_task(echo(listener))
            connection = Connection(channel, str(listener.address))
            await connection.connect(listener.address, PRIVATE_DATA)
            assert connection.private_data[:4] == b"\xc0\0\0\1"
            for size in (1, 76, 8268):
                await connection.send(bytes(range(256)) * 32 + bytes(76) if size == 8268 else b"x" * size)
                assert len(await connection.receive()) == size
            await connection.close()
            assert connection.state is State.CLOSED
            await connection.close()
            await server
        listener.close()

    run(use)


@both
def test_many_messages_keep_their_order(address: str) -> None:
    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"))
        server = asyncio.create_task(echo(listener))
        connection = Connection(channel, str(listener.address))
        await connection.connect(listener.address, PRIVATE_DATA)
        for number in range(200):
            await connection.send(f"{number:06}".encode())
            assert await connection.receive() == f"{number:06}".encode()[::-1]
        await connection.close()
        await server
        listener.close()

    run(use)


@both
def test_a_request_that_is_refused(address: str) -> None:
    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"))
        connection = Connection(channel, str(listener.address))
        attempt = asyncio.create_task(connection.connect(listener.address, PRIVATE_DATA))
        await (await listener.request()).reject()
        with pytest.raises(RdmactlError) as caught:
            await attempt
        assert str(listener.address) in caught.value.message
        await connection.close()
        assert connection.state is State.CLOSED
        listener.close()

    run(use)


@both
def test_iser_21_cancelled_anywhere_it_is_taken_down(address: str) -> None:
    """After each number of turns of the loop, until the connection is made."""

    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"))
        refusing = asyncio.create_task(refuse_all(listener))
        seen = set()
        for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34):
            connection = Connection(channel, str(listener.address))
            attempt = asyncio.create_task(connection.connect(listener.address, PRIVATE_DATA))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            seen.add(connection.state)
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            await connection.close()
            assert connection.state is State.CLOSED
        assert len(seen) > 2, seen
        refusing.cancel()
        listener.close()

    run(use)


async def refuse_all(listener: Listener) -> None:
    while True:
        await (await listener.request()).reject()


def test_silence_ends_at_the_stage_deadline() -> None:
    async def use(channel: EventChannel) -> None:
        connection = Connection(channel, "10.9.0.77:3260", deadlines=Deadlines(connect_s=0.5))
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s \(stage: connect\)"):
            await connection.connect(SockAddr.parse("10.9.0.77:3260"), PRIVATE_DATA)
        started = time.monotonic()
        await connection.close()
        assert time.monotonic() - started < 1
        assert connection.state is State.CLOSED

    run(use)


def test_iser_18_a_blocking_connect_does_not_stop_the_loop() -> None:
    """Soft-iWARP connects TCP inside rdma_connect; it is given up, and the process says that it has to end."""
    script = f"""
import asyncio, os, time
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.discovery import Discoverer
from rdmactl.rdmacm.endpoint import DISCOVERY
from rdmactl.rdmacm.report import Question
async def main():
    worst, last, done = 0.0, time.monotonic(), False
    async def watch():
        nonlocal worst, last
        while not done:
            await asyncio.sleep(0.01)
            now = time.monotonic(); worst, last = max(worst, now - last), now
    watcher = asyncio.create_task(watch())
    discoverer = Discoverer()
    report = await discoverer.discover(Question(Portal("10.9.1.77"), "{ME}", deadline_s=2.0))
    print(report.error.code, discoverer.stuck, worst < 0.5, flush=True)
    os._exit(0)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["deadline", "True", "True"]


# A target of our own, over real RDMA: what LIO would not do


TARGET_SIZES = DISCOVERY._replace(send_bytes=DISCOVERY.receive_bytes)


async def serve(listener: Listener, target: FakeTarget | None, *, mute: bool = False) -> None:
    connection = await listener.request()
    try:
        await connection.accept(PRIVATE_DATA)
        while True:
            message = await connection.receive()
            if mute:
                continue
            if target is None:
                await connection.send(b"220 mail ready\r\n")
                continue
            for answer in target.receive(unwrap(message)):
                await connection.send(wrap(answer))
            if target.closed:
                return
    except PeerError as ended:
        expect_disconnected(ended)
    finally:
        await connection.close()


def asked(address: str, target: FakeTarget | None, deadline_s: float = 5.0, **how: bool) -> Any:
    """The report of a discovery whose target answers from this process."""
    reports = []

    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{address}:0"), sizes=TARGET_SIZES)
        server = asyncio.create_task(serve(listener, target, **how))
        discoverer = Discoverer()
        portal = Portal(address, listener.address.port)
        reports.append(await discoverer.discover(Question(portal, ME, deadline_s=deadline_s)))
        await server
        discoverer.close()
        listener.close()

    run(use)
    return reports[0]


@both
def test_iser_30_targets_are_listed_as_they_are_said(address: str) -> None:
    names = {f"iqn.2026-11.test:{number:04}": [f"{address}:3260,1"] for number in range(500)}
    report = asked(address, FakeTarget(TargetScript(targets=names)))
    assert report.error is None
    assert [target.name for target in report.targets] == sorted(names)


@both
def test_iser_29_a_status_that_outruns_the_disconnect_is_read(address: str) -> None:
    """The answer and DISCONNECTED are there at once: the queue is read before the event is believed."""

    def twist(asked: Pdu, answers: list[Pdu]) -> list[Pdu]:
        target.closed = True
        return answers

    target = FakeTarget(TargetScript(status=0x0202), twist)
    report = asked(address, target)
    assert report.error is not None
    assert report.error.err == 24
    assert "0202" in report.error.message


@both
def test_what_is_no_target(address: str) -> None:
    report = asked(address, None)
    assert report.error is not None
    assert "iSER" in report.error.message


@both
def test_what_accepts_and_says_nothing(address: str) -> None:
    report = asked(address, None, deadline_s=1.0, mute=True)
    assert report.error is not None
    assert report.error.code == "deadline"
    assert "(stage: login)" in report.error.message
    assert report.total_s < 3


def test_an_impossible_name_never_connects() -> None:
    async def use(channel: EventChannel) -> None:
        listener = Listener(channel, SockAddr.parse(f"{RXE}:0"))
        discoverer = Discoverer()
        report = await discoverer.discover(Question(Portal(RXE, listener.address.port), "bad name"))
        assert report.error is not None
        assert report.error.code.startswith("invalid")
        assert not listener._requests
        discoverer.close()
        listener.close()

    run(use)
