# SPDX-License-Identifier: Apache-2.0
"""SendTargets discovery over iSER, in a worker process: no SCSI host comes and goes, no device stays open. Shell ring.

The daemon itself never calls librdmacm, which would hold a device for as long as the daemon lives; workers do, and end
when they are idle. What a worker reports is put here into the initiator's vocabulary.

Not here: the attempts of one request (`discovery.py`), the discovery itself (`rdmactl.rdmacm.discovery`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from rdmactl.errors import DeadlineExceeded, LocalError, RdmactlError, Unavailable
from rdmactl.initiator import params
from rdmactl.initiator.api import DiscoveredTarget, DiscoveryAnswer, DiscoveryRequest
from rdmactl.initiator.failures import TryAgain, as_failure
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.rdmacm.client import WorkerPool
from rdmactl.rdmacm.report import Question

__all__ = ["IserDiscoveries", "failure_of"]

log = logging.getLogger(__name__)

_PASSING = frozenset({"disconnected", "resources", "stale", "unreachable"})
"""Codes of failures another attempt may not meet. That nothing listens ("refused") is not one of them."""

_PASSING_ERRS = frozenset({IscsiErr.PDU_TIMEOUT, IscsiErr.TRANS})


class IserDiscoveries:
    """Discoveries over iSER of one service; those beyond the pool's size wait for a place."""

    def __init__(self, pool: WorkerPool | None = None) -> None:
        self._pool = pool
        self._warming: asyncio.Task[None] | None = None

    async def attempt(self, request: DiscoveryRequest, left_s: float) -> DiscoveryAnswer:
        """One discovery within `left_s`. IscsiFailure, as TryAgain when another attempt could succeed."""
        question = _question(request, left_s)
        pool = self._own_pool()
        try:
            report = await pool.discover(question)
        except RdmactlError as error:
            raise failure_of(error, request) from None
        finally:
            self.prepare()
        if report.error is not None:
            raise failure_of(report.error, request)
        steps = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in report.steps)
        log.debug("discovery at %s over %s, milliseconds: %s", request.portal, report.device, steps)
        targets = tuple(DiscoveredTarget(target.name, target.portals) for target in report.targets)
        return DiscoveryAnswer(targets, report.skipped, report.warnings)

    def prepare(self) -> None:
        """Start a worker ahead, in the background: its start takes longer than a discovery. It opens no device."""
        if self._warming is None or self._warming.done():
            self._warming = asyncio.get_running_loop().create_task(self._warm())

    async def _warm(self) -> None:
        with contextlib.suppress(RdmactlError):  # the discovery that needs it will say so
            await self._own_pool().warm()

    def _own_pool(self) -> WorkerPool:
        if self._pool is None:
            self._pool = WorkerPool()
        return self._pool

    async def close(self) -> None:
        """End the workers."""
        if self._warming is not None:
            await asyncio.wait((self._warming,))
        if self._pool is not None:
            await self._pool.close()


def failure_of(error: RdmactlError, request: DiscoveryRequest) -> IscsiFailure:
    """What a worker reports, as the failure of a discovery."""
    if isinstance(error, IscsiFailure):
        return _again(error.err, error) if error.err in _PASSING_ERRS else error
    if isinstance(error, Unavailable):
        return IscsiFailure(IscsiErr.TRANS_NOT_FOUND, error.message, hint=error.hint)
    if isinstance(error, DeadlineExceeded) or error.code in _PASSING:
        return _again(IscsiErr.PDU_TIMEOUT, error)
    if isinstance(error, LocalError):
        return as_failure(error, str(request.portal))
    return IscsiFailure(IscsiErr.PDU_TIMEOUT, error.message, hint=error.hint, code="rdma")


def _again(err: IscsiErr, error: RdmactlError) -> TryAgain:
    return TryAgain(err, error.message, hint=error.hint, code="rdma")


def _question(request: DiscoveryRequest, left_s: float) -> Question:
    attempt_s = (request.login_timeout_s or left_s) + (request.active_timeout_s or left_s)
    question = Question(
        request.portal, request.initiator_name, deadline_s=min(attempt_s, left_s), source=request.source_address
    )
    credentials = params.credentials(request.chap)
    if credentials is None:
        return question
    chap = request.chap
    return question._replace(
        username=chap.username,
        password=chap.password,
        username_in=chap.username_in,
        password_in=chap.password_in,
        algorithms=credentials.algorithms,
    )
