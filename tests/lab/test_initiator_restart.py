# SPDX-License-Identifier: Apache-2.0
"""kill -9 of iserd at random moments, under I/O that is verified: no error, no reconnect, and no setting lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from tests.lab import initiator_world as lab
from tests.lab.guest import sh, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

KILLS = int(os.environ.get("RDMACTL_TEST_KILLS", "12"))
PF_MEMALLOC_NOIO = 0x00080000
LONGEST_START_S = 2.0  # ends most of them while they start
LONGEST_SERVICE_S = 1.0


class Host:
    """This machine's iserd and what is asked of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = os.environ | {
            f"RDMACTL_{name}_DIRECTORY": str(directory / name.lower()) for name in ("STATE", "RUNTIME", "CONFIG")
        }
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = directory / "log"

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "rdmactl.daemons.iserd"]
            self.daemon = subprocess.Popen(command, env=self.environment, stderr=log)
        if wait:
            wait_for(lambda: self.run("rdmactl", "session", "history", check=False) is not None, "the daemon")

    def took_over(self) -> int:
        """How many daemons have found sessions and look after them."""
        return self.log.read_text().count("sessions found running")

    def kill(self) -> None:
        assert self.daemon is not None
        assert self.daemon.poll() is None, "it has ended by itself"
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(30)

    def run(self, program: str, *words: str, check: bool = True) -> str | None:
        done = subprocess.run(
            [sys.executable, "-m", f"rdmactl.cli.{program}", *words],
            env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    lab.set_up()
    sh("modprobe -a ib_iser iscsi_tcp")
    host = Host(tmp_path_factory.mktemp("iserd"))
    host.start()
    for portal, iface in ((lab.TCP, "default"), (lab.ISER, "iser")):
        words = ("-m", "node", "-T", lab.TARGET, "-p", str(portal), "-I", iface)
        host.run("iseradm", *words, "-o", "new")
        host.run("iseradm", *words, "-o", "update", "-n", "node.conn[0].timeo.login_timeout", "-v", "9")
        host.run("iseradm", *words, "-l")
    yield host
    host.run("iseradm", "-m", "session", "-u", check=False)
    assert host.daemon is not None
    host.daemon.terminate()
    host.daemon.wait(60)
    print(host.log.read_text(), file=sys.stderr)


def connection_errors() -> int:
    """Every one the kernel has seen since it booted."""
    return subprocess.check_output(["dmesg"], text=True).count("detected conn error")


def start_checkers() -> list[subprocess.Popen[str]]:
    """One on each session's disk."""
    checkers = []
    for view in sysfs.sessions():
        command = ["nice", sys.executable, "-m", "tests.lab.verified_io", lab.disk_of(view.sid), str(view.sid)]
        checkers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for checker in checkers:
        assert checker.stdout is not None
        assert checker.stdout.readline() == "running\n"
    return checkers


def stop_checkers(checkers: list[subprocess.Popen[str]]) -> list[str]:
    """What they say; all must be content."""
    said = []
    for checker in checkers:
        assert checker.poll() is None, "I/O failed"
        checker.terminate()
        out, _ = checker.communicate(timeout=120)
        assert checker.returncode == 0
        said.append(out.strip())
    return said


def test_kill_9_at_random_moments(host: Host) -> None:
    """Every other daemon dies when it looks after the sessions, the others mostly in the middle of their start."""
    dice = random.Random(5)
    before, connections = connection_errors(), identities()
    checkers = start_checkers()
    served = host.took_over()
    for number in range(KILLS):
        host.kill()
        known = host.took_over()
        host.start(wait=False)
        if number % 2:
            wait_for(lambda known=known: host.took_over() > known, "a daemon that serves", limit_s=120)
            time.sleep(dice.uniform(0, LONGEST_SERVICE_S))
        else:
            time.sleep(dice.uniform(0, LONGEST_START_S))
    served = host.took_over() - served
    said = stop_checkers(checkers)
    assert connection_errors() == before
    assert identities() == connections
    wait_for(lambda: host.run("rdmactl", "session", "history", check=False) is not None, "the daemon")
    told = host.run("rdmactl", "session", "history") or ""
    assert told.count("found running") == len(connections)
    print(f"{KILLS} kills, {served} of a daemon that looked after the sessions: {', '.join(said)}")


def test_modules_that_can_be_neither_removed_nor_loaded(host: Host) -> None:
    """No session is touched by it, nor does a daemon that starts then need any for those that run."""
    before, connections = connection_errors(), identities()
    checkers = start_checkers()
    for module in ("iscsi_tcp", "ib_iser", "libiscsi", "scsi_transport_iscsi"):
        assert subprocess.run(["modprobe", "--remove", module], capture_output=True, check=False).returncode != 0
    sh("mount -t tmpfs none /lib/modules")
    try:
        host.kill()
        host.start()
        told = host.run("rdmactl", "session", "list") or ""
        assert told.count("logged in") == len(connections)
        assert "Attached scsi disk" in (host.run("iseradm", "-m", "session", "-P", "3") or "")
    finally:
        sh("umount /lib/modules")
    stop_checkers(checkers)
    assert connection_errors() == before
    assert identities() == connections


def test_a_connection_cut_while_no_daemon_runs_comes_back_with_its_settings(host: Host) -> None:
    checkers = start_checkers()
    host.kill()
    lab.attribute("enable", "0")
    lab.attribute("enable", "1")
    wait_for(lambda: all(view.state == "FAILED" for view in sysfs.sessions()), "the loss")
    host.start()
    wait_for(lambda: all(view.state == "LOGGED_IN" for view in sysfs.sessions()), "the recovery", limit_s=90)
    stop_checkers(checkers)
    kept = (host.directory / "runtime/sessions").glob("*.json")
    assert all('"login_timeout_s": 9' in path.read_text() for path in kept)


def test_its_threads_do_not_wait_for_memory(host: Host) -> None:
    """PF_MEMALLOC_NOIO in the flags of proc(5): PR_SET_IO_FLUSHER has worked."""
    assert host.daemon is not None
    flags = [
        int(path.read_text().rpartition(")")[2].split()[6])
        for path in Path(f"/proc/{host.daemon.pid}/task").glob("*/stat")
    ]
    assert any(flag & PF_MEMALLOC_NOIO for flag in flags)


def identities() -> list[tuple[int, str | None]]:
    """What is another one after a reconnect, as far as sysfs shows it."""
    return [
        (view.sid, sysfs.read(f"/sys/class/iscsi_connection/connection{view.sid}:0/local_port"))
        for view in sysfs.sessions()
    ]
