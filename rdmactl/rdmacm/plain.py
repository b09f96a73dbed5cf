# SPDX-License-Identifier: Apache-2.0
"""Does plain iSCSI answer where iSER does not? Shell ring.

Asked only after an RDMA connection was refused or not answered, so that the error can say what is there: a portal for
TCP is the most common reason. The question is a whole login request, never a bare connection, which LIO would wait on;
the answer's first byte is enough.
Not here: discovery over TCP (`rdmactl.initiator.discovery`).
"""

from __future__ import annotations

import asyncio
import os

from rdmactl.errors import RdmactlError
from rdmactl.iscsi.login import LoginConfig, LoginEngine, random_isid
from rdmactl.iscsi.pdu import BHS_BYTES, Opcode
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.stream import encode
from rdmactl.rdmacm.report import Question

__all__ = ["answers_plain_iscsi", "explain_refusal"]

_PATIENCE_S = 0.5
_STAGE = "connect"
_CODES = ("refused", "unreachable", "deadline")


async def explain_refusal(error: RdmactlError, portal: Portal, stage: str, question: Question) -> RdmactlError:
    """The error, with a hint that says so when a plain iSCSI target is there."""
    if stage != _STAGE or error.code not in _CODES:
        return error
    if await answers_plain_iscsi(portal, question.initiator_name):
        error.hint = "a plain iSCSI target answers there: enable iSER on that portal, or log in over TCP"
    return error


async def answers_plain_iscsi(portal: Portal, initiator_name: str) -> bool:
    """Whether a login over TCP is answered as iSCSI answers, be it with a refusal."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(portal.address, portal.port)
            try:
                writer.write(_login(portal, initiator_name))
                header = await reader.readexactly(BHS_BYTES)
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError, RdmactlError):
        return False
    return header[0] == Opcode.LOGIN_RESPONSE


def _login(portal: Portal, initiator_name: str) -> bytes:
    config = LoginConfig(initiator_name, portal, None, random_isid(os.urandom))
    return encode(LoginEngine(config, random_bytes=os.urandom).start())
