# SPDX-License-Identifier: Apache-2.0
"""What the initiator must do, as scenarios that run against the fake kernel and against a real one alike.

Whatever holds on the real kernel and not on the fake is a defect of the fake.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

import pytest

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import LoginRequest, SessionSettings, SessionStatus
from rdmactl.initiator.service import InitiatorService
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal

INITIATOR = "iqn.2026-11.test:initiator"
FAST = SessionSettings(login_timeout_s=4.0, initial_login_retry_max=1, logout_timeout_s=5.0, default_time2wait_s=0)


class World(Protocol):
    """Where a scenario takes place. `call` runs a function on the service, in its lane."""

    root: str
    target: str
    settle_s: float  # how long the slowest expected change may take
    patience_s: float  # of a login nobody answers
    login_tries: int  # LIO's iSER answers nobody for up to 15 s after a login that was broken off

    async def call(self, function: Callable[[InitiatorService], Awaitable[Any]]) -> Any: ...
    async def restart(self) -> None: ...
    def portal(self, transport: str) -> Portal: ...
    def refused(self, transport: str) -> Portal: ...
    def break_connection(self, sid: int) -> None: ...
    def leftovers(self) -> list[str]: ...


def request(world: World, transport: str, settings: SessionSettings | None = None) -> LoginRequest:
    if settings is None:
        settings = replace(FAST, initial_login_retry_max=world.login_tries)
    return LoginRequest(
        target=world.target,
        portal=world.portal(transport),
        iface_name="iser" if transport == "iser" else "default",
        transport=transport,
        initiator_name=INITIATOR,
        settings=settings,
    )


async def login(world: World, wanted: LoginRequest) -> int:
    sid = await world.call(lambda service: service.login(wanted))
    assert isinstance(sid, int)
    return sid


async def logout(world: World, sid: int) -> None:
    await world.call(lambda service: service.logout(sid))


async def failure(world: World, wanted: LoginRequest) -> IscsiFailure:
    try:
        sid = await login(world, wanted)
    except IscsiFailure as error:
        return error
    raise AssertionError(f"session {sid} was made")


async def eventually(world: World, condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + world.settle_s
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.005)


async def recovered(world: World, times: int = 1, sid: int | None = None) -> SessionStatus:
    """Wait until a session (the only one) has come back for the `times`-th time."""

    async def ask(service: InitiatorService) -> list[SessionStatus]:
        return service.status()

    end = time.monotonic() + world.settle_s
    while True:
        (status,) = [each for each in await world.call(ask) if sid in (None, each.sid)]
        assert isinstance(status, SessionStatus)
        if status.recoveries >= times and status.phase == "logged in":
            return status
        assert time.monotonic() < end, f"the session does not come back: {status}"
        await asyncio.sleep(0.005)


def view(world: World, sid: int) -> sysfs.SessionView:
    found = sysfs.session(sid, world.root)
    assert found is not None
    return found


async def login_and_logout(world: World, transport: str) -> None:
    sid = await login(world, request(world, transport))
    found = view(world, sid)
    assert (found.state, found.connection_state) == ("LOGGED_IN", "up")
    assert (found.target, found.persistent, found.transport) == (world.target, world.portal(transport), transport)
    assert found.interface().initiator_name == INITIATOR
    assert found.timeouts().recovery_s == FAST.replacement_timeout_s
    negotiated = found.negotiated()
    assert negotiated.max_burst_length == 262144
    assert negotiated.first_burst_length == 65536
    await logout(world, sid)
    assert world.leftovers() == []


async def the_same_twice(world: World, transport: str) -> None:
    sid = await login(world, request(world, transport))
    assert (await failure(world, request(world, transport))).err is IscsiErr.SESS_EXISTS
    again = await login(world, replace(request(world, transport), sessions_wanted=2))
    assert again != sid
    await logout(world, again)
    await logout(world, sid)
    assert world.leftovers() == []


async def the_same_at_once(world: World, transport: str) -> None:
    wanted = request(world, transport)
    results = await asyncio.gather(*(login(world, wanted) for _ in range(3)), return_exceptions=True)
    sids = [result for result in results if isinstance(result, int)]
    refused = [result for result in results if isinstance(result, IscsiFailure)]
    assert len(sids) == 1
    assert [error.err for error in refused] == [IscsiErr.SESS_EXISTS, IscsiErr.SESS_EXISTS]
    assert len(sysfs.sessions(world.root)) == 1
    await logout(world, sids[0])
    assert world.leftovers() == []


async def nobody_listens(world: World, transport: str) -> None:
    settings = replace(FAST, login_timeout_s=world.patience_s, initial_login_retry_max=1)
    begin = time.monotonic()
    error = await failure(world, replace(request(world, transport, settings), portal=world.refused(transport)))
    assert error.err is IscsiErr.TRANS_TIMEOUT
    assert str(world.refused(transport)) in error.message
    assert time.monotonic() - begin < world.patience_s + world.settle_s
    assert world.leftovers() == []


async def no_such_target(world: World, transport: str) -> None:
    settings = replace(FAST, login_timeout_s=2.0, initial_login_retry_max=1)
    error = await failure(world, replace(request(world, transport, settings), target="iqn.2026-11.test:nobody"))
    # LIO says "service unavailable", which may pass, and over RDMA disconnects before its answer is out
    assert error.err in (IscsiErr.FATAL_LOGIN, IscsiErr.TRANS_TIMEOUT)
    assert "iqn.2026-11.test:nobody" in error.message
    assert world.leftovers() == []


async def caller_goes_away(world: World, transport: str) -> None:
    """Cancelled at several moments of its life, a login leaves either a whole session or nothing."""
    for delay_s in (0.0, 0.001, 0.003, 0.01, 0.03):
        task = asyncio.ensure_future(login(world, request(world, transport)))
        await asyncio.sleep(delay_s)
        task.cancel()
        await asyncio.wait([task])
        await eventually(world, lambda: not _half_made(world), "a half-made session stays")
        for found in sysfs.sessions(world.root):
            await _logout_if_there(world, found.sid)
        await eventually(world, lambda: world.leftovers() == [], f"left behind: {world.leftovers()}")


async def _logout_if_there(world: World, sid: int) -> None:
    """A login that was cancelled when all was done but telling may be undone by itself meanwhile."""
    try:
        await logout(world, sid)
    except IscsiFailure as error:
        assert error.err is IscsiErr.SESS_NOT_FOUND  # noqa: PT017 - and no failure is right as well


async def logged_out_twice_at_once(world: World, transport: str) -> None:
    """Whoever wants a session gone is content when it is gone."""
    sid = await login(world, request(world, transport))
    await asyncio.gather(logout(world, sid), logout(world, sid))
    assert world.leftovers() == []


def _half_made(world: World) -> list[int]:
    return [found.sid for found in sysfs.sessions(world.root) if found.connection_text != "LOGGED IN"]


async def connection_lost(world: World, transport: str) -> None:
    sid = await login(world, request(world, transport))
    world.break_connection(sid)
    await recovered(world)
    assert view(world, sid).connection_text == "LOGGED IN"
    await logout(world, sid)
    assert world.leftovers() == []


async def service_restarts(world: World, transport: str) -> None:
    """A running session is taken over as it is, and can be logged out by the new instance."""
    sid = await login(world, request(world, transport))
    await world.restart()
    assert view(world, sid).connection_text == "LOGGED IN"
    assert (await failure(world, request(world, transport))).err is IscsiErr.SESS_EXISTS
    await logout(world, sid)
    assert world.leftovers() == []
    again = await login(world, request(world, transport))
    assert max(sysfs.endpoints(world.root), default=1) == 1  # the lowest number is free
    await logout(world, again)


async def unknown_session(world: World, transport: str) -> None:
    with pytest.raises(IscsiFailure) as caught:
        await logout(world, 4711)
    assert caught.value.err is IscsiErr.SESS_NOT_FOUND


SCENARIOS = [
    login_and_logout,
    the_same_twice,
    the_same_at_once,
    nobody_listens,
    no_such_target,
    caller_goes_away,
    logged_out_twice_at_once,
    connection_lost,
    service_restarts,
    unknown_session,
]
