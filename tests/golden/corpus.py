# SPDX-License-Identifier: Apache-2.0
"""Recorded runs of iscsiadm in a directory: INDEX.txt says what was run, in which order, on which fixture.

A scenario is a list of steps; the state one leaves is the start of the next. A step with a name is a case; its file,
where there is one, has the exact command and what it printed. A case without file is run, and its status is compared.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["DIRECTORY", "Case", "Expected", "Step", "configuration", "scenarios"]

DIRECTORY = Path(__file__).parents[1] / "data" / "golden" / "iscsiadm"
"""The corpus that belongs to the project."""

_CASE = re.compile(r"  ([a-z]\d\d-\d\d-(\S+))\.txt\s+(\d+)\s+(.*)")
_SCENARIO = re.compile(r"S(\d+)\s")


class Expected(NamedTuple):
    """What a case printed."""

    command: str
    stdout: str
    stderr: str
    status: int


class Step(NamedTuple):
    """A command or, in parentheses, a change of the fixture. `case` is None for what only prepares."""

    text: str
    case: Case | None = None

    @property
    def cut_short(self) -> bool:
        """The index has only the beginning of the command, and there is no file that has the rest."""
        return self.text.endswith("...") or self.text.endswith("…")


class Case(NamedTuple):
    """A step with a name. `expected` is None when its file is not in the corpus."""

    name: str
    status: int
    expected: Expected | None


@cache
def scenarios(directory: Path = DIRECTORY) -> dict[str, list[Step]]:
    """The steps of each scenario: "S1", "S2", ..."""
    found: dict[str, list[Step]] = {}
    steps: list[Step] = []
    for line in (directory / "INDEX.txt").read_text().splitlines():
        scenario = _SCENARIO.match(line)
        case = _CASE.match(line)
        if scenario:
            steps = found.setdefault(f"S{scenario[1]}", [])
        elif case:
            expected = _read(directory / f"{case[1]}.txt")
            command = expected.command if expected else case[4]
            steps.append(Step(command, Case(case[2], int(case[3]), expected)))
        elif line.startswith("      "):
            steps.append(Step(line.strip()))
    return found


def _read(path: Path) -> Expected | None:
    if not path.exists():
        return None
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("$ ") and "iscsid.conf" not in line)
    command = lines[at][2:-1]
    stderr_at = lines.index("[stderr]\n")
    stdout, stderr = "".join(lines[at + 1 : stderr_at]), "".join(lines[stderr_at + 1 : -1])
    status = int(lines[-1].removeprefix("[exit ").rstrip("]\n"))
    return Expected(command, stdout, stderr, status)


def configuration(path_stem: str, directory: Path = DIRECTORY) -> str | None:
    """The iscsid.conf a case of group b11 shows, from its lines "| ..."."""
    matches = list(directory.glob(f"*-{path_stem}.txt"))
    if not matches:
        return None
    lines = [line for line in matches[0].read_text().splitlines(keepends=True) if line.startswith("| ")]
    return "".join(line[2:] for line in lines)
