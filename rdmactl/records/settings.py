# SPDX-License-Identifier: Apache-2.0
"""The section [records] of rdmactl.toml. Shell ring.

Not here: reading files (`rdmactl.settings`), defaults of new records, which are iscsid.conf's (`conf.py`).
"""

from __future__ import annotations

from rdmactl import settings
from rdmactl.errors import LocalError

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmactl.records.store import Store

__all__ = ["FIELDS", "Mirror", "RecordSettings", "read"]

FIELDS = {
    "mirror": (
        str,
        "Directory where the records are also kept as open-iscsi's tree of files, written after each change; empty for"
        " none. It is for programs that read such a tree, usually /etc/iscsi. What they write there is not read.",
    ),
}
"""Each key, its type, and what it means."""


class RecordSettings:
    """What the section says."""

    __slots__ = ("mirror",)

    def __init__(self, mirror: str = "") -> None:
        self.mirror = mirror
        """Directory of the mirror, or empty."""


def read(where: str | None = None) -> tuple[RecordSettings, list[str]]:
    """The settings, and sentences about keys that nobody knows."""
    known, unknown = settings.section(
        settings.read(where), "records", {name: field for name, (field, _) in FIELDS.items()}
    )
    found = RecordSettings(**known)
    if found.mirror and not found.mirror.startswith("/"):
        raise LocalError(f"mirror in [records] of {settings.FILE_NAME} must be an absolute path, not {found.mirror!r}")
    return found, unknown


class Mirror:
    """The store's follower: asks the settings when something is about to change, and writes the mirror afterwards."""

    def __init__(self, warn: Callable[[str], None], where: str | None = None) -> None:
        self._warn = warn
        self._where = where
        self._root: str | None = None

    def wanted(self) -> bool:
        """Whether there is a mirror."""
        if self._root is None:
            self._root = self._read()
        return bool(self._root)

    def follow(self, store: Store) -> None:
        """Write what has changed."""
        from rdmactl.records.mirror import catch_up

        catch_up(store, self._root or "")

    def _read(self) -> str:
        found, unknown = read(self._where)
        for sentence in unknown:
            self._warn(sentence)
        return found.mirror
