# SPDX-License-Identifier: Apache-2.0
"""What can be done with a session for the length of one operation: ping, look at the units, measure. Shell ring.

Each operation is whole: log in, do it, log out, take down; each step is timed, and what goes wrong is in the report.
Without a target's name, the portal is asked for its targets first, and its only one is taken.

Not here: the process this runs in (`worker.py`), text for people (`rdmactl.cli`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from rdmactl.errors import LocalError, PeerError, RdmactlError
from rdmactl.rdmacm import luns, perf
from rdmactl.rdmacm.discovery import Discoverer
from rdmactl.rdmacm.login import Attempt
from rdmactl.rdmacm.plain import explain_refusal
from rdmactl.rdmacm.report import Measured, Plan, Question, Report
from rdmactl.rdmacm.session import Session
from rdmactl.rdmacm.steps import Steps

__all__ = ["Operations"]

_DEPTH = 4
PINGS_MAX = 10000

Work = Callable[[Session, Steps, Report], Awaitable[Report]]
Tell = Callable[[dict[str, Any]], None]
Answer = Callable[[dict[str, Any], Tell], Awaitable[dict[str, Any]]]


class Operations:
    """Operations of one process, which share the channel of its `Discoverer`."""

    def __init__(self, discoverer: Discoverer, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._discoverer = discoverer
        self._random_bytes = random_bytes

    def answers(self) -> dict[str, Answer]:
        """The operations with JSON in and out, as a worker offers them: "ping", "luns" and "perf"."""

        async def ping(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
            question = Question.from_json(arguments["question"])
            return (await self.ping(question, arguments["count"], arguments["interval_s"])).to_json()

        async def list_luns(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
            return (await self.luns(Question.from_json(arguments["question"]))).to_json()

        async def measure(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
            question, plan = Question.from_json(arguments["question"]), Plan(**arguments["plan"])
            return (await self.perf(question, plan, lambda seen: tell({"measured": seen}))).to_json()

        return {"ping": ping, "luns": list_luns, "perf": measure}

    async def ping(self, question: Question, count: int, interval_s: float = 0.0) -> Report:
        """Log in, `count` pings one after the other, log out."""
        if not 0 <= count <= PINGS_MAX:
            raise LocalError(f"the number of pings must be from 0 to {PINGS_MAX}")

        async def work(session: Session, steps: Steps, report: Report) -> Report:
            steps.begin("nop")
            times = []
            for number in range(count):
                if number and interval_s:
                    await asyncio.sleep(interval_s)
                times.append(await session.ping())
            return report._replace(pings=tuple(times))

        return await self._run(question, _DEPTH, work)

    async def luns(self, question: Question) -> Report:
        """Log in, describe all logical units, log out."""

        async def work(session: Session, steps: Steps, report: Report) -> Report:
            steps.begin("luns")
            return report._replace(luns=await luns.walk(session))

        return await self._run(question, _DEPTH, work)

    async def perf(self, question: Question, plan: Plan, progress: Callable[[Measured], None]) -> Report:
        """Log in, measure, log out. The question's deadline holds for everything but the measurement itself."""
        perf.check_plan(plan)

        async def work(session: Session, steps: Steps, report: Report) -> Report:
            steps.begin("perf")
            return report._replace(measured=await perf.measure(session, plan, progress))

        return await self._run(question, plan.depth, work, plan.duration_s)

    async def _run(self, question: Question, depth: int, work: Work, extra_s: float = 0.0) -> Report:
        steps = Steps(asyncio.get_running_loop().time)
        attempt = Attempt(question, steps, self._random_bytes)
        error: RdmactlError | None = None
        report = Report((), 0.0)
        deadline_s = question.deadline_s + extra_s
        try:
            async with asyncio.timeout(deadline_s):
                await self._choose(attempt)
                session = await attempt.session(self._discoverer.channel(), depth)
                report = await _within(session, attempt, work)
        except TimeoutError:
            error = attempt.late(deadline_s)
        except RdmactlError as failure:
            error = failure
        self._discoverer.stuck = self._discoverer.stuck or attempt.stuck
        steps.end()
        if error is not None:
            error = await explain_refusal(error, attempt.portal, attempt.stage, question)
        return report._replace(
            steps=steps.taken(),
            total_s=steps.total_s(),
            device=attempt.device,
            transport=attempt.transport,
            local=attempt.local,
            error=error,
            stage=attempt.stage if error is not None else "",
            target=attempt.question.target,
            portal=attempt.portal,
            port_mapper=attempt.port_mapper,
        )

    async def _choose(self, attempt: Attempt) -> None:
        """Without a target's name: the only target of the portal."""
        if attempt.question.target:
            return
        attempt.steps.begin("discovery")
        attempt.stage = "discovery"
        found = await self._discoverer.discover(attempt.question)
        if found.error is not None:
            attempt.stage = found.stage or attempt.stage
            raise found.error
        names = [target.name for target in found.targets]
        if len(names) != 1:
            hint = f"name one of them: {attempt.portal}/NAME; there are {', '.join(names[:8])}" if names else None
            raise PeerError(f"{attempt.portal} has {len(names)} targets for this host", hint=hint, code="not-one")
        attempt.question = attempt.question._replace(target=names[0])


async def _within(session: Session, attempt: Attempt, work: Work) -> Report:
    negotiated = tuple(asdict(session.parameters).items())
    report = Report((), 0.0, negotiated=negotiated, authentication=attempt.question.authentication)
    try:
        report = await work(session, attempt.steps, report)
        attempt.steps.begin("logout")
        await session.log_out()
    finally:
        attempt.stage = attempt.steps.current
        attempt.steps.begin("teardown")
        await session.disconnect()
        attempt.stuck = attempt.stuck or session.connection.stuck
    return report
