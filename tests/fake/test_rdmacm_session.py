# SPDX-License-Identifier: Apache-2.0
"""Sessions over a connection in memory: commands with data, buffers, cancelling, the walk, measuring, and every end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from rdmactl.errors import DeadlineExceeded, LocalError, PeerError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.iser import wrap
from rdmactl.iscsi.login import LoginEngine
from rdmactl.iscsi.login_model import LoginDone
from rdmactl.iscsi.pdu import Async, Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.scsi_pdu import ScsiResponse
from rdmactl.iscsi.sense import Sense
from rdmactl.rdmacm import perf
from rdmactl.rdmacm.login import log_in, login_config
from rdmactl.rdmacm.luns import walk
from rdmactl.rdmacm.report import Measured, Plan, Question
from rdmactl.rdmacm.session import Session
from tests.fake import disk as fake
from tests.fake.disk import Disk, DiskTarget, MemoryConnection
from tests.fake.memory_link import MemoryLink
from tests.fake.target import FakeTarget, TargetChap, TargetScript

pytestmark = pytest.mark.fake

T = TypeVar("T")
NAME = "iqn.2026-11.test:t0"
PORTAL = Portal("10.9.0.1")
QUESTION = Question(PORTAL, "iqn.2026-11.test:me", target=NAME)
ZERO = scsi.lun_bytes(0)
SCRIPT = TargetScript(targets={NAME: []})


def random_bytes(count: int) -> bytes:
    return bytes(range(1, count + 1))


async def login(link: MemoryLink, question: Question = QUESTION, **changes: Any) -> Any:
    config = replace(login_config(question, PORTAL, random_bytes), **changes)
    async with asyncio.timeout(10):
        return await log_in(link, LoginEngine(config, random_bytes=random_bytes), str(PORTAL))


def use(
    work: Callable[[Session, MemoryConnection], Awaitable[T]],
    target: DiskTarget | None = None,
    depth: int = 4,
    **how: Any,
) -> T:
    """Log in to a target with disks, do the work, close; whatever happened, the connection is closed then."""

    async def main() -> T:
        disks = target or DiskTarget(script=SCRIPT)
        done = await login(MemoryLink(FakeTarget(SCRIPT), str(PORTAL)))
        assert isinstance(done, LoginDone)
        connection: Any = MemoryConnection(disks, **how)
        try:
            async with asyncio.timeout(10), Session(connection, done, NAME, depth) as session:
                return await work(session, connection)
        finally:
            assert connection.closed
            assert connection.on_change is None

    return asyncio.run(main())


# Login


def test_a_login_in_one_round_with_the_keys_of_iser() -> None:
    link = MemoryLink(FakeTarget(SCRIPT), str(PORTAL))
    done = asyncio.run(login(link))
    assert len(link.sent) == 1
    for pair in (b"RDMAExtensions=Yes", b"TargetRecvDataSegmentLength=8192", b"InitialR2T=Yes", b"SessionType=Normal"):
        assert pair in link.sent[0]
    assert b"Digest" not in link.sent[0]
    assert (done.results.rdma_extensions, done.results.max_xmit_data_segment_bytes) == (True, 8192)


@pytest.mark.parametrize("mutual", [False, True])
def test_chap(mutual: bool) -> None:
    chap = TargetChap("joe", "secret-of-joe", "array", "secret-of-array")
    question = QUESTION._replace(username="joe", password="secret-of-joe")
    if mutual:
        question = question._replace(username_in="array", password_in="secret-of-array")
    link = MemoryLink(FakeTarget(replace(SCRIPT, chap=chap)), str(PORTAL))
    assert isinstance(asyncio.run(login(link, question)), LoginDone)
    assert not any(b"secret-of" in message for message in link.sent)


@pytest.mark.parametrize(
    ("script", "err"),
    [
        (replace(SCRIPT, chap=TargetChap("joe", "another-secret")), IscsiErr.LOGIN_AUTH_FAILED),
        (TargetScript(targets={}), IscsiErr.FATAL_LOGIN),
        (replace(SCRIPT, limits={"RDMAExtensions": False}), IscsiErr.FATAL_LOGIN),
    ],
    ids=["secret", "name", "no RDMA"],
)
def test_refusals(script: TargetScript, err: IscsiErr) -> None:
    question = QUESTION._replace(username="joe", password="secret-of-joe") if script.chap else QUESTION
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(login(MemoryLink(FakeTarget(script), str(PORTAL)), question))
    assert caught.value.err is err
    assert str(PORTAL) in caught.value.message


def test_a_target_that_does_not_prove_itself() -> None:
    """The number is iscsiadm's, which knows no better one; the code tells that it was authentication."""
    chap = TargetChap("joe", "secret-of-joe", "array", "another-secret")
    question = QUESTION._replace(
        username="joe", password="secret-of-joe", username_in="array", password_in="secret-of-array"
    )
    with pytest.raises(IscsiFailure, match="failed authentication") as caught:
        asyncio.run(login(MemoryLink(FakeTarget(replace(SCRIPT, chap=chap)), str(PORTAL)), question))
    assert (caught.value.err, caught.value.code) == (IscsiErr.FATAL_LOGIN, "iscsi-chap")


