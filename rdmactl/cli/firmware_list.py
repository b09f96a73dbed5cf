# SPDX-License-Identifier: Apache-2.0
"""`rdmactl firmware list`: the tables the firmware and adapters boot from, with all that is in them. Face ring.

Names and values are the kernel's (sysfs). Sessions and records made of them: `iseradm -m fw`, `-m discovery -t fw`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.output import print_json
from rdmactl.initiator.firmware import SECRETS, boot_tables
from rdmactl.iscsi.names import printable
from rdmactl.records.model import MASK

if TYPE_CHECKING:
    from rdmactl.initiator.firmware import Entries

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.firmware.list"


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl firmware list", description="List what the firmware was told to boot from."
    )
    words.add_argument("-S", "--show", action="store_true", help="print secrets, which are stars otherwise")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str], root: str = "/sys") -> int:
    """No table is an empty list, and not an error."""
    given = parser().parse_args(words)
    tables = boot_tables(root)
    if not given.show:
        tables = {name: _masked(entries) for name, entries in tables.items()}
    if given.json:
        print_json(SCHEMA, {"tables": tables})
    else:
        for name, entries in tables.items():
            print("\n".join(text(name, entries)))
    return 0


def text(table: str, entries: Entries) -> list[str]:
    """A line for each attribute."""
    return [
        f"{table}/{entry}/{name} = {printable(value)}"
        for entry, attributes in entries.items()
        for name, value in attributes.items()
    ]


def _masked(entries: Entries) -> Entries:
    return {
        entry: {name: MASK if value and name in SECRETS else value for name, value in attributes.items()}
        for entry, attributes in entries.items()
    }
