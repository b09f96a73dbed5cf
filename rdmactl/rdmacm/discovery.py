# SPDX-License-Identifier: Apache-2.0
"""A whole SendTargets discovery over iSER: connect, login, list, logout, teardown, each step timed. Shell ring.

Also what a ping is made of. A bare connection must never be the probe: LIO's portal then waits up to 15 s for a login
and takes no other initiator meanwhile; after a complete login and logout it does not.

`converse` needs no more than a `Link`, so everything but the verbs runs in memory too.
Not here: PDUs and rounds (`rdmactl.iscsi.discovery`), the process this runs in (`worker.py`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from rdmactl.errors import PeerError, RdmactlError
from rdmactl.iscsi.chap import ChapCredentials, Secret
from rdmactl.iscsi.discovery import DiscoveryConfig, DiscoveryDone, DiscoveryEngine, DiscoveryFailed
from rdmactl.iscsi.discovery_states import DiscoveryState
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.iser import PRIVATE_DATA, unwrap, wrap
from rdmactl.iscsi.login import random_isid
from rdmactl.iscsi.login_model import Redirected
from rdmactl.iscsi.pdu import Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.redirect import RedirectChain
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm import failures
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.connection import Connection
from rdmactl.rdmacm.report import FoundTarget, Question, Report
from rdmactl.rdmacm.steps import Steps

__all__ = ["Discoverer", "Link", "config_of", "converse", "resolve"]

_STEP_OF_STATE = {
    DiscoveryState.LOGIN: "login",
    DiscoveryState.TEXT: "sendtargets",
    DiscoveryState.PAUSE: "sendtargets",
    DiscoveryState.LOGOUT: "logout",
}


class Link(Protocol):
    """What a conversation needs of a connection: whole messages, and RdmactlError when it is over."""

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes: ...


class Discoverer:
    """Discoveries of one process. The event channel is opened by the first and stays for the others."""

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._channel: EventChannel | None = None
        self.stuck = False
        """A call blocks and cannot be stopped: the process has to end."""

    async def answer(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """`discover` with JSON in and out, as the worker's operation."""
        return (await self.discover(Question.from_json(arguments))).to_json()

    async def discover(self, question: Question) -> Report:
        """Do it. What goes wrong is in the report."""
        run = _Run(question, Steps(asyncio.get_running_loop().time), self._random_bytes)
        targets: tuple[FoundTarget, ...] = ()
        error: RdmactlError | None = None
        try:
            if self._channel is None:
                self._channel = EventChannel()
            async with asyncio.timeout(question.deadline_s):
                targets = await run.targets(self._channel)
        except TimeoutError:
            error = failures.deadline_passed(str(run.portal), run.stage, question.deadline_s)
        except RdmactlError as failure:
            error = failure
        self.stuck = self.stuck or run.stuck
        run.steps.end()
        return Report(run.steps.taken(), run.steps.total_s(), run.device, run.transport, run.local, targets, error)


class _Run:
    """One discovery, and what is known of it so far. `stage` is the step it was in before it was taken down."""

    def __init__(self, question: Question, steps: Steps, random_bytes: Callable[[int], bytes]) -> None:
        self.question, self.steps, self._random_bytes = question, steps, random_bytes
        self.portal = question.portal
        self.stage = "address"
        self.device = self.transport = self.local = ""
        self.stuck = False

    async def targets(self, channel: EventChannel) -> tuple[FoundTarget, ...]:
        """The targets of the portal, or of the one it sends us to."""
        chain = RedirectChain(self.portal)
        while isinstance(outcome := await self._visit(channel), Redirected):
            chain.follow(outcome.portal)
            self.portal = outcome.portal
        return tuple(FoundTarget(*target) for target in outcome.targets)

    async def _visit(self, channel: EventChannel) -> DiscoveryDone | Redirected:
        self.steps.begin("address")
        destination = await resolve(self.portal)
        source = (await resolve(Portal(self.question.source)))._replace(port=0) if self.question.source else None
        # Before the connection: a name nobody could accept must not leave a connection without a login behind.
        config = config_of(self.question, self.portal, self._random_bytes)
        engine = DiscoveryEngine(config, random_bytes=self._random_bytes)
        connection = Connection(channel, str(self.portal), steps=self.steps)
        try:
            await connection.connect(destination, PRIVATE_DATA, source)
            return await converse(connection, engine, self.steps, str(self.portal))
        finally:
            self.stage = self.steps.current
            self.device, self.transport = connection.device, connection.transport
            self.local = str(connection.local or "")
            self.steps.begin("teardown")
            await connection.close()
            self.stuck = connection.stuck


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
                raise IscsiFailure(item.err, item.message, hint=item.hint)
            elif isinstance(item, DiscoveryDone | Redirected):
                return item
        if not output:
            await _receive(link, engine, peer)


async def _send(link: Link, pdu: Pdu, engine: DiscoveryEngine, peer: str) -> None:
    try:
        await link.send(wrap(pdu))
    except RdmactlError as failure:
        engine.lost(_what(failure, peer))


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
            engine.lost(_what(failure, peer))
    except RdmactlError as failure:
        engine.lost(_what(failure, peer))
    else:
        engine.receive(pdu.header, pdu.data, loop.time())


def _what(failure: RdmactlError, peer: str) -> str:
    """How the connection ended, for a sentence that names the portal already."""
    return failure.message.replace(peer, "the target")


def config_of(question: Question, portal: Portal, random_bytes: Callable[[int], bytes]) -> DiscoveryConfig:
    """The discovery a question means. LocalError for a name or CHAP settings that cannot be used."""
    chap = None
    if question.username:
        chap = ChapCredentials(
            username=question.username,
            secret=Secret(question.password),
            username_in=question.username_in or None,
            secret_in=Secret(question.password_in) if question.password_in else None,
            algorithms=question.algorithms,
        )
    return DiscoveryConfig(
        initiator_name=question.initiator_name,
        portal=portal,
        isid=random_isid(random_bytes),
        transport="iser",
        chap=chap,
        # Our receive buffers are posted before the login, so one request may carry keys and transition.
        single_transition=False,
    )


async def resolve(portal: Portal) -> SockAddr:
    """The first address of a portal. A number is read at once, a name is looked up in a thread."""
    try:
        found = socket.getaddrinfo(
            portal.address, portal.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror:
        found = await _look_up(portal)
    family, _, _, _, address = found[0]
    number = socket.inet_pton(family, str(address[0]).partition("%")[0])
    return SockAddr(family, portal.port, number, int(address[3]) if len(address) > 3 else 0)


async def _look_up(portal: Portal) -> list[Any]:
    try:
        return await asyncio.get_running_loop().getaddrinfo(portal.address, portal.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise IscsiFailure(
            IscsiErr.HOST_NOT_FOUND, f"there is no address for {portal.address}: {error.strerror}"
        ) from None
