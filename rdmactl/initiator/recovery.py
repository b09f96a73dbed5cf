# SPDX-License-Identifier: Apache-2.0
"""Keep one session alive: read what the kernel says of it, and bring it back when its connection is lost. Shell ring.

The kernel meanwhile holds the session's I/O back, for replacement_timeout seconds; then it fails it, and goes on doing
so until a login succeeds. It does not tell when that time is up, and nothing changes here when it is.

Attempts are spaced by a growing, randomised pause: hundreds of initiators that lost one array shall not come back in
step. The first one waits only for what the target asked for (DefaultTime2Wait, or its last word).

Not here: the steps of an attempt (`login.Logins.again`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator

from rdmactl.errors import KernelError, RdmactlError
from rdmactl.initiator import scan
from rdmactl.initiator.kernel import Kernel
from rdmactl.initiator.login import Logins
from rdmactl.initiator.logout import say_goodbye
from rdmactl.initiator.session import Phase, Session
from rdmactl.initiator.tasks import Tasks
from rdmactl.iscsi.pdu import Async, AsyncEvent, Opcode
from rdmactl.netlink.iscsi import ConnError, ReceivedPdu, SessionDestroyed, kernel_error_text
from rdmactl.netlink.ports import Lane

__all__ = ["Keeper", "pauses"]

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_ATTEMPT_S = 30.0  # of a relogin when the record sets no limit
_REVIVE_S = 120.0
_OPCODE = 0x3F


def pauses(first_s: float, longest_s: float, uniform: Callable[[float, float], float]) -> Iterator[float]:
    """Seconds between attempts: doubling up to `longest_s`, each shortened by up to half of it at random."""
    pause_s = first_s
    while True:
        yield uniform(pause_s / 2, pause_s)
        pause_s = min(pause_s * 2, longest_s)


class Keeper:
    """Supervises sessions, one coroutine each."""

    def __init__(self, lane: Lane, logins: Logins, kernel: Kernel, tasks: Tasks, root: str = "/sys") -> None:
        self._lane = lane
        self._tasks = tasks
        self._logins = logins
        self._kernel = kernel
        self._root = root

    async def keep(self, session: Session, *, lost: bool = False) -> None:
        """Runs until cancelled, or until the session is gone or given up. `lost`: its connection is gone already."""
        if lost:
            await self._bring_back(session)
        while session.phase is not Phase.LOST:
            item = await session.inbox.next()
            if isinstance(item, SessionDestroyed):
                log.warning("%s was destroyed by somebody else", session)
                session.phase = Phase.LOST
            elif isinstance(item, ConnError):
                session.last_error = kernel_error_text(item.error)
                await self._bring_back(session)
            elif item.header[0] & _OPCODE == Opcode.ASYNC:
                await self._announced(session, item)

    async def _announced(self, session: Session, item: ReceivedPdu) -> None:
        """The target's asynchronous messages."""
        news = Async.unpack(item.header)
        match news.event:
            case AsyncEvent.LOGOUT_REQUEST:
                session.last_error = "the target asked for a logout"
                try:
                    session.time2wait_s = await say_goodbye(self._kernel, session)
                except KernelError as error:
                    log.info("%s: %s", session, error)
                await self._bring_back(session)
            case AsyncEvent.CONNECTION_DROP | AsyncEvent.SESSION_DROP:
                session.time2wait_s = news.parameter2  # the connection error follows
            case AsyncEvent.RENEGOTIATE:
                session.last_error = "the target asked for a new negotiation"
                await self._bring_back(session)

    async def _bring_back(self, session: Session) -> None:
        """Attempts until one succeeds. Failures that would end a first login do not end these: targets change."""
        settings = session.request.settings
        session.phase, session.attempts = Phase.RECOVERY, 0
        log.warning("%s: connection lost: %s", session, session.last_error)
        spacing = pauses(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, random.uniform)
        pause_s = session.time2wait_s
        while True:
            session.attempts += 1
            try:
                await self._logins.release(session)
                await asyncio.sleep(pause_s)
                await self._logins.again(session, settings.login_timeout_s or _ATTEMPT_S)
                break
            except RdmactlError as error:
                if str(error) != session.last_error:  # a state, not an attempt
                    log.warning("%s: cannot be brought back yet: %s", session, error)
                session.last_error = str(error)
            if 0 < settings.reopen_max <= session.attempts:
                log.error("%s: given up after %d attempts", session, session.attempts)
                session.phase = Phase.LOST
                return
            if session.inbox.destroyed.is_set():
                return  # the inbox says so again
            pause_s = next(spacing)
        session.phase = Phase.UP
        session.recoveries += 1
        session.last_error = ""
        log.warning("%s: back after %d attempts", session, session.attempts)
        self._tasks.spawn(self._revive(session), f"revive {session.sid}")

    async def _revive(self, session: Session) -> None:
        """Apart from the supervision: reading a disk's size waits for the next recovery when the connection fails."""
        notes = await self._lane.blocking(lambda: scan.revive(session.sid, self._root), deadline_s=_REVIVE_S)
        for note in notes:
            log.warning("%s", note)
