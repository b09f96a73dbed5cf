# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iname`: a fresh initiator name, as iscsi-iname makes it. Face ring.

Not here: the name of this host, which the daemon makes and stores at its first start (`rdmactl.records.conf`).
"""

from __future__ import annotations

import argparse
import os

from rdmactl.cli.output import print_json
from rdmactl.errors import LocalError
from rdmactl.records.conf import NAME_PREFIX, make_name

__all__ = ["parser", "run"]

SCHEMA = "rdmactl.iname"

PREFIX_BYTES_MAX = 210
"""So that the whole name stays within iSCSI's 223 bytes; iscsi-iname has the same limit."""


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(prog="rdmactl iname", description="Make an initiator name that no other host has.")
    words.add_argument("-p", "--prefix", default=NAME_PREFIX, help=f"what the name begins with ({NAME_PREFIX})")
    words.add_argument("-g", action="store_true", help="print it as a line of initiatorname.iscsi")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Print one name."""
    given = parser().parse_args(words)
    name = make_name(_prefix(given.prefix), os.urandom)
    if given.json:
        print_json(SCHEMA, {"initiator_name": name})
    else:
        print(f"InitiatorName={name}" if given.g else name)
    return 0


def _prefix(text: str) -> str:
    """Between prefix and number stands a colon, as in iscsi-iname's names."""
    from rdmactl.iscsi.names import name_problem

    if len(text.encode("utf-8", "surrogateescape")) > PREFIX_BYTES_MAX:
        raise LocalError(f"the prefix is longer than {PREFIX_BYTES_MAX} bytes")
    prefix = text if text.endswith(":") else f"{text}:"
    problem = name_problem(f"{prefix}0")
    if problem is not None:
        raise LocalError(f"a name with this prefix {problem}", hint=f"a prefix looks like {NAME_PREFIX}")
    return prefix
