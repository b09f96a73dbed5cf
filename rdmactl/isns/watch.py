# SPDX-License-Identifier: Apache-2.0
"""Watching an iSNS server: registered with it, told by it, and every change confirmed by a question. Shell ring.

    watch = Watch(lane, WatchConfig(Portal("192.0.2.5", 3205), "iqn.2005-03.org.example:host"))
    task = asyncio.create_task(watch.run())       # cancel it to deregister and end
    change = await watch.next_change()

No server ends a watch: it comes back with growing pauses. Notifications reach a port of our own, over UDP as with
open-iscsi or over TCP; what comes from other addresses than the server's is ignored. Not everything is told: isnsd is
silent about members taken out of a discovery domain, so that whoever must know asks now and then as well.
Not here: the protocol (`registration.py`, `notices.py`), what is done about a change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine
from typing import Any

from rdmactl.errors import RdmactlError
from rdmactl.initiator.connect import resolve
from rdmactl.iscsi.errors import IscsiFailure
from rdmactl.isns.api import Change, ChangeKind, IsnsAnswer, IsnsRequest, WatchConfig, WatchStatus
from rdmactl.isns.client import RECEIVE_BYTES, connect, query_targets
from rdmactl.isns.notices import Changed
from rdmactl.isns.pdu import Message
from rdmactl.isns.port import NoticePort, plain_address
from rdmactl.isns.registration import (
    Connect,
    Disconnect,
    Problem,
    Registered,
    RegistrationConfig,
    RegistrationEngine,
    RegistrationEvent,
)
from rdmactl.isns.registration_states import RegistrationState
from rdmactl.netlink.ports import Lane

__all__ = ["Watch"]

log = logging.getLogger(__name__)

_CHANGES_MAX = 1024  # nobody reads them: then one RESYNC says it all
_NAME_PAUSE_S = 30.0  # before a name is looked up again
_SEND_S = 5.0
_RESYNC = Change(ChangeKind.RESYNC)


class Watch:
    """One initiator's watch over one server."""

    def __init__(self, lane: Lane, config: WatchConfig) -> None:
        self._lane = lane
        self._config = config
        self._engine: RegistrationEngine | None = None
        self._changes: asyncio.Queue[Change] = asyncio.Queue(_CHANGES_MAX)
        self._unverified: list[Changed] = []
        self._something_unverified = asyncio.Event()
        self._awake = asyncio.Event()
        self._verifying: asyncio.Task[None] | None = None
        self._connection: asyncio.Task[None] | None = None
        self._sock: socket.socket | None = None
        self._heard_from: set[str] = set()
        self._notified = False
        self._last_error = ""

    async def run(self) -> None:
        """Watch until cancelled; then deregister, within two seconds."""
        self._heard_from = senders = await self._senders()
        udp = self._config.transport == "udp"
        async with NoticePort(self, senders, udp=udp, number=self._config.port) as port:
            self._engine = engine = RegistrationEngine(
                self._registration(port.number), senders, random_bytes=os.urandom
            )
            self._verifying = self._task(self._verify())
            try:
                engine.start(self._lane.now())
                await self._attend(engine)
            finally:
                self._verifying.cancel()
                engine.stop(self._lane.now())
                try:
                    await self._attend(engine)
                finally:
                    self._disconnect()
                    self._engine = None

    async def next_change(self) -> Change:
        """The next change; waits for it."""
        return await self._changes.get()

    @property
    def status(self) -> WatchStatus:
        """How it stands."""
        engine = self._engine
        if engine is None:
            return WatchStatus(False, False, 0.0, 0, 0, self._last_error)
        registered = engine.state in (RegistrationState.REGISTERED, RegistrationState.CHECK)
        notices = engine.notices
        return WatchStatus(
            registered,
            registered and self._notified,
            engine.period_s,
            notices.taken,
            notices.ignored,
            self._last_error,
            notices.inquiries,
        )

    # What the port takes.

    def datagram(self, data: bytes, sender: str) -> bytes | None:
        """A datagram has come to our port; the answer."""
        self._awake.set()
        return None if self._engine is None else self._engine.datagram(data, sender, self._lane.now())

    def message(self, message: Message, sender: str) -> bytes | None:
        """A message has come over a connection to our port; the answer."""
        self._awake.set()
        return None if self._engine is None else self._engine.notified(message, sender, self._lane.now())

    def stranger(self, sender: str) -> None:
        """Somebody else has connected to our port."""
        if self._engine is not None:
            self._engine.notices.ignored += 1

    # Before there is an engine.

    async def _senders(self) -> set[str]:
        """The addresses of the server. A name is looked up until it has some."""
        while True:
            try:
                found = await resolve(self._lane, self._config.server, self._config.timeout_s)
            except IscsiFailure as failure:
                self._complain(failure)
                await asyncio.sleep(_NAME_PAUSE_S)
            else:
                own = (socket.inet_ntop(address.family, address.address) for address in found)
                return set(map(plain_address, (*own, *self._config.also_from)))

    def _registration(self, port: int) -> RegistrationConfig:
        return RegistrationConfig(
            self._config.initiator_name,
            port,
            udp=self._config.transport == "udp",
            esi_interval_s=self._config.esi_interval_s,
            answer_s=self._config.timeout_s,
            settle_s=self._config.settle_s,
            quiet_s=self._config.quiet_s,
        )

    # What the engine wants.

    async def _attend(self, engine: RegistrationEngine) -> None:
        """Do what the engine says, until it has ended."""
        while True:
            for item in engine.take_output():
                if isinstance(item, bytes):
                    await self._send(engine, item)
                else:
                    self._follow(engine, item)
            if engine.state is RegistrationState.ENDED:
                return
            for task in (self._verifying, self._connection):
                if task is not None and task.done() and not task.cancelled():
                    task.result()  # what nobody has foreseen ends the watch, where it is seen
            await self._pause(engine.wake_at())
            engine.tick(self._lane.now())

    async def _pause(self, wake_at: float | None) -> None:
        """Until something happens, or until `wake_at`.

        Not asyncio.timeout: up to Python 3.11.4 its end is a cancellation in a task that has been cancelled already,
        and deregistering is done in such a task.
        """
        self._awake.clear()
        if wake_at is None:
            await self._awake.wait()
            return
        timer = asyncio.get_running_loop().call_later(max(0.0, wake_at - self._lane.now()), self._awake.set)
        try:
            await self._awake.wait()
        finally:
            timer.cancel()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._awake.set())
        return task

    def _follow(self, engine: RegistrationEngine, event: RegistrationEvent) -> None:
        server = self._config.server
        match event:
            case Connect() if self._connection is None or self._connection.done():
                self._connection = self._task(self._converse(engine))
            case Disconnect():
                self._disconnect()
            case Registered():
                self._notified = not event.refusal
                self._last_error = event.refusal
                log.info("registered with iSNS server %s%s", server, event.refusal and f"; {event.refusal}")
                self._tell(_RESYNC)
            case Problem():
                self._notified = False
                news = logging.WARNING if event.message != self._last_error else logging.DEBUG
                self._last_error = event.message
                log.log(news, "iSNS server %s: %s; next attempt in %.0f s", server, event.message, event.pause_s)
            case Changed():
                self._unverified.append(event)
                self._something_unverified.set()

    async def _converse(self, engine: RegistrationEngine) -> None:
        """One connection, from its making to its end."""
        try:
            with await connect(self._lane, self._config.server, self._config.timeout_s) as sock:
                self._sock = sock
                self._heard_from.add(plain_address(str(sock.getpeername()[0])))  # a name may get another address
                engine.connected(plain_address(str(sock.getsockname()[0])), self._lane.now())
                self._awake.set()
                while data := await asyncio.get_running_loop().sock_recv(sock, RECEIVE_BYTES):
                    engine.receive(data, self._lane.now())
                    self._awake.set()
                engine.closed(self._lane.now())
        except RdmactlError as error:
            engine.closed(self._lane.now(), error.message.removeprefix(f"iSNS server {self._config.server}: "))
        except OSError as error:
            engine.closed(self._lane.now(), error.strerror or "the connection failed")
        self._sock = None
        self._awake.set()

    async def _send(self, engine: RegistrationEngine, data: bytes) -> None:
        if self._sock is None:
            return
        try:
            async with asyncio.timeout(_SEND_S):
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except (OSError, TimeoutError):
            self._disconnect()
            engine.closed(self._lane.now(), "the connection failed")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.cancel()
        self._connection = None
        self._sock = None

    # Confirming.

    async def _verify(self) -> None:
        """Ask for what has changed; while a question is open, changes gather into the next one."""
        while True:
            await self._something_unverified.wait()
            self._something_unverified.clear()
            gathered, self._unverified = self._unverified, []
            if any(changed.names is None for changed in gathered):
                self._tell(_RESYNC)
            else:
                await self._confirm(tuple({name: None for changed in gathered for name in changed.names or ()}))

    async def _confirm(self, names: tuple[str, ...]) -> None:
        request = IsnsRequest(self._config.server, self._config.initiator_name, names, self._config.timeout_s)
        try:
            answer = await query_targets(self._lane, request)
        except RdmactlError as error:
            self._complain(error)
            self._tell(_RESYNC)
            return
        for change in _changes(names, answer):
            self._tell(change)

    def _tell(self, change: Change) -> None:
        if self._changes.full():
            while not self._changes.empty():
                self._changes.get_nowait()
            change = _RESYNC
        self._changes.put_nowait(change)

    def _complain(self, error: RdmactlError) -> None:
        """Once: a name that is not found is looked up again and again."""
        log.log(logging.WARNING if str(error) != self._last_error else logging.DEBUG, "%s", error)
        self._last_error = str(error)


def _changes(names: tuple[str, ...], answer: IsnsAnswer) -> list[Change]:
    """What a complete answer says of some targets. One with entries left out does not say that anything is gone."""
    present = {target.name: target for target in answer.targets}
    changes = [Change(ChangeKind.PRESENT, name, present[name]) for name in names if name in present]
    if not answer.skipped:
        there = {*present, *answer.unreachable}
        changes += [Change(ChangeKind.GONE, name) for name in names if name not in there]
    return changes
