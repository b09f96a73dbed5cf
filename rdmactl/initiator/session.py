# SPDX-License-Identifier: Apache-2.0
"""One session as the service knows it: values, and its timeline. Shell ring, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from rdmactl.initiator.api import HistoryMoment, LoginRequest, SessionHistory, SessionStatus
from rdmactl.initiator.claims import ADMINISTRATOR, Claims
from rdmactl.initiator.events import Inbox
from rdmactl.initiator.kernel import KernelSession

__all__ = ["Moment", "Phase", "Session"]

_MOMENTS_MAX = 128  # of a timeline: a session that flaps for days tells of its last hours


class Phase(Enum):
    """What the service is doing with a session."""

    LOGIN = "first login"
    UP = "logged in"
    RECOVERY = "connection lost, being brought back"
    LOST = "given up"
    LOGOUT = "logging out"


class Moment(NamedTuple):
    """A change in a session's life. `at_s` is seconds since 1970; `attempts` before it, since the session was up."""

    at_s: float
    phase: Phase
    reason: str
    attempts: int


@dataclass(slots=True)
class Session:
    """`task` is the coroutine that reads the inbox; it is cancelled before anybody else does."""

    kernel: KernelSession
    request: LoginRequest
    inbox: Inbox
    claims: Claims = (ADMINISTRATOR,)
    phase: Phase = Phase.LOGIN
    time2wait_s: float = 0.0  # agreed with the target: the pause before a relogin
    attempts: int = 0  # to bring it back, since it was up
    recoveries: int = 0
    last_error: str = ""
    task: asyncio.Task[None] | None = None
    timeline: deque[Moment] = field(default_factory=lambda: deque(maxlen=_MOMENTS_MAX))

    @property
    def sid(self) -> int:
        return self.kernel.sid

    def note(self, at_s: float, reason: str) -> None:
        """Put the phase the session is in now on its timeline."""
        self.timeline.append(Moment(at_s, self.phase, reason, self.attempts))

    def status(self) -> SessionStatus:
        """What is known of it now."""
        return SessionStatus(
            self.sid,
            self.request.target,
            self.request.portal,
            self.request.iface_name,
            self.claims,
            self.phase.value,
            self.attempts,
            self.recoveries,
            self.last_error,
        )

    def history(self, ended_s: float | None = None) -> SessionHistory:
        """Its timeline; `ended_s` when it has ended."""
        return SessionHistory(
            self.sid,
            self.request.target,
            self.request.portal,
            self.request.iface_name,
            self.request.transport,
            self.claims,
            tuple(HistoryMoment(each.at_s, each.phase.value, each.reason, each.attempts) for each in self.timeline),
            ended_s,
        )

    def __str__(self) -> str:
        return f"session {self.sid} ({self.request})"
