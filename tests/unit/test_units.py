# SPDX-License-Identifier: Apache-2.0
"""The unit files as text; tests/lab/test_daemons.py runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).resolve().parents[2] / "daemons/systemd").glob("*.service"))
ORDERING = re.compile(r"(Before|After|Wants|Conflicts|DefaultDependencies|RequiresMountsFor)=")


def test_there_is_a_unit_for_each_daemon() -> None:
    assert [unit.stem for unit in UNITS] == ["iserd", "iwpmd", "rdmactld"]


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


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_readiness_watchdog_and_a_shared_runtime_directory(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    for needed in ("Type=notify", "WatchdogSec=30", "RuntimeDirectory=rdmactl", "RuntimeDirectoryPreserve=yes"):
        assert needed in lines
