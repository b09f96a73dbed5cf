# SPDX-License-Identifier: Apache-2.0
"""Records as the texts that rows hold. Engine ring, import-light.

Not here: the database (`store.py`), record files, which look much the same but are for other programs (`files.py`).
"""

from __future__ import annotations

from rdmactl.errors import StoreError

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rdmactl.records.model import Record

__all__ = ["check_words", "format_record", "has_undecoded", "parse_record", "secrets_of"]


def has_undecoded(values: Iterable[object]) -> bool:
    """Whether a text had bytes that are no UTF-8."""
    return any(isinstance(value, str) and any("\udc80" <= c <= "\udcff" for c in value) for value in values)


def check_words(*words: str) -> None:
    """StoreError for a name or an address that could end a line."""
    for word in words:
        if not word.isprintable():
            format_record({"a name": word})


def format_record(record: Record) -> str:
    """The record as text; empty values and secrets are left out.

    A line feed in a name would make another key of what follows it; other control characters have no business there.
    """
    from rdmactl.records.model import has_control_characters

    lines = [f"{key} = {value}" for key, value in record.items() if isinstance(value, str) and value]
    for line in lines:
        if has_control_characters(line):
            key = line.partition(" = ")[0]
            raise StoreError(f"{key} has a control character and cannot be recorded")
    return "\n".join(lines)


def secrets_of(record: Record) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if not isinstance(value, str) and value:
            yield key, value.reveal()


def parse_record(text: str) -> Record:
    """The inverse of `format_record`; ValueError for a line that is none."""
    record: Record = {}
    for line in text.split("\n") if text else ():
        key, separator, value = line.partition(" = ")
        if not separator:
            raise ValueError("its text has a line that is none")
        record[key] = value
    return record
