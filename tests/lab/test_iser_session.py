# SPDX-License-Identifier: Apache-2.0
"""Sessions in user space against LIO, over soft-RoCE and soft-iWARP: login, units, data, measurements, faults."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdmactl.errors import PeerError, RdmactlError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.iser import IserHeader
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.login import Attempt
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.session import Session
from rdmactl.rdmacm.steps import Steps
from tests.lab import iser_world as world
from tests.lab.guest import wait_for
from tests.lab.iser_world import LOCKED, ME, RXE, SIW, TARGET, rdmactl

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SECOND = Path("/tmp/second.img")
GROUP = Path(f"{world.CONFIG}/iscsi/{TARGET}/tpgt_1")
ZERO, ONE = scsi.lun_bytes(0), scsi.lun_bytes(1)

both = pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    world.set_up()
    world.second_unit(TARGET, str(SECOND))
    world.locked_target()
    for address in (RXE, SIW):
        rdmactl("iser", "ping", address, "-n", ME)  # LIO keeps the completion queue it makes for its first connection


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    world.wait_until_free()


def iser(verb: str, where: str, *words: str, uid: int = 0) -> world.Done:
    return rdmactl("iser", verb, where, "-n", ME, *words, uid=uid)


async def log_in(channel: EventChannel, address: str, depth: int = 8, target: str = TARGET) -> Session:
    question = Question(Portal(address), ME, target=target)
    attempt = Attempt(question, Steps(asyncio.get_running_loop().time), os.urandom)
    return await attempt.session(channel, depth)


def with_session(address: str, work: Any, depth: int = 8) -> None:
    async def use(channel: EventChannel) -> None:
        async with await log_in(channel, address, depth) as session:
            await work(session)

    world.run(use)


# The commands


@both
def test_ping_of_a_target(address: str) -> None:
    done = iser("ping", f"{address}/{TARGET}", "-j", "--nops", "50")
    assert done.status == 0, done.error
    (ping,) = done.json()["pings"]
    names = [step["name"] for step in ping["steps"]]
    over_iwarp = ["port mapper"] if address == SIW else []
    assert names == ["address", "route", "resources", "connect", *over_iwarp, "login", "nop", "logout", "teardown"]
    assert (ping["device"], ping["transport"]) == world.DEVICES[address]
    assert len(ping["nops"]) == 50
    assert 0 < ping["nop_seconds"]["min"] <= ping["nop_seconds"]["median"] <= ping["nop_seconds"]["p99"] < 5
    assert ping["negotiated"]["rdma_extensions"] is True
    assert ping["negotiated"]["max_xmit_data_segment_bytes"] == 8192


def test_ping_for_people() -> None:
    done = iser("ping", f"{RXE}/{TARGET}", "-v")
    assert done.status == 0, done.error
    assert f"{RXE}:3260 {TARGET}: logged in and out in " in done.output
    assert "  10 NOPs: min " in done.output
    assert "  rdma_extensions: Yes" in done.output


@both
@pytest.mark.parametrize("mutual", [False, True], ids=["one-way", "mutual"])
def test_iser_27_chap(address: str, mutual: bool, tmp_path: Path) -> None:
    (tmp_path / "joe").write_text("secret-of-joe-1\n")
    (tmp_path / "array").write_text("secret-of-array-1\n")
    words = ["--chap-name", "joe", "--chap-secret-from", str(tmp_path / "joe")]
    if mutual:
        words += ["--chap-name-in", "array", "--chap-secret-in-from", str(tmp_path / "array")]
    done = iser("ping", f"{address}/{LOCKED}", "-j", *words)
    assert done.status == 0, done.error
    assert done.json()["pings"][0]["authentication"] == ("mutual CHAP" if mutual else "CHAP")


@both
def test_iser_27_chap_that_fails(address: str, tmp_path: Path) -> None:
    """LIO often closes the connection before its answer is read: then the sentence says what is probable."""
    (tmp_path / "joe").write_text("secret-of-joe-1\n")
    (tmp_path / "wrong").write_text("not-the-secret-1\n")
    joe = ("--chap-name", "joe", "--chap-secret-from")
    wrong_array = ("--chap-name-in", "array", "--chap-secret-in-from", str(tmp_path / "wrong"))
    for words, status in (
        ((), (12, 13)),
        ((*joe, str(tmp_path / "wrong")), (12, 13)),
        ((*joe, str(tmp_path / "joe"), *wrong_array), (13,)),
    ):
        done = iser("ping", f"{address}/{LOCKED}", *words)
        assert done.status in status, done
        assert f"{address}:3260" in done.error
        assert len(done.error.splitlines()) == 1
        assert "secret-of" not in done.error
        assert "not-the-secret" not in done.error


def test_iser_28_a_target_that_is_not_there() -> None:
    done = iser("ping", f"{RXE}/iqn.2026-11.test:nobody")
    assert done.status in (12, 13)
    assert "iqn.2026-11.test:nobody" in done.error


def test_without_a_name_there_must_be_one_target() -> None:
    done = iser("luns", RXE)
    assert done.status == 12
    assert f"{RXE}:3260 has 2 targets for this host; name one of them" in done.error
    assert TARGET in done.error


@both
def test_iser_37_luns(address: str) -> None:
    done = iser("luns", f"{address}/{TARGET}", "-j")
    assert done.status == 0, done.error
    zero, one = done.json()["luns"]
    assert (zero["number"], zero["device_type"], zero["vendor"], zero["product"]) == (0, "disk", "LIO-ORG", "FILEIO")
    assert (zero["blocks"] * zero["block_bytes"], one["blocks"] * one["block_bytes"]) == (64 << 20, 16 << 20)
    assert (one["number"], one["serial"], one["error"]) == (1, "serial-second", "")
    assert one["wwid"].startswith("naa.6001405")
    assert zero["wwid"] != one["wwid"]


def test_luns_for_people_without_privilege() -> None:
    done = iser("luns", f"{RXE}/{TARGET}", uid=world.NOBODY)
    assert done.status == 0, done.error
    heading, zero, one = done.output.splitlines()
    assert heading.split()[:3] == ["LUN", "TYPE", "SIZE"]
    assert "64 MiB" in zero
    assert "serial-second" in one


@both
def test_perf_reads(address: str) -> None:
    content = SECOND.read_bytes()
    done = iser("perf", f"{address}/{TARGET}", "--lun", "1", "-d", "2.5", "-j")
    assert done.status == 0, done.error
    result = done.json()["result"]
    assert result["iops"] > 20
    assert result["bytes"] == 4096 * result["commands"]
    assert 2.4 < result["seconds"] < 20
    assert list(result["latency_s"]) == ["min", "p50", "p90", "p99", "p99.9", "max"]
    assert SECOND.read_bytes() == content


def test_perf_tells_of_its_progress() -> None:
    done = iser("perf", f"{RXE}/{TARGET}", "-d", "3.5", "-b", "64K", "-q", "4", "--sequential")
    assert done.status == 0, done.error
    assert done.error.count(" IOPS, ") >= 1
    assert "read LUN 0 in " in done.output
    assert "latency ms: min " in done.output


@both
def test_perf_writes_the_unit_that_was_named_twice(address: str) -> None:
    SECOND.write_bytes(bytes(16 << 20))
    refused = iser("perf", f"{address}/{TARGET}", "--write", "--lun", "1")
    assert refused.status == 2
    done = iser("perf", f"{address}/{TARGET}", "--write", "--lun", "1", "--overwrite-lun", "1", "-d", "1.5", "-j")
    assert done.status == 0, done.error
    assert done.json()["result"]["commands"] > 0
    assert any(SECOND.read_bytes())


def test_perf_of_a_unit_that_is_not_there() -> None:
    done = iser("perf", f"{RXE}/{TARGET}", "--lun", "7", "-d", "1")
    assert done.status == 15
    assert "no such logical unit" in done.error


# Data


@both
def test_iser_38_what_is_written_is_read_and_in_the_file(address: str) -> None:
    async def work(session: Session) -> None:
        lba = 0
        for size in (512, 1024, 4096, 8192, 65536, 131072, 262144, 524288):
            data = os.urandom(size)
            written = await session.execute(ONE, scsi.write_blocks(lba, size // 512), write=data)
            for _ in range(3):  # unit attentions of a new session
                if written.status:
                    written = await session.execute(ONE, scsi.write_blocks(lba, size // 512), write=data)
            written.require("the write")
            read = await session.execute(ONE, scsi.read_blocks(lba, size // 512), read_bytes=size)
            assert read.require("the read").data == data
            expected.append(data)
            lba += size // 512

    expected: list[bytes] = []
    with_session(address, work)
    assert SECOND.read_bytes().startswith(b"".join(expected))


@both
def test_iser_39_two_hundred_commands_at_once(address: str) -> None:
    async def work(session: Session) -> None:
        await session.execute(ZERO, scsi.test_unit_ready())
        ready = [session.execute(ZERO, scsi.test_unit_ready()) for _ in range(200)]
        assert [result.status for result in await asyncio.gather(*ready)].count(0) >= 199

    with_session(address, work, depth=32)


def test_iser_48_a_block_that_is_not_there() -> None:
    async def work(session: Session) -> None:
        await session.execute(ZERO, scsi.test_unit_ready())
        beyond = await session.execute(ZERO, scsi.read_blocks(1 << 40, 1), read_bytes=512)
        assert beyond.sense is not None
        assert (beyond.status, beyond.sense.key, beyond.sense.asc) == (2, 5, 0x21)
        assert await session.ping() < 5

    with_session(RXE, work)


# Faults


@both
@pytest.mark.parametrize("fault", ["key", "address", "right"])
def test_iser_40_a_wrong_remote_key_ends_the_session_and_nothing_else(address: str, fault: str) -> None:
    async def use(channel: EventChannel) -> None:
        async with await log_in(channel, address) as session:
            for _ in range(3):
                await session.execute(ZERO, scsi.test_unit_ready())
            good = session.share(4096, writable=fault != "right").remote
            wrong = {
                "key": good._replace(stag=good.stag ^ 0x5A5A00),
                "address": good._replace(offset=good.offset + (1 << 20)),
                "right": good,
            }[fault]
            header = IserHeader(read=wrong).pack()
            session.submit(ZERO, scsi.read_blocks(0, 8), lambda event: None, buffer=header, size_bytes=4096)
            await session.ended
            assert isinstance(session.failure, PeerError)
            assert f"{address}:3260" in session.failure.message
        async with await log_in(channel, address) as session:
            assert await session.ping() < 5

    world.run(use)


@both
def test_iser_54_a_group_that_is_disabled_ends_its_sessions(address: str) -> None:
    async def use(channel: EventChannel) -> None:
        async with await log_in(channel, address) as session:
            (GROUP / "enable").write_text("0")
            try:
                await session.ended
            finally:
                (GROUP / "enable").write_text("1")
            assert isinstance(session.failure, RdmactlError)

    world.run(use)
    wait_for(lambda: iser("ping", f"{address}/{TARGET}").status == 0, "the group to be back")


@both
def test_iser_21_cancelled_at_any_time_nothing_is_left(address: str) -> None:
    """The whole way from the address to the last unit is cancelled later and later; each time nothing may be left."""

    async def whole(channel: EventChannel) -> None:
        async with await log_in(channel, address) as session:
            for _ in range(5):
                await session.execute(ZERO, scsi.read_blocks(0, 8), read_bytes=4096)
                await session.ping()

    seen: list[bool] = []

    async def use(channel: EventChannel) -> None:
        for step in range(25):
            task = asyncio.create_task(whole(channel))
            await asyncio.sleep(step * 0.004)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            seen.append(task.cancelled())
        for _ in range(100):  # a connection that is being taken down goes on without its caller
            if not world.held():
                break
            await asyncio.sleep(0.2)
        assert world.held() == []
        assert True in seen

    world.run(use, limit_s=120)


def test_iser_55_a_killed_front_end_leaves_no_session_at_the_target() -> None:
    words = [world.RDMACTL, "iser", "perf", f"{RXE}/{TARGET}", "-n", ME, "-d", "60"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline()  # progress: it is at work
    process.kill()
    process.wait()
    sessions = GROUP / "dynamic_sessions"
    wait_for(lambda: ME not in sessions.read_text(), "the target to drop the session")


# The portals of many targets


def test_iser_23_probes_in_parallel_and_a_silent_one() -> None:
    """64 at once, one of them at an address nobody has: it alone waits, and only for its own deadline."""
    done = iser("ping", *[RXE] * 31, "10.9.0.77", *[RXE] * 32, "-t", "4", "-j")
    assert done.status == 11
    assert "10.9.0.77" in done.error
    pings = done.json()["pings"]
    failed = [ping for ping in pings if not ping["ok"]]
    assert (len(pings), len(failed)) == (64, 1)
    assert failed[0]["portal"] == "10.9.0.77:3260"
    assert failed[0]["total_s"] < 15
