# SPDX-License-Identifier: Apache-2.0
"""Whether plain iSCSI answers where iSER did not: asked of targets, of other services, and of nobody, on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from rdmactl.errors import DeadlineExceeded, PeerError, RdmactlError
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.plain import answers_plain_iscsi, explain_refusal
from rdmactl.rdmacm.report import Question
from tests.fake.target import StreamTarget, TargetScript

pytestmark = pytest.mark.fake

ME = "iqn.2026-11.test:me"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    engine = StreamTarget(TargetScript(status=0x0202))  # a refusal is an answer too
    while data := await reader.read(65536):
        writer.write(engine.receive(data))
    writer.close()


async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP; what follows is long enough to be a header\r\n")
    await reader.read()
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def asked(serve: Serve, question: Callable[[Portal], Awaitable[object]]) -> object:
    async def main() -> object:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await question(Portal(*server.sockets[0].getsockname()))

    return asyncio.run(main())


@pytest.mark.parametrize(("serve", "expected"), [(target, True), (mail, False), (hang_up, False)])
def test_who_answers(serve: Serve, expected: bool) -> None:
    assert asked(serve, lambda portal: answers_plain_iscsi(portal, ME)) is expected


def test_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        portal = Portal(*closed.getsockname())
    assert not asyncio.run(answers_plain_iscsi(portal, ME))


@pytest.mark.parametrize(
    ("error", "stage", "explained"),
    [
        (PeerError("refused", hint="check", code="refused"), "connect", True),
        (DeadlineExceeded("late"), "connect", True),
        (DeadlineExceeded("late"), "login", False),
        (PeerError("no route", code="no-route"), "connect", False),
    ],
)
def test_only_a_refused_or_silent_connection_is_explained(error: RdmactlError, stage: str, explained: bool) -> None:
    before = error.hint
    asked(target, lambda portal: explain_refusal(error, portal, stage, Question(portal, ME)))
    assert ("a plain iSCSI target answers there" in (error.hint or "")) is explained
    assert explained or error.hint == before
