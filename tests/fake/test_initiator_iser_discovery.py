# SPDX-License-Identifier: Apache-2.0
"""Discovery over iSER by the initiator, without RDMA: what workers report becomes the initiator's own answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rdmactl.errors import DeadlineExceeded, LocalError, PeerError, RdmactlError, Unavailable
from rdmactl.initiator.api import ChapSettings, DiscoveredTarget, DiscoveryAnswer, DiscoveryRequest
from rdmactl.initiator.discovery import Discoveries
from rdmactl.initiator.failures import TryAgain
from rdmactl.initiator.iser_discovery import IserDiscoveries, failure_of
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.report import FoundTarget, Question, Report
from tests.fake.test_initiator_discovery import LaneAlone

pytestmark = pytest.mark.fake

PORTAL = Portal("10.9.0.1")
REQUEST = DiscoveryRequest(PORTAL, "iqn.2026-11.test:me", transport="iser", source_address="10.9.0.2", reopen_max=1)
FOUND = Report((), 0.0, targets=(FoundTarget("iqn.2026-11.test:a", ((PORTAL, 1),)),))


class Pool:
    """Answers each question with the next report; the last one stays."""

    def __init__(self, *answers: Report | RdmactlError) -> None:
        self.answers = list(answers)
        self.asked: list[Question] = []
        self.closed = False
        self.warmed = 0

    async def discover(self, question: Question) -> Report:
        self.asked.append(question)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RdmactlError):
            raise answer
        return answer

    async def warm(self) -> None:
        self.warmed += 1

    async def close(self) -> None:
        self.closed = True


def discover(pool: Pool, request: DiscoveryRequest = REQUEST) -> list[DiscoveredTarget]:
    return list(ask(pool, request).targets)


def ask(pool: Pool, request: DiscoveryRequest = REQUEST) -> DiscoveryAnswer:
    async def main() -> DiscoveryAnswer:
        lane: Any = LaneAlone()
        workers: Any = pool
        discoveries = Discoveries(lane, IserDiscoveries(workers))
        try:
            return await discoveries.discover(request)
        finally:
            await discoveries.close()

    return asyncio.run(main())


def failed(error: RdmactlError) -> Report:
    return Report((), 0.0, error=error)


def test_what_is_found_and_how_it_is_asked() -> None:
    pool = Pool(FOUND)
    assert discover(pool) == [DiscoveredTarget("iqn.2026-11.test:a", ((PORTAL, 1),))]
    (question,) = pool.asked
    assert question == Question(PORTAL, "iqn.2026-11.test:me", question.deadline_s, "10.9.0.2")
    assert 44.0 < question.deadline_s <= 45.0  # login and one answer
    assert (pool.closed, pool.warmed) == (True, 1)


def test_chap_goes_along_and_does_not_show() -> None:
    pool = Pool(FOUND)
    chap = ChapSettings("joe", "secret-of-joe-1", "array", "secret-of-array-1", ("SHA256", "MD5"))
    discover(pool, DiscoveryRequest(PORTAL, "iqn.2026-11.test:me", chap, transport="iser"))
    (question,) = pool.asked
    assert (question.username, question.password_in, question.algorithms) == ("joe", "secret-of-array-1", (7, 5))
    assert "secret" not in repr(question)


def test_what_may_pass_is_tried_again() -> None:
    lost = failed(PeerError("the target closed the RDMA connection", code="disconnected"))
    pool = Pool(lost, FOUND)
    assert len(discover(pool)) == 1
    assert len(pool.asked) == 2


def test_patience_ends() -> None:
    pool = Pool(failed(PeerError("10.9.0.1:3260 does not answer", code="unreachable")))
    with pytest.raises(IscsiFailure, match=r"does not answer \(2 attempts\)") as caught:
        discover(pool)
    assert caught.value.err is IscsiErr.PDU_TIMEOUT
    assert len(pool.asked) == 2


def test_what_will_not_pass_is_not() -> None:
    pool = Pool(failed(PeerError("nothing listens there", code="refused")))
    with pytest.raises(IscsiFailure) as caught:
        discover(pool)
    assert caught.value.err is IscsiErr.PDU_TIMEOUT
    assert len(pool.asked) == 1


@pytest.mark.parametrize(
    ("make", "err", "again"),
    [
        (lambda: IscsiFailure(IscsiErr.LOGIN_AUTH_FAILED, "no"), IscsiErr.LOGIN_AUTH_FAILED, False),
        (lambda: IscsiFailure(IscsiErr.PDU_TIMEOUT, "lost"), IscsiErr.PDU_TIMEOUT, True),
        (lambda: Unavailable("no device"), IscsiErr.TRANS_NOT_FOUND, False),
        (lambda: DeadlineExceeded("late"), IscsiErr.PDU_TIMEOUT, True),
        (lambda: LocalError("bad name"), IscsiErr.INVAL, False),
        (lambda: PeerError("no route", code="no-route"), IscsiErr.PDU_TIMEOUT, False),
    ],
)
def test_numbers(make: Callable[[], RdmactlError], err: IscsiErr, again: bool) -> None:
    failure = failure_of(make(), REQUEST)
    assert (failure.err, isinstance(failure, TryAgain)) == (err, again)


def test_trouble_with_the_worker_itself() -> None:
    with pytest.raises(IscsiFailure) as caught:
        discover(Pool(Unavailable("cannot start an RDMA worker")))
    assert caught.value.err is IscsiErr.TRANS_NOT_FOUND


def test_entries_that_were_left_out_are_counted() -> None:
    answer = ask(Pool(FOUND._replace(skipped=2, warnings=("one", "two"))))
    assert (len(answer.targets), answer.skipped, answer.warnings) == (1, 2, ("one", "two"))
