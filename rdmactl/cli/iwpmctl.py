# SPDX-License-Identifier: Apache-2.0
"""`iwpmctl`: what the port mapper knows. Face ring.

Asks the daemon (io.rdmactl.PortMapper) and prints. Not here: mappings (`rdmactl.iwpm`), the text of errors
(`rdmactl.cli.errors`). Must change together with man/iwpmctl.8 and `rdmactl/control/interfaces.py`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rdmactl.cli.errors import guard
from rdmactl.cli.output import error_json, print_json
from rdmactl.control.client import Client
from rdmactl.errors import RdmactlError

if TYPE_CHECKING:
    from typing import Any

__all__ = ["age_text", "list_text", "main", "parser", "status_text"]

_INTERFACE = "io.rdmactl.PortMapper"
_COLUMNS = ("LOCAL", "MAPPED", "KIND", "REFS", "PORT", "AGE")

_STATES = {
    "serving": "serving",
    "checking": "serving; comparing with the kernel's mappings",
    "probing": "offering the kernel a newer version",
    "greeting": "waiting for the kernel's greeting",
    "restoring": "restoring the kernel's mappings",
    "refused": "waiting for the kernel's iw_cm, which does not answer",
}


def parser() -> argparse.ArgumentParser:
    """The words of this program."""
    words = argparse.ArgumentParser(prog="iwpmctl", description="Show what the iWARP port mapper knows.")
    verbs = words.add_subparsers(dest="verb", required=True, metavar="list | status | dump")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-t", "--timeout", type=float, default=10.0, metavar="S", help="seconds to wait (10)")
    common.add_argument("-j", "--json", action="store_true", help="print JSON")
    verbs.add_parser("list", parents=[common], help="the mappings, oldest first")
    verbs.add_parser("status", parents=[common], help="how the port mapper is doing, and what it has counted")
    verbs.add_parser("dump", parents=[common], help="the lines that SIGUSR1 writes to the log")
    return words


def main() -> int:
    """The program."""
    return guard("iwpmctl", lambda: _run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    given = parser().parse_args(words)
    schema = f"iwpmctl.{given.verb}"
    try:
        with Client("iwpm", deadline_s=given.timeout) as client:
            answer: dict[str, Any] = client.call(f"{_INTERFACE}.{given.verb.capitalize()}", {})
    except RdmactlError as error:
        if given.json:
            print_json(schema, {"error": error_json(error)})
        raise
    if given.json:
        print_json(schema, {"error": None, **answer})
        return 0
    for line in _lines(given.verb, answer):
        print(line)
    return 0


def _lines(verb: str, answer: dict[str, Any]) -> list[str]:
    if verb == "list":
        return list_text(answer)
    if verb == "status":
        return status_text(answer)
    lines: list[str] = answer["lines"]
    return lines


def list_text(answer: dict[str, Any]) -> list[str]:
    """A table, one line for each mapping; a sentence when there is none."""
    mappings = answer["mappings"]
    if not mappings:
        return ["no mappings"]
    rows = [_COLUMNS, *(_row(mapping) for mapping in mappings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(mapping: dict[str, Any]) -> tuple[str, ...]:
    if not mapping["port_mapped"]:
        port = "not mapped"
    else:
        port = "claimed" if mapping["claimed"] else "TAKEN by another program"
    mapped = f"-> {mapping['mapped']}"
    return (
        mapping["local"],
        mapped,
        mapping["kind"],
        str(mapping["references"]),
        port,
        age_text(mapping["age_s"]),
    )


def age_text(seconds: float) -> str:
    """A length of time in its two largest units: 5s, 3m20s, 4h05m, 12d03h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def status_text(answer: dict[str, Any]) -> list[str]:
    """State, numbers of things, answer times, and the counters that are not zero."""
    state = _STATES.get(answer["state"], answer["state"])
    registered = "registered" if answer["registered"] else "not asked for yet"
    lines = [
        f"state: {state}",
        f"kernel: {registered}, ABI version {answer['abi_version']}",
        f"mappings: {answer['mappings']}, ports claimed: {answer['claims']}",
        f"exchanges with peers: {answer['queries_open']} as the asking side, {answer['offers_open']} as the asked side",
    ]
    times = [item for item in answer["answer_times"] if item["answers"]]
    if times:
        lines.append("answers to the kernel within:")
        lines += [f"  {_within(item['within_s']):>8}  {item['answers']}" for item in times]
    counters = {name: count for name, count in answer["counters"].items() if count}
    if counters:
        width = max(map(len, counters))
        lines.append("counters:")
        lines += [f"  {name.replace('_', ' '):{width}}  {count}" for name, count in counters.items()]
    return lines


def _within(bound_s: float | None) -> str:
    if bound_s is None:
        return "longer"
    return f"{bound_s * 1000:g} ms" if bound_s < 1 else f"{bound_s:g} s"


if __name__ == "__main__":
    sys.exit(main())
