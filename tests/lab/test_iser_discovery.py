# SPDX-License-Identifier: Apache-2.0
"""Discovery over iSER through iserd on a real kernel: no SCSI host comes, no device stays open, records are bound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import initiator_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iserd_host import Host

pytestmark = pytest.mark.kernel

ISER = str(world.ISER)
TCP_ONLY = str(world.TCP)
FOUND = f"{ISER},1 {world.TARGET}"
AUTH = Path("/sys/kernel/config/target/iscsi/discovery_auth")
DISCOVERY = ("-m", "discovery", "-t", "st")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    world.set_up()
    own = Host(tmp_path_factory.mktemp("rdmactl"))
    own.start()
    yield own
    own.stop()


def contexts() -> int:
    """How many processes hold the device open."""
    return len(json.loads(sh("rdma resource show ctx -j") or "[]"))


def scsi_hosts() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/iscsi_host").glob("*"))


def test_discovery_over_iser(host: Host) -> None:
    before = scsi_hosts()
    found = host.run(*DISCOVERY, "-p", ISER, "-I", "iser")
    assert (found.status, found.stdout, found.stderr) == (0, f"{FOUND}\n", "")
    assert scsi_hosts() == before == []
    (node,) = (line for line in host.run("-m", "node").stdout.splitlines())
    assert node == FOUND
    record = host.run("-m", "node", "-T", world.TARGET, "-p", ISER, "-I", "iser").stdout
    assert "iface.transport_name = iser" in record
    assert "node.discovery_type = send_targets" in record
    wait_for(lambda: contexts() == 0, "the worker to let go of the device", limit_s=20)


def test_what_was_found_can_be_logged_in(host: Host) -> None:
    found = host.run(*DISCOVERY, "-p", ISER, "-I", "iser", "-l")
    assert (found.status, "successful" in found.stdout) == (0, True), found
    assert host.run("-m", "session").stdout.startswith("iser: ")
    assert host.run("-m", "session", "-u").status == 0


def test_an_iface_of_ones_own_and_one_that_fails(host: Host) -> None:
    """The found portals are bound to each interface; an interface that fails is only reported."""
    assert host.run("-m", "iface", "-I", "rdma0", "-o", "new").status == 0
    for name, value in (("iface.transport_name", "iser"), ("iface.ipaddress", world.ADDRESS)):
        update = host.run("-m", "iface", "-I", "rdma0", "-o", "update", "-n", name, "-v", value)
        assert update.status == 0, update
    both = host.run(*DISCOVERY, "-p", ISER, "-I", "iser", "-I", "rdma0")
    assert (both.status, both.stdout) == (0, f"{FOUND}\n{FOUND}\n"), both
    assert (
        host.run("-m", "iface", "-I", "rdma0", "-o", "update", "-n", "iface.ipaddress", "-v", "10.9.0.99").status == 0
    )
    one = host.run(*DISCOVERY, "-p", ISER, "-I", "iser", "-I", "rdma0")
    assert (one.status, one.stdout) == (0, f"{FOUND}\n"), one
    assert one.stderr.startswith("iseradm: Could not perform SendTargets discovery: ")
    assert one.stderr.count("\n") == 1


def test_a_portal_without_iser(host: Host) -> None:
    ran = host.run(*DISCOVERY, "-p", TCP_ONLY, "-I", "iser")
    assert (ran.status, ran.stdout, ran.stderr.count("\n")) == (11, "", 1)
    assert "nothing listens there for RDMA" in ran.stderr
    assert "enable iSER on that portal" in ran.stderr


def test_chap_of_the_discovery_record(host: Host) -> None:
    (AUTH / "userid").write_text("joe")
    (AUTH / "password").write_text("secret-of-joe-1")
    (AUTH / "userid_mutual").write_text("array")
    (AUTH / "password_mutual").write_text("secret-of-array-1")
    (AUTH / "enforce_discovery_auth").write_text("1")
    db = ("-m", "discoverydb", "-t", "st", "-p", ISER)
    pairs = {
        "authmethod": "CHAP",
        "username": "joe",
        "password": "secret-of-joe-1",
        "username_in": "array",
        "password_in": "secret-of-array-1",
    }
    try:
        assert host.run(*db, "-o", "new").status == 0
        for name, value in pairs.items():
            key = f"discovery.sendtargets.auth.{name}"
            assert host.run(*db, "-o", "update", "-n", key, "-v", value).status == 0
        found = host.run(*db, "-I", "iser", "-D")
        assert (found.status, found.stdout) == (0, f"{FOUND}\n"), found
        wrong = ("-n", "discovery.sendtargets.auth.password_in", "-v", "not-the-secret-of-array")
        assert host.run(*db, "-o", "update", *wrong).status == 0
        refused = host.run(*db, "-I", "iser", "-D")
        assert (refused.status, refused.stdout) == (19, ""), refused
        assert "failed authentication" in refused.stderr
        assert "secret-of" not in refused.stderr
    finally:
        (AUTH / "enforce_discovery_auth").write_text("0")


def test_iser_25_no_device_at_all_is_a_sentence(host: Host) -> None:
    wait_for(lambda: contexts() == 0, "the workers to end", limit_s=20)
    sh(f"""
       echo 0 > /sys/kernel/config/target/iscsi/{world.TARGET}/tpgt_1/np/{ISER}/iser
       rdma link delete rxe0  # hangs while any process holds the device
    """)
    ran = host.run(*DISCOVERY, "-p", ISER, "-I", "iser")
    assert (ran.status, ran.stdout, ran.stderr.count("\n")) == (12, "", 1), ran
    assert "RDMA" in ran.stderr


def test_the_daemon_itself_never_opened_a_device(host: Host) -> None:
    assert host.daemon is not None
    maps = Path(f"/proc/{host.daemon.pid}/maps").read_text()
    assert "librdmacm" not in maps
