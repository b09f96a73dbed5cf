# SPDX-License-Identifier: Apache-2.0
"""A whole SendTargets discovery over iSER: connect, login, list, logout, teardown, each step timed. Shell ring.

Also what a ping is made of. A bare connection must never be the probe: LIO's portal then waits up to 15 s for a login
and takes no other initiator meanwhile; after a complete login and logout it does not.

`converse` needs no more than a `Link`, so everything but the verbs runs in memory too.
Not here: PDUs and rounds (`rdmactl.iscsi.discovery`), the process this runs in (`worker.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

from rdmactl.errors import PeerError, RdmactlError
from rdmactl.iscsi.discovery import DiscoveryConfig, DiscoveryDone, DiscoveryEngine, DiscoveryFailed
from rdmactl.iscsi.discovery_states import DiscoveryState
from rdmactl.iscsi.errors import IscsiFailure
from rdmactl.iscsi.iser import unwrap, wrap
from rdmactl.iscsi.login import random_isid
from rdmactl.iscsi.login_model import Redirected
from rdmactl.iscsi.pdu import Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.redirect import RedirectChain
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.credentials import credentials_of
from rdmactl.rdmacm.endpoint import DISCOVERY
from rdmactl.rdmacm.login import Attempt, Link, what_ended
from rdmactl.rdmacm.plain import explain_refusal
from rdmactl.rdmacm.report import FoundTarget, Question, Report
from rdmactl.rdmacm.steps import Steps

__all__ = ["Discoverer", "config_of", "converse"]

_STEP_OF_STATE = {
    DiscoveryState.LOGIN: "login",
    DiscoveryState.TEXT: "sendtargets",
    DiscoveryState.PAUSE: "sendtargets",
    DiscoveryState.LOGOUT: "logout",
}


class Discoverer:
    """Discoveries of one process. The event channel is opened by the first and stays for the others."""

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._channel: EventChannel | None = None
        self.stuck = False
        """A call blocks and cannot be stopped: the process has to end."""

    async def answer(self, arguments: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """`discover` with JSON in and out, as the worker's operation."""
        return (await self.discover(Question.from_json(arguments))).to_json()

    async def discover(self, question: Question) -> Report:
        """Do it. What goes wrong is in the report."""
        run = _Run(question, Steps(asyncio.get_running_loop().time), self._random_bytes)
        found = DiscoveryDone((), 0, ())
        error: RdmactlError | None = None
        try:
            async with asyncio.timeout(question.deadline_s):
                found = await run.targets(self.channel())
        except TimeoutError:
            error = run.late(question.deadline_s)
        except RdmactlError as failure:
            error = failure
        self.stuck = self.stuck or run.stuck
        run.steps.end()
        if error is not None:
            error = await explain_refusal(error, run.portal, run.stage, question)
        stage = run.stage if error is not None else ""
        where = (run.device, run.transport, run.local)
        return Report(
            run.steps.taken(), run.steps.total_s(), *where,
            tuple(FoundTarget(*target) for target in found.targets), error, stage,
            portal=run.portal, authentication=question.authentication if error is None else "",
            skipped=found.skipped, warnings=found.warnings, port_mapper=run.port_mapper,
        )  # fmt: skip

    def rehearse(self) -> None:
        """Open the channel and close it again: the libraries look for devices and load their drivers then, which takes
        longer than a discovery. Nothing is held afterwards, and devices that come later are found."""
        with contextlib.suppress(RdmactlError):  # the discovery that needs it will say so
            self.channel()
            self.close()

    def channel(self) -> EventChannel:
        """The channel of this process, opened when it is needed first. Raises Unavailable without RDMA."""
        if self._channel is None:
            self._channel = EventChannel()
        return self._channel

    async def settle(self) -> None:
        """Wait until the connections that are being taken down are gone."""
        if self._channel is not None:
            await self._channel.settle()

    def close(self) -> None:
        """Close the channel; no connection may be left. The device stays open as long as the process lives."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class _Run(Attempt):
    """One discovery, and what is known of it so far."""

    async def targets(self, channel: EventChannel) -> DiscoveryDone:
        """The targets of the portal, or of the one it sends us to."""
        chain = RedirectChain(self.portal)
        while isinstance(outcome := await self._ask(channel), Redirected):
            chain.follow(outcome.portal)
            self.portal = outcome.portal
        return outcome

    async def _ask(self, channel: EventChannel) -> DiscoveryDone | Redirected:
        # Before the connection: a name nobody could accept must not leave a connection without a login behind.
        config = config_of(self.question, self.portal, self.random_bytes)
        engine = DiscoveryEngine(config, random_bytes=self.random_bytes)
        connection = await self.connect(channel, DISCOVERY)
        try:
            return await converse(connection, engine, self.steps, str(self.portal))
        finally:
            await self.take_down(connection)


async def converse(link: Link, engine: DiscoveryEngine, steps: Steps, peer: str) -> DiscoveryDone | Redirected:
    """Let `engine` speak over `link` until it ends. Raises IscsiFailure with the engine's verdict."""
    loop = asyncio.get_running_loop()
    engine.start(loop.time())
    while True:
        steps.begin(_STEP_OF_STATE.get(engine.state, steps.current))
        output = engine.take_output()
        for item in output:
            if isinstance(item, Pdu):
                await _send(link, item, engine, peer)
            elif isinstance(item, DiscoveryFailed):
                raise IscsiFailure(item.err, item.message, hint=item.hint, code=item.code)
            elif isinstance(item, DiscoveryDone | Redirected):
                return item
        if not output:
            await _receive(link, engine, peer)


async def _send(link: Link, pdu: Pdu, engine: DiscoveryEngine, peer: str) -> None:
    try:
        await link.send(wrap(pdu))
    except RdmactlError as failure:
        engine.lost(what_ended(failure, peer))


async def _receive(link: Link, engine: DiscoveryEngine, peer: str) -> None:
    """Take one message, or let the engine know why there is none."""
    loop = asyncio.get_running_loop()
    wake_at = engine.wake_at()
    try:
        async with asyncio.timeout_at(wake_at):
            message = await link.receive()
        pdu = unwrap(message)
    except TimeoutError:
        engine.tick(loop.time())
    except PeerError as failure:
        if failure.code == "iser-framing":
            engine.broken(failure)
        else:
            engine.lost(what_ended(failure, peer))
    except RdmactlError as failure:
        engine.lost(what_ended(failure, peer))
    else:
        engine.receive(pdu.header, pdu.data, loop.time())


def config_of(question: Question, portal: Portal, random_bytes: Callable[[int], bytes]) -> DiscoveryConfig:
    """The discovery a question means. LocalError for a name or CHAP settings that cannot be used."""
    return DiscoveryConfig(
        initiator_name=question.initiator_name,
        portal=portal,
        isid=random_isid(random_bytes),
        transport="iser",
        chap=credentials_of(question),
        # Our receive buffers are posted before the login, so one request may carry keys and transition.
        single_transition=False,
    )
