# SPDX-License-Identifier: Apache-2.0
"""What `rdmactl iser ... -j` prints is what docs/api.md says: each field there, with its type, and no other."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdmactl.cli import iser_luns, iser_options, iser_perf, iser_ping, rdmactl
from rdmactl.errors import PeerError
from rdmactl.rdmacm.report import Report
from tests.unit.cli.test_cli_iser import FOUND, NAME, SESSION, FakeWorker

DOCUMENT = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
FAILED = Report((), 0.1, error=PeerError("10.9.0.1:3260 refused", hint="enable it", code="refused"), stage="connect")
OVER_IWARP = SESSION._replace(transport="iWARP", port_mapper="not asked: iwpmd does not run")
SAMPLES = [FOUND, OVER_IWARP, FAILED]

KINDS = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}
OPEN = ("negotiated", "result.latency_s")
"""Objects whose fields are named elsewhere."""


def documented(heading: str) -> dict[str, set[str]]:
    """The rows of the table behind a line: field, types. A field may have a row for each type."""
    table = DOCUMENT.split(f"\n{heading}\n", 1)[1].lstrip().split("\n\n", 1)[0]
    rows: dict[str, set[str]] = {}
    for field, kinds in re.findall(r"^\| `(.+?)` \| (.+?) \|", table, re.MULTILINE):
        rows.setdefault(field, set()).update(kinds.split(" or "))
    return rows


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(field, type) of everything that is neither an object nor a list."""
    if isinstance(value, dict):
        star = path.removeprefix("pings[].") in OPEN
        for name, each in value.items():
            yield from leaves(each, f"{path}.{'*' if star else name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, f"{path}[]")
    else:
        yield path, KINDS[type(value)]


@pytest.mark.parametrize("command", ["ping", "luns", "perf"])
def test_what_is_printed_is_what_is_documented(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = documented("In the object of `luns` and `perf`, and in each of `pings[]`:")
    prefix = "pings[]." if command == "ping" else ""
    own = documented(f"`rdmactl.iser.{command}`:")
    expected = own | {prefix + field: kinds for field, kinds in common.items()}
    for module in (iser_ping, iser_luns, iser_perf):
        monkeypatch.setattr(module, "SyncWorker", FakeWorker)
    monkeypatch.setattr(iser_options, "own_name", lambda: "iqn.2026-11.test:me")
    monkeypatch.setattr(sys, "argv", ["rdmactl", "iser", command, f"10.9.0.1/{NAME}", "-j"])
    seen: dict[str, set[str]] = {}
    for report in SAMPLES:
        FakeWorker.reports, FakeWorker.asked = [report], []
        rdmactl.main()
        for field, kind in leaves(json.loads(capsys.readouterr().out)):
            seen.setdefault(field, set()).add(kind)
    assert seen.keys() == expected.keys()
    for field, kinds in seen.items():
        assert kinds <= expected[field], field
