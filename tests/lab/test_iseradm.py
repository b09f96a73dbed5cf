# SPDX-License-Identifier: Apache-2.0
"""iseradm and iserd on a real kernel: discover, log in over TCP and iSER, look, log out; and what cannot work.

What the kernel's sessions look like is compared with open-iscsi's own iscsiadm, which reads the same sysfs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from tests.lab import initiator_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iserd_host import Host, Ran

pytestmark = pytest.mark.kernel

ISCSIADM = "/usr/sbin/iscsiadm"
PORTAL = str(world.TCP)
ADDRESS, PORT = world.TCP
NODE = ("-m", "node", "-T", world.TARGET)
ANNOUNCED = f"[iface: default, target: {world.TARGET}, portal: {ADDRESS},{PORT}]"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    world.set_up()
    own = Host(tmp_path_factory.mktemp("rdmactl"))
    own.start()
    yield own
    own.stop()


def test_a_session_from_discovery_to_logout(host: Host) -> None:
    found = host.run("-m", "discovery", "-t", "st", "-p", PORTAL)
    assert f"{PORTAL},1 {world.TARGET}" in found.stdout.splitlines()
    login = host.run(*NODE, "-p", PORTAL, "-l")
    assert login == Ran(0, f"Logging in to {ANNOUNCED}\nLogin to {ANNOUNCED} successful.\n", "")
    iser = (*NODE, "-p", str(world.ISER), "-I", "iser")
    assert host.run(*iser[:3], world.TARGET, "-p", f"{world.ISER},1", "-I", "iser", "-o", "new").status == 0
    assert host.run(*iser, "-l").status == 0
    listed = host.run("-m", "session").stdout
    assert {line.split()[0] for line in listed.splitlines()} == {"tcp:", "iser:"}
    for words in (("-m", "session"), ("-m", "host"), ("-m", "host", "-P", "1")):
        theirs = subprocess.run([ISCSIADM, *words], capture_output=True, text=True, check=True)
        assert host.run(*words).stdout == theirs.stdout
    rescan = host.run("-m", "session", "-R")
    assert (rescan.status, rescan.stdout.count("Rescanning session [sid: "), rescan.stderr) == (0, 2, "")
    deep = host.run("-m", "session", "-P", "3").stdout
    assert deep.count("Attached scsi disk sd") == 2
    again = host.run(*NODE, "-p", PORTAL, "-l")
    assert (again.status, again.stderr) == (15, "iseradm: default: 1 session requested, but 1 already present.\n")
    out = host.run("-m", "session", "-u")
    assert (out.status, out.stdout.count(" successful.")) == (0, 2)
    assert host.run("-m", "session").status == 21
    assert world.kernel_stumbled() == []


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("-m", "discovery", "-t", "st", "-p", f"{ADDRESS}:9999"), 11),
        (("-m", "discovery", "-t", "st", "-p", "nosuch.invalid"), 4),
    ],
)
def test_a_discovery_that_cannot_work_is_one_sentence(host: Host, words: tuple[str, ...], status: int) -> None:
    ran = host.run(*words)
    assert (ran.status, ran.stdout) == (status, "")
    assert ran.stderr.startswith("iseradm: Could not perform SendTargets discovery: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(("target", "port", "status"), [(world.TARGET, 9999, 8), (f"{world.TARGET}-absent", PORT, 8)])
def test_a_login_that_cannot_work_is_one_sentence(host: Host, target: str, port: int, status: int) -> None:
    node = ("-m", "node", "-T", target, "-p", f"{ADDRESS}:{port}")
    assert host.run(*node, "-o", "new").status == 0
    quick = (
        "-n",
        "node.session.initial_login_retry_max",
        "-v",
        "1",
        "-n",
        "node.conn[0].timeo.login_timeout",
        "-v",
        "2",
    )
    assert host.run(*node, "-o", "update", *quick).status == 0
    ran = host.run(*node, "-l")
    assert ran.status == status
    assert ran.stderr.startswith(f"iseradm: Could not login to [iface: default, target: {target}, ")
    assert ran.stderr.count("\n") == 1


def test_an_ordinary_user_may_look_and_nothing_else(host: Host) -> None:
    assert host.run("-m", "discovery", "-t", "st", "-p", PORTAL).status == 0
    assert host.run(*NODE, "-p", PORTAL, "-l").status == 0
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "rdmactl.cli.iseradm"]

    def run(*words: str) -> Ran:
        done = subprocess.run([*user, *words], env=host.environment, capture_output=True, text=True, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    assert run("-m", "session") == host.run("-m", "session")
    refused = run("-m", "session", "-u")
    assert (refused.status, refused.stderr.count("\n")) == (13, 1)
    assert run("-m", "node").status == 6
    assert host.run("-m", "session", "-u").status == 0


def test_statistics_are_the_kernels(host: Host) -> None:
    """Also while somebody else listens to the kernel's events, who gets the same answers."""
    assert host.run("-m", "discovery", "-t", "st", "-p", PORTAL).status == 0
    assert host.run(*NODE, "-p", PORTAL, "-l").status == 0
    ran = host.run("-m", "session", "-s")
    assert (ran.status, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("Stats for session [sid: ")
    assert lines[1] == "iSCSI SNMP:"
    counters = dict(line.strip().split(": ") for line in lines if line.startswith("\t"))
    assert int(counters["scsicmd_pdus"]) > 0
    assert int(counters["rxdata_octets"]) > 0
    assert "eh_abort_cnt" in counters
    assert host.run("-m", "session", "-u").status == 0


def readable(disk: str) -> bool:
    """Whether the target gives a sector of it; a disk that is gone fails reads, or is empty since a rescan."""
    read = ["dd", f"if={disk}", "iflag=direct", "count=1", "status=none"]
    return len(subprocess.run(read, capture_output=True, timeout=120, check=False).stdout) == 512


def test_a_lun_that_is_gone(host: Host) -> None:
    """To iscsiadm that is nothing: its disk stays until somebody removes it, and fails I/O; all else goes on."""
    backstore, mapped = Path("/sys/kernel/config/target/core/fileio_0/second"), world.GROUP / "lun/lun_1"
    sh(f"""
        mkdir -p {backstore} {mapped}; truncate -s 8M /tmp/second.img
        echo fd_dev_name=/tmp/second.img,fd_dev_size=8388608 > {backstore}/control
        echo 1 > {backstore}/enable; ln -s {backstore} {mapped}/second
    """)
    assert host.run("-m", "discovery", "-t", "st", "-p", PORTAL).status == 0
    assert host.run(*NODE, "-p", PORTAL, "-l").status == 0
    (session,) = sysfs.sessions()
    wait_for(lambda: len(sysfs.session_luns(session.sid)) == 2, "both LUNs")
    first, second = (f"/dev/{lun.block_device}" for lun in sysfs.session_luns(session.sid))
    sh(f"rm {mapped}/second; rmdir {mapped}; rmdir {backstore}")
    theirs = subprocess.run([ISCSIADM, "-m", "session", "-R"], capture_output=True, text=True, check=False)
    assert host.run("-m", "session", "-R") == Ran(theirs.returncode, theirs.stdout, theirs.stderr)
    # all above that is about iscsid's own view of the session, which does not run
    deep = subprocess.run([ISCSIADM, "-m", "session", "-P", "3"], capture_output=True, text=True, check=False).stdout
    devices = "Attached SCSI devices:"
    assert host.run("-m", "session", "-P", "3").stdout.partition(devices)[2] == deep.partition(devices)[2] != ""
    assert len(sysfs.session_luns(session.sid)) == 2
    assert (readable(first), readable(second)) == (True, False)
    assert [view.state for view in sysfs.sessions()] == ["LOGGED_IN"]
    assert host.run("-m", "session", "-u").status == 0


def test_a_target_without_luns(host: Host) -> None:
    """A login to it is one: iscsiadm waits for no disk."""
    sh(f"rm {world.GROUP}/lun/lun_0/*; rmdir {world.GROUP}/lun/lun_0")
    assert host.run("-m", "discovery", "-t", "st", "-p", PORTAL).status == 0
    assert host.run(*NODE, "-p", PORTAL, "-l") == Ran(
        0, f"Logging in to {ANNOUNCED}\nLogin to {ANNOUNCED} successful.\n", ""
    )
    assert [lun.block_device for lun in sysfs.session_luns(sysfs.session_ids()[0])] == []
    assert host.run("-m", "session", "-u").status == 0
    disk = next(Path("/sys/kernel/config/target/core/fileio_0").iterdir())
    sh(f"mkdir {world.GROUP}/lun/lun_0; ln -s {disk} {world.GROUP}/lun/lun_0/disk")


def test_what_is_in_use_is_not_logged_out_when_asked_for(host: Host) -> None:
    assert host.run("-m", "discovery", "-t", "st", "-p", PORTAL).status == 0
    assert host.run(*NODE, "-p", PORTAL, "-l").status == 0
    (session,) = sysfs.sessions()
    disk = world.disk_of(session.sid)
    sh(f"mkswap {disk} && swapon {disk}")
    configuration = Path(host.environment["RDMACTL_CONFIG_DIRECTORY"]) / "iscsid.conf"
    configuration.write_text("iscsid.safe_logout = Yes\n")
    try:
        refused = host.run("-m", "session", "-u")
        assert refused.status == 28
        assert f"{os.path.basename(disk)} is swap space" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert sysfs.session_ids() == [session.sid]
    finally:
        sh(f"swapoff {disk}")
    assert host.run("-m", "session", "-u").status == 0
    configuration.unlink()


def test_the_daemon_ends_when_asked(host: Host) -> None:
    assert host.run("-k", "0") == Ran(0, "", "")
    assert host.daemon is not None
    assert host.daemon.wait(60) == 0
    ran = host.run(*NODE, "-p", PORTAL, "-l")
    assert (ran.status, ran.stdout, ran.stderr.count("\n")) == (20, "", 1)
    host.start()
