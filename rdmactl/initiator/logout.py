# SPDX-License-Identifier: Apache-2.0
"""End a session in order: devices away, Logout to the target, connection and session destroyed. Shell ring.

Devices go first, while the target still takes the caches that are being flushed. A session whose connection is lost is
not flushed: its devices would wait for the recovery to end; stopping the connection fails their commands at once.

Not here: whether disks are in use (the caller's question), the destruction itself (`login.Logins.remove`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from rdmactl.errors import KernelError
from rdmactl.initiator import sysfs
from rdmactl.initiator.kernel import Kernel
from rdmactl.initiator.login import Logins
from rdmactl.initiator.session import Session
from rdmactl.iscsi.logout import read_logout
from rdmactl.iscsi.pdu import LogoutRequest, Opcode
from rdmactl.netlink.iscsi import ConnError, ReceivedPdu, SessionDestroyed

__all__ = ["log_out"]

log = logging.getLogger(__name__)

# A device that hangs can hold its removal for minutes. Destroying the session works without it, and fails its commands.
_UNBIND_S = 30.0
_DISCONNECT_S = 1.0
_OPCODE = 0x3F


async def log_out(logins: Logins, kernel: Kernel, session: Session, root: str = "/sys") -> None:
    """Returns when nothing of the session is left. Nobody else may read the session's inbox meanwhile."""
    view = sysfs.session(session.sid, root)
    if view is not None and view.connection_text in ("LOGGED IN", "IN LOGOUT"):
        try:
            await _unbind(kernel, session, view)
            await say_goodbye(kernel, session)
            await _disconnected(session)
        except KernelError as error:  # the connection failed meanwhile
            log.info("%s: %s", session, error)
    await logins.remove(session)


async def say_goodbye(kernel: Kernel, session: Session) -> int:
    """Tell the target; wait for its answer as long as the record says. Seconds it wants to be left alone.

    The end of the connection is an answer too: iser targets disconnect right behind their response.
    """
    session.inbox.clear()
    request = LogoutRequest(itt=0).pdu()
    await kernel.send_pdu(session.kernel, request.header, request.data)
    limit_s = session.request.settings.logout_timeout_s
    try:
        async with asyncio.timeout(limit_s or None):
            return await _farewell(session)
    except TimeoutError:
        log.warning("%s: the target did not answer a logout within %g s", session, limit_s)
        return 0


async def _farewell(session: Session) -> int:
    while True:
        match await session.inbox.next():
            case ConnError() | SessionDestroyed():
                return 0
            case ReceivedPdu(header=header) if header[0] & _OPCODE == Opcode.LOGOUT_RESPONSE:
                result = read_logout(header)
                if not result.done:
                    log.warning("%s: the target answers the logout: %s", session, result.words)
                return result.time2wait_s


async def _disconnected(session: Session) -> None:
    """An iser target disconnects right behind its response. When the endpoint's number is not known, wait for that: a
    connection that has failed can be put away completely, and so can one that is up, but not one in between."""
    if session.request.transport == "iser" and session.kernel.endpoint is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCONNECT_S):
                await session.inbox.next()


async def _unbind(kernel: Kernel, session: Session, view: sysfs.SessionView) -> None:
    if view.target_state == "UNBOUND":
        return  # no event would come
    await kernel.unbind(session.kernel)
    try:
        async with asyncio.timeout(_UNBIND_S):
            await session.inbox.unbound.wait()
    except TimeoutError:
        log.warning("%s: its devices are not gone after %g s; ending it anyway", session, _UNBIND_S)
