# SPDX-License-Identifier: Apache-2.0
"""What users meet when something is missing or wrong: one clear sentence, the right status, in time, no traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.guest import sh, wait_for

pytestmark = pytest.mark.kernel

BIN = Path(__file__).resolve().parents[2] / ".venv/bin"
IQN = "iqn.2026-11.org.example:t0"
ISCSIADM = {"not_running": 20, "timeout": 8, "pdu_timeout": 11, "driver": 12, "fatal": 19}


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str
    took_s: float


def run(*words: str, limit_s: float = 90, **environment: str) -> Done:
    started = time.monotonic()
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]], capture_output=True, text=True, timeout=limit_s, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


@contextmanager
def daemon(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon of ours that serves."""
    process = subprocess.Popen([str(BIN / words[0]), *words[1:]])
    try:
        wait_for(lambda: run("rdmactl", "status").status == 0, f"{words[0]} to serve")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def one_sentence(text: str, *names: str) -> None:
    """One line, that names what it should name."""
    lines = [line for line in text.splitlines() if line.strip() and "nl_sock_rbuf_size" not in line]
    assert len(lines) == 1, text
    for name in names:
        assert re.search(name, lines[0]), (name, lines[0])


@pytest.fixture(scope="module", autouse=True)
def world() -> None:
    sh("link rxe0 rxe dummy0 10.9.0.1/24")
    sh(f"target {IQN} 10.9.0.1:3260 iser")
    sh("modprobe -a iw_cm ib_iser iscsi_tcp")


# Nothing runs.


def test_front_ends_without_daemon() -> None:
    done = run("iwpmctl", "list")
    assert done.status == 3
    one_sentence(done.err, "iwpmctl: .*iwpmd", "start|run")
    done = run("rdmactl", "status")
    assert done.status == 3
    one_sentence(done.err, "no daemon is running", "rdmactld")


def test_iseradm_without_daemon() -> None:
    assert run("iseradm", "-m", "node", "-T", IQN, "-p", "10.9.0.1", "-I", "iser", "-o", "new").status == 0
    done = run("iseradm", "-m", "node", "-T", IQN, "-p", "10.9.0.1", "-I", "iser", "--login")
    assert done.status == ISCSIADM["not_running"]
    assert "iserd" in done.err
    done = run("iseradm", "-m", "discovery", "-t", "st", "-p", "10.9.0.1")
    assert done.status == ISCSIADM["not_running"]
    assert run("iseradm", "-m", "session").status == 21


# Daemons that cannot start.


