# SPDX-License-Identifier: Apache-2.0
"""`iwpmctl`: what the port mapper knows. Face ring.

Asks the daemon (io.rdmactl.PortMapper) and prints. Not here: mappings (`rdmactl.iwpm`), the text of errors
(`rdmactl.cli.errors`). Must change together with man/iwpmctl.8 and `rdmactl/control/port_mapper.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from rdmactl import __version__
from rdmactl.cli.errors import guard
from rdmactl.cli.output import error_json, print_json
from rdmactl.control.client import Client
from rdmactl.errors import LocalError, RdmactlError

if TYPE_CHECKING:
    from typing import Any

__all__ = ["age_text", "list_text", "main", "parser", "selftest_text", "show_text", "stats_text", "trace_text"]

_INTERFACE = "io.rdmactl.PortMapper"
_COLUMNS = ("LOCAL", "MAPPED", "KIND", "REFS", "PORT", "AGE")

EXIT_UNFIT = 1
"""Of selftest, when a check has failed."""

FOLLOW_S = 0.3
"""How often the daemon is asked for new messages by `trace --follow`."""

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
    words.add_argument("-V", "--version", action="version", version=f"iwpmctl {__version__}")
    verbs = words.add_subparsers(dest="verb", required=True, metavar="list | show | stats | trace | selftest | dump")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-t", "--timeout", type=float, default=10.0, metavar="S", help="seconds to wait for an answer (10)"
    )
    common.add_argument("-j", "--json", action="store_true", help="print JSON")
    verbs.add_parser("list", parents=[common], help="the mappings, oldest first")
    show = verbs.add_parser("show", parents=[common], help="one mapping, or all of one port")
    show.add_argument("mapping", metavar="ADDRESS:PORT | PORT", help="local or mapped address, or either's port")
    verbs.add_parser("stats", parents=[common], help="state, answer times, counters, listeners without a mapping")
    trace = verbs.add_parser("trace", parents=[common], help="the last messages exchanged with the kernel")
    trace.add_argument("-f", "--follow", action="store_true", help="go on with new ones until interrupted")
    verbs.add_parser("selftest", parents=[common], help="look whether all is there that is needed; disturbs nothing")
    verbs.add_parser("dump", parents=[common], help="the lines that SIGUSR1 writes to the log")
    return words


def main() -> int:
    """The program."""
    return guard("iwpmctl", lambda: _run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    given = parser().parse_args(words)
    schema = f"iwpmctl.{given.verb}"
    try:
        if given.verb == "trace":
            return _trace(given, schema)
        answer = _mappings(given) if given.verb in ("list", "show") else _ask(given, _METHODS[given.verb])
        if given.verb == "show":
            answer = {"mappings": _chosen(answer["mappings"], given.mapping)}
    except RdmactlError as error:
        if given.json:
            print_json(schema, {"error": error_json(error)})
        raise
    if given.json:
        print_json(schema, {"error": None, **answer})
    else:
        for line in _TEXTS[given.verb](answer):
            print(line)
    return EXIT_UNFIT if any(check["result"] == "failed" for check in answer.get("checks", ())) else 0


def _ask(given: argparse.Namespace, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    with Client("iwpm", deadline_s=given.timeout) as client:
        return client.call(f"{_INTERFACE}.{method}", parameters or {})


def _mappings(given: argparse.Namespace) -> dict[str, Any]:
    """The list comes in parts; the time limit is for each of them."""
    with Client("iwpm", deadline_s=given.timeout) as client:
        parts = client.more(f"{_INTERFACE}.List", deadline_each=True)
        return {"mappings": [mapping for part in parts for mapping in part["mappings"]]}


def _trace(given: argparse.Namespace, schema: str) -> int:
    """Each answer says where the next question goes on; the daemon keeps nothing about who follows."""
    since = 0
    while True:
        answer = _ask(given, "Trace", {"since": since})
        since = answer["next"]
        if given.json and (answer["messages"] or not given.follow):
            print_json(schema, {"error": None, **answer})
        elif not given.json:
            for line in trace_text(answer):
                print(line)
        if not given.follow:
            return 0
        sys.stdout.flush()
        time.sleep(FOLLOW_S)


def _chosen(mappings: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Those whose local or mapped address, or its port, is `words`."""
    found = [
        mapping
        for mapping in mappings
        if any(words in (mapping[end], mapping[end].rpartition(":")[2]) for end in ("local", "mapped"))
    ]
    if not found:
        raise LocalError(f"there is no mapping {words}", hint="iwpmctl list shows all of them", code="not-found")
    return found


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


def show_text(answer: dict[str, Any]) -> list[str]:
    """Each mapping as a block of lines."""
    lines: list[str] = []
    for mapping in answer["mappings"]:
        cells = dict(zip(_COLUMNS, _row(mapping), strict=True))
        lines += [
            f"{mapping['local']}",
            f"  mapped to: {mapping['mapped']}",
            f"  kind: {cells['KIND']}, {mapping['references']} in use",
            f"  port: {cells['PORT']}",
            f"  age: {cells['AGE']}",
        ]
    return lines


def trace_text(answer: dict[str, Any]) -> list[str]:
    """One line for each message: time of day, direction, meaning, and how long the kernel waited for an answer."""
    lines = []
    for message in answer["messages"]:
        clock = time.strftime("%H:%M:%S", time.localtime(message["time_s"]))
        micros = int(message["time_s"] % 1 * 1e6)
        arrow = "<-" if message["direction"].startswith("kernel") else "->"
        waited = "" if message["waited_us"] is None else f"  (after {message['waited_us']} us)"
        lines.append(f"{clock}.{micros:06} {arrow} {message['note']}{waited}")
    return lines


def selftest_text(answer: dict[str, Any]) -> list[str]:
    """One line for each check."""
    return [f"{check['result']:7}  {check['name']}: {check['text']}" for check in answer["checks"]]


def stats_text(answer: dict[str, Any]) -> list[str]:
    """State, numbers of things, listeners without a mapping, answer times, and the counters that are not zero."""
    state = _STATES.get(answer["state"], answer["state"])
    registered = "registered" if answer["registered"] else "not asked for yet"
    lines = [
        f"state: {state}",
        f"kernel: {registered}, ABI version {answer['abi_version']}",
        f"mappings: {answer['mappings']}, ports claimed: {answer['claims']}",
        f"exchanges with peers: {answer['queries_open']} as the asking side, {answer['offers_open']} as the asked side",
    ]
    if answer["unmapped"]:
        lines.append(f"WITHOUT A MAPPING: {len(answer['unmapped'])} listeners, made while no port mapper was there:")
        lines += [f"  {listener}" for listener in answer["unmapped"]]
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


def _dump_text(answer: dict[str, Any]) -> list[str]:
    lines: list[str] = answer["lines"]
    return lines


_METHODS = {"stats": "Status", "selftest": "Selftest", "dump": "Dump"}
_TEXTS = {"list": list_text, "show": show_text, "stats": stats_text, "selftest": selftest_text, "dump": _dump_text}


if __name__ == "__main__":
    sys.exit(main())