@pytest.mark.parametrize("raw", [b"", b"220 mail ready\r\n", b"\x20" + bytes(75), b"\x10" + bytes(90)])
def test_what_is_no_target(raw: bytes) -> None:
    link = MemoryLink(FakeTarget(SCRIPT), str(PORTAL))
    link.raw.append(raw)
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(login(link))
    assert str(PORTAL) in caught.value.message


def test_silence() -> None:
    with pytest.raises(IscsiFailure, match=r"within 0\.01 s"):
        asyncio.run(login(MemoryLink(FakeTarget(SCRIPT), str(PORTAL), mute=True), deadline_s=0.01))


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
def test_a_connection_lost_at_each_step_of_the_login(sent: int) -> None:
    chap = TargetChap("joe", "secret-of-joe", "array", "secret-of-array")
    question = QUESTION._replace(username="joe", password="secret-of-joe")
    link = MemoryLink(FakeTarget(replace(SCRIPT, chap=chap)), str(PORTAL), break_after=sent)
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(login(link, question))
    assert caught.value.message.count(str(PORTAL)) == 1
    assert "closed the RDMA connection" in caught.value.message


# Commands


def test_data_there_and_back() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        wanted = bytes(range(256)) * 4
        written = await session.execute(ZERO, scsi.write_blocks(3, 2), write=wanted)
        assert (written.status, written.data, written.moved_bytes) == (0, b"", 1024)
        read = await session.execute(ZERO, scsi.read_blocks(3, 2), read_bytes=1024)
        assert (read.status, read.data) == (0, wanted)
        assert connection.target.disks[0].data[3 * 512 : 5 * 512] == wanted

    use(work)


def test_less_than_asked_for_and_a_sense() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        short = await session.execute(ZERO, scsi.read_capacity_10(), read_bytes=64)
        assert len(short.data) == 8
        beyond = await session.execute(ZERO, scsi.read_blocks(64, 1), read_bytes=512)
        assert (beyond.status, beyond.data, beyond.sense) == (2, b"", Sense(5, 0x21, 0))
        with pytest.raises(PeerError, match="reading failed: check condition: illegal request: block address"):
            beyond.require("reading")

    use(work)


def test_many_commands_take_turns() -> None:
    """Two hundred at once: never more than `depth`, few buffers, all answered, also with few send slots."""

    async def work(session: Session, connection: MemoryConnection) -> None:
        reads = [session.execute(ZERO, scsi.read_blocks(n % 64, 1), read_bytes=512) for n in range(200)]
        assert all(result.status == 0 for result in await asyncio.gather(*reads))
        assert len(connection.target.memory) <= 4
        assert session._engine.outstanding == 0

    use(work, slots=2)


def test_iser_46_a_cancelled_command_keeps_its_buffer_until_the_answer() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        connection.hold = True
        read = asyncio.create_task(session.execute(ZERO, scsi.read_blocks(0, 1), read_bytes=512))
        await asyncio.sleep(0)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
        assert sum(map(len, session._buffers.values())) == 0
        connection.release()
        assert sum(map(len, session._buffers.values())) == 1
        assert (await session.execute(ZERO, scsi.test_unit_ready())).status == 0

    use(work)


