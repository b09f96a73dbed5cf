#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that need a real RDMA kernel: each file of this folder in a virtual machine of its own.

A file says how it wants to be run in a comment of its head: `# lab: --hosts 2 --memory 2048`. With two hosts both run
the same file and tell each other of their progress (`tests/lab/guest.py`). Files run side by side, as many as there are
processors. The last line counts the tests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEFAULT_TIMEOUT_S = 900


def main(words: list[str]) -> int:
    files = [Path(word).resolve() for word in words] or sorted(HERE.glob("test_*.py"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = list(pool.map(run_file, files))
    passed = sum(counts[0] for counts in results)
    failed = sum(counts[1] for counts in results)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def run_file(file: Path) -> tuple[int, int]:
    """(passed, failed) of one file; its output is shown when something failed."""
    options = lab_options(file)
    pytest = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-m", "kernel", "-p", "no:cacheprovider", str(file)]
    started = time.monotonic()
    done = subprocess.run(
        [str(ROOT / "lab/run"), *options, "--", *pytest],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    output = done.stdout.decode(errors="replace")
    passed, failed = count(output)
    if done.returncode and not failed:
        failed = 1  # the machine itself failed, or a test ended it
    verdict = "FAILED" if failed or not passed else "ok"
    print(f"{file.name}: {verdict}, {passed} passed in {time.monotonic() - started:.0f} s", flush=True)
    if verdict != "ok":
        print(output, flush=True)
        failed = failed or 1
    return passed, failed


def lab_options(file: Path) -> list[str]:
    """The words behind `# lab:` in the file's head."""
    found = re.search(r"^# lab: (.*)$", file.read_text(), re.MULTILINE)
    options = shlex.split(found.group(1)) if found else []
    if "--timeout" not in options:
        options += ["--timeout", str(DEFAULT_TIMEOUT_S)]
    return options


def count(output: str) -> tuple[int, int]:
    """Passed and failed (errors included) of pytest's closing lines; two hosts have one each."""
    closing = [line for line in output.splitlines() if re.search(r"\d+ (passed|failed|error)s?\b.* in [\d.:]+", line)]
    passed = sum(int(number) for line in closing for number in re.findall(r"(\d+) passed", line))
    failed = sum(int(number) for line in closing for number in re.findall(r"(\d+) (?:failed|error)", line))
    return passed, failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
