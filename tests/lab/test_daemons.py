# SPDX-License-Identifier: Apache-2.0
# lab: --systemd
"""The unit files under a real systemd: start, readiness, journal, restart after kill -9 and after a hang, conflicts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.guest import sh, wait_for

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
UNITS = Path("/run/systemd/system")
BIN = ROOT / ".venv/bin"
DAEMONS = ("iwpmd", "iserd", "rdmactld")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """`make install-units` into the runtime directory, which wins over the C daemons' units of the same names."""
    sh(f"make -s -C {ROOT} install-units BINDIR={BIN} UNITDIR={UNITS}")
    if str(ROOT).startswith(("/root", "/home")):
        # ProtectHome hides the work tree; on an installed system nothing of ours is there.
        for name in DAEMONS:
            drop_in = UNITS / f"{name}.service.d"
            drop_in.mkdir()
            (drop_in / "tree.conf").write_text("[Service]\nProtectHome=no\n")
    sh("modprobe -a iw_cm ib_iser iscsi_tcp; systemctl daemon-reload")


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    sh("systemctl stop rdmactld iwpmd iserd; systemctl reset-failed")


def show(unit: str, name: str) -> str:
    return sh(f"systemctl show -P {name} {unit}").strip()


def journal(unit: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in sh(f"journalctl -b -u {unit} -o json").splitlines()]


@pytest.mark.parametrize("unit", DAEMONS)
def test_a_unit_verifies(unit: str) -> None:
    said = sh(f"systemd-analyze verify --man=no {unit}.service 2>&1")
    # What the distribution's own units do wrong is not ours.
    assert not [line for line in said.splitlines() if unit in line], said


@pytest.mark.parametrize("unit", DAEMONS)
def test_start_is_ready_and_stop_is_clean(unit: str) -> None:
    sh(f"systemctl start {unit}")
    assert show(unit, "ActiveState") == "active"
    assert show(unit, "StatusText") == "serving"
    status = json.loads(sh(f"{BIN}/rdmactl status -j"))
    serving = [role for role, answer in status["roles"].items() if "pid" in answer]
    assert serving == {"iwpmd": ["iwpm"], "iserd": ["initiator"], "rdmactld": ["iwpm", "initiator"]}[unit]
    sh(f"systemctl stop {unit}")
    assert show(unit, "Result") == "success"


def test_the_journal_has_our_identifier() -> None:
    sh("systemctl start iwpmd")
    records = [record for record in journal("iwpmd") if record.get("SYSLOG_IDENTIFIER") == "iwpmd"]
    assert any("starting" in record["MESSAGE"] for record in records)


@pytest.mark.parametrize("unit", DAEMONS)
def test_kill_9_brings_it_back(unit: str) -> None:
    sh(f"systemctl start {unit}")
    first = int(show(unit, "MainPID"))
    os.kill(first, signal.SIGKILL)
    wait_for(
        lambda: show(unit, "ActiveState") == "active" and show(unit, "MainPID") not in ("0", str(first)),
        f"the restart of {unit}",
        limit_s=90,
    )


def test_the_watchdog_ends_a_hanging_daemon() -> None:
    drop_in = UNITS / "iwpmd.service.d"
    drop_in.mkdir(exist_ok=True)
    (drop_in / "watchdog.conf").write_text("[Service]\nWatchdogSec=3\n")
    sh("systemctl daemon-reload; systemctl start iwpmd")
    first = int(show("iwpmd", "MainPID"))
    os.kill(first, signal.SIGSTOP)
    wait_for(
        lambda: show("iwpmd", "ActiveState") == "active" and show("iwpmd", "MainPID") not in ("0", str(first)),
        "the watchdog",
        limit_s=120,
    )
    (drop_in / "watchdog.conf").unlink()
    sh("systemctl daemon-reload")


def test_rdmactld_and_the_single_daemons_replace_each_other() -> None:
    sh("systemctl start iwpmd iserd")
    sh("systemctl start rdmactld")
    assert [show(unit, "ActiveState") for unit in DAEMONS] == ["inactive", "inactive", "active"]
    sh("systemctl start iserd")
    assert show("rdmactld", "ActiveState") == "inactive"


def test_mapped_ports_are_the_same_after_kill_9() -> None:
    sh("siw map; link siw0 siw dummy0 10.9.0.1/24; systemctl start iwpmd")
    sh("setsid rping -s -P -a 10.9.0.1 >/dev/null 2>&1 </dev/null &")
    mappings = wait_for(list_mappings, "a mapping")
    os.kill(int(show("iwpmd", "MainPID")), signal.SIGKILL)
    again = wait_for(lambda: list_mappings() if show("iwpmd", "ActiveState") == "active" else None, "the restart")
    assert [(entry["local"], entry["mapped"]) for entry in again] == [
        (entry["local"], entry["mapped"]) for entry in mappings
    ]
    sh("pkill rping; exit 0")


def list_mappings() -> list[dict[str, str]]:
    done: list[dict[str, str]] = json.loads(sh(f"{BIN}/iwpmctl list -j || echo '{{\"mappings\": []}}'"))["mappings"]
    return done
