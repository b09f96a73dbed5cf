# SPDX-License-Identifier: Apache-2.0
"""The settings of somebody else's session, from the record it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import LoginRequest, SessionSettings
from rdmactl.iscsi.portal import Portal
from rdmactl.records.model import Record, Secret
from rdmactl.records.recorded import record_moved, recorded_request
from rdmactl.records.store import NodeId, Store
from tests.fake.iscsi_sysfs import FakeSysfs

TARGET, ME = "iqn.2026-11.test:t0", "iqn.2026-11.test:me"
NODE = NodeId(TARGET, "192.0.2.1", 3260, 1, "default")
OLD, HOME = Portal("192.0.2.1", 3260), Portal("2001:db8::7", 3261)


@pytest.fixture
def view(tmp_path: Path) -> sysfs.SessionView:
    tree = FakeSysfs(tmp_path / "sys")
    tree.add_session("tcp", 3, 8)
    tree.add_connection(3, 8)
    tree.set_session(3, targetname=TARGET, ifacename="default", tpgt="1", initiatorname=f"{ME}-as-it-was")
    tree.set_connection(3, persistent_address="192.0.2.1", persistent_port="3260", state="up")
    found = sysfs.session(3, str(tmp_path / "sys"))
    assert found is not None
    return found


def record(directory: Path) -> None:
    values: Record = {"node.session.scan": "manual", "node.conn[0].timeo.login_timeout": "7"}
    with Store(str(directory)) as store, store.transaction():
        store.write_node(NODE, values, "static")


def test_its_record_tells_what_the_kernel_does_not(tmp_path: Path, view: sysfs.SessionView) -> None:
    record(tmp_path)
    found = recorded_request(view, ME, str(tmp_path))
    assert found is not None
    assert (found.settings.scan, found.settings.login_timeout_s) == ("manual", 7.0)
    assert found.initiator_name == f"{ME}-as-it-was"


def test_no_record(tmp_path: Path, view: sysfs.SessionView) -> None:
    assert recorded_request(view, ME, str(tmp_path)) is None


def test_records_that_cannot_be_read(tmp_path: Path, view: sysfs.SessionView, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "records.db").write_bytes(b"no database" * 100)
    assert recorded_request(view, ME, str(tmp_path)) is None
    assert "record of session 3 cannot be used" in caplog.text


def moved_request() -> LoginRequest:
    return LoginRequest(
        target=TARGET, portal=OLD, iface_name="default", transport="tcp", initiator_name=ME, settings=SessionSettings()
    )


def test_a_target_that_has_moved_keeps_its_settings_and_secrets(tmp_path: Path) -> None:
    values: Record = {"node.session.scan": "manual", "node.session.auth.password": Secret("a long secret")}
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_node(NODE, values, "send_targets 192.0.2.9,3260")
    assert record_moved(moved_request(), HOME, str(tmp_path))
    with Store(str(tmp_path)) as store:
        (node,) = store.nodes()
        assert node == NodeId(TARGET, HOME.address, HOME.port, 1, "default")
        assert store.source(node) == "send_targets 192.0.2.9,3260"
        found = store.node(node)
    assert found is not None
    assert (found["node.conn[0].address"], found["node.conn[0].port"]) == (HOME.address, str(HOME.port))
    assert found["node.session.scan"] == "manual"
    password = found["node.session.auth.password"]
    assert isinstance(password, Secret)
    assert password.reveal() == "a long secret"
    assert not record_moved(moved_request(), HOME, str(tmp_path))  # the second session of it


def test_a_target_that_has_moved_to_where_a_record_is(tmp_path: Path) -> None:
    there = NodeId(TARGET, HOME.address, HOME.port, 2, "default")
    record(tmp_path)
    with Store(str(tmp_path)) as store, store.transaction():
        store.write_node(there, {"node.session.scan": "auto"}, "static")
    assert not record_moved(moved_request(), HOME, str(tmp_path))
    with Store(str(tmp_path)) as store:
        assert store.nodes() == [NODE, there]
        found = store.node(there)
    assert found is not None
    assert found["node.session.scan"] == "auto"
