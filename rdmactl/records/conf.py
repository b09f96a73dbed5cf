# SPDX-License-Identifier: Apache-2.0
"""The files people edit: iscsid.conf (defaults for new records) and initiatorname.iscsi. Shell ring.

Both are read with open-iscsi's rules, oddities included, because these files exist on every host: white space is
required before "=", there are no trailing comments, and a last line without line feed is dropped.
Not here: the keys themselves (`model.py`).
"""

from __future__ import annotations

import os

from rdmactl.errors import StoreError
from rdmactl.records.files import LINE_BYTES_MAX, split_line
from rdmactl.records.model import ValueProblem, convert
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdmactl.records.model import Record, Table

__all__ = [
    "NAME_PREFIX",
    "Setting",
    "apply",
    "config_directory",
    "ensure_initiator_name",
    "initiator_name",
    "make_name",
    "option",
    "parse_config",
    "read_config",
]

DEFAULT_CONFIG_DIRECTORY = "/etc/iscsi"
CONFIG_BYTES_MAX = 1 << 20
"""A file longer than this is not one of ours."""

NAME_PREFIX = "iqn.2016-04.com.open-iscsi:"
"""As iscsi-iname makes it: names of one origin look alike on a target."""


class Setting(NamedTuple):
    """A line "key = value" of iscsid.conf."""

    line: int
    key: str
    value: str


def config_directory() -> str:
    """Where iscsid.conf and initiatorname.iscsi are: $RDMACTL_CONFIG_DIRECTORY, or /etc/iscsi."""
    return os.environ.get("RDMACTL_CONFIG_DIRECTORY") or DEFAULT_CONFIG_DIRECTORY


def read_config(directory: str | None = None) -> tuple[list[Setting], list[str]]:
    """Settings and warnings of iscsid.conf; nothing of either when there is no such file."""
    return parse_config(_read(os.path.join(directory or config_directory(), "iscsid.conf")) or "")


def parse_config(text: str) -> tuple[list[Setting], list[str]]:
    """Take iscsid.conf apart; the warnings are iscsiadm's sentences."""
    settings, warnings = [], []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n") or len(line.encode("utf-8", "surrogateescape")) > LINE_BYTES_MAX + 1:
            # A file that ends without line feed has, for open-iscsi, its loss one line further down.
            warnings.append(f"Config file line {number + (not line.endswith(chr(10)))} too long.")
            if line.endswith("\n"):
                continue
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        parts = split_line(stripped)
        if isinstance(parts, str):
            warnings.append(f"Config file line {number} does not have {parts}")
        else:
            settings.append(Setting(number, *parts))
    return settings, warnings


def apply(record: Record, table: Table, settings: Sequence[Setting]) -> list[str]:
    """Put the settings `table` knows into `record`, later ones over earlier ones; returns warnings.

    Keys that identify a record cannot be set here. A value that is none leaves the default.
    """
    warnings = []
    for setting in settings:
        key = table.find(setting.key)
        if key is None or key.read_only:
            continue
        try:
            record[key.name], remarks = convert(key, setting.value)
        except ValueProblem:
            warnings.append(
                f"config file line {setting.line} contains unknown value format '{setting.value}'"
                f" for parameter name '{key.name}'"
            )
        else:
            warnings.extend(remarks)
    return warnings


def option(name: str, directory: str | None = None) -> str | None:
    """A setting of the daemon itself ("iscsid.safe_logout"): the first line that has it, not commented; or None."""
    text = _read(os.path.join(directory or config_directory(), "iscsid.conf")) or ""
    for line in text.splitlines():
        if name in line and not line.lstrip().startswith("#") and "=" in line:
            return line.partition("=")[2].strip() or None
    return None


def initiator_name(directory: str | None = None) -> str | None:
    """The host's InitiatorName, or None when the file or the line is missing."""
    text = _read(os.path.join(directory or config_directory(), "initiatorname.iscsi")) or ""
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == "InitiatorName" and value.strip():
            return value.strip()
    return None


def ensure_initiator_name(directory: str | None = None, random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """The host's InitiatorName; one is made and stored when there is none. For the daemon, at its start.

    Raises StoreError naming the file when it cannot be written. Whatever else stands in the file is kept.
    """
    where = directory or config_directory()
    name = initiator_name(where)
    if name is not None:
        return name
    name = make_name(NAME_PREFIX, random_bytes)
    path = os.path.join(where, "initiatorname.iscsi")
    text = _read(path) or ""
    if text and not text.endswith("\n"):
        text += "\n"
    _replace(path, f"{text}InitiatorName={name}\n")
    return name


def make_name(prefix: str, random_bytes: Callable[[int], bytes]) -> str:
    """A fresh initiator name: the prefix, which ends in a colon, and six random bytes as iscsi-iname writes them."""
    return prefix + "".join(f"{byte:x}" for byte in random_bytes(6))


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read(CONFIG_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", hint="run as root") from None


def _replace(path: str, text: str) -> None:
    """Write a file so that a reader, or a crash, meets the old or the new one."""
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", hint="run as root") from None