@pytest.mark.parametrize("name", ["iwpmd", "iserd", "rdmactld"])
def test_a_daemon_as_an_ordinary_user(name: str) -> None:
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(BIN / name), "--systemd"][
        : 6 if name == "iwpmd" else 5
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    one_sentence(done.stderr, f"^{name}: .*cannot", "run as root")


def test_iserd_without_cap_net_admin() -> None:
    words = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", str(BIN / "iserd")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search("CAP_NET_ADMIN", done.stderr), done.stderr


def test_a_second_daemon_names_the_first() -> None:
    with daemon("rdmactld") as first:
        for name in ("iwpmd", "iserd"):
            words = [name, "--systemd"] if name == "iwpmd" else [name]
            done = run(*words)
            assert done.status == 1
            one_sentence(done.err, f"taken by another process of rdmactl, pid {first.pid}", "systemctl stop")


def test_a_running_c_iwpmd_is_refused_by_name() -> None:
    c_daemon = subprocess.Popen(["/usr/sbin/iwpmd", "--systemd"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: ":0F5F " in Path("/proc/net/udp").read_text(), "the C iwpmd")
        done = run("iwpmd", "--systemd")
        assert done.status == 1
        one_sentence(done.err, "iwpmd of rdma-core", f"pid {c_daemon.pid}", "systemctl")
        assert c_daemon.poll() is None
    finally:
        c_daemon.kill()
        c_daemon.wait()


def test_a_running_iscsid_is_refused_by_name() -> None:
    sh("mkdir -p /run/lock/iscsi; echo InitiatorName=iqn.2026-11.org.example:c > /etc/iscsi/initiatorname.iscsi")
    # In a session of its own: it ends with a signal to its whole process group.
    c_daemon = subprocess.Popen(
        ["/usr/sbin/iscsid", "-f"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: "ISCSIADM_ABSTRACT_NAMESPACE" in Path("/proc/net/unix").read_text(), "iscsid")
        done = run("iserd")
        assert done.status == 1
        one_sentence(done.err, "iscsid of open-iscsi", f"pid {c_daemon.pid}", "systemctl")
        assert c_daemon.poll() is None
    finally:
        c_daemon.terminate()
        c_daemon.wait(30)


def test_outside_the_initial_network_namespace() -> None:
    sh("ip netns add elsewhere")
    words = ["ip", "netns", "exec", "elsewhere", str(BIN / "iwpmd"), "--systemd"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    one_sentence(done.stderr, "initial network namespace")


# Portals and targets.


@pytest.fixture(scope="module")
def served() -> Iterator[None]:
    with daemon("iserd"):
        yield


def login(iface: str, portal: str, target: str = IQN, **settings: str) -> Done:
    record = ("iseradm", "-m", "node", "-T", target, "-p", portal, "-I", iface)
    assert run(*record, "-o", "new").status == 0
    short = {"node.session.initial_login_retry_max": "2", "node.conn[0].timeo.login_timeout": "3", **settings}
    pairs = [word for key, value in short.items() for word in ("-n", key, "-v", value)]
    assert run(*record, "-o", "update", *pairs).status == 0
    return run(*record, "--login")


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("iface", ["iser", "default"])
class TestPortals:
    def test_a_portal_that_refuses(self, iface: str) -> None:
        done = login(iface, "10.9.0.1:3999")
        assert done.status == ISCSIADM["timeout"]
        assert "10.9.0.1" in done.err
        assert done.took_s < 20

    def test_a_silent_portal(self, iface: str) -> None:
        done = login(iface, "10.9.0.77")
        assert done.status == ISCSIADM["timeout"]
        assert "10.9.0.77" in done.err
        assert done.took_s < 30

    def test_an_unknown_target(self, iface: str) -> None:
        done = login(iface, "10.9.0.1", "iqn.2026-11.org.example:nobody")
        # LIO says "service unavailable", which may be retried; over iSER its answer is often lost.
        assert done.status in (ISCSIADM["timeout"], ISCSIADM["fatal"])
        assert "iqn.2026-11.org.example:nobody" in done.err
        assert done.took_s < 40

    def test_nothing_is_left_behind(self, iface: str) -> None:
        wait_for(
            lambda: not os.path.isdir("/sys/class/iscsi_session") or not os.listdir("/sys/class/iscsi_session"),
            "sessions",
        )
        assert not os.path.isdir("/sys/class/iscsi_endpoint") or not os.listdir("/sys/class/iscsi_endpoint")


@pytest.mark.usefixtures("served")
class TestDiscovery:
    def test_a_portal_that_refuses(self) -> None:
        done = run("iseradm", "-m", "discovery", "-t", "st", "-p", "10.9.0.1:3999")
        assert done.status == ISCSIADM["pdu_timeout"]
        assert re.search("refused", done.err, re.IGNORECASE)
        assert done.took_s < 30

    def test_a_silent_portal(self) -> None:
        record = ("iseradm", "-m", "discoverydb", "-t", "st", "-p", "10.9.0.77")
        assert run(*record, "-o", "new").status == 0
        pairs = (
            "-n",
            "discovery.sendtargets.timeo.login_timeout",
            "-v",
            "2",
            "-n",
            "discovery.sendtargets.reopen_max",
            "-v",
            "1",
        )
        assert run(*record, "-o", "update", *pairs).status == 0
        done = run(*record, "-D")
        assert done.status == ISCSIADM["pdu_timeout"]
        assert "10.9.0.77" in done.err
        assert done.took_s < 30

    def test_a_name_that_does_not_exist(self) -> None:
        done = run("iseradm", "-m", "discovery", "-t", "st", "-p", "no-such-host.invalid")
        assert done.status == 4
        assert "no-such-host.invalid" in done.err

    def test_a_bare_connect_is_no_target(self) -> None:
        sh("setsid python3 -c \"import socket,time; s=socket.create_server(('10.9.0.1',3998)); c=s.accept()[0]; "
           "c.sendall(b'SSH-2.0-x'+bytes(100)); time.sleep(60)\" >/dev/null 2>&1 </dev/null &")  # fmt: skip
        wait_for(lambda: ":0F9E " in Path("/proc/net/tcp").read_text(), "the listener")
        done = run("iseradm", "-m", "discovery", "-t", "st", "-p", "10.9.0.1:3998")
        assert done.status == ISCSIADM["pdu_timeout"]
        assert "10.9.0.1" in done.err


# Modules missing: last, because it hides them.


def test_without_kernel_modules() -> None:
    sh("modprobe -r ib_isert rdma_rxe 2>/dev/null; mount -t tmpfs none /lib/modules")
    sh("rdma link del rxe0; for m in ib_iser iscsi_tcp rdma_ucm; do rmmod $m; done; true")
    with daemon("iserd"):
        done = login("iser", "10.9.0.1")
        assert done.status == ISCSIADM["driver"], done.err
        assert "ib_iser" in done.err
