# SPDX-License-Identifier: Apache-2.0
"""Replays recorded runs of iscsiadm on this machine's kernel, and says how many came out the same.

    lab/run -- .venv/bin/python -m tests.golden.replay DIRECTORY [SCENARIO ...]

DIRECTORY holds an INDEX.txt and the files it names (`corpus.py`); without arguments it is the project's own. The last
line counts: exact, documented deviation (`deviations.py`, each with its reason), failing. The status is 1 if any fails.
For the lab's virtual machine only (`machine.py`).
"""

from __future__ import annotations

import difflib
import sys
from collections import Counter
from pathlib import Path

from rdmactl.initiator import sysfs
from tests.golden.compare import Numbers, same
from tests.golden.corpus import DIRECTORY, Case, Step, configuration, scenarios
from tests.golden.deviations import ELSEWHERE, NO_SUCH_FIXTURE, reason
from tests.golden.machine import Machine
from tests.golden.shell import Result
from tests.golden.world import CONFIGURATION

__all__ = ["main", "replay"]


def replay(directory: Path, names: list[str], *, verbose: bool = True) -> Counter[str]:
    """Play scenarios, each from its start; how many cases were "exact", "documented", "failing", "not compared"."""
    counts: Counter[str] = Counter()
    machine = Machine()
    try:
        for name in names:
            counted = _play(machine, directory, scenarios(directory)[name], verbose=verbose)
            print(f"{name}: {counted['exact']} exact of {counted.total()}", flush=True)
            counts += counted
    finally:
        machine.stop()
    return counts


def _play(machine: Machine, directory: Path, steps: list[Step], *, verbose: bool) -> Counter[str]:
    """One scenario."""
    numbers = Numbers()
    verdicts = (_step(machine, directory, step, numbers, verbose=verbose) for step in steps)
    return Counter(verdict for verdict in verdicts if verdict is not None)


def _step(machine: Machine, directory: Path, step: Step, numbers: Numbers, *, verbose: bool) -> str | None:
    command = numbers.command(step.text, sysfs.session_ids(), machine.host_of)
    if step.case is None:
        machine.prepare(command)
        return None
    why = reason(step.case.name)
    if step.cut_short:
        return "not compared"
    if step.case.name in ELSEWHERE[NO_SUCH_FIXTURE]:
        print(f"{step.case.name}: {why}", flush=True)
        return "documented"
    result = _run(machine, directory, step.case, command)
    if same(step.case, command, result, numbers):
        return "exact"
    if why is not None:
        print(f"{step.case.name}: {why}", flush=True)
        return "documented"
    print(f"{step.case.name}: FAILING", flush=True)
    if verbose:
        print(_difference(step.case, command, result), flush=True)
    return "failing"


def _run(machine: Machine, directory: Path, case: Case, command: str) -> Result:
    """A case; those about iscsid.conf come with theirs."""
    if not case.name.startswith("conf-"):
        return machine.run(command)
    text = None if case.name == "conf-missing" else configuration(case.name, directory)
    if text is not None and case.name == "conf-nonewline-last":
        text = text.rstrip("\n")
    machine.configure(text)
    try:
        return machine.run(command)
    finally:
        machine.configure(CONFIGURATION)


def _difference(case: Case, command: str, here: Result) -> str:
    if case.expected is None:
        return f"  $ {command}\n  status {here.status}, recorded {case.status}\n{here.stdout}{here.stderr}"
    lines = [f"  $ {command}"]
    if here.status != case.expected.status:
        lines.append(f"  status {here.status}, recorded {case.expected.status}")
    for theirs, ours in ((case.expected.stdout, here.stdout), (case.expected.stderr, here.stderr)):
        changes = list(difflib.unified_diff(theirs.splitlines(), ours.splitlines(), "recorded", "here", "", "", 0))
        lines.extend(f"  {line}" for line in changes[2:])
    return "\n".join(lines)


def main(words: list[str]) -> int:
    directory = Path(words[0]) if words else DIRECTORY
    names = words[1:] or list(scenarios(directory))
    counts = replay(directory, names)
    print(
        f"{counts['exact']} exact, {counts['documented']} documented deviations, {counts['failing']} failing"
        f" ({counts['not compared']} commands are cut short in the index and have no file)"
    )
    return 1 if counts["failing"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
