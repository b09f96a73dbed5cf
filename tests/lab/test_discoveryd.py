# SPDX-License-Identifier: Apache-2.0
"""The discovery daemon against real targets: LIO, tgt, and isnsd. Nothing is logged in or out by a command here.

LIO lists all portals of all its targets to whom it lists any, so that one address can be asked while others change.
"""

# lab: --timeout 900

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.discoveryd_world import Host
from tests.lab.guest import sh, wait_for
from tests.lab.isns_world import deregister, register, start_isnsd

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

LIO = Path("/sys/kernel/config/target/iscsi")
A, B = "iqn.2026-11.test:a", "iqn.2026-11.test:b"
ASKED, OTHER = "10.9.0.1:3260", "10.9.0.1:3261"  # A has both; B has OTHER
TGT = "iqn.2026-11.test:tgt"
TGT_PORTAL = "10.9.0.1:3291"


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    sh(f"""
        modprobe dummy; ip link add dummy0 type dummy
        ip address add 10.9.0.1/24 dev dummy0; ip link set dummy0 up; ip link set lo up
        target {A} {ASKED}; target {A} {OTHER}; target {B} {OTHER}
        modprobe ext4
    """)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("rdmactl"))
    host.start()
    yield host
    host.stop()


@pytest.fixture
def host(machine: Host) -> Iterator[Host]:
    yield machine
    portal(B, OTHER, there=True)
    machine.clear()


def portal(target: str, where: str, *, there: bool) -> None:
    """A portal of a target comes or goes; who is connected to it stays."""
    path = LIO / target / "tpgt_1/np" / where
    if there and not path.is_dir():
        path.mkdir()
    elif not there and path.is_dir():
        path.rmdir()


def test_what_appears_becomes_a_session_and_what_goes_is_logged_out(host: Host) -> None:
    portal(B, OTHER, there=False)
    host.watch(ASKED)
    host.wait_for_sessions((A, ASKED), (A, OTHER))
    host.iseradm("-m node", status=21)  # no records
    portal(B, OTHER, there=True)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    portal(B, OTHER, there=False)
    host.wait_for_sessions((A, ASKED), (A, OTHER))


def test_a_server_that_is_gone_takes_nothing_away(host: Host) -> None:
    host.watch(ASKED)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    portal(A, ASKED, there=False)
    try:
        wait_for(lambda: host.status()["failures"] >= 3, "three failures", limit_s=120)
        assert {(A, OTHER), (B, OTHER)} <= host.sessions()
        assert "refused" in host.status()["last_error"]
    finally:
        portal(A, ASKED, there=True)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))


def test_a_disk_in_use_keeps_its_session(host: Host, tmp_path: Path) -> None:
    host.watch(ASKED)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    disk = host.device_of(B)
    sh(f"mkfs.ext4 -q -F {disk}; mount {disk} {tmp_path}")
    portal(B, OTHER, there=False)
    try:
        host.wait_for_log(f"is in use: {disk.removeprefix('/dev/')} is mounted on {tmp_path}")
        assert (B, OTHER) in host.sessions()
    finally:
        sh(f"umount {tmp_path}")
    host.wait_for_sessions((A, ASKED), (A, OTHER))


def test_a_session_that_an_administrator_wants_stays(host: Host) -> None:
    host.watch(ASKED)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    host.iseradm(f"-m node -T {B} -p {OTHER},1 -o new")
    host.iseradm(f"-m node -T {B} -p {OTHER} -l", status=15)  # it is there, and claimed from now on
    portal(B, OTHER, there=False)
    host.wait_for_log("is claimed by administrator")
    assert (B, OTHER) in host.sessions()


def test_a_session_that_was_there_before_stays(host: Host) -> None:
    host.iseradm(f"-m node -T {B} -p {OTHER},1 -o new")
    host.iseradm(f"-m node -T {B} -p {OTHER} -l")
    host.watch(ASKED)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    portal(B, OTHER, there=False)
    host.wait_for_log("was not made for this discovery record")
    assert (B, OTHER) in host.sessions()


def test_an_administrator_logs_out_and_the_record_logs_in_again(host: Host) -> None:
    host.watch(ASKED, poll=3600)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    host.iseradm("-m session -u")
    assert host.sessions() == set()
    host.update(ASKED, "discoveryd_poll_inval", "1")
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))


def test_settings_count_at_once(host: Host) -> None:
    host.watch(ASKED, poll=3600)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    portal(B, OTHER, there=False)
    host.update(ASKED, "discoveryd_poll_inval", "1")
    host.wait_for_sessions((A, ASKED), (A, OTHER))
    host.update(ASKED, "use_discoveryd", "No")
    host.wait_for_log(f"{ASKED} via sendtargets is not watched any more")
    assert host.sessions() == {(A, ASKED), (A, OTHER)}


def test_a_restart_disturbs_nothing_and_forgets_nothing(host: Host) -> None:
    host.watch(ASKED)
    host.wait_for_sessions((A, ASKED), (A, OTHER), (B, OTHER))
    # The kernel shows a session before iserd has written down whose it is; then it would count as the administrator's.
    wait_for(lambda: not host.status()["logins"], "the end of the logins")
    host.kill()
    host.start()
    host.answers(2)
    assert host.sessions() == {(A, ASKED), (A, OTHER), (B, OTHER)}
    host.stop()
    assert host.sessions() == {(A, ASKED), (A, OTHER), (B, OTHER)}
    host.start()
    portal(B, OTHER, there=False)
    host.wait_for_sessions((A, ASKED), (A, OTHER))


def test_tgt(host: Host, tmp_path: Path) -> None:
    """And an empty list, which tgt gives to an initiator that no target admits any more."""
    admin = "tgtadm --lld iscsi"
    daemon = subprocess.Popen(["tgtd", "-f", "--iscsi", f"portal={TGT_PORTAL}"])
    try:
        wait_for(lambda: not subprocess.run(f"{admin} --mode sys --op show".split(), check=False).returncode, "tgtd")
        sh(f"""
            truncate -s 32M {tmp_path}/disk
            {admin} --mode target --op new --tid 1 --targetname {TGT}
            {admin} --mode logicalunit --op new --tid 1 --lun 1 --backing-store {tmp_path}/disk
            {admin} --mode target --op bind --tid 1 -I ALL
        """)
        host.watch(TGT_PORTAL)
        host.wait_for_sessions((TGT, TGT_PORTAL))
        host.device_of(TGT)
        sh(f"{admin} --mode target --op unbind --tid 1 -I ALL")
        host.answers(15)
        assert host.status()["missing"] == 0
        assert host.sessions() == {(TGT, TGT_PORTAL)}
        host.clear()
    finally:
        daemon.kill()
        daemon.wait()


def test_isns(host: Host, tmp_path: Path) -> None:
    server = start_isnsd(tmp_path)
    try:
        register(A, ASKED, entity="san1")
        host.watch("10.9.0.1:3205", type="isns", poll=-1)
        host.wait_for_sessions((A, ASKED))
        wait_for(lambda: host.status()["listening"], "the registration")
        register(B, OTHER, entity="san2")  # no question is due for minutes
        host.wait_for_sessions((A, ASKED), (B, OTHER))
        deregister(B)
        host.wait_for_sessions((A, ASKED))
        server.kill()
        server.wait()
        host.update("10.9.0.1:3205", "discoveryd_poll_inval", "1", type="isns")
        wait_for(lambda: host.status()["failures"] >= 3, "three failures", limit_s=120)
        assert host.sessions() == {(A, ASKED)}
    finally:
        server.kill()
        server.wait()
