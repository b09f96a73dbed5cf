# SPDX-License-Identifier: Apache-2.0
"""`rdmactl records import`: take over the records of open-iscsi. Face ring.

Not here: reading a tree (`rdmactl.records.tree_import`).
"""

from __future__ import annotations

import argparse
import os
import sys

from rdmactl.cli.output import print_json
from rdmactl.cli.records_export import open_store
from rdmactl.records.tree_import import ROOTS, import_tree, read_tree

__all__ = ["parser", "run"]

SCHEMA = "rdmactl.records.import"

_SOMETHING_LEFT_OUT = 1


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl records import",
        description="Read the records of open-iscsi's tree of files. The tree is not changed.",
        epilog="The status is 1 when something was left out; standard error names it.",
    )
    words.add_argument("directory", nargs="?", help="where nodes/ and the others are (/etc/iscsi, or /var/lib/iscsi)")
    words.add_argument("-r", "--replace", action="store_true", help="also replace records that exist with other values")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Import everything that can be, name everything else."""
    given = parser().parse_args(words)
    directory = given.directory or default_root()
    tree = read_tree(directory)
    with open_store() as store:
        done = import_tree(store, tree, replace=given.replace)
    if given.json:
        body = {"directory": directory, "added": done.added, "replaced": done.replaced, "unchanged": done.unchanged}
        print_json(SCHEMA, {**body, "kept": done.kept, "problems": tree.problems})
    else:
        print(f"{directory}: {done.added} added, {done.replaced} replaced, {done.unchanged} unchanged")
    for problem in tree.problems:
        print(f"rdmactl: {problem}", file=sys.stderr)
    for kept in done.kept:
        print(f"rdmactl: {kept} exists with other values and was kept; --replace replaces it", file=sys.stderr)
    return _SOMETHING_LEFT_OUT if tree.problems or done.kept else 0


def default_root() -> str:
    """The first of the usual places that has node records."""
    return next((root for root in ROOTS if os.path.isdir(os.path.join(root, "nodes"))), ROOTS[0])
