# SPDX-License-Identifier: Apache-2.0
"""The machine of the recorded runs on a real kernel: LIO targets, soft-RoCE, files below /etc, iserd for iscsid.

For the lab's virtual machine only: it writes to /etc/iscsi, loads modules, makes targets. `iscsiadm` is iseradm under
that name: in a forked child where the command line is simple, else through a shell with a directory in front of $PATH.
Steps that need what the lab has not (a second kind of target) do nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rdmactl.control.client import Client
from rdmactl.discoveryd.watched import watched
from rdmactl.initiator import sysfs
from rdmactl.records.store import Store
from tests.golden.shell import NotForUs, Result, execute
from tests.golden.world import CONFIGURATION, HOST_NAME, T1, T2
from tests.lab.guest import answering, sh, wait_for
from tests.lab.isns_world import register, start_isnsd

__all__ = ["Machine"]

ROOT = Path(__file__).resolve().parents[2]
VENV_PYTHON = ROOT / ".venv/bin/python"
PYTHON = str(VENV_PYTHON) if VENV_PYTHON.exists() else sys.executable
"""The daemon needs libraries that an interpreter called "python" may not have."""

COMMAND_S = 120.0
DISCOVERY_S = 300.0
SLOWER = 4
"""The recorded machine was real, the lab's may be emulated on a busy host."""

ETC = Path("/etc/iscsi")
SETTINGS = Path("/etc/rdmactl/rdmactl.toml")
DATABASE = ("nodes", "static", "send_targets", "isns", "fw", "ifaces")
TARGETS = Path("/sys/kernel/config/target/iscsi")
FIRMWARE = Path("/sys/firmware")
PORTALS = ("10.9.0.1:3260", "10.9.0.2:3260", "[fd00:9::1]:3260")
ISER_PORTAL = "10.9.0.1:3261"
MOUNTED = Path("/tmp/mounted")

_PORTAL_CHANGE = re.compile(r"\(target (\S+): portal (\S+) (removed|added)\)")
_GROUP_CHANGE = re.compile(r"\(target (\S+): portal group (disabled|enabled)\)")
_CHAP = re.compile(r"\(target: discovery CHAP required, (\S+) / (\S+)\)")
_REGISTERED = re.compile(r"\(iSNS: register target (\S+) with portals (\S+) and (\S+)\)")
_TABLE_ENTRY = re.compile(r"fixture B: (\S+) = (.*)")

_CLOSER = """
import socket, struct
with socket.create_server(("10.9.0.1", 7777)) as server:
    while True:
        sock, _ = server.accept()
        sock.recv(48)
        sock.close()
"""


