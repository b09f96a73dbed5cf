# SPDX-License-Identifier: Apache-2.0
"""What the daemons import before they serve. Their start is mostly that; docs/performance.md has the figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAPPER = ["rdmactl.daemons.iwpmd", "rdmactl.control.port_mapper"]
INITIATOR = ["rdmactl.daemons.iserd", "rdmactl.control.initiator", "rdmactl.control.discovery"]

# Whole packages of the other daemon, and what comes behind READY or with the first record under watch.
NOT_THE_MAPPERS = ["rdmactl.initiator", "rdmactl.iscsi", "rdmactl.isns", "rdmactl.records", "rdmactl.discoveryd"]
NOT_THE_INITIATORS = ["rdmactl.iwpm"]
DISCOVERIES = [
    "rdmactl.initiator.discovery", "rdmactl.iscsi.discovery", "rdmactl.rdmacm", "rdmactl.discoveryd.watcher",
    "rdmactl.isns.client", "rdmactl.isns.query", "rdmactl.isns.registration", "rdmactl.isns.watch",
]  # fmt: skip


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        (MAPPER, [*NOT_THE_MAPPERS, "sqlite3", "argparse"]),
        (INITIATOR, [*NOT_THE_INITIATORS, *DISCOVERIES]),
        (["rdmactl.daemons.rdmactld", *INITIATOR[1:], *MAPPER[1:]], [each for each in DISCOVERIES if "isns" in each]),
    ],
    ids=["iwpmd", "iserd", "rdmactld"],
)
def test_a_daemon_imports_only_what_it_needs_to_be_ready(imported: list[str], unwanted: list[str]) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {', '.join(imported)}\n"
        f"print(*(set({unwanted!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
