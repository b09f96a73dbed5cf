# SPDX-License-Identifier: Apache-2.0
"""What an installation has: all packages, not only those somebody has thought of (an editable one has them anyway)."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_package_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    below = (".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "rdmactl").rglob("__init__.py"))
    assert set(setuptools["packages"]) == {*below, "rdmactl.daemons"}  # the last one is a link
    assert (ROOT / "rdmactl/daemons/__init__.py").is_file()


def test_every_file_that_is_no_module_is_installed() -> None:
    found = {path.name for path in (ROOT / "rdmactl").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {name for name in found if not name.endswith((".py", ".so"))} == {"py.typed"}
