# SPDX-License-Identifier: Apache-2.0
"""A discovery over iSER against a scripted target, without RDMA: what is made of each answer, and of each loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from rdmactl.errors import LocalError
from rdmactl.iscsi.discovery import DiscoveryDone, DiscoveryEngine
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.iser import unwrap
from rdmactl.iscsi.login_model import Redirected
from rdmactl.iscsi.pdu import Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.address import resolve
from rdmactl.rdmacm.discovery import config_of, converse
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.steps import Steps
from tests.fake.memory_link import MemoryLink
from tests.fake.target import FakeTarget, TargetChap, TargetScript

pytestmark = pytest.mark.fake

PORTAL = Portal("10.9.0.1")
PEER = str(PORTAL)
ASKING = Question(PORTAL, "iqn.2026-11.test:me")
TWO = TargetScript(targets={"iqn.2026-11.test:a": ["10.9.0.1:3260,1", "[fd00::1]:3260,2"], "iqn.2026-11.test:b": []})


def random_bytes(count: int) -> bytes:
    return bytes(range(1, count + 1))


def discover(
    link: MemoryLink, question: Question = ASKING, **changes: float
) -> tuple[DiscoveryDone | Redirected, list[str]]:
    """(outcome, names of the steps)"""

    async def run() -> tuple[DiscoveryDone | Redirected, list[str]]:
        config = replace(config_of(question, PORTAL, random_bytes), **changes)
        engine = DiscoveryEngine(config, random_bytes=random_bytes)
        steps = Steps(asyncio.get_running_loop().time)
        async with asyncio.timeout(10):
            outcome = await converse(link, engine, steps, PEER)
        steps.end()
        return outcome, [name for name, _ in steps.taken()]

    return asyncio.run(run())


def fails(link: MemoryLink, question: Question = ASKING, **changes: float) -> IscsiFailure:
    with pytest.raises(IscsiFailure) as caught:
        discover(link, question, **changes)
    return caught.value


def test_the_whole_way() -> None:
    link = MemoryLink(FakeTarget(TWO), PEER)
    outcome, steps = discover(link)
    assert isinstance(outcome, DiscoveryDone)
    assert [target.name for target in outcome.targets] == ["iqn.2026-11.test:a", "iqn.2026-11.test:b"]
    assert outcome.targets[0].portals == ((PORTAL, 1), (Portal("fd00::1"), 2))
    assert steps == ["login", "sendtargets", "logout"]
    assert len(link.sent) == 3  # login in one round
    assert b"MaxRecvDataSegmentLength=32768\0" in link.sent[0]
    assert all(message[0] == 0x10 for message in link.sent)


def test_iser_10_a_list_in_parts() -> None:
    link = MemoryLink(FakeTarget(replace(TWO, part_bytes=20)), PEER)
    outcome, steps = discover(link, pause_s=0.0001)
    assert isinstance(outcome, DiscoveryDone)
    assert len(outcome.targets) == 2
    assert steps == ["login", "sendtargets", "logout"]


def test_iser_27_chap_both_ways() -> None:
    chap = TargetChap("joe", "secret-of-joe", "array", "secret-of-array")
    question = ASKING._replace(
        username="joe", password="secret-of-joe", username_in="array", password_in="secret-of-array"
    )
    link = MemoryLink(FakeTarget(TargetScript(chap=chap)), PEER)
    outcome, _ = discover(link, question)
    assert isinstance(outcome, DiscoveryDone)
    assert not any(b"secret-of" in message for message in link.sent)


def test_iser_27_a_wrong_secret_is_an_authorization_failure() -> None:
    link = MemoryLink(FakeTarget(TargetScript(chap=TargetChap("joe", "secret-of-joe"))), PEER)
    failure = fails(link, ASKING._replace(username="joe", password="wrong-secret-1"))
    assert failure.err is IscsiErr.LOGIN_AUTH_FAILED
    assert PEER in failure.message
    assert "wrong-secret" not in str(failure)


def test_a_refused_login() -> None:
    failure = fails(MemoryLink(FakeTarget(TargetScript(status=0x0202)), PEER))
    assert failure.err is IscsiErr.LOGIN_AUTH_FAILED
    assert PEER in failure.message


def test_iser_35_a_redirection() -> None:
    link = MemoryLink(FakeTarget(TargetScript(redirect=(0x0101, "10.9.0.9:3261"))), PEER)
    outcome, _ = discover(link)
    assert outcome == Redirected(Portal("10.9.0.9", 3261), permanent=False)


@pytest.mark.parametrize(("sent", "words"), [(0, "during login"), (1, "while waiting for the answer to SendTargets")])
def test_a_lost_connection_says_where(sent: int, words: str) -> None:
    failure = fails(MemoryLink(FakeTarget(TWO), PEER, break_after=sent))
    assert words in failure.message
    assert "the target closed the RDMA connection" in failure.message
    assert failure.message.count(PEER) == 1


def test_a_lost_logout_spoils_nothing() -> None:
    outcome, _ = discover(MemoryLink(FakeTarget(TWO), PEER, break_after=2))
    assert isinstance(outcome, DiscoveryDone)


def test_a_target_that_says_nothing_ends_at_the_deadline() -> None:
    failure = fails(MemoryLink(FakeTarget(TWO), PEER, mute=True), login_s=0.01)
    assert "no login response within 0.01 s" in failure.message


@pytest.mark.parametrize(
    "message", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20" + bytes(75), b"\x10" + bytes(90), bytes(76)]
)
def test_what_is_no_iser_is_said_to_be_none(message: bytes) -> None:
    link = MemoryLink(FakeTarget(TWO), PEER)
    link.raw.append(message)
    failure = fails(link)
    assert PEER in failure.message


def test_an_answer_of_another_kind() -> None:
    def twist(asked: Pdu, answers: list[Pdu]) -> list[Pdu]:
        return [asked]

    assert "instead of a login response" in fails(MemoryLink(FakeTarget(TWO, twist), PEER)).message


def test_unwrap_is_what_the_link_speaks() -> None:
    link = MemoryLink(FakeTarget(TWO), PEER)
    discover(link)
    assert [unwrap(message).header[0] & 0x3F for message in link.sent] == [0x03, 0x04, 0x06]


def test_names_and_numbers() -> None:
    assert str(asyncio.run(resolve(Portal("10.9.0.1", 3261)))) == "10.9.0.1:3261"
    assert str(asyncio.run(resolve(Portal("fd00:9::1")))) == "[fd00:9::1]:3260"
    assert asyncio.run(resolve(Portal("fe80::1%lo"))).scope_id == 1
    with pytest.raises(IscsiFailure) as caught:
        asyncio.run(resolve(Portal("no-such-host.invalid")))
    assert caught.value.err is IscsiErr.HOST_NOT_FOUND


def test_an_impossible_initiator_name_is_our_own_error() -> None:
    config = config_of(ASKING._replace(initiator_name="me"), PORTAL, random_bytes)
    with pytest.raises(LocalError):
        DiscoveryEngine(config, random_bytes=random_bytes)
