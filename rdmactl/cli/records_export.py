# SPDX-License-Identifier: Apache-2.0
"""`rdmactl records export`: write the records as open-iscsi's tree of files. Face ring.

Not here: writing a tree (`rdmactl.records.tree_export`), keeping one written (`rdmactl.records.mirror`).
"""

from __future__ import annotations

import argparse
import sys

from rdmactl import settings
from rdmactl.cli.output import print_json
from rdmactl.records.settings import Mirror
from rdmactl.records.store import Store
from rdmactl.records.tree_export import TreeWriter, export_tree

__all__ = ["open_store", "parser", "run"]

SCHEMA = "rdmactl.records.export"

_SOMETHING_LEFT_OUT = 1


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl records export",
        description="Write the records as open-iscsi's tree of files, into a directory. Other files there stay.",
        epilog="The status is 1 when a record cannot be a file; standard error names it.",
    )
    words.add_argument("directory", help="for instance /etc/iscsi")
    words.add_argument("-a", "--as", dest="seen_as", metavar="PATH", help="where the tree will be when it is read")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Write all there is."""
    given = parser().parse_args(words)
    with open_store() as store:
        count, problems = export_tree(store, TreeWriter(given.directory, given.seen_as))
    if given.json:
        print_json(SCHEMA, {"directory": given.directory, "written": count, "problems": problems})
    else:
        print(f"{given.directory}: {count} written")
    for problem in problems:
        print(f"rdmactl: {problem}", file=sys.stderr)
    return _SOMETHING_LEFT_OUT if problems else 0


def open_store() -> Store:
    """The records, with the mirror if there is one."""
    return Store(warn=warn, follower=Mirror(warn) if settings.exists() else None)


def warn(sentence: str) -> None:
    print(f"rdmactl: {sentence}", file=sys.stderr)
