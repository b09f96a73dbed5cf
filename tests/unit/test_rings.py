# SPDX-License-Identifier: Apache-2.0
"""Imports point inwards: engines know no shell, shells know no face. docs/design.md says why."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A package is of one ring; the modules named below it are the exceptions.
PACKAGES = {
    "rdmactl": "engine",
    "rdmactl.netlink": "shell",
    "rdmactl.iwpm": "engine",
    "rdmactl.iscsi": "engine",
    "rdmactl.isns": "engine",
    "rdmactl.initiator": "shell",
    "rdmactl.discoveryd": "shell",
    "rdmactl.rdmacm": "shell",
    "rdmactl.records": "shell",
    "rdmactl.control": "shell",
    "rdmactl.cli": "face",
    "rdmactl.daemons": "face",
}
RINGS = ("engine", "shell", "face")
DOCSTRING_WORDS = {"Engine ring.": "engine", "Shell ring.": "shell", "Face ring.": "face"}

# What an engine may take from the standard library: nothing that opens, waits, reads a clock, logs, or throws dice.
PURE = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "dataclasses", "enum", "errno",
    "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "math", "operator", "re", "string", "struct",
    "types", "typing",
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    # rglob does not follow the link rdmactl/daemons.
    for directory, package in ((ROOT / "rdmactl", "rdmactl"), (ROOT / "daemons", "rdmactl.daemons")):
        for path in sorted(directory.rglob("*.py")):
            parts = path.relative_to(directory).with_suffix("").parts
            name = ".".join((package, *parts))
            yield name.removesuffix(".__init__"), path


MODULES = dict(modules())


def ring(name: str) -> str:
    """The ring a module says it is in; its package's if it says nothing."""
    head = (ast.get_docstring(ast.parse(MODULES[name].read_text())) or "").split("\n\n")[0]
    said = [value for words, value in DOCSTRING_WORDS.items() if words in " ".join(head.split())]
    if said:
        return said[0]
    package = name if name in PACKAGES else name.rpartition(".")[0]
    return PACKAGES[package]


def imports(path: Path) -> set[str]:
    """Every module named by an import statement, those below TYPE_CHECKING and inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_inwards(name: str) -> None:
    mine = ring(name)
    for imported in imports(MODULES[name]):
        if imported in MODULES and imported != name:
            theirs = ring(imported)
            assert RINGS.index(theirs) <= RINGS.index(mine), f"{name} ({mine}) imports {imported} ({theirs})"
        elif mine == "engine" and name not in ("rdmactl._cffi_build",):
            top = imported.split(".")[0]
            assert top in PURE or imported in MODULES, f"{name} is an engine and imports {imported}"


def test_the_pure_list_names_modules_that_exist() -> None:
    assert set(sys.stdlib_module_names) | {"__future__"} >= PURE


def test_every_module_says_what_it_is_for() -> None:
    for name, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{name} has no docstring"
