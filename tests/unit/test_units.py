# SPDX-License-Identifier: Apache-2.0
"""The unit files as text; tests/lab/test_daemons.py runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rdmactl.iwpm.vault import SYSTEMD_LIMIT

UNITS = sorted((Path(__file__).resolve().parents[2] / "daemons/systemd").glob("*.service"))
ORDERING = re.compile(r"(Before|After|Wants|Conflicts|DefaultDependencies|RequiresMountsFor)=")


def test_there_is_a_unit_for_each_daemon() -> None:
    assert [unit.stem for unit in UNITS] == ["iserd", "iwpm-keeper", "iwpmd", "rdmactl-sessions", "rdmactld"]


def test_what_boots_claims_what_it_ends() -> None:
    text = (UNITS[0].parent / "rdmactl-sessions.service").read_text()
    claim = re.search(r"Environment=RDMACTL_CLAIM=(\w+)\n", text)
    assert claim is not None
    assert f"ExecStop=@BINDIR@/rdmactl session release --claim {claim[1]}\n" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_ordering_line_has_its_reason(unit: Path) -> None:
    """A comment above its group: whoever changes the order must know what it was for."""
    reason = False
    for line in unit.read_text().splitlines():
        if line.startswith("#"):
            reason = True
        elif ORDERING.match(line):
            assert reason, line
        else:
            reason = False


DAEMONS = [unit for unit in UNITS if unit.stem not in ("iwpm-keeper", "rdmactl-sessions")]


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda unit: unit.stem)
def test_readiness_watchdog_and_a_shared_runtime_directory(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    for needed in ("Type=notify", "WatchdogSec=30", "RuntimeDirectory=rdmactl", "RuntimeDirectoryPreserve=yes"):
        assert needed in lines


@pytest.mark.parametrize("name", ["iwpmd", "rdmactld"])
def test_systemd_keeps_as_many_ports_as_the_daemon_gives_it(name: str) -> None:
    lines = (UNITS[0].parent / f"{name}.service").read_text().splitlines()
    assert f"FileDescriptorStoreMax={SYSTEMD_LIMIT}" in lines
    assert f"Environment=RDMACTL_FD_STORE={SYSTEMD_LIMIT}" in lines
    assert "Wants=iwpm-keeper.socket" in lines
