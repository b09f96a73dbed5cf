# SPDX-License-Identifier: Apache-2.0
"""The world around iseradm in the recorded runs: targets, a daemon that answers calls, a sysfs, records, files.

The daemon here is played at the level of the control interface, by the rules the corpus states for its fixtures; it
takes the same records the real one takes, through the same conversion.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest import mock

from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.control.client import RemoteError
from rdmactl.errors import Unavailable
from rdmactl.initiator import sysfs
from rdmactl.initiator.api import LoginRequest
from rdmactl.iscsi.portal import Portal, target_address
from rdmactl.isns.api import IsnsRequest
from rdmactl.netlink.iscsi_stats import SESSION_COUNTERS
from rdmactl.records.requests import discovery_request, isns_request, login_request
from tests.fake.iscsi_sysfs import FakeSysfs
from tests.golden.shell import Result

__all__ = ["CONFIGURATION", "HOST_NAME", "T1", "T2", "World"]

T1 = "iqn.2003-01.org.linux-iscsi.san:t1"
T2 = "iqn.2003-01.org.linux-iscsi.san:t2"
HOST_NAME = "iqn.2016-04.com.open-iscsi:host1"
HOST1 = "10.9.0.1"  # what host1.example means
FIRST_HOST_NO = 6
ISER_PORTAL = Portal(HOST1, 3261)
SILENT, CLOSING = Portal("10.9.0.77"), Portal("10.9.0.1", 7777)
ISNS_SERVER = Portal("10.9.0.1", 3205)
DAEMON_PID = 4711

CONFIGURATION = """\
node.session.initial_login_retry_max = 8
node.conn[0].timeo.login_timeout = 15
node.session.xmit_thread_priority = -20
"""
"""What of the distributed iscsid.conf differs from the built-in defaults."""

EXPANDED = {"fd00:9::1": "fd00:0009:0000:0000:0000:0000:0000:0001"}


class Target(NamedTuple):
    portals: list[Portal]
    chap: tuple[str, str] | None = None


class World:
    """One machine.

    `last_first`: sessions are numbered from the last login of a call to the first. Records were logged in in the order
    of directory entries when the corpus was recorded, which here is the order of names.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.config = directory / "config"
        self.config.mkdir(parents=True)
        self.daemon = False
        self.program = "iscsiadm"
        self.left_out: list[str] = []  # of every list of targets, and why
        self.targets: dict[str, Target] = {}
        self.discovery_chap: tuple[str, str] | None = None
        self.isns: dict[str, list[Portal]] | None = None  # what the iSNS server knows; None: there is none
        self.next_sid, self.next_host, self.next_disk = 1, FIRST_HOST_NO, 0
        self.last_first = self.mounted = False
        self.sysfs_root = directory / "sys"
        self.sysfs = FakeSysfs(self.sysfs_root)
        (self.sysfs_root / "class/net/lo").mkdir(parents=True)
        self.configure(CONFIGURATION)

    def configure(self, text: str | None) -> None:
        path = self.config / "iscsid.conf"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    def empty_database(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    def start_fixture(self, *, iser: bool = True) -> None:
        """Fixture F: two targets; t2 wants CHAP."""
        portals = [Portal("10.9.0.1"), Portal("10.9.0.2"), Portal("fd00:9::1")]
        if iser:
            portals.append(ISER_PORTAL)
        self.targets = {T1: Target(portals), T2: Target([Portal("10.9.0.1")], ("chapuser", "chapsecret1234"))}
        for transport, handle in (("tcp", 1), ("iser", 2)):
            self.sysfs.add_transport(transport, handle, 0)
        self.next_sid, self.next_host, self.next_disk = 1, FIRST_HOST_NO, 0

    def iscsiadm(self, words: list[str]) -> Result:
        """One run of the program in this process."""
        stdout, stderr = io.StringIO(), io.StringIO()
        environment = {
            "RDMACTL_STATE_DIRECTORY": str(self.state),
            "RDMACTL_CONFIG_DIRECTORY": str(self.config),
            "RDMACTL_RUNTIME_DIRECTORY": str(self.directory / "run"),
        }
        self.last_first = "node" in words
        with (
            mock.patch.dict(os.environ, environment),
            mock.patch("socket.getaddrinfo", _getaddrinfo),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            status = run(_Context(self), words)
        return Result(stdout.getvalue(), stderr.getvalue(), status)

    def context(self, program: str) -> Context:
        """A run of another front end here."""
        self.program = program
        return _Context(self)

    # What the daemon does

    def discover(self, wire: dict[str, str]) -> list[dict[str, Any]]:
        if wire["discovery.type"] == "isns":
            return self.query(isns_request(wire, HOST_NAME))
        request = discovery_request(wire, HOST_NAME)
        where = str(request.portal)
        if request.portal.address == "nosuch.invalid":
            text = f'cannot resolve "{request.portal.address}": Temporary failure in name resolution'
            raise RemoteError(text, code="unresolved", err=4)
        asked = request.portal._replace(address=_numeric(request.portal.address))
        if not any(asked in target.portals for target in self.targets.values()):
            cause = {SILENT: "silent", CLOSING: "closed"}.get(request.portal, "refused")
            raise RemoteError(f"{where} does not answer", code=cause, err=11)
        if (request.transport == "iser") != (asked == ISER_PORTAL):
            raise RemoteError(f"{where} is not reached by {request.transport}", code="rdma", err=11)
        if self.discovery_chap not in (None, (request.chap.username, request.chap.password)):
            raise RemoteError(f"{where} did not accept the credentials", code="iscsi", err=24)
        found = []
        for name, target in self.targets.items():
            # LIO lists what can be reached the same way: everything over TCP, iSER portals over iSER.
            portals = [portal for portal in target.portals if request.transport == "tcp" or portal == ISER_PORTAL]
            if portals:
                found.append({"name": name, "addresses": [target_address(portal, 1) for portal in portals]})
        return found

    def query(self, request: IsnsRequest) -> list[dict[str, Any]]:
        if self.isns is None or request.server != ISNS_SERVER:
            raise RemoteError(f"{request.server} is no iSNS server", code="refused", err=25)
        return [
            {"name": name, "addresses": [target_address(portal, 1) for portal in portals]}
            for name, portals in self.isns.items()
        ]

    def log_in(self, wire: dict[str, str]) -> int:
        request = login_request(wire, HOST_NAME)
        if request.portal.address == "nosuch.invalid":
            raise RemoteError("cannot be resolved", code="iscsi", err=4)
        portal = request.portal._replace(address=_numeric(request.portal.address))
        reached = [name for name, target in self.targets.items() if portal in target.portals]
        if not reached or request.hw_address or (portal.port == 3261 and request.transport == "iser" and not reached):
            raise RemoteError(f"{request} refuses the connection", code="iscsi", err=8)
        sid = self.next_sid
        self.next_sid += 1
        target = self.targets.get(request.target)
        if target is None or portal not in target.portals:
            raise RemoteError(f"{request} is out of service", code="iscsi", err=8)
        chap = request.settings.chap
        if target.chap not in (None, (chap.username, chap.password)):
            raise RemoteError(f"{request} did not accept the credentials", code="iscsi", err=24)
        self._add_session(sid, request, portal)
        return sid

    def _add_session(self, sid: int, request: LoginRequest, portal: Portal) -> None:
        host = self.next_host
        self.next_host += 1
        iser = request.transport == "iser"
        chap = request.settings.chap
        self.sysfs.add_session(request.transport, sid, host)
        self.sysfs.add_connection(sid, host)
        self.sysfs.set_session(
            sid,
            state="LOGGED_IN",
            target_state="SCANNED",
            targetname=request.target,
            initiatorname=request.initiator_name,
            ifacename=request.iface_name,
            tpgt="1",
            abort_tmo="15",
            lu_reset_tmo="30",
            recovery_tmo=str(request.settings.replacement_timeout_s),
            initial_r2t="1",
            immediate_data="1",
            first_burst_len="65536",
            max_burst_len="262144",
            username=chap.username or "(null)",
            password=chap.password or "(null)",
        )
        self.sysfs.set_connection(
            sid,
            state="up",
            persistent_address=request.portal.address,
            persistent_port=str(portal.port),
            address=EXPANDED.get(portal.address, portal.address),
            port=str(portal.port),
            max_recv_dlength="128" if iser else "262144",
            max_xmit_dlength="8192" if iser else "262144",
            exp_statsn="1",
        )
        if not iser:
            source = EXPANDED.get(portal.address, "10.9.0.1")
            self.sysfs.set_host(host, ipaddress=source)
        if request.netdev:
            self.sysfs.set_host(host, netdev=request.netdev)
        for lun in range(2 if request.target == T1 else 1):
            self.sysfs.add_lun(sid, host, lun, f"sd{chr(ord('a') + self.next_disk % 26)}")
            self.next_disk += 1

    def statistics(self, sid: int) -> dict[str, Any]:
        session = sysfs.session(sid, str(self.sysfs_root))
        assert session is not None
        named = ("tx_sendpage_failures", "rx_discontiguous_hdr", "eh_abort_cnt") if session.transport == "tcp" else ()
        return {
            "fixed": [{"name": name, "value": sid} for name in SESSION_COUNTERS],
            "named": [{"name": name, "value": 0} for name in named],
        }

    def log_out(self, sid: int) -> None:
        session = sysfs.session(sid, str(self.sysfs_root))
        if session is None:
            raise RemoteError("no such session", code="iscsi", err=2)
        if self.mounted and "iscsid.safe_logout = Yes" in (self.config / "iscsid.conf").read_text():
            raise RemoteError(f"session {sid} is in use: sda is mounted on /mnt", code="iscsi", err=28)
        self.sysfs.remove_connection(sid, session.host_no)
        self.sysfs.remove_session(sid, session.host_no)


class _Context(Context):
    """iscsiadm's context, with the played daemon at the other end."""

    def __init__(self, world: World) -> None:
        super().__init__(world.program, sysfs=str(world.sysfs_root))
        self._world = world

    def kill(self, pid: int) -> None:
        assert pid == DAEMON_PID
        self._world.daemon = False

    def client(self, deadline_s: float) -> Any:
        assert deadline_s > 0
        if not self._world.daemon:
            raise Unavailable("iserd is not running", code="daemon-not-running")
        return _Client(self._world)


class _Client:
    """What `rdmactl.control.client.Client` offers, without a socket."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        if method == "io.rdmactl.Daemon.Status":
            return {"roles": ["initiator"], "pid": DAEMON_PID}
        assert parameters is not None
        if method == "io.rdmactl.Initiator.Statistics":
            return self._world.statistics(parameters["sid"])
        assert method == "io.rdmactl.Initiator.Discover"
        left_out = self._world.left_out
        return {"targets": self._world.discover(parameters["record"]), "skipped": len(left_out), "warnings": left_out}

    def more(self, method: str, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Outcomes come last first: the front end has to put them in order."""
        if method == "io.rdmactl.Initiator.Claim":
            return
        login = method == "io.rdmactl.Initiator.Login"
        jobs = parameters["records"] if login else parameters["sids"]
        outcomes = []
        order = list(enumerate(jobs))
        for index, job in reversed(order) if self._world.last_first else order:
            outcome: dict[str, Any] = {"index": index, "sid": None, "failure": None}
            try:
                outcome["sid"] = self._world.log_in(job) if login else self._world.log_out(job)
            except RemoteError as error:
                outcome["failure"] = {
                    "code": error.code,
                    "message": error.message,
                    "hint": error.hint,
                    "err": error.err,
                }
            outcomes.append(outcome)
        if parameters.get("wait") is False:
            outcomes = [{"index": 0, "sid": None, "failure": None}]
        for outcome in reversed(outcomes):
            yield {"outcome": outcome}


def _numeric(address: str) -> str:
    return HOST1 if address == "host1.example" else address


def _getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    """The corpus's host names."""
    if host.endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (_numeric(host), 0))]