def test_ping() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        assert 0 <= await session.ping() < 5

    use(work)


def test_a_command_too_large() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        with pytest.raises(LocalError, match="524288 bytes at most"):
            await session.execute(ZERO, scsi.read_blocks(0, 1), read_bytes=(512 << 10) + 1)

    use(work)


# Ends


def ends(how: Callable[[MemoryConnection], None]) -> tuple[list[BaseException], Session]:
    """What six commands, two more than may be under way, and a ping get when the session ends under them."""

    async def work(session: Session, connection: MemoryConnection) -> tuple[list[BaseException], Session]:
        connection.hold = True
        tasks = [asyncio.create_task(session.execute(ZERO, scsi.test_unit_ready())) for _ in range(6)]
        tasks.append(asyncio.create_task(session.ping()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        how(connection)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for call in (session.ping(), session.execute(ZERO, scsi.test_unit_ready())):
            with pytest.raises(PeerError):
                await call
        return found, session  # type: ignore[return-value]

    return use(work)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (MemoryConnection.lose, "closed the RDMA connection"),
        (lambda connection: connection.deliver(b"short"), "shorter than its header"),
        (lambda connection: connection.deliver(b"\x10" + bytes(90)), "does not fit the data length"),
        (lambda connection: connection.deliver(wrap(ScsiResponse(77).pdu())), "foreign task tag"),
        (lambda connection: connection.deliver(wrap(Async(2).pdu())), "the target ends the session"),
    ],
    ids=["lost", "short", "long", "foreign", "drop"],
)
def test_everybody_hears_of_the_end(how: Callable[[MemoryConnection], None], words: str) -> None:
    errors, session = ends(how)
    assert len(errors) == 7
    assert all(isinstance(error, PeerError) and words in error.message for error in errors), errors
    assert session.failure is not None
    assert session.ended.done()


def test_iser_46_a_late_answer_ends_the_session() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        connection.hold = True
        long = asyncio.create_task(session.execute(ZERO, scsi.test_unit_ready(), deadline_s=30.0))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=NAME):
            await session.execute(ZERO, scsi.test_unit_ready(), deadline_s=0.02)
        with pytest.raises(DeadlineExceeded):
            await long

    use(work)


def test_iser_50_a_ping_into_a_black_hole_ends_the_session() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        assert await session.ping() < 5
        connection.hold = True
        with pytest.raises(DeadlineExceeded, match="ping"):
            await session.ping(0.02)
        assert isinstance(session.failure, DeadlineExceeded)

    use(work)


def test_closed_while_commands_are_under_way() -> None:
    async def work(session: Session, connection: MemoryConnection) -> None:
        connection.hold = True
        read = asyncio.create_task(session.execute(ZERO, scsi.test_unit_ready()))
        await asyncio.sleep(0)
        await session.disconnect()
        with pytest.raises(LocalError, match="was closed"):
            await read

    use(work)


def test_cancelled_at_each_turn_nothing_is_left() -> None:
    """A walk is cancelled after each number of turns of the loop it takes; `use` sees that all is closed."""

    async def whole(session: Session, connection: MemoryConnection) -> None:
        await walk(session)

    for turns in range(60):

        async def work(session: Session, connection: MemoryConnection, turns: int = turns) -> None:
            task = asyncio.create_task(whole(session, connection))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        use(work)


# The walk


def test_iser_37_the_walk() -> None:
    disks = {
        0: Disk(sense=[fake.UNIT_ATTENTION]),
        1: Disk(blocks=128, sense=[fake.UNIT_ATTENTION, fake.UNIT_ATTENTION], knows_16=False, serial="serial-2"),
        300: Disk(),
    }

    async def work(session: Session, connection: MemoryConnection) -> Any:
        return await walk(session)

    zero, one, far = use(work, DiskTarget(disks, SCRIPT))
    assert (zero.number, zero.device_type, zero.vendor, zero.product) == (0, "disk", "TEST", "DISK")
    assert (zero.serial, zero.wwid) == ("serial-1", f"naa.{fake.NAA.hex()}")
    assert (zero.blocks, zero.block_bytes, zero.physical_block_bytes, zero.error) == (64, 512, 512, "")
    assert (one.number, one.blocks, one.serial) == (1, 128, "serial-2")
    assert (far.number, far.lun) == (300, "412c000000000000")


