# SPDX-License-Identifier: Apache-2.0
"""The kernel's own account of iSCSI sessions: one door for sysfs, used by the daemon and by the front ends. Shell ring.

A session may vanish between two reads: what is gone is absent, never an error. Front ends import this module at every
start, so it imports next to nothing, and a list of many sessions costs ten small reads each; the details behind it
(levels 2 and 3 of `iscsiadm -m session -P`) are read when a method asks for them.

Not here: what to do about a state (`service.py`), and the text printed for it (`rdmactl.cli`).
Defined by drivers/scsi/scsi_transport_iscsi.c (attributes of session, connection, host, endpoint) and
drivers/scsi/scsi_sysfs.c (host, target, device).
"""

from __future__ import annotations

import os

from rdmactl.iscsi.portal import Portal
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ChapView",
    "HostView",
    "InterfaceView",
    "LunView",
    "NegotiatedView",
    "SessionView",
    "TimeoutsView",
    "count_alike",
    "endpoints",
    "exp_statsn",
    "followed",
    "host",
    "hosts",
    "names",
    "read",
    "recovery_timeout",
    "session",
    "session_host",
    "session_ids",
    "session_luns",
    "session_of",
    "sessions",
    "transport_caps",
    "transport_class_version",
    "transport_handle",
    "write",
]

_ABSENT = ("", "(null)", "<NULL>")  # how the kernel prints a string nobody has set
_DRIVER_PREFIX = "iscsi_"  # scsi_host's proc_name is "iscsi_tcp", "iscsi_iser"
_MAX_ATTRIBUTE_BYTES = 4096  # one page is all an attribute can hold


class LunView(NamedTuple):
    """One SCSI device of a session. `block_device` is its kernel name ("sda"), None when no disk driver took it."""

    host_no: int
    channel: int
    target_id: int
    lun: int
    state: str
    block_device: str | None
    path: str


class HostView(NamedTuple):
    """A scsi_host made by an iSCSI transport. None: the kernel knows no value."""

    host_no: int
    transport: str
    state: str | None
    initiator_name: str | None
    ip_address: str | None
    hw_address: str | None
    netdev: str | None


class InterfaceView(NamedTuple):
    """How a session leaves this host; None where nothing in particular was asked for."""

    name: str | None
    transport: str
    initiator_name: str | None
    ip_address: str | None
    hw_address: str | None
    netdev: str | None


class TimeoutsView(NamedTuple):
    """Seconds; `recovery_s` is -1 for "off" (wait for ever); None when the transport shows no such attribute."""

    recovery_s: int | None
    target_reset_s: int | None
    lun_reset_s: int | None
    abort_s: int | None


class ChapView(NamedTuple):
    """Credentials of a session, as only root may read them; None when unset or not readable."""

    username: str | None
    password: str | None
    username_in: str | None
    password_in: str | None

    def __repr__(self) -> str:
        return f"ChapView(username={self.username!r}, username_in={self.username_in!r}, secrets hidden)"


class NegotiatedView(NamedTuple):
    """What initiator and target agreed on; sizes in bytes; None when the transport shows no such attribute."""

    header_digest: bool | None
    data_digest: bool | None
    max_recv_dlength: int | None
    max_xmit_dlength: int | None
    first_burst_length: int | None
    max_burst_length: int | None
    immediate_data: bool | None
    initial_r2t: bool | None
    max_outstanding_r2t: int | None


