# SPDX-License-Identifier: Apache-2.0
"""From a request to a running kernel session, and everything away again: the sequences, one attempt each. Shell ring.

    first login   connect - create session and connection - bind - login - start
    relogin       (the old connection was released) connect - bind - login - start
    redirect      release, connect elsewhere, bind, login; the session and its configured portal stay the same
    removal       release - destroy - wait until the kernel says it is gone

An attempt has one deadline for everything up to START_CONN; a connection that came late still gets half of the time for
its login. Whatever fails, and when the caller goes away, what was made is unmade: no session, no host, no endpoint, no
socket is left. Two things make that certain: requests that make an object are awaited to their end (`tasks.py`), and a
removal runs to its end even if nobody waits for it.

Many at once: connections are made side by side, for a silent portal costs nobody but its own session; what comes after
(kernel objects, PDUs) has a cap, so that a thousand logins do not starve each other of their deadlines.

Not here: when to try again (`service.py`, `recovery.py`), PDUs (`rdmactl.iscsi.login`), LUNs (`scan.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Literal

from rdmactl.errors import KernelError, RdmactlError
from rdmactl.initiator import params, sysfs
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.breaker import Breakers
from rdmactl.initiator.connect import TcpOptions, bound_device, resolve, tcp_connect
from rdmactl.initiator.events import Inbox, Inboxes
from rdmactl.initiator.failures import TryAgain, as_failure
from rdmactl.initiator.kernel import Kernel, KernelSession, host_params
from rdmactl.initiator.scan import host_gone
from rdmactl.initiator.session import Session
from rdmactl.initiator.tasks import Tasks
from rdmactl.iscsi.chap import ChallengeBook
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.login import LoginConfig, LoginDone, LoginEngine, LoginFailed, Notice, Redirected
from rdmactl.iscsi.login_states import LoginState
from rdmactl.iscsi.pdu import Pdu, next_serial
from rdmactl.iscsi.portal import UNKNOWN_TPGT, Portal
from rdmactl.iscsi.redirect import RedirectChain
from rdmactl.netlink.iscsi import (
    ConnError,
    ConnStop,
    HostParam,
    ReceivedPdu,
    SessionDestroyed,
    kernel_error_text,
)
from rdmactl.netlink.ports import Lane

__all__ = ["Logins"]

log = logging.getLogger(__name__)

# DESTROY_SESSION waits for SCSI commands in flight: their own time-outs end them.
_DESTROY_S = 60.0
_HOST_GONE_S = 5.0
_LAST_WORDS_S = 0.1
_CONNECTS_AT_ONCE = 512  # descriptors, and SYNs in one burst
_LOGINS_AT_ONCE = 32  # the kernel serialises them anyway: this hides the targets' round trips
_LEAST_S = 0.1  # for a login whose connection came at the last moment


@dataclass(slots=True)
class _Link:
    """A connected transport nobody owns yet: an iser endpoint or a TCP socket."""

    endpoint: int | None = None
    sock: socket.socket | None = None


class _Redirect(Exception):
    """A turn of events, not an error; it never leaves this module."""

    def __init__(self, portal: Portal, permanent: bool) -> None:
        self.portal = portal
        self.permanent = permanent


class Logins:
    """The sequences, for one service."""

    def __init__(
        self,
        lane: Lane,
        kernel: Kernel,
        inboxes: Inboxes,
        tasks: Tasks,
        breakers: Breakers,
        *,
        root: str = "/sys",
        portal_back: Callable[[Portal], None] = lambda portal: None,
        moved: Callable[[Session, LoginRequest], None] = lambda session, before: None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._lane = lane
        self._kernel = kernel
        self._inboxes = inboxes
        self._tasks = tasks
        self._breakers = breakers
        self._portal_back = portal_back
        self._moved = moved
        self._connecting = asyncio.Semaphore(_CONNECTS_AT_ONCE)
        self._working = asyncio.Semaphore(_LOGINS_AT_ONCE)
        self._root = root
        self._random_bytes = random_bytes
        self._challenges = ChallengeBook()

    async def first(self, request: LoginRequest, handle: int, attempt_s: float) -> Session:
        """A new session, logged in. TryAgain or IscsiFailure; nothing is left behind then."""
        link, left_s = await self._reach(request, handle, attempt_s)
        async with self._turn(link, handle):
            return await self._make(request, handle, link, self._lane.now() + left_s)

    async def _reach(self, request: LoginRequest, handle: int, attempt_s: float) -> tuple[_Link, float]:
        """Connect; and what is left of the attempt's time. The portal's breaker learns how it went."""
        portal = request.portal
        async with self._connecting:
            deadline = self._lane.now() + attempt_s
            try:
                link = await self._connect(request, portal, handle, deadline)
            except TryAgain:
                self._breakers.failed(portal, self._lane.now())
                raise
        if self._breakers.succeeded(portal):
            self._portal_back(portal)
        return link, max(deadline - self._lane.now(), attempt_s / 2)

    @contextlib.asynccontextmanager
    async def _turn(self, link: _Link, handle: int) -> AsyncIterator[None]:
        """Wait until not too many logins are at work. When the caller goes away meanwhile the connection is, too."""
        try:
            await self._working.acquire()
        except BaseException:
            await self._tasks.complete(self._drop(link, handle))
            raise
        try:
            yield
        finally:
            self._working.release()

    async def _make(self, request: LoginRequest, handle: int, link: _Link, deadline: float) -> Session:
        """The kernel's objects for a connection that stands, and the login."""
        try:
            made = await self._create(request, handle, link)
        except BaseException as error:
            await self._tasks.complete(self._drop(link, handle))
            raise _told(error, request) from error
        session = Session(made, request, self._inboxes.open(made.sid))
        try:
            await self._log_in(session, link, deadline, new=True)
        except BaseException as error:
            if link.sock is not None:
                link.sock.close()
            await self._tasks.complete(self._discard(session))
            raise _told(error, request) from error
        return session

    async def again(self, session: Session, attempt_s: float) -> None:
        """Log a session in on a new connection; its old one is released already. On failure the new one is, too."""
        link, left_s = await self._reach(session.request, session.kernel.handle, attempt_s)
        async with self._turn(link, session.kernel.handle):
            try:
                await self._log_in(session, link, self._lane.now() + left_s)
            except BaseException as error:
                await self._tasks.complete(self.release(session))
                raise _told(error, session.request) from error

    async def release(self, session: Session) -> None:
        """Take a session's connection away and keep its commands for the next; no event of the old one is left."""
        await self._kernel.release(session.kernel, ConnStop.RECOVER, failed=session.inbox.failed)
        await self._inboxes.barrier()
        session.inbox.clear()
        session.inbox.failed = False

    async def _discard(self, session: Session) -> None:
        """Remove what a failed login has left; the failure itself is the news, not this."""
        try:
            await self.remove(session)
        except RdmactlError as error:
            log.error("%s: %s", session, error)

    async def remove(self, session: Session) -> None:
        """End a session for good. Returns when the kernel has forgotten it; IscsiFailure (28) when it does not."""
        with contextlib.suppress(RdmactlError):  # destroying works without, at the price of an endpoint
            await self._kernel.release(session.kernel, ConnStop.TERM, failed=session.inbox.failed)
        await self._kernel.destroy(session.kernel)
        try:
            async with asyncio.timeout(_DESTROY_S):
                await session.inbox.destroyed.wait()
        except TimeoutError:
            raise IscsiFailure(
                IscsiErr.BUSY,
                f"{session} is not gone {_DESTROY_S:.0f} s after it was destroyed",
                hint="a command to one of its disks does not end; see the kernel log",
            ) from None
        finally:
            self._inboxes.close(session.sid)
        host_no = session.kernel.host_no
        await self._lane.blocking(lambda: host_gone(host_no, _HOST_GONE_S, self._root), deadline_s=2 * _HOST_GONE_S)

    # ---------------------------------------------------------------- connecting

    async def _connect(self, request: LoginRequest, portal: Portal, handle: int, deadline: float) -> _Link:
        addresses = await resolve(self._lane, portal, max(0.0, deadline - self._lane.now()))
        left_s = max(0.0, deadline - self._lane.now())
        if request.transport == "tcp":
            settings = request.settings
            netdev = bound_device(request.netdev, request.hw_address, self._root)
            options = TcpOptions(settings.tcp_window_size, settings.type_of_service, netdev, request.source_address)
            return _Link(sock=await tcp_connect(portal, addresses, options, left_s))
        failure = TryAgain(IscsiErr.TRANS, f"{portal} has no address")
        try:
            async with asyncio.timeout(left_s):
                for address in addresses:
                    try:
                        return _Link(endpoint=await self._connect_endpoint(handle, address.pack(), str(portal)))
                    except TryAgain as error:
                        failure = error
        except TimeoutError:
            raise TryAgain(
                IscsiErr.TRANS_TIMEOUT,
                f"{portal} did not answer an RDMA connection within {left_s:.3g} s",
                hint="check address, routing and that the target serves iSER there",
            ) from None
        raise failure

    async def _connect_endpoint(self, handle: int, sockaddr: bytes, peer: str) -> int:
        endpoint = await self._tasks.acquire(
            self._kernel.endpoint_connect(handle, sockaddr, peer),
            lambda made: self._kernel.endpoint_disconnect(handle, made),
        )
        try:
            await self._kernel.endpoint_wait(handle, endpoint, peer)
        except BaseException:
            await self._tasks.complete(self._kernel.endpoint_disconnect(handle, endpoint))
            raise
        return endpoint

    async def _create(self, request: LoginRequest, handle: int, link: _Link) -> KernelSession:
        settings = request.settings
        return await self._tasks.acquire(
            self._kernel.create_session(
                request.transport,
                handle,
                link.endpoint,
                settings.initial_cmdsn,
                settings.cmds_max,
                params.queue_depth(settings),
            ),
            self._kernel.destroy,
        )

    async def _drop(self, link: _Link, handle: int) -> None:
        if link.sock is not None:
            link.sock.close()
        if link.endpoint is not None:
            await self._kernel.endpoint_disconnect(handle, link.endpoint)

    # ---------------------------------------------------------------- logging in

    async def _log_in(self, session: Session, link: _Link, deadline: float, *, new: bool = False) -> None:
        """Bind, log in and start, following redirections. On failure the session holds whatever has to be released.

        `new`: the kernel has no connection of the session yet.
        """
        chain = RedirectChain(session.request.portal)
        while True:
            try:
                engine = self._engine(session, chain.portals[-1], deadline, new)
                await self._bind(session, link, engine.start(self._lane.now()), new)
                done = await self._converse(session, engine)
                break
            except _Redirect as redirect:
                log.info("%s: redirected to %s", session, redirect.portal)
                chain.follow(redirect.portal, permanent=redirect.permanent)
            await self.release(session)
            new = False
            link = await self._connect(session.request, chain.portals[-1], session.kernel.handle, deadline)
        tpgt = None if done.tpgt == UNKNOWN_TPGT else done.tpgt
        final = params.after_login(done.results, tpgt, next_serial(done.statsn), session.request.transport)
        session.time2wait_s = done.results.default_time2wait_s
        before = session.request
        if chain.home == before.portal:
            await self._kernel.start(session.kernel, final)
            return
        await self._kernel.start(session.kernel, [*params.portal(chain.home), *final])
        session.request = replace(before, portal=chain.home)  # only now: a target nobody could log in to moves nothing
        self._moved(session, before)

    async def _bind(self, session: Session, link: _Link, first: Pdu, new: bool) -> None:
        """Give the session its transport, and send the first PDU there. The endpoint is the session's own now; of a
        socket the kernel keeps a reference.
        """
        made, request = session.kernel, session.request
        made.endpoint = link.endpoint
        shown = [(HostParam.NETDEV_NAME, request.netdev), (HostParam.HWADDRESS, request.hw_address)]
        host = host_params(made.handle, made.host_no, shown)
        with link.sock or contextlib.nullcontext():
            eph = link.sock.fileno() if link.sock is not None else link.endpoint
            assert eph is not None
            pdu = first.header, first.data
            await self._kernel.bind(made, eph, host, params.before_login(request), pdu, new=new)

    async def _converse(self, session: Session, engine: LoginEngine) -> LoginDone:
        """After the first PDU, to the end."""
        while True:
            state = engine.state
            await self._feed(engine, session.inbox)
            for item in engine.take_output():
                match item:
                    case Pdu():
                        await self._send(session, item)
                    case LoginDone():
                        return item
                    case Redirected():
                        raise _Redirect(item.portal, item.permanent)
                    case LoginFailed():
                        raise _login_failure(item, state)
                    case Notice():
                        log.info("%s", item.message)

    async def _feed(self, engine: LoginEngine, inbox: Inbox) -> None:
        """Give the engine what comes next, or the time."""
        wake_at = engine.wake_at()
        try:
            async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - self._lane.now())):
                item = await inbox.next()
        except TimeoutError:
            engine.tick(max(self._lane.now(), wake_at or 0.0))
            return
        match item:
            case ReceivedPdu():
                engine.receive(item.header, item.data, self._lane.now())
            case ConnError():
                await self._feed_last_words(engine, inbox)
                engine.lost(kernel_error_text(item.error))
            case SessionDestroyed():
                engine.lost("the session was destroyed")

    async def _feed_last_words(self, engine: LoginEngine, inbox: Inbox) -> None:
        """A target that refuses closes at once, and the kernel may tell the end before the answer that came with it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                item = await inbox.next()
                if isinstance(item, ReceivedPdu):
                    engine.receive(item.header, item.data, self._lane.now())

    async def _send(self, session: Session, pdu: Pdu) -> None:
        await self._kernel.send_pdu(session.kernel, pdu.header, pdu.data)

    def _engine(self, session: Session, portal: Portal, deadline: float, new: bool) -> LoginEngine:
        request, sid = session.request, session.sid
        notes: list[str] = []
        transport: Literal["tcp", "iser"] = "iser" if request.transport == "iser" else "tcp"
        config = LoginConfig(
            initiator_name=request.initiator_name,
            portal=portal,
            target_name=request.target,
            isid=params.isid(sid),
            transport=transport,
            cmdsn=0,
            exp_statsn=0 if new else sysfs.exp_statsn(sid, self._root),
            itt=None,
            settings=params.operational(request.settings, notes),
            chap=params.credentials(request.settings.chap),
            deadline_s=round(max(_LEAST_S, deadline - self._lane.now()), 1),  # people read it in messages
        )
        for note in notes:
            log.warning("%s: %s", request, note)
        return LoginEngine(config, random_bytes=self._random_bytes, challenges=self._challenges)


def _login_failure(failed: LoginFailed, state: LoginState) -> IscsiFailure:
    """A connection that ends upon our CHAP response is a refusal, if it happens again: LIO disconnects an iSER
    connection before its answer is out. Hence an authentication failure that is worth another attempt."""
    if failed.retry and failed.status is None and state is LoginState.CHAP_RESPONSE:
        return TryAgain(IscsiErr.LOGIN_AUTH_FAILED, failed.message, hint=failed.hint)
    kind = TryAgain if failed.retry else IscsiFailure
    return kind(failed.err, failed.message, hint=failed.hint)


def _told(error: BaseException, request: LoginRequest) -> BaseException:
    """What the kernel refuses while a login is under way is mostly the connection failing at that moment: try again."""
    if isinstance(error, KernelError):
        what = "the connection was lost during the login"
        if error.errno != errno.ENOTCONN:
            what = f"the connection failed during the login: {error.message}"
        return TryAgain(IscsiErr.TRANS, f"{request}: {what}")
    return as_failure(error, str(request)) if isinstance(error, RdmactlError) else error
