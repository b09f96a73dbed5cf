# SPDX-License-Identifier: Apache-2.0
"""Discoveries: the attempts of a SendTargets request, and TCP from this process. No kernel object is made. Shell ring.

Three limits hold: one for connecting and logging in, one for each answer, and one for the whole command with all its
attempts. A connection that is refused or breaks is tried again a few times, with short pauses: iscsiadm's number of
attempts, not its 30 seconds.

Not here: the protocol (`rdmactl.iscsi.discovery`), an attempt over iSER (`iser_discovery.py`), iSNS (`rdmactl.isns`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import replace

from rdmactl.errors import LocalError
from rdmactl.initiator import params
from rdmactl.initiator.api import DiscoveredTarget, DiscoveryAnswer, DiscoveryRequest
from rdmactl.initiator.connect import TcpOptions, bound_device, resolve, tcp_connect
from rdmactl.initiator.failures import TryAgain
from rdmactl.initiator.iser_discovery import IserDiscoveries
from rdmactl.iscsi.chap import ChallengeBook
from rdmactl.iscsi.discovery import DiscoveryConfig, DiscoveryDone, DiscoveryFailed, StreamDiscovery
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.login_model import Notice, Redirected, random_isid
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.redirect import RedirectChain
from rdmactl.isns.api import IsnsRequest
from rdmactl.isns.client import query_targets
from rdmactl.netlink.ports import Lane

__all__ = ["Discoveries"]

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_RECEIVE_BYTES = 65536


class Discoveries:
    """Discoveries of one service; any number may run at once."""

    def __init__(self, lane: Lane, iser: IserDiscoveries | None = None) -> None:
        self._lane = lane
        self._iser = iser or IserDiscoveries()
        self._challenges = ChallengeBook()

    async def discover(self, request: DiscoveryRequest | IsnsRequest) -> DiscoveryAnswer:
        """The targets a portal or an iSNS server announces.

        IscsiFailure: 11 no answer, 24 not authenticated, 4 unknown name; 25 and 26 of an iSNS server.
        """
        if isinstance(request, IsnsRequest):
            answer = await query_targets(self._lane, request)
            return DiscoveryAnswer(answer.targets, answer.skipped, answer.warnings)
        attempts, pause_s = 0, _FIRST_PAUSE_S
        end = self._lane.now() + request.total_timeout_s
        while True:
            attempts += 1
            try:
                return await self._attempt(request, end)
            except TryAgain as failure:
                if attempts > request.reopen_max or self._lane.now() + pause_s >= end:
                    tries = f"{attempts} attempts" if attempts > 1 else "1 attempt"
                    text = f"{failure.message} ({tries})"
                    raise IscsiFailure(IscsiErr.PDU_TIMEOUT, text, hint=failure.hint, code=failure.code) from failure
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def prepare(self, root: str) -> None:
        """The service begins. `root` is where sysfs is: without RDMA devices there is nothing to prepare."""
        if os.path.isdir(os.path.join(root, "class/infiniband")):
            self._iser.prepare()

    async def close(self) -> None:
        """The service ends."""
        await self._iser.close()

    async def _attempt(self, request: DiscoveryRequest, end: float) -> DiscoveryAnswer:
        if request.transport == "iser":
            return await self._iser.attempt(request, max(0.0, end - self._lane.now()))
        done = await self._tcp_attempt(request, end)
        targets = tuple(DiscoveredTarget(target.name, target.portals) for target in done.targets)
        return DiscoveryAnswer(targets, done.skipped, done.warnings)

    async def _tcp_attempt(self, request: DiscoveryRequest, end: float) -> DiscoveryDone:
        """One discovery over TCP, with the redirections it meets."""
        chain = RedirectChain(request.portal)
        config = self._config(request)
        while True:
            portal = chain.portals[-1]
            left_s = max(0.0, end - self._lane.now())
            sock = await self._connect(request, portal, min(request.login_timeout_s or left_s, left_s))
            with sock:
                outcome = await self._converse(sock, replace(config, portal=portal, total_s=left_s))
            if isinstance(outcome, DiscoveryDone):
                return outcome
            chain.follow(outcome.portal)

    async def _connect(self, request: DiscoveryRequest, portal: Portal, deadline_s: float) -> socket.socket:
        netdev = bound_device(request.netdev, request.hw_address)
        options = TcpOptions(netdev=netdev, source_address=request.source_address)
        begin = self._lane.now()
        addresses = await resolve(self._lane, portal, deadline_s)
        return await tcp_connect(portal, addresses, options, max(0.0, deadline_s - (self._lane.now() - begin)))

    async def _converse(self, sock: socket.socket, config: DiscoveryConfig) -> DiscoveryDone | Redirected:
        engine = StreamDiscovery(config, random_bytes=os.urandom, challenges=self._challenges)
        engine.start(self._lane.now())
        connected = True
        while True:
            for item in engine.take_output():
                match item:
                    case bytes():
                        connected = await self._send(sock, item, engine)
                    case DiscoveryDone() | Redirected():
                        return item
                    case DiscoveryFailed():
                        raise _failure(item, connected=connected)
                    case Notice():
                        log.info("%s", item.message)
            connected = await self._receive(sock, engine) and connected

    async def _send(self, sock: socket.socket, data: bytes, engine: StreamDiscovery) -> bool:
        """Whether the connection stands. A target that does not read is noticed by the deadline of its answer."""
        try:
            async with asyncio.timeout(self._left_s(engine)):
                await asyncio.get_running_loop().sock_sendall(sock, data)
        except TimeoutError:
            engine.tick(self._lane.now())
        except OSError as error:
            engine.closed(error.strerror or "connection failed")
            return False
        return True

    async def _receive(self, sock: socket.socket, engine: StreamDiscovery) -> bool:
        """Whether the connection stands."""
        try:
            async with asyncio.timeout(self._left_s(engine)):
                data = await asyncio.get_running_loop().sock_recv(sock, _RECEIVE_BYTES)
        except TimeoutError:
            engine.tick(max(self._lane.now(), engine.wake_at() or 0.0))
        except OSError as error:
            engine.closed(error.strerror or "connection failed")
            return False
        else:
            if not data:
                engine.closed()
                return False
            engine.receive(data, self._lane.now())
        return True

    def _left_s(self, engine: StreamDiscovery) -> float | None:
        wake_at = engine.wake_at()
        return None if wake_at is None else max(0.0, wake_at - self._lane.now())

    def _config(self, request: DiscoveryRequest) -> DiscoveryConfig:
        try:
            config = DiscoveryConfig(
                initiator_name=request.initiator_name,
                portal=request.portal,
                isid=random_isid(os.urandom),
                chap=params.credentials(request.chap),
                max_recv_data_segment_bytes=request.max_recv_data_segment_length,
                login_s=request.login_timeout_s or request.total_timeout_s,
                response_s=request.active_timeout_s or request.total_timeout_s,
            )
            config.login()  # names are checked there
        except LocalError as error:
            raise IscsiFailure(IscsiErr.INVAL, error.message, hint=error.hint) from None
        return config


def _failure(failed: DiscoveryFailed, *, connected: bool) -> IscsiFailure:
    """What another attempt may not meet: a target that is busy, or a connection that ended or brought nothing."""
    if not failed.retry:
        return IscsiFailure(failed.err, failed.message, hint=failed.hint)
    cause = None if failed.status is not None else "unanswered" if connected else "closed"
    return TryAgain(failed.err, failed.message, hint=failed.hint, code=cause)