def test_a_long_list_is_asked_for_again() -> None:
    async def work(session: Session, connection: MemoryConnection) -> Any:
        return await walk(session)

    found = use(work, DiskTarget({number: Disk(blocks=1) for number in range(520)}, SCRIPT), depth=16)
    assert [lun.number for lun in found] == list(range(520))


def test_a_unit_that_refuses_everything_is_listed() -> None:
    async def work(session: Session, connection: MemoryConnection) -> Any:
        return await walk(session)

    refusing = Disk(sense=[fake.fixed_sense(2, 4, 2)] * 9)
    _, lun = use(work, DiskTarget({0: Disk(), 1: refusing}, SCRIPT))
    assert lun.number == 1
    assert "not ready" in lun.error


# Measuring


def measure(plan: Plan, target: DiskTarget | None = None) -> tuple[Measured, DiskTarget]:
    disks = target or DiskTarget(script=SCRIPT)

    async def work(session: Session, connection: MemoryConnection) -> Measured:
        return await perf.measure(session, plan, lambda seen: None)

    return use(work, disks, plan.depth), disks


@pytest.mark.parametrize("sequential", [False, True])
def test_reading(sequential: bool) -> None:
    seen, target = measure(Plan(depth=4, block_bytes=1024, duration_s=0.05, sequential=sequential))
    reads = [command for command in target.commands if command.cdb[0] == 0x28]
    assert seen.commands == len(reads) > 8
    assert seen.moved_bytes == 1024 * seen.commands
    names = dict(seen.latency_s)
    assert 0 <= names["min"] <= names["p50"] <= names["p99.9"] <= names["max"] < 5
    starts = [int.from_bytes(command.cdb[2:6], "big") for command in reads]
    assert set(starts) <= set(range(0, 64, 2))
    assert (starts[:4] == [0, 2, 4, 6]) is sequential
    assert not any(target.disks[0].data)


def test_writing_writes() -> None:
    seen, target = measure(Plan(depth=2, block_bytes=512, duration_s=0.02, write=True))
    assert seen.commands > 0
    assert any(target.disks[0].data)
    assert {command.cdb[0] for command in target.commands} >= {0x2A}
    assert 0x28 not in {command.cdb[0] for command in target.commands}


@pytest.mark.parametrize(
    "plan",
    [Plan(depth=0), Plan(depth=129), Plan(block_bytes=100), Plan(block_bytes=1 << 20), Plan(duration_s=0.0)],
)
def test_plans_nobody_can_carry_out(plan: Plan) -> None:
    with pytest.raises(LocalError):
        perf.check_plan(plan)


def test_blocks_that_do_not_fit_the_unit() -> None:
    with pytest.raises(LocalError, match="do not divide 700"):
        measure(Plan(block_bytes=700))
    with pytest.raises(LocalError, match="smaller than 65536"):
        measure(Plan(block_bytes=65536))


def test_an_error_ends_the_measurement_with_its_sense() -> None:
    target = DiskTarget(script=SCRIPT)

    def twist(asked: Pdu, answers: list[Pdu]) -> list[Pdu]:
        if len(target.commands) == 20:
            target.disks[0].sense.append(fake.fixed_sense(3, 0x11, 0))
        return answers

    target.twist = twist
    with pytest.raises(PeerError, match="a read of LUN 0 failed: check condition: medium error: unrecovered read"):
        measure(Plan(duration_s=5.0, block_bytes=512), target)


def test_unit_attentions_do_not_count() -> None:
    target = DiskTarget({0: Disk(sense=[fake.UNIT_ATTENTION])}, SCRIPT)
    seen, _ = measure(Plan(duration_s=0.02, block_bytes=512), target)
    assert seen.commands > 0