class SessionView(NamedTuple):
    """One kernel session at the moment of the listing.

    `persistent` is the portal as configured (a temporary redirect does not change it), None for a half-made session;
    `state`, `target_state` and `connection_state` are the kernel's words ("LOGGED_IN", "SCANNED", "up"), None when
    absent.
    """

    sid: int
    host_no: int
    transport: str
    target: str
    tpgt: int
    persistent: Portal | None
    iface_name: str | None
    creator: int | None
    state: str | None
    target_state: str | None
    connection_state: str | None
    exp_statsn: int
    path: str
    root: str

    @property
    def flash(self) -> bool:
        """Made by an adapter's firmware, not by a program: leave it alone."""
        return self.creator == -1

    @property
    def connection_text(self) -> str:
        """The line "iSCSI Connection State", worked out from the kernel's states instead of asking a daemon."""
        if self.connection_state is None:
            return "FREE"
        if self.connection_state == "bound":
            return "IN LOGIN"
        if self.state == "LOGGED_IN" and self.connection_state == "up":
            return "IN LOGOUT" if self.target_state in ("UNBINDING", "UNBOUND") else "LOGGED IN"
        if self.state == "LOGGED_IN" and self.connection_state == "down":
            return "CLEANUP WAIT"
        return "TRANSPORT WAIT"

    @property
    def internal_text(self) -> str:
        """The line "Internal iscsid Session State"."""
        if self.connection_text == "CLEANUP WAIT":
            return "CLEANUP"
        return "REOPEN" if self.lost else "NO CHANGE"

    @property
    def lost(self) -> bool:
        """It was logged in once, and its connection is gone."""
        was_up = self.exp_statsn != 0 or self.target_state == "SCANNED" or self.state == "FAILED"
        return was_up and (self.state in ("FAILED", "FREE") or self.connection_state == "failed")

    @property
    def current(self) -> Portal | None:
        """Where the connection goes now; the configured portal while there is none."""
        address = _string(f"{self._connection}/address")
        port = _integer(f"{self._connection}/port")
        return Portal(address, port) if address and port else self.persistent

    def interface(self, known: HostView | None = None) -> InterfaceView:
        """The interface block of level 1; whoever has read the session's host already may pass it."""
        known = known or host(self.host_no, self.root)
        own_name = _string(f"{self.path}/initiatorname")
        if known is None:
            return InterfaceView(self.iface_name, self.transport, own_name, None, None, None)
        return InterfaceView(
            self.iface_name,
            self.transport,
            own_name or known.initiator_name,
            known.ip_address,
            known.hw_address,
            known.netdev,
        )

    def timeouts(self) -> TimeoutsView:
        """Time-outs in force (level 2)."""
        return TimeoutsView(
            recovery_timeout(self.sid, self.root),
            _integer(f"{self.path}/tgt_reset_tmo"),
            _integer(f"{self.path}/lu_reset_tmo"),
            _integer(f"{self.path}/abort_tmo"),
        )

    def chap(self, *, secrets: bool = True) -> ChapView:
        """Credentials (level 2); all None for a reader who is not root. Without `secrets`, only the names."""
        password, password_in = (
            _string(f"{self.path}/{name}") if secrets else None for name in ("password", "password_in")
        )
        return ChapView(_string(f"{self.path}/username"), password, _string(f"{self.path}/username_in"), password_in)

    def negotiated(self) -> NegotiatedView:
        """Negotiated parameters (level 2)."""
        connection, own = self._connection, self.path
        return NegotiatedView(
            _boolean(f"{connection}/header_digest"),
            _boolean(f"{connection}/data_digest"),
            _integer(f"{connection}/max_recv_dlength"),
            _integer(f"{connection}/max_xmit_dlength"),
            _integer(f"{own}/first_burst_len"),
            _integer(f"{own}/max_burst_len"),
            _boolean(f"{own}/immediate_data"),
            _boolean(f"{own}/initial_r2t"),
            _integer(f"{own}/max_outstanding_r2t"),
        )

    def luns(self) -> list[LunView]:
        """The SCSI devices of this session (level 3), by LUN."""
        return _luns(self.path, self.host_no)

    @property
    def _connection(self) -> str:
        return f"{self.root}/class/iscsi_connection/connection{self.sid}:0"


