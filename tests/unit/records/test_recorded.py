# SPDX-License-Identifier: Apache-2.0
"""The settings of somebody else's session, from the record it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from rdmactl.records.model import Record
from rdmactl.records.recorded import recorded_request
from rdmactl.records.store import NodeId, Store
from tests.fake.iscsi_sysfs import FakeSysfs

TARGET, ME = "iqn.2026-11.test:t0", "iqn.2026-11.test:me"
NODE = NodeId(TARGET, "192.0.2.1", 3260, 1, "default")


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
