# SPDX-License-Identifier: Apache-2.0
"""`rdmactl session list` and `session history`: text and JSON from given answers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rdmactl.cli import session_history, session_list
from rdmactl.errors import LocalError

Output = pytest.CaptureFixture[str]

HISTORY = {
    "sid": 3,
    "target": "iqn.2026-11.test:t0",
    "address": "192.0.2.1",
    "port": 3260,
    "iface": "iser",
    "transport": "iser",
    "claims": ["boot"],
    "ended_s": 1_000_094_000.0,
    "moments": [
        {"at_s": 1_000_000_000.0, "state": "logged in", "reason": "logged in", "attempts": 0},
        {"at_s": 1_000_003_600.0, "state": "connection lost, being brought back", "reason": "cut", "attempts": 0},
        {"at_s": 1_000_003_602.5, "state": "logged in", "reason": "", "attempts": 2},
        {"at_s": 1_000_093_902.5, "state": "logging out", "reason": "somebody asked for it", "attempts": 2},
    ],
}


class FakeClient:
    def __init__(self, role: str, deadline_s: float) -> None:
        assert role == "initiator"

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        assert method == "io.rdmactl.Initiator.History"
        return {"sessions": [HISTORY]}


@pytest.fixture(autouse=True)
def daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_history, "Client", FakeClient)


def test_history_as_text(capsys: Output) -> None:
    assert session_history.run(["3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "session 3: iqn.2026-11.test:t0 at 192.0.2.1:3260 (ended)"
    assert [re.sub(r"^  \S+ \S+ +", "", line) for line in lines[1:]] == [
        "1h0m  logged in: logged in",
        "2.5s  connection lost, being brought back: cut",
        "1d1h  logged in [2 attempts]",
        "1m37s  logging out [2 attempts]: somebody asked for it",
    ]


def test_history_as_json(capsys: Output) -> None:
    assert session_history.run(["-j"]) == 0
    assert json.loads(capsys.readouterr().out)["sessions"] == [HISTORY]


def test_history_tells_who_claims_what_lives() -> None:
    alive = {**HISTORY, "ended_s": None, "claims": ["boot", "csi"]}
    head = session_history.text([alive])[0]
    assert head == "session 3: iqn.2026-11.test:t0 at 192.0.2.1:3260, claimed by boot, csi"


def test_history_of_nobody() -> None:
    with pytest.raises(LocalError, match="no session 4"):
        session_history.run(["4"])


def test_list_as_text() -> None:
    found = {"sid": 3, "transport": "iser", "portal": "192.0.2.1:3260", "iface": None, "state": "logged in",
             "claims": ["boot", "csi"], "disks": ["sda"], "target": "iqn.2026-11.test:t0"}  # fmt: skip
    assert session_list.text([found]) == [
        "SID  TRANSPORT  PORTAL          INTERFACE  STATE      CLAIMED BY  DISKS  TARGET",
        "3    iser       192.0.2.1:3260  default    logged in  boot,csi    sda    iqn.2026-11.test:t0",
    ]
    assert session_list.text([{**found, "claims": None}])[1].split()[6] == "-"