def read(path: str) -> str | None:
    """One attribute without its newline; None when it is absent, vanished, not readable or has no value now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _MAX_ATTRIBUTE_BYTES).decode("utf-8", "replace").strip()
    except OSError:  # ENOTCONN without a connection, ENODEV while being removed
        return None
    finally:
        os.close(descriptor)


def followed(path: str) -> str | None:
    """Where a path leads, all links followed; None when one of them vanishes meanwhile."""
    try:
        return os.path.realpath(path)
    except OSError:  # between its look that says "a link" and its reading of it
        return None


def write(path: str, value: str) -> None:
    """Write one attribute, with the newline the kernel's parsers want. OSError as the kernel answers."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{value}\n".encode())
    finally:
        os.close(descriptor)


def sessions(root: str = "/sys") -> list[SessionView]:
    """All sessions of this host, whoever made them, in the order open-iscsi lists them (by the text of the sid)."""
    views = (session(sid, root) for sid in session_ids(root))
    return [view for view in views if view is not None]


def session_ids(root: str = "/sys") -> list[int]:
    """The sids of all sessions, in the same order: one directory listing, whatever their number."""
    return [int(name[7:]) for name in names(f"{root}/class/iscsi_session") if name[7:].isdigit()]


def session(sid: int, root: str = "/sys") -> SessionView | None:
    """One session, or None when there is none with this sid."""
    place = _place(sid, root)
    state = None if place is None else _string(f"{place[0]}/state")
    if place is None or state is None:
        return None
    path, host_no = place
    connection = f"{root}/class/iscsi_connection/connection{sid}:0"
    address = _string(f"{connection}/persistent_address")
    port = _integer(f"{connection}/persistent_port")
    tpgt = _integer(f"{path}/tpgt")
    return SessionView(
        sid=sid,
        host_no=host_no,
        transport=_transport(host_no, root),
        target=_string(f"{path}/targetname") or "",
        tpgt=-1 if tpgt is None else tpgt,
        persistent=Portal(address, port) if address and port else None,
        iface_name=_string(f"{path}/ifacename"),
        creator=_integer(f"{path}/creator"),
        state=state,
        target_state=_string(f"{path}/target_state"),
        connection_state=_string(f"{connection}/state"),
        exp_statsn=exp_statsn(sid, root),
        path=path,
        root=root,
    )


def recovery_timeout(sid: int, root: str = "/sys") -> int | None:
    """Seconds for which I/O of a session without connection is held back, -1 for ever; None when it is not known."""
    found = read(f"{root}/class/iscsi_session/session{sid}/recovery_tmo")
    return -1 if found == "off" else _to_integer(found)


def count_alike(identity: tuple[str, Portal, str], sids: Iterable[int], root: str = "/sys") -> int:
    """How many of these sessions are of one target, configured portal and interface.

    A name is read first, at a tenth of the price of all the rest: most are of other targets.
    """
    of_target = (sid for sid in sids if _string(f"{root}/class/iscsi_session/session{sid}/targetname") == identity[0])
    views = (session(sid, root) for sid in of_target)
    return sum((v.target, v.persistent, v.iface_name or "default") == identity for v in views if v is not None)


def session_host(sid: int, root: str = "/sys") -> int | None:
    """The number of a session's SCSI host; None when there is no session."""
    place = _place(sid, root)
    return None if place is None else place[1]


def session_luns(sid: int, root: str = "/sys") -> list[LunView]:
    """The SCSI devices of a session, by LUN; none when it is gone. Reads nothing else of the session."""
    place = _place(sid, root)
    return [] if place is None else _luns(*place)


def _place(sid: int, root: str) -> tuple[str, int] | None:
    """Where a session's attributes are, and its host's number; None when there is no session."""
    directory = f"{root}/class/iscsi_session"
    try:  # one link to read: realpath would look at each directory on the way, a dozen calls for each session
        path = os.path.normpath(os.path.join(directory, os.readlink(f"{directory}/session{sid}")))
    except OSError:
        return None
    host_name = os.path.basename(os.path.dirname(os.path.dirname(os.path.dirname(path))))
    return (path, int(host_name[4:])) if host_name.startswith("host") else None


