# SPDX-License-Identifier: Apache-2.0
"""One session as the service knows it: values, no behaviour. Shell ring."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum

from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.events import Inbox
from rdmactl.initiator.kernel import KernelSession

__all__ = ["Phase", "Session"]


class Phase(Enum):
    """What the service is doing with a session."""

    LOGIN = "first login"
    UP = "logged in"
    RECOVERY = "connection lost, being brought back"
    LOST = "given up"
    LOGOUT = "logging out"


@dataclass(slots=True)
class Session:
    """`task` is the coroutine that reads the inbox; it is cancelled before anybody else does."""

    kernel: KernelSession
    request: LoginRequest
    inbox: Inbox
    phase: Phase = Phase.LOGIN
    time2wait_s: float = 0.0  # agreed with the target, or told by it: the pause before a relogin
    attempts: int = 0  # to bring it back, since it was up
    recoveries: int = 0
    last_error: str = ""
    task: asyncio.Task[None] | None = None

    @property
    def sid(self) -> int:
        return self.kernel.sid

    def __str__(self) -> str:
        return f"session {self.sid} ({self.request})"