class Machine:
    """One machine, from an empty database and without a daemon."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="replay"))
        self.directory.chmod(0o755)
        self.environment = os.environ | {
            "RDMACTL_STATE_DIRECTORY": str(self.directory / "state"),
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "LC_ALL": "C",
            "PYTHONPATH": str(ROOT),
        }
        for variable in ("RDMACTL_RUNTIME_DIRECTORY", "RDMACTL_CONFIG_DIRECTORY", "RDMACTL_SETTINGS_DIRECTORY"):
            self.environment.pop(variable, None)
        self.daemon: subprocess.Popen[bytes] | None = None
        self.others: list[subprocess.Popen[bytes]] = []
        self._install()
        self._name_the_daemon()
        self._configure("")

    def _install(self) -> None:
        program = self.directory / "bin" / "iscsiadm"
        program.parent.mkdir()
        program.write_text(f"#!{PYTHON} -P\nfrom rdmactl.cli.iseradm import main\nraise SystemExit(main())\n")
        program.chmod(0o755)
        shutil.rmtree(ETC, ignore_errors=True)
        ETC.mkdir()
        (ETC / "initiatorname.iscsi").write_text(f"InitiatorName={HOST_NAME}\n")
        with Path("/etc/hosts").open("a") as hosts:
            hosts.write("10.9.0.1 host1.example\n")
        SETTINGS.parent.mkdir(exist_ok=True)
        SETTINGS.write_text(f'[records]\nmirror = "{ETC}"\n')

    def _name_the_daemon(self) -> None:
        """An interpreter called iscsid, with our libraries: iscsi_discovery looks for a process of that name."""
        environment = self.directory / "daemon"
        (environment / "bin").mkdir(parents=True)
        (environment / "bin/iscsid").symlink_to(PYTHON)
        if VENV_PYTHON.exists():
            shutil.copy(ROOT / ".venv/pyvenv.cfg", environment)
            (environment / "lib").symlink_to(ROOT / ".venv/lib")

    # ---------------------------------------------------------------- commands

    def run(self, line: str) -> Result:
        """What a command line prints."""
        try:
            return execute(line, self.iscsiadm, lambda seconds: time.sleep(SLOWER * seconds))
        except NotForUs:
            return self._shell(line)

    def _shell(self, line: str) -> Result:
        line = line.replace("B:", f"{FIRMWARE}/ibft/").replace("SAVED", str(self.directory / "saved"))
        try:
            done = subprocess.run(
                ["bash", "-c", line],
                env=self.environment, capture_output=True, text=True, timeout=COMMAND_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Result("", f"no end within {COMMAND_S:g} s\n", 124)
        return Result(done.stdout, done.stderr, done.returncode)

    def iscsiadm(self, words: list[str]) -> Result:
        """iseradm in a child of this process, which saves starting an interpreter."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            child = os.fork()
            if not child:
                _become_iscsiadm(words, stdout.fileno(), stderr.fileno(), self.environment)
            status = _wait(child)
            stdout.seek(0)
            stderr.seek(0)
            return Result(stdout.read().decode(errors="surrogateescape"), stderr.read().decode(), status)

    # ---------------------------------------------------------------- what changes the machine

    def prepare(self, text: str) -> None:
        """A step without a name."""
        for pattern, action in self._changes():
            found = re.match(pattern, text)
            if found:
                action(found)
                return
        if not text.startswith(("(", "fixture", "a ")):
            self.run(text)
        if text.startswith("rm "):
            self._forget_what_is_gone()

    def _forget_what_is_gone(self) -> None:
        """Between cases the corpus clears up by deleting files: our records go with their files in the mirror."""
        with Store(self.environment["RDMACTL_STATE_DIRECTORY"]) as store, store.transaction():
            for node in store.nodes():
                path = ETC / "nodes" / node.target / node.directory
                if not (path if node.tpgt == -1 else path / node.iface).exists():
                    store.delete_node(node)
            for name in store.ifaces():
                if not (ETC / "ifaces" / name).exists():
                    store.delete_iface(name)

    def _changes(self) -> tuple[tuple[str, Callable[[re.Match[str]], object]], ...]:
        return (
            (r"\(database emptied\)", lambda _: self._empty()),
            (r"\(modprobe (\S+)\)", lambda m: sh(f"modprobe -q {m[1]} || true")),
            (r"\(ip link add dummy0", lambda _: _devices()),
            (r"\(iscsid started\)", lambda _: self._start()),
            (r"\(iscsid stopped\)", lambda _: self.stop()),
            (r"\(iscsid\.conf: [^,]*(?:, plus: (.*))?\)", lambda m: self._configure(m[1] or "")),
            (r"\(fixture F started(.*);", lambda m: self._fixture(iser="without iser" not in m[1])),
            (_PORTAL_CHANGE.pattern, lambda m: self._change_portal(m[1], m[2], added=m[3] == "added")),
            (_GROUP_CHANGE.pattern, lambda m: self._change_group(m[1], enabled=m[2] == "enabled")),
            (_CHAP.pattern, lambda m: _discovery_chap(m[1], m[2])),
            (r"\(target: discovery CHAP off\)", lambda _: _discovery_chap("", "")),
            (r"fixture N started", lambda _: self.others.append(start_isnsd(self.directory))),
            (_REGISTERED.pattern, lambda m: register(m[1], m[2], m[3], entity="san1")),
            (r"a server on 10\.9\.0\.1:7777", lambda _: self._closer()),
            (r"\(a file system on the first disk", lambda _: self._mount()),
            (r"\(unmounted\)", lambda _: sh(f"umount {MOUNTED}")),
            (r"\(fixture B starts\)", lambda _: sh(f"mount -t tmpfs none {FIRMWARE}")),
            (r"\(fixture B ends\)", lambda _: sh(f"umount {FIRMWARE}")),
            (_TABLE_ENTRY.pattern, lambda m: _table_entry(m[1], m[2])),
        )

    def configure(self, text: str | None) -> None:
        """Another iscsid.conf, or none."""
        (ETC / "iscsid.conf").unlink(missing_ok=True)
        if text is not None:
            (ETC / "iscsid.conf").write_text(text)

    def _configure(self, plus: str) -> None:
        self.configure(f"{CONFIGURATION}{plus}\n")

    def _empty(self) -> None:
        shutil.rmtree(self.environment["RDMACTL_STATE_DIRECTORY"], ignore_errors=True)
        for name in DATABASE:
            shutil.rmtree(ETC / name, ignore_errors=True)

    def _start(self) -> None:
        self.stop()
        with (self.directory / "iserd.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [self.directory / "daemon/bin/iscsid", "-m", "rdmactl.daemons.iserd"],
                env=self.environment,
                stderr=log,
                stdout=log,
            )
        wait_for(lambda: self.iscsiadm(["-m", "session", "-r", "999999", "-u"]).status == 22, "iscsiadm")
        wait_for(lambda: answering("/run/rdmactl/initiator.sock"), "iserd's socket")
        self._settle()

    def _settle(self) -> None:
        """Until the discovery daemon has done what its records ask for."""
        records = watched(self.environment["RDMACTL_STATE_DIRECTORY"])

        def done() -> bool:
            with Client("initiator") as client:
                watches = client.call("io.rdmactl.Discovery.List", {})["watches"]
            settled = [each for each in watches if each["answered_at_s"] is not None and not each["logins"]]
            return len(settled) == len(records)

        wait_for(done, "the discovery daemon", limit_s=DISCOVERY_S)

    def _change_portal(self, target: str, portal: str, *, added: bool) -> None:
        """With the discovery daemon at work, until its session has come or gone as well."""
        directory = TARGETS / target / "tpgt_1" / "np" / portal
        directory.mkdir() if added else directory.rmdir()
        if self.daemon is not None and watched(self.environment["RDMACTL_STATE_DIRECTORY"]):
            there = lambda: portal in {str(view.persistent) for view in sysfs.sessions()}  # noqa: E731
            wait_for(lambda: there() == added, f"the session at {portal}", limit_s=DISCOVERY_S)
            self._settle()

    def stop(self) -> None:
        """No daemon; sessions stay."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(60)
        self.daemon = None

    def _fixture(self, *, iser: bool) -> None:
        """Fixture F of the corpus. Targets are made once, then put right: taking one down can hang in the kernel."""
        self.close()
        self._empty()
        _devices()
        if not (TARGETS / T1).is_dir():
            _make_targets()
        portals = TARGETS / T1 / "tpgt_1" / "np"
        for portal in PORTALS:
            (portals / portal).mkdir(exist_ok=True)
        if iser and not (portals / ISER_PORTAL).is_dir():
            sh(f"target {T1} {ISER_PORTAL} iser")
        elif not iser and (portals / ISER_PORTAL).is_dir():
            (portals / ISER_PORTAL).rmdir()
        _discovery_chap("", "")
        sh("modprobe -a iscsi_tcp ib_iser")

    def _change_group(self, target: str, *, enabled: bool) -> None:
        """Down long enough for the recovery time-out of the scenario, 8 s."""
        (TARGETS / target / "tpgt_1" / "enable").write_text(str(int(enabled)))
        if not enabled:
            wait_for(lambda: {view.state for view in sysfs.sessions()} == {"FREE"}, "the end of the recovery")

    def _closer(self) -> None:
        self.others.append(subprocess.Popen([sys.executable, "-c", _CLOSER]))
        wait_for(lambda: "10.9.0.1:7777" in sh("ss -ltn"), "the server on port 7777")

    def _mount(self) -> None:
        session = sysfs.sessions()[0]
        wait_for(lambda: session.luns() and session.luns()[0].block_device, "the disk")
        disk = f"/dev/{session.luns()[0].block_device}"
        MOUNTED.mkdir(exist_ok=True)
        sh(f"modprobe ext4; mkfs.ext4 -q -F {disk}; mount {disk} {MOUNTED}")

    def host_of(self, sid: int) -> int | None:
        """The SCSI host of a session."""
        view = sysfs.session(sid)
        return None if view is None else view.host_no

    def close(self) -> None:
        """Without sessions and daemon; targets stay."""
        for other in self.others:
            other.kill()
            other.wait()
        self.others = []
        if sysfs.sessions():
            if self.daemon is None or self.daemon.poll() is not None:
                self._start()
            self.iscsiadm(["-m", "session", "-u"])
        self.stop()


def _become_iscsiadm(words: list[str], stdout: int, stderr: int, environment: dict[str, str]) -> None:
    """In the child: run the program and end."""
    status = 70
    try:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["iscsiadm", *words]
        from rdmactl.cli.iseradm import main

        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    end = time.monotonic() + COMMAND_S
    while time.monotonic() < end:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def _devices() -> None:
    sh("""
        ip link show rxe0 >/dev/null 2>&1 || rdma link show rxe0/1 >/dev/null 2>&1 || link rxe0 rxe dummy0 10.9.0.1/24
        ip address replace 10.9.0.2/24 dev dummy0; ip address replace fd00:9::1/64 dev dummy0 nodad
    """)


def _make_targets() -> None:
    """The two targets; the second one wants CHAP."""
    for portal in PORTALS:
        sh(f"target {T1} '{portal}'")
    sh(f"target {T2} 10.9.0.1:3260")
    _second_lun(T1)
    group = TARGETS / T2 / "tpgt_1"
    (group / "auth/userid").write_text("chapuser")
    (group / "auth/password").write_text("chapsecret1234")
    (group / "attrib/authentication").write_text("1")


def _second_lun(target: str) -> None:
    group = TARGETS / target / "tpgt_1"
    disk = TARGETS.parent / "core/fileio_0/second"
    sh(f"""
        mkdir -p {disk}; truncate -s 64M /tmp/second.img
        echo fd_dev_name=/tmp/second.img,fd_dev_size=67108864 > {disk}/control; echo 1 > {disk}/enable
        mkdir -p {group}/lun/lun_1; ln -s {disk} {group}/lun/lun_1/second
    """)


def _discovery_chap(username: str, password: str) -> None:
    attributes = TARGETS / "discovery_auth"
    (attributes / "userid").write_text(username or "NULL")
    (attributes / "password").write_text(password or "NULL")
    (attributes / "enforce_discovery_auth").write_text("1" if username else "0")


def _table_entry(name: str, value: str) -> None:
    path = FIRMWARE / "ibft" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    if path.parent.name == "ethernet0":
        (path.parent / "device/net/dummy0").mkdir(parents=True, exist_ok=True)
