# SPDX-License-Identifier: Apache-2.0
"""Errors of the record database, as sentences about its file. Shell ring, import-light.

Not here: what is done about damage (`quarantine.py`, `salvage.py`).
"""

from __future__ import annotations

import sqlite3

from rdmactl.errors import StoreError

__all__ = ["BUSY_S", "Guard"]

BUSY_S = 30.0
"""How long a writer waits for another: as long as iscsiadm waits for its lock."""


class Guard:
    """What goes wrong inside becomes a StoreError that names the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            if "locked" in str(error) or "busy" in str(error):
                raise StoreError(f"{self._path} has been locked by another program for {BUSY_S:g} s") from None
            raise StoreError(f"{self._path} cannot be used: {error}", hint="check the disk") from None
        if isinstance(error, UnicodeEncodeError):
            raise StoreError("a name that is not UTF-8 cannot be recorded") from None
        if isinstance(error, sqlite3.DatabaseError):
            raise StoreError(
                f"{self._path} is damaged: {error}",
                hint="run rdmactl records check --repair, which keeps the file aside and saves what can be read",
            ) from None
