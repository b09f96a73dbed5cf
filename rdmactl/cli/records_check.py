# SPDX-License-Identifier: Apache-2.0
"""`rdmactl records check`: are the records sound, and which are set apart. Face ring.

`--repair` keeps a damaged database aside and saves what can be read of it.

Not here: how it is saved (`rdmactl.records.salvage`).
"""

from __future__ import annotations

import argparse
import sys

from rdmactl.cli.output import print_json
from rdmactl.cli.records_export import open_store, warn
from rdmactl.records.salvage import check, repair
from rdmactl.records.store import Store, state_directory

__all__ = ["parser", "run"]

SCHEMA = "rdmactl.records.check"

_DAMAGED = 1


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl records check",
        description="Look for damage in the records, and list those that were set apart because they are damaged.",
        epilog="The status is 1 when something is, or was, damaged.",
    )
    words.add_argument(
        "--repair",
        action="store_true",
        help="when the database is damaged, or another program's: keep it aside, and begin a new one with all that can"
        " be read",
    )
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Check, repair if that is wanted and needed, list."""
    given = parser().parse_args(words)
    directory = state_directory()
    damage = check(directory)
    repaired = repair(directory) if damage and given.repair else None
    apart: list[tuple[str, str, str]] = []
    if not damage or repaired:
        with open_store() as store:
            read_all(store)
            apart = store.quarantined()
    if given.json:
        _print_json(damage, repaired, apart)
    else:
        for kind, name, reason in apart:
            print(f"set apart: the {kind} record {name}: {reason}")
        if repaired is not None:
            print(f"{repaired.saved} records saved; the damaged database is {repaired.kept_as}")
        elif not damage and not apart:
            print("the records are sound")
    for sentence in damage:
        warn(sentence)
    sys.stdout.flush()
    return _DAMAGED if apart or (damage and repaired is None) else 0


def read_all(store: Store) -> None:
    """Look at every record, so that the damaged ones are set apart."""
    for node in store.nodes():
        store.node(node)
    for name in store.ifaces():
        store.iface(name)
    for discovery in store.discoveries():
        store.discovery(*discovery)


def _print_json(damage: list[str], repaired: object, apart: list[tuple[str, str, str]]) -> None:
    print_json(
        SCHEMA,
        {
            "damage": damage,
            "saved": getattr(repaired, "saved", None),
            "kept_as": getattr(repaired, "kept_as", None),
            "set_apart": [{"kind": kind, "name": name, "reason": reason} for kind, name, reason in apart],
        },
    )
