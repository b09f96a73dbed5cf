# SPDX-License-Identifier: Apache-2.0
"""From a question to a session: address, connection, login, with the redirections on the way. Shell ring.

`Attempt` keeps what is known of it, also when it fails: how far it came, over which device, from which address.
Not here: the login's rounds (`rdmactl.iscsi.login`), the session (`session.py`), discovery sessions (`discovery.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from rdmactl.errors import PeerError, RdmactlError
from rdmactl.iscsi.errors import IscsiFailure
from rdmactl.iscsi.iser import PRIVATE_DATA, unwrap, wrap
from rdmactl.iscsi.login import LoginEngine, random_isid
from rdmactl.iscsi.login_model import LoginConfig, LoginDone, LoginFailed, Redirected
from rdmactl.iscsi.negotiation import ISER_MAX_XMIT_BYTES, OperationalSettings
from rdmactl.iscsi.pdu import Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.redirect import RedirectChain
from rdmactl.rdmacm import failures
from rdmactl.rdmacm.address import resolve
from rdmactl.rdmacm.channel import EventChannel
from rdmactl.rdmacm.connection import Connection
from rdmactl.rdmacm.credentials import credentials_of
from rdmactl.rdmacm.endpoint import Sizes, session_sizes
from rdmactl.rdmacm.port_mapper import part_of_port_mapper
from rdmactl.rdmacm.report import Question
from rdmactl.rdmacm.session import Session
from rdmactl.rdmacm.steps import Steps

__all__ = ["Attempt", "Link", "log_in", "login_config", "what_ended"]

LOGIN_S = 15.0

_SETTINGS = OperationalSettings(
    # Answers are short, sense data at most; what is larger moves by RDMA.
    max_recv_data_segment_bytes=ISER_MAX_XMIT_BYTES,
    max_xmit_data_segment_bytes=ISER_MAX_XMIT_BYTES,
    # The target fetches all data of a write: one way for all targets.
    initial_r2t=True,
    max_burst_bytes=262144,
    first_burst_bytes=65536,
)


class Link(Protocol):
    """What a conversation needs of a connection: whole messages, and RdmactlError when it is over."""

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes: ...


class Attempt:
    """One way to a portal, and to a session there. `stage` is the step it is in, or was in before it was taken down."""

    def __init__(self, question: Question, steps: Steps, random_bytes: Callable[[int], bytes]) -> None:
        self.question, self.steps, self.random_bytes = question, steps, random_bytes
        self.portal = question.portal
        self.stage = "address"
        self.device = self.transport = self.local = self.port_mapper = ""
        self.stuck = False

    async def session(self, channel: EventChannel, depth: int) -> Session:
        """Log in to the question's target. Raises what went wrong; everything has been given back then."""
        chain = RedirectChain(self.portal)
        while not isinstance(outcome := await self._visit(channel, depth), Session):
            chain.follow(outcome.portal)
            self.portal = outcome.portal
        return outcome

    async def _visit(self, channel: EventChannel, depth: int) -> Session | Redirected:
        # Before the connection: a name nobody could accept must not leave a connection without a login behind.
        config = login_config(self.question, self.portal, self.random_bytes)
        engine = LoginEngine(config, random_bytes=self.random_bytes)
        connection = await self.connect(channel, session_sizes(depth))
        try:
            self.steps.begin("login")
            outcome = await log_in(connection, engine, str(self.portal))
            if isinstance(outcome, LoginDone):
                return Session(connection, outcome, self.question.target, depth)
        except BaseException:
            await self.take_down(connection)
            raise
        await self.take_down(connection)
        return outcome

    async def connect(self, channel: EventChannel, sizes: Sizes) -> Connection:
        """A connection to the portal, which is the caller's to take down. When it fails, that has been done."""
        self.steps.begin("address")
        destination = await resolve(self.portal)
        source = (await resolve(Portal(self.question.source)))._replace(port=0) if self.question.source else None
        connection = Connection(channel, str(self.portal), sizes=sizes, steps=self.steps)
        try:
            await connection.connect(destination, PRIVATE_DATA, source)
            await self._trace(connection)
        except BaseException:
            self._note(connection)
            await self.take_down(connection)
            raise
        self._note(connection)
        return connection

    def late(self, seconds: float) -> RdmactlError:
        """The failure when the whole took longer than `seconds`; it names the step."""
        return failures.deadline_passed(str(self.portal), self.stage, seconds)

    async def take_down(self, connection: Connection) -> None:
        """Give everything back, and remember when that is not possible."""
        self.stage = self.steps.current
        self.steps.begin("teardown")
        await connection.close()
        self.stuck = self.stuck or connection.stuck

    async def _trace(self, connection: Connection) -> None:
        local = connection.local
        if self.question.trace and connection.transport == "iWARP" and local is not None:
            self.steps.begin("port mapper")
            self.port_mapper = await asyncio.get_running_loop().run_in_executor(None, part_of_port_mapper, local)

    def _note(self, connection: Connection) -> None:
        self.device, self.transport = connection.device, connection.transport
        self.local = str(connection.local or "")


def login_config(question: Question, portal: Portal, random_bytes: Callable[[int], bytes]) -> LoginConfig:
    """The login a question means. LocalError for a name or CHAP settings that cannot be used."""
    return LoginConfig(
        initiator_name=question.initiator_name,
        portal=portal,
        target_name=question.target,
        isid=random_isid(random_bytes),
        transport="iser",
        settings=_SETTINGS,
        chap=credentials_of(question),
        # Our receive buffers are posted before the login, so one request may carry keys and transition.
        single_transition=False,
        deadline_s=LOGIN_S,
    )


async def log_in(link: Link, engine: LoginEngine, peer: str) -> LoginDone | Redirected:
    """Let `engine` speak over `link` until it ends. Raises IscsiFailure with the engine's verdict."""
    loop = asyncio.get_running_loop()
    await _send(link, engine.start(loop.time()), engine, peer)
    while True:
        output = engine.take_output()
        for item in output:
            if isinstance(item, Pdu):
                await _send(link, item, engine, peer)
            elif isinstance(item, LoginFailed):
                raise IscsiFailure(item.err, item.message, hint=item.hint, code=item.code)
            elif isinstance(item, LoginDone | Redirected):
                return item
        if not output:
            await _receive(link, engine, peer)


async def _send(link: Link, pdu: Pdu, engine: LoginEngine, peer: str) -> None:
    try:
        await link.send(wrap(pdu))
    except RdmactlError as failure:
        engine.lost(what_ended(failure, peer))


async def _receive(link: Link, engine: LoginEngine, peer: str) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(engine.wake_at()):
            message = await link.receive()
        pdu = unwrap(message)
    except TimeoutError:
        engine.tick(loop.time())
    except PeerError as failure:
        engine.lost(failure.message if failure.code == "iser-framing" else what_ended(failure, peer))
    except RdmactlError as failure:
        engine.lost(what_ended(failure, peer))
    else:
        engine.receive(pdu.header, pdu.data, loop.time())


def what_ended(failure: RdmactlError, peer: str) -> str:
    """How a connection ended, for a sentence that names the portal already."""
    return failure.message.replace(peer, "the target")
