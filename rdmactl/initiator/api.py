# SPDX-License-Identifier: Apache-2.0
"""What the initiator is asked and what it answers: values only. Shell ring, without I/O of its own.

Not here: the spelling of these settings in records and files (`rdmactl.records`), or on the bus (`rdmactl.control`).
Defaults are those of the iscsid.conf that open-iscsi ships, because that is what records made by it contain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rdmactl.iscsi.portal import Portal

__all__ = [
    "ChapSettings",
    "DiscoveredTarget",
    "DiscoveryAnswer",
    "DiscoveryRequest",
    "HistoryMoment",
    "LoginRequest",
    "SessionHistory",
    "SessionSettings",
    "SessionStatus",
]


@dataclass(frozen=True, slots=True)
class ChapSettings:
    """CHAP of one login. It is used when `username` and `password` are set; mutual when the `_in` pair is, too.

    Secrets are literal text: "0x..." is not decoded. They are not part of the repr.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    username_in: str = ""  # the name the target must give
    password_in: str = field(default="", repr=False)
    algorithms: tuple[str, ...] = ("MD5",)  # by preference: SHA3-256, SHA256, SHA1, MD5


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Everything of a node record that matters to the kernel or to the login. Sizes in bytes, times in seconds.

    Values out of range are corrected at login, as open-iscsi does (`rdmactl.initiator.settings`).
    """

    chap: ChapSettings = ChapSettings()
    initial_cmdsn: int = 0
    cmds_max: int = 128  # commands in flight per session; the kernel rounds down to a power of two
    queue_depth: int = 32  # commands in flight per LUN
    scan: str = "auto"  # "manual": no LUN scan at login

    # First login and logout, as the caller waits for them
    login_timeout_s: float = 15.0  # one attempt: connect and login; 0: only the total counts
    initial_login_retry_max: int = 8  # the first login gives up after this many times login_timeout_s
    logout_timeout_s: float = 15.0
    reopen_max: int = 0  # attempts to bring a lost session back; 0: for ever

    # Kernel timers
    replacement_timeout_s: int = 120  # how long I/O of a lost session waits before it fails
    noop_out_interval_s: int = 5
    noop_out_timeout_s: int = 5
    abort_timeout_s: int = 15
    lu_reset_timeout_s: int = 30
    tgt_reset_timeout_s: int = 30
    fast_abort: bool = True

    # Offered at login
    initial_r2t: bool = False
    immediate_data: bool = True
    first_burst_length: int = 262144
    max_burst_length: int = 16776192
    max_outstanding_r2t: int = 1
    default_time2wait_s: int = 2
    default_time2retain_s: int = 0
    error_recovery_level: int = 0
    max_recv_data_segment_length: int = 262144
    max_xmit_data_segment_length: int = 0  # 0: what the target declares
    header_digest: str = "None"  # "None", "CRC32C", "CRC32C,None", "None,CRC32C"; ignored on iser
    data_digest: str = "None"

    # TCP socket (transport tcp)
    tcp_window_size: int = 524288  # socket buffers
    type_of_service: int = 0


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """One session wanted. (target, portal, iface_name) identify it; `sessions_wanted` of them may exist at once."""

    target: str
    portal: Portal
    tpgt: int = -1
    iface_name: str = "default"
    transport: str = "tcp"  # "tcp" or "iser"
    initiator_name: str = ""
    settings: SessionSettings = SessionSettings()
    netdev: str = ""  # bind to this network device (tcp)
    source_address: str = ""  # leave from this address (tcp)
    hw_address: str = ""  # bind to the network device with this address (tcp)
    sessions_wanted: int = 1  # node.session.nr_sessions: refused as "session exists" when so many are there

    @property
    def identity(self) -> tuple[str, Portal, str]:
        """What makes two requests mean the same session."""
        return self.target, self.portal, self.iface_name

    def __str__(self) -> str:
        return f"{self.target} at {self.portal}"


@dataclass(frozen=True, slots=True)
class DiscoveryRequest:
    """A SendTargets discovery. Defaults are open-iscsi's, except that the whole has a deadline too."""

    portal: Portal
    initiator_name: str
    chap: ChapSettings = ChapSettings()
    login_timeout_s: float = 15.0  # connect and login of one attempt
    active_timeout_s: float = 30.0  # one answer after login
    total_timeout_s: float = 90.0  # the whole, retries included
    reopen_max: int = 5  # new attempts after a connection that was refused or broke
    max_recv_data_segment_length: int = 32768  # over iSER always this: LIO sends longer lists in parts, badly
    netdev: str = ""  # tcp
    source_address: str = ""
    hw_address: str = ""  # tcp
    transport: str = "tcp"  # "tcp" or "iser"


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """A target as announced: its name and each (portal, portal group tag) it listens on; tag -1 when not given."""

    name: str
    portals: tuple[tuple[Portal, int], ...]


@dataclass(frozen=True, slots=True)
class DiscoveryAnswer:
    """The whole list of a portal. `skipped` entries of it were left out, for the reasons among `warnings`."""

    targets: tuple[DiscoveredTarget, ...]
    skipped: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What the service knows of a session beyond the kernel's account. `claims`: who wants it (`claims.py`)."""

    sid: int
    target: str
    portal: Portal
    iface_name: str
    claims: tuple[str, ...]
    phase: str  # in words: "logged in", "connection lost, being brought back", ...
    attempts: int  # to bring it back, since it was up
    recoveries: int  # how often it came back
    last_error: str


@dataclass(frozen=True, slots=True)
class HistoryMoment:
    """A change in a session's life. `at_s`: seconds since 1970; `attempts`: to bring it back, before this."""

    at_s: float
    state: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """The timeline of a session, oldest first; `ended_s` is None while it lives."""

    sid: int
    target: str
    portal: Portal
    iface_name: str
    transport: str
    claims: tuple[str, ...]  # who wants it, or wanted it last
    moments: tuple[HistoryMoment, ...]
    ended_s: float | None
