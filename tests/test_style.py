# SPDX-License-Identifier: Apache-2.0
"""Formatter, linters, type checker, man pages, licence lines: one file, part of the ordinary run of `make test`.

A tool that is missing fails here: `make test` installs all of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def tracked(*patterns: str) -> list[Path]:
    """The files git knows, or would know, that match."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))[:120]}\n{done.stdout}{done.stderr}"


def tool(name: str) -> Path:
    """A tool of the virtual environment."""
    return Path(sys.executable).parent / name


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", ".")


def test_code_is_formatted() -> None:
    run(tool("ruff"), "format", "--check", ".")


def test_types_are_strict() -> None:
    run(tool("mypy"))


def test_lab_kit_types_are_strict() -> None:
    cache = ROOT / ".mypy_cache" / "lab"
    run(tool("mypy"), "--strict", "--config-file=", "-p", "kit", "--cache-dir", cache, cwd=ROOT / "lab")


def shell_scripts() -> list[Path]:
    candidates = tracked("lab/**", "bench/**", ".ci/**", "daemons/**")
    return [path for path in candidates if path.read_bytes()[:64].split(b"\n")[0] in (b"#!/bin/bash", b"#!/bin/sh")]


def test_shell_scripts_pass_shellcheck() -> None:
    assert shutil.which("shellcheck")
    run("shellcheck", "-x", *shell_scripts(), ROOT / "lab/guest/lib.sh")


def test_man_pages_are_well_formed() -> None:
    pages = tracked("man/*")
    assert len(pages) >= 6
    run("mandoc", "-T", "lint", "-W", "warning", *pages)


def test_every_source_file_names_its_licence() -> None:
    for path in tracked("*.py", "*.sh", "lab/run", "lab/guest/*", "lab/host-packages", "Makefile", ".ci/run"):
        head = path.read_text().split("\n")[:3]
        assert head == [""] or any("SPDX-License-Identifier: Apache-2.0" in line for line in head), path


def test_modules_stay_small() -> None:
    for path in tracked("rdmactl/**.py", "daemons/*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 500, f"{path} has {lines} lines: is there a second duty in it?"
