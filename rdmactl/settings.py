# SPDX-License-Identifier: Apache-2.0
"""Reading rdmactl.toml and its drop-ins. Shell ring.

Each component has a module of its own (`rdmactl.records.settings`, ...) with one class: a field for each key of its
section, and a sentence for each field. This file knows where the files are, how they add up, what is wrong with them.

Not here: any setting. Must change together with man/rdmactl.toml.5, which a test compares with the fields.
"""

from __future__ import annotations

import os

from rdmactl.errors import LocalError

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DEFAULT_DIRECTORY", "FILE_NAME", "SECTIONS", "exists", "read", "section"]

SECTIONS = ("records", "discovery", "iwpm")
"""The sections there are: one for each component that has settings."""

DEFAULT_DIRECTORY = "/etc/rdmactl"
FILE_NAME = "rdmactl.toml"

_FILE_BYTES_MAX = 1 << 20


def directory() -> str:
    """Where the settings are: $RDMACTL_SETTINGS_DIRECTORY, or /etc/rdmactl."""
    return os.environ.get("RDMACTL_SETTINGS_DIRECTORY") or DEFAULT_DIRECTORY


def exists(where: str | None = None) -> bool:
    """Whether there is anything to read: the usual answer is no, and costs two looks at the file system."""
    path = os.path.join(where or directory(), FILE_NAME)
    return os.path.lexists(path) or os.path.isdir(f"{path}.d")


def read(where: str | None = None) -> dict[str, Any]:
    """rdmactl.toml, then rdmactl.toml.d/*.toml in the order of their names: a later key counts, section by section.

    LocalError names the file that cannot be used.
    """
    merged: dict[str, Any] = {}
    for path in _files(where or directory()):
        for name, value in _parse(path).items():
            here = merged.get(name)
            merged[name] = {**here, **value} if isinstance(here, dict) and isinstance(value, dict) else value
    return merged


def section(settings: dict[str, Any], name: str, fields: dict[str, type]) -> tuple[dict[str, Any], list[str]]:
    """The known keys of one section, and a sentence for each unknown one. LocalError for a value of another type."""
    table = settings.get(name, {})
    if not isinstance(table, dict):
        raise LocalError(f"{name} in {FILE_NAME} is no section", hint=f"write it as [{name}]")
    known: dict[str, Any] = {}
    unknown = [
        f"{FILE_NAME}: there is no section {other}, which counts for nothing"
        for other in settings
        if other not in SECTIONS
    ]
    for key, value in table.items():
        if key not in fields:
            unknown.append(f"{FILE_NAME}: [{name}] has no key {key}, which counts for nothing")
        elif type(value) is not fields[key]:
            raise LocalError(f"{key} in [{name}] of {FILE_NAME} must be a {fields[key].__name__}, not {value!r}")
        else:
            known[key] = value
    return known, unknown


def _files(where: str) -> list[str]:
    path = os.path.join(where, FILE_NAME)
    drop_ins = f"{path}.d"
    names = sorted(os.listdir(drop_ins)) if os.path.isdir(drop_ins) else []
    files = [os.path.join(drop_ins, name) for name in names if name.endswith(".toml") and not name.startswith(".")]
    return [path, *files] if os.path.lexists(path) else files


def _parse(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.loads(file.read(_FILE_BYTES_MAX).decode())
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LocalError(f"{path} cannot be used: {error}", hint="see rdmactl.toml(5)") from None
