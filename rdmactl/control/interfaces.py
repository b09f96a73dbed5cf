# SPDX-License-Identifier: Apache-2.0
"""What the Varlink interfaces of the daemons have in common, and the one about the daemon itself. Shell ring.

The others are in `port_mapper.py`, `initiator.py` and `discovery.py`, each imported only where its role is served: to
read their annotations takes longer than anything else at the start of a daemon. In all of them a method is a few lines:
convert, call the service in its lane through the dispatcher with a deadline, convert back. What does not belong there:
sockets, identity and limits (`server.py`), and anything a service decides.

asyncvarlink reads the annotations of these modules at import, so they are real types, not strings.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from rdmactl import __version__
from rdmactl.errors import DeadlineExceeded, RdmactlError
from rdmactl.netlink.supervisor import LaneStatus
from rdmactl.netlink.trace import TraceEntry

__all__ = ["CHANGING_METHODS", "READ_DEADLINE_S", "Caller", "Daemon", "Failed", "Failure", "failure"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

READ_DEADLINE_S = 10.0
"""Reading a table in memory takes milliseconds; ten seconds is how long the kernel itself waits for a port mapper."""

CHANGING_METHODS = frozenset({"Claim", "Discover", "Login", "Logout", "Statistics"})
"""Only for root: they use credentials, open connections, make and remove block devices, or hold up the whole class."""


class Caller(Protocol):
    """What is needed of the dispatcher."""

    async def call(self, name: str, function: Callable[[Any], Awaitable[T]], *, deadline_s: float) -> T: ...

    def status(self) -> Sequence[LaneStatus]: ...

    def trace(self, since: int) -> tuple[int, list[TraceEntry]]: ...


class Failed(TypedVarlinkErrorReply, interface="io.rdmactl.Daemon"):
    """Any call may fail with this. `code` is stable and for programs, `message` and `hint` are for people, `err` is
    open-iscsi's number where there is one.
    """

    class Parameters:
        code: str
        message: str
        hint: str | None
        err: int | None


class Failure(TypedDict):
    """Why one object of a call failed; the same fields as the error Failed."""

    code: str
    message: str
    hint: str | None
    err: int | None


def failure(error: BaseException) -> Failure:
    """Any exception as the fields of Failed. What was not foreseen goes to the log, never to the caller."""
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded("the daemon did not finish within the deadline of the call")
    if isinstance(error, RdmactlError):
        err = getattr(error, "err", None)
        return {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "err": None if err is None else int(err),
        }
    if isinstance(error, asyncio.CancelledError):
        return {"code": "stopping", "message": "the daemon is stopping", "hint": None, "err": None}
    _log.error("a control call failed unexpectedly", exc_info=error)
    return {
        "code": "internal",
        "message": f"internal error ({type(error).__name__})",
        "hint": "the daemon's journal has the details; please report them",
        "err": None,
    }


class Lane(TypedDict):
    name: str
    state: str
    ready: bool
    up_s: float
    restarts: int
    stalls: int
    last_error: str | None
    counters: dict[str, int]


class DaemonStatus(TypedDict):
    version: str
    pid: int
    roles: list[str]
    lanes: list[Lane]


class Daemon(VarlinkInterface, name="io.rdmactl.Daemon"):
    """The process itself."""

    errors = (Failed,)

    def __init__(self, caller: Caller, roles: Sequence[str]) -> None:
        self._caller = caller
        self._roles = list(roles)

    @varlinkmethod
    async def Status(self) -> DaemonStatus:  # noqa: N802 - Varlink's spelling
        """What runs here, and how each service is doing."""
        lanes: list[Lane] = [
            {
                "name": lane.name,
                "state": lane.state.value,
                "ready": lane.ready,
                "up_s": lane.up_s,
                "restarts": lane.restarts,
                "stalls": lane.stalls,
                "last_error": lane.last_error,
                "counters": lane.counters.as_dict(),
            }
            for lane in self._caller.status()
        ]
        return {"version": __version__, "pid": os.getpid(), "roles": self._roles, "lanes": lanes}
