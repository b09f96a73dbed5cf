# SPDX-License-Identifier: Apache-2.0
"""What the discovery daemon asks of the initiator, which lives in another lane of the same process. Shell ring.

Not here: why (`watcher.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from rdmactl.initiator.api import DiscoveryAnswer, DiscoveryRequest, LoginRequest, SessionStatus
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.api import IsnsRequest

__all__ = ["Caller", "DispatchedInitiator", "Held", "Initiator"]

T = TypeVar("T")

_NAME = "initiator"
_LIST_S = 30.0
_SLACK_S = 10.0
_LOGIN_S = 900.0  # the initiator's own limits come first
_LOGOUT_S = 300.0


class Held(NamedTuple):
    """A session of this host, and who claims it."""

    sid: int
    target: str
    portal: Portal
    iface: str
    claims: frozenset[str]


class Caller(Protocol):
    """What is needed of the dispatcher."""

    async def call(self, name: str, function: Callable[[Any], Awaitable[T]], *, deadline_s: float) -> T: ...


class Initiator(Protocol):
    """The initiator, as far as it matters here. Failures are RdmactlError."""

    async def discover(self, request: DiscoveryRequest | IsnsRequest) -> DiscoveryAnswer: ...

    async def sessions(self) -> list[Held]: ...

    async def login(self, request: LoginRequest, claim: str) -> int: ...

    async def release(self, sid: int, claim: str) -> None: ...


class DispatchedInitiator:
    """The initiator of this process, asked through the dispatcher."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def discover(self, request: DiscoveryRequest | IsnsRequest) -> DiscoveryAnswer:
        """The targets a portal or an iSNS server announces."""
        total_s = request.total_s if isinstance(request, IsnsRequest) else request.total_timeout_s
        limit_s = total_s + _SLACK_S
        return await self._caller.call(_NAME, lambda service: service.discover(request), deadline_s=limit_s)

    async def sessions(self) -> list[Held]:
        """The sessions there are."""

        async def ask(service: Any) -> list[SessionStatus]:
            found: list[SessionStatus] = service.status()
            return found

        found = await self._caller.call(_NAME, ask, deadline_s=_LIST_S)
        return [Held(each.sid, each.target, each.portal, each.iface_name, frozenset(each.claims)) for each in found]

    async def login(self, request: LoginRequest, claim: str) -> int:
        """Log in, and claim the session."""
        return await self._caller.call(_NAME, lambda service: service.login(request, claim), deadline_s=_LOGIN_S)

    async def release(self, sid: int, claim: str) -> None:
        """Give the claim up; the session ends with its last one, unless its disks have come into use meanwhile."""
        await self._caller.call(_NAME, lambda service: service.logout(sid, claim, safe=True), deadline_s=_LOGOUT_S)
