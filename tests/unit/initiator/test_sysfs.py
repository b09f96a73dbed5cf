# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.sysfs against trees as the kernel lays them out."""

import os
from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from rdmactl.iscsi.portal import Portal
from tests.fake.iscsi_sysfs import FakeSysfs

TARGET = "iqn.2003-01.org.linux-iscsi.san:t1"


@pytest.fixture
def tree(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def logged_in(tree: FakeSysfs, sid: int, host_no: int, transport: str = "tcp") -> None:
    tree.add_session(transport, sid, host_no)
    tree.add_connection(sid, host_no)
    tree.set_session(sid, state="LOGGED_IN", target_state="SCANNED", targetname=TARGET, tpgt="1", ifacename="default")
    tree.set_connection(
        sid, state="up", address="10.9.0.2", port="3260", persistent_address="10.9.0.1", persistent_port="3260"
    )
    tree.set_connection(sid, exp_statsn="77", max_recv_dlength="262144")


def view(tree: FakeSysfs, sid: int) -> sysfs.SessionView:
    found = sysfs.session(sid, str(tree.root))
    assert found is not None
    return found


def test_session_as_listed_flat(tree: FakeSysfs) -> None:
    logged_in(tree, 4, 9, "iser")
    (found,) = sysfs.sessions(str(tree.root))
    assert (found.sid, found.host_no, found.transport, found.tpgt) == (4, 9, "iser", 1)
    assert found.target == TARGET
    assert found.persistent == Portal("10.9.0.1", 3260)
    assert found.current == Portal("10.9.0.2", 3260)
    assert not found.flash


def test_order_is_that_of_the_sid_as_text(tree: FakeSysfs) -> None:
    for number in (2, 10, 1):
        logged_in(tree, number, number + 5)
    assert [found.sid for found in sysfs.sessions(str(tree.root))] == [1, 10, 2]


@pytest.mark.parametrize(
    ("state", "target_state", "connection", "statsn", "line", "internal"),
    [
        ("LOGGED_IN", "SCANNED", "up", "9", "LOGGED IN", "NO CHANGE"),
        ("LOGGED_IN", "UNBINDING", "up", "9", "IN LOGOUT", "NO CHANGE"),
        ("LOGGED_IN", "SCANNED", "down", "9", "CLEANUP WAIT", "CLEANUP"),
        ("LOGGED_IN", "SCANNED", "failed", "9", "TRANSPORT WAIT", "REOPEN"),
        ("FAILED", "SCANNED", "failed", "9", "TRANSPORT WAIT", "REOPEN"),
        ("FREE", "SCANNED", "failed", "9", "TRANSPORT WAIT", "REOPEN"),
        ("FAILED", "SCANNED", "bound", "9", "IN LOGIN", "REOPEN"),
        ("FREE", "ALLOCATED", "bound", "0", "IN LOGIN", "NO CHANGE"),
        ("FREE", "ALLOCATED", "down", "0", "TRANSPORT WAIT", "NO CHANGE"),
    ],
)
def test_states_in_open_iscsi_s_words(
    tree: FakeSysfs, state: str, target_state: str, connection: str, statsn: str, line: str, internal: str
) -> None:
    logged_in(tree, 1, 6)
    tree.set_session(1, state=state, target_state=target_state)
    tree.set_connection(1, state=connection, exp_statsn=statsn)
    assert view(tree, 1).connection_text == line
    assert view(tree, 1).internal_text == internal


def test_without_a_connection_it_is_free(tree: FakeSysfs) -> None:
    tree.add_session("tcp", 1, 6)
    found = view(tree, 1)
    assert (found.connection_text, found.persistent, found.current, found.target) == ("FREE", None, None, "")


def test_unset_strings_are_absent(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    interface = view(tree, 1).interface()
    assert interface == sysfs.InterfaceView("default", "tcp", None, None, None, None)
    assert view(tree, 1).chap() == sysfs.ChapView(None, None, None, None)


def test_interface_takes_the_address_of_the_host(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    tree.set_session(1, initiatorname="iqn.2026-11.test:me")
    tree.set_host(6, ipaddress="10.9.0.7", netdev="eth0")
    interface = view(tree, 1).interface()
    assert (interface.initiator_name, interface.ip_address, interface.netdev) == (
        "iqn.2026-11.test:me",
        "10.9.0.7",
        "eth0",
    )


def test_recovery_off_reads_as_minus_one(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    tree.set_session(1, recovery_tmo="off")
    assert view(tree, 1).timeouts() == sysfs.TimeoutsView(-1, 30, 15, 10)


def test_negotiated_values(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    tree.set_session(1, first_burst_len="65536", immediate_data="1", initial_r2t="1")
    negotiated = view(tree, 1).negotiated()
    assert (negotiated.max_recv_dlength, negotiated.first_burst_length) == (262144, 65536)
    assert (negotiated.immediate_data, negotiated.initial_r2t, negotiated.header_digest) == (True, True, False)


def test_missing_attributes_are_none(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    (tree.root / "class/iscsi_session/session1/abort_tmo").unlink()
    assert view(tree, 1).timeouts().abort_s is None


def test_luns_with_and_without_disk(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    tree.add_lun(1, 6, 10, "sdb")
    tree.add_lun(1, 6, 2, None)
    luns = view(tree, 1).luns()
    assert [(lun.lun, lun.block_device, lun.state) for lun in luns] == [(2, None, "running"), (10, "sdb", "running")]
    assert sysfs.session_of(luns[1].path + "/block/sdb") == 1


def test_a_session_that_goes_while_it_is_read(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    found = view(tree, 1)
    tree.remove_connection(1, 6)
    tree.remove_session(1, 6)
    assert sysfs.session(1, str(tree.root)) is None
    assert found.luns() == []
    assert found.timeouts() == sysfs.TimeoutsView(None, None, None, None)
    assert found.interface().ip_address is None


def test_a_link_that_vanishes_while_it_is_followed(tree: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look that says "a link" and the reading of it, another process logs the session out."""
    logged_in(tree, 1, 6)
    tree.add_lun(1, 6, 0, "sdb")
    disk = tree.root / "sdb"
    disk.symlink_to(view(tree, 1).luns()[0].path + "/block/sdb")
    followed = os.readlink

    def vanish(path: str, **rest: int) -> str:
        os.unlink(path)
        return followed(path, **rest)

    monkeypatch.setattr(os, "readlink", vanish)
    assert sysfs.session_of(str(disk)) is None
    assert sysfs.session(1, str(tree.root)) is None
    assert sysfs.sessions(str(tree.root)) == []


def test_secrets_are_not_in_the_repr(tree: FakeSysfs) -> None:
    logged_in(tree, 1, 6)
    tree.set_session(1, username="joe", password="hunter2hunter2")
    chap = view(tree, 1).chap()
    assert chap.password == "hunter2hunter2"
    assert "hunter2" not in repr(chap)


def test_nothing_loaded(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert sysfs.sessions(root) == []
    assert sysfs.hosts(root) == []
    assert sysfs.endpoints(root) == []
    assert sysfs.transport_handle("tcp", root) is None
    assert sysfs.transport_class_version(root) is None


def test_transport_and_hosts(tree: FakeSysfs) -> None:
    tree.add_transport("iser", 18446744072637906944, 0x89)
    tree.add_endpoint(2)
    logged_in(tree, 1, 6)
    root = str(tree.root)
    assert sysfs.transport_handle("iser", root) == 18446744072637906944
    assert sysfs.transport_caps("iser", root) == 0x89
    assert sysfs.endpoints(root) == [2]
    assert [found.host_no for found in sysfs.hosts(root)] == [6]
