# SPDX-License-Identifier: Apache-2.0
"""What is kept of a session over a restart of the daemon."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from rdmactl.initiator import sysfs
from rdmactl.initiator.api import ChapSettings, LoginRequest, SessionSettings
from rdmactl.initiator.runtime import Kept, RuntimeRecords
from rdmactl.iscsi.portal import Portal
from tests.fake.iscsi_sysfs import FakeSysfs

CLAIMS = ("csi driver", "boot")
SECRET = "a-secret-of-ours"
REQUEST = LoginRequest(
    "iqn.2026-11.test:t0",
    Portal("192.0.2.1", 3261),
    initiator_name="iqn.2026-11.test:me",
    netdev="eth7",
    settings=SessionSettings(
        chap=ChapSettings("joe", SECRET, algorithms=("SHA256", "MD5")), scan="manual", login_timeout_s=7.0
    ),
)


@pytest.fixture
def view(tmp_path: Path) -> sysfs.SessionView:
    tree = FakeSysfs(tmp_path / "sys")
    tree.add_session("tcp", 3, 8)
    tree.add_connection(3, 8)
    tree.set_session(
        3, targetname=REQUEST.target, ifacename="default", username="joe", password=SECRET, state="LOGGED_IN"
    )
    tree.set_connection(3, persistent_address="192.0.2.1", persistent_port="3261", state="up")
    found = sysfs.session(3, str(tmp_path / "sys"))
    assert found is not None
    return found


@pytest.fixture
def records(tmp_path: Path) -> RuntimeRecords:
    return RuntimeRecords(str(tmp_path / "run"))


def test_what_is_saved_comes_back(records: RuntimeRecords, view: sysfs.SessionView) -> None:
    records.save(3, REQUEST, CLAIMS)
    assert records.load(view) == Kept(REQUEST, CLAIMS)


def test_no_secret_is_written_and_only_root_reads_it(tmp_path: Path, records: RuntimeRecords) -> None:
    records.save(3, REQUEST, CLAIMS)
    (path,) = (tmp_path / "run").iterdir()
    assert SECRET not in path.read_text()
    assert "joe" not in path.read_text()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_file_about_another_session_is_ignored(records: RuntimeRecords, view: sysfs.SessionView) -> None:
    records.save(3, replace(REQUEST, portal=Portal("192.0.2.9")), CLAIMS)
    assert records.load(view) is None


def test_nothing_there(records: RuntimeRecords, view: sysfs.SessionView) -> None:
    assert records.load(view) is None


@pytest.mark.parametrize("key", ["version", "target", "portal", "settings", "netdev", "claims"])
@pytest.mark.parametrize("value", [None, {}, [], "x", -1])
def test_damage_is_no_error(
    tmp_path: Path, records: RuntimeRecords, view: sysfs.SessionView, key: str, value: object
) -> None:
    records.save(3, REQUEST, CLAIMS)
    path = tmp_path / "run/3.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    found = records.load(view)
    assert found in (None, Kept(replace(REQUEST, netdev="x"), CLAIMS), Kept(REQUEST, ("administrator",)))


def test_a_file_of_before_claims_is_the_administrator_s(
    tmp_path: Path, records: RuntimeRecords, view: sysfs.SessionView
) -> None:
    records.save(3, REQUEST, CLAIMS)
    path = tmp_path / "run/3.json"
    kept = json.loads(path.read_text())
    del kept["claims"]
    path.write_text(json.dumps(kept))
    assert records.load(view) == Kept(REQUEST, ("administrator",))


def test_a_file_cut_short_at_any_length(tmp_path: Path, records: RuntimeRecords, view: sysfs.SessionView) -> None:
    records.save(3, REQUEST, CLAIMS)
    path = tmp_path / "run/3.json"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert records.load(view) is None


def test_what_belongs_to_nobody_goes(tmp_path: Path, records: RuntimeRecords) -> None:
    for sid in (3, 4, 5):
        records.save(sid, REQUEST, CLAIMS)
    records.forget(4)
    records.sweep({5})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["5.json"]


def test_a_directory_that_cannot_be_written_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    RuntimeRecords("/proc/no-such-place").save(3, REQUEST, CLAIMS)
    assert "not kept for a restart" in caplog.text
