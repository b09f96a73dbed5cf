# SPDX-License-Identifier: Apache-2.0
"""What a login is told and what it reports: configuration and events. Engine ring.

Not here: how a login proceeds (`login.py`, which offers these names as well).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from rdmactl.errors import LocalError
from rdmactl.iscsi.chap import ChapCredentials
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.names import check_name
from rdmactl.iscsi.negotiation import NegotiatedParameters, OperationalSettings
from rdmactl.iscsi.portal import UNKNOWN_TPGT, Portal

__all__ = [
    "ISID_BYTES",
    "LoginConfig",
    "LoginDone",
    "LoginEvent",
    "LoginFailed",
    "Notice",
    "Redirected",
    "random_isid",
]

ISID_BYTES = 6
_MAX_ALIAS_BYTES = 255


def random_isid(random_bytes: Callable[[int], bytes]) -> bytes:
    """A session identifier of the random kind. Two sessions with one initiator name and ISID end each other."""
    return b"\x80" + random_bytes(3) + bytes(2)


@dataclass(frozen=True, slots=True)
class LoginConfig:
    """One login. LocalError for names and numbers no target could accept."""

    initiator_name: str
    """Who we are."""
    portal: Portal
    """Where we are connected, for messages only."""
    target_name: str | None
    """Who we want; None is a discovery session."""
    isid: bytes
    """6 bytes; the same for every login of one session, another for every other session."""
    transport: Literal["tcp", "iser"] = "tcp"
    initiator_alias: str | None = None
    """What the target may show to its administrators."""
    tsih: int = 0
    """0 for a new session and for one that replaces its predecessor."""
    cmdsn: int = 1
    """CmdSN of the whole login, and of the first command behind it."""
    exp_statsn: int = 0
    """Number of the response awaited; 0 at the first login of a session."""
    itt: int | None = 1
    """Task tag; None when the kernel replaces it, so that it cannot be compared."""
    settings: OperationalSettings = field(default_factory=OperationalSettings)
    chap: ChapCredentials | None = None
    single_transition: bool | None = None
    """At most one request with NSG=3 (see `login.py`); None: over iSER. A user-space connection that posts its buffers
    itself may say False and save a round trip."""
    deadline_s: float | None = None
    """Seconds for the whole login, or None when the owner watches the clock."""

    def __post_init__(self) -> None:
        check_name(self.initiator_name, "initiator name")
        if self.target_name is not None:
            check_name(self.target_name, "target name")
        if len(self.isid) != ISID_BYTES:
            raise LocalError(f"an ISID has {ISID_BYTES} bytes, not {len(self.isid)}", code="invalid-isid")
        if self.initiator_alias is not None and len(self.initiator_alias.encode()) > _MAX_ALIAS_BYTES:
            raise LocalError(f"the initiator alias has more than {_MAX_ALIAS_BYTES} bytes", code="invalid-alias")

    @property
    def discovery(self) -> bool:
        """Whether this is a discovery session."""
        return self.target_name is None


@dataclass(frozen=True, slots=True)
class LoginDone:
    """Full feature phase. `statsn` is the last one seen; `tpgt` is `UNKNOWN_TPGT` when the target did not say."""

    results: NegotiatedParameters
    tsih: int
    statsn: int
    tpgt: int
    exp_cmdsn: int
    max_cmdsn: int


@dataclass(frozen=True, slots=True)
class Redirected:
    """Close, connect to `portal` (bounded: `redirect.py`) and begin a new login with the same ISID and TSIH 0.

    `permanent`: the record is to be changed as well.
    """

    portal: Portal
    permanent: bool
    tpgt: int = UNKNOWN_TPGT


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """The login is over. `status` is the target's (class << 8 | detail) or None; `retry`: trying again could help.

    `code`: see `IscsiFailure`.
    """

    err: IscsiErr
    message: str
    hint: str | None = None
    status: int | None = None
    retry: bool = False
    code: str = IscsiFailure.code


@dataclass(frozen=True, slots=True)
class Notice:
    """Something odd that did not stop the login; one sentence."""

    message: str


LoginEvent = LoginDone | Redirected | LoginFailed | Notice
