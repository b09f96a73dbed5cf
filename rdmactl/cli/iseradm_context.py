# SPDX-License-Identifier: Apache-2.0
"""What every mode of iseradm needs: the name it was called by, messages, records, sessions, the daemon. Face ring.

Nothing is opened before it is asked for. Called as `iscsiadm`, the program speaks exactly as open-iscsi's does, because
scripts read it; otherwise a failure of the daemon's work is one sentence that says what happened. `rdmactl` has this in
common with iseradm where it changes records.
Not here: what a mode does.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rdmactl.control.client import Client
    from rdmactl.initiator.adapter import Adapter
    from rdmactl.initiator.sysfs import HostView, SessionView
    from rdmactl.netlink.ports import SocketDoor
    from rdmactl.records.conf import Setting
    from rdmactl.records.model import Record
    from rdmactl.records.settings import Mirror
    from rdmactl.records.store import NodeId, Store

__all__ = ["RECORD_VERSION", "Context", "Exit", "SessionCounts"]

RECORD_VERSION = "2.1.8"
"""The release of open-iscsi whose texts, record format and behaviour this is; programs compare it."""

_READS_OF_CONFIG = 4
"""open-iscsi 2.1.8 reads iscsid.conf once for each kind of record, and complains as often."""


class Exit(Exception):
    """The end of the run: a status, messages for standard error with the program's name in front, others without.

    Lines `before` are those of a library in iscsiadm, `plain` is its last one.
    """

    def __init__(self, status: int, *messages: str, before: Sequence[str] = (), plain: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.messages = messages
        self.before = before
        self.plain = plain


class Context:
    """One run. `sysfs` is the root of sysfs; `client` makes connections to the daemon (tests put their own)."""

    def __init__(self, program: str, *, sysfs: str = "/sys") -> None:
        self.program = program if program in ("iscsiadm", "rdmactl") else "iseradm"
        self.exact = self.program == "iscsiadm"
        self.sysfs = sysfs
        self.debug = 0
        self.door: SocketDoor | None = None  # tests have kernels of their own
        self._store: Store | None = None
        self._settings: list[Setting] | None = None
        self._preserve: bool | None = None

    @property
    def version(self) -> str:
        if self.exact:
            return RECORD_VERSION
        from rdmactl import __version__

        return __version__

    @property
    def try_line(self) -> str:
        return f"Try `{self.program} --help' for more information."

    def error(self, text: str) -> None:
        """A message on standard error. Standard output is flushed first, so that both read in order on a terminal."""
        sys.stdout.flush()
        print(f"{self.program}: {text}", file=sys.stderr)

    def report(self, end: Exit) -> int:
        """Print what an Exit has to say; its status."""
        sys.stdout.flush()
        for line in end.before:
            print(line, file=sys.stderr)
        for message in end.messages:
            self.error(message)
        if end.plain is not None:
            sys.stdout.flush()
            print(end.plain, file=sys.stderr)
        return end.status

    @property
    def store(self) -> Store:
        """The records."""
        if self._store is None:
            from rdmactl.records.store import Store

            self._store = Store(warn=self.error, follower=self._mirror())
        return self._store

    def _mirror(self) -> Mirror | None:
        """Who keeps open-iscsi's tree written, if there are settings that could want it."""
        from rdmactl import settings

        if not settings.exists():
            return None
        from rdmactl.records.settings import Mirror

        return Mirror(self.error)

    @property
    def preserve(self) -> bool:
        """Whether a discovery keeps what there is, as rdmactl.toml says; iscsiadm resets it."""
        if self._preserve is None:
            self._preserve = self._read_preserve()
        return self._preserve

    def _read_preserve(self) -> bool:
        from rdmactl import settings

        if not settings.exists():
            return False
        from rdmactl.records.discovery_settings import read

        found, unknown = read()
        for sentence in unknown:
            self.error(sentence)
        return found.preserve

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    @property
    def settings(self) -> list[Setting]:
        """iscsid.conf, read when new records need it; its warnings are printed then."""
        if self._settings is None:
            self._settings = self._read_settings()
        return self._settings

    def _read_settings(self) -> list[Setting]:
        from rdmactl.records import conf
        from rdmactl.records.model import discovery_table, node_table

        settings, warnings = conf.read_config()
        for _ in range(_READS_OF_CONFIG if self.exact else 1):
            for warning in warnings:
                self.error(warning)
        for table in (discovery_table("sendtargets"), discovery_table("isns"), node_table("default")):
            scratch: Record = {}
            for warning in conf.apply(scratch, table, settings):
                self.error(warning)
        return settings

    def sessions(self) -> list[SessionView]:
        """The kernel's sessions, in the order of iscsiadm's lists."""
        from rdmactl.initiator import sysfs

        return sysfs.sessions(self.sysfs)

    def session_counts(self) -> SessionCounts:
        """How many sessions each node record has at this moment."""
        return SessionCounts(self.sessions())

    def client(self, deadline_s: float) -> Client:
        """A connection to the daemon; Unavailable when it is not running."""
        from rdmactl.control.client import Client

        return Client("initiator", deadline_s=deadline_s)

    def adapter(self, host: HostView) -> Adapter:
        """A host of an adapter with its own iSCSI stack, asked without a daemon."""
        from rdmactl.initiator import sysfs
        from rdmactl.initiator.adapter import Adapter
        from rdmactl.netlink.sockets import open_socket

        handle = sysfs.transport_handle(host.transport, self.sysfs)
        if handle is None:
            raise Exit(12, f"Could not match hostno {host.host_no} to transport.")
        return Adapter(handle, host.host_no, self.door or open_socket)

    def kill(self, pid: int) -> None:
        """Ask a daemon to end."""
        import os
        import signal

        os.kill(pid, signal.SIGTERM)

    def first_iface(self, ifaces: Sequence[str], complaint: str) -> str | None:
        """The interface of a mode that takes one."""
        if len(ifaces) > 1:
            self.error(complaint)
        return ifaces[0] if ifaces else None


class SessionCounts:
    """Sessions counted by what makes them a node record's own: target, configured portal and interface."""

    def __init__(self, sessions: Iterable[SessionView]) -> None:
        self._counts: dict[tuple[str, str, int, str], int] = {}
        for session in sessions:
            if session.persistent is not None:
                key = (session.target, *session.persistent, session.iface_name or "default")
                self._counts[key] = self._counts.get(key, 0) + 1

    def of(self, node: NodeId) -> int:
        """How many belong to a node record."""
        return self._counts.get((node.target, node.address, node.port, node.iface), 0)