def _luns(path: str, host_no: int) -> list[LunView]:
    """Beside the directory of the session's attributes lie its connection and its SCSI targets."""
    device = os.path.dirname(os.path.dirname(path))
    found = []
    for target in names(device):
        if target.startswith(f"target{host_no}:"):
            for name in names(f"{device}/{target}"):
                lun = _lun(f"{device}/{target}", name)
                if lun is not None:
                    found.append(lun)
    return sorted(found)


def exp_statsn(sid: int, root: str = "/sys") -> int:
    """What a session expects as the next status number of its target; 0 before its first login."""
    return _integer(f"{root}/class/iscsi_connection/connection{sid}:0/exp_statsn") or 0


def session_of(path: str) -> int | None:
    """The sid a sysfs path leads through, such as that of a disk or a LUN; None when it is not of a session."""
    for part in reversed((followed(path) or "").split("/")):
        if part.startswith("session") and part[7:].isdigit():
            return int(part[7:])
    return None


def hosts(root: str = "/sys") -> list[HostView]:
    """All hosts of iSCSI transports, in the order open-iscsi lists them."""
    numbers = [name[4:] for name in names(f"{root}/class/iscsi_host") if name.startswith("host")]
    views = [host(int(number), root) for number in numbers if number.isdigit()]
    return [view for view in views if view is not None]


def host(host_no: int, root: str = "/sys") -> HostView | None:
    """One host, or None."""
    path = f"{root}/class/iscsi_host/host{host_no}"
    if not os.path.isdir(path):
        return None
    return HostView(
        host_no,
        _transport(host_no, root),
        _string(f"{root}/class/scsi_host/host{host_no}/state"),
        _string(f"{path}/initiatorname"),
        _string(f"{path}/ipaddress"),
        _string(f"{path}/hwaddress"),
        _string(f"{path}/netdev"),
    )


def endpoints(root: str = "/sys") -> list[int]:
    """The transport endpoints that exist (iser), by number; the number is the handle used over netlink."""
    found = names(f"{root}/class/iscsi_endpoint")
    return sorted(int(name[3:]) for name in found if name.startswith("ep-") and name[3:].isdigit())


def transport_handle(transport: str, root: str = "/sys") -> int | None:
    """The number a transport goes by over netlink until its module is unloaded; None when it is not loaded."""
    return _integer(f"{root}/class/iscsi_transport/{transport}/handle")


def transport_caps(transport: str, root: str = "/sys") -> int | None:
    """Capability bits (CAP_xxx of iscsi_if.h) of a loaded transport."""
    text = read(f"{root}/class/iscsi_transport/{transport}/caps")
    return int(text, 16) if text else None


def transport_class_version(root: str = "/sys") -> str | None:
    """The version of scsi_transport_iscsi, "2.0-870" for twenty years now; None when it is not loaded."""
    return _string(f"{root}/module/scsi_transport_iscsi/version")


def _transport(host_no: int, root: str) -> str:
    return (_string(f"{root}/class/scsi_host/host{host_no}/proc_name") or "").removeprefix(_DRIVER_PREFIX)


def _lun(directory: str, name: str) -> LunView | None:
    parts = name.split(":")
    state = _string(f"{directory}/{name}/state") if len(parts) == 4 else None
    if state is None or not all(part.isdigit() for part in parts):
        return None
    blocks = names(f"{directory}/{name}/block")
    host_no, channel, target_id, lun = (int(part) for part in parts)
    return LunView(host_no, channel, target_id, lun, state, blocks[0] if blocks else None, f"{directory}/{name}")


def names(path: str) -> list[str]:
    """The names in a directory, sorted; none when it is absent."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _string(path: str) -> str | None:
    text = read(path)
    return None if text is None or text in _ABSENT else text


def _integer(path: str) -> int | None:
    return _to_integer(read(path))


def _to_integer(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _boolean(path: str) -> bool | None:
    value = _integer(path)
    return None if value is None else value != 0
