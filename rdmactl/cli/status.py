# SPDX-License-Identifier: Apache-2.0
"""`rdmactl status`: which daemons run, and how their services are doing. Face ring.

Not here: the answer itself (`rdmactl.control.interfaces`, method io.rdmactl.Daemon.Status).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.output import error_json, print_json
from rdmactl.control.client import DAEMONS, Client
from rdmactl.errors import RdmactlError, Unavailable

if TYPE_CHECKING:
    from typing import Any

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.status"

_METHOD = "io.rdmactl.Daemon.Status"
_NOT_RUNNING = "daemon-not-running"
_COLUMNS = ("ROLE", "PID", "VERSION", "SERVICE", "STATE", "READY", "RESTARTS", "LAST ERROR")


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(prog="rdmactl status", description="Say how the daemons and services are doing.")
    words.add_argument("-t", "--timeout", type=float, default=5.0, metavar="S", help="seconds for each daemon (5)")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Ask both. One daemon is enough: a host may want only one. What is known is printed before any error."""
    given = parser().parse_args(words)
    answers: dict[str, dict[str, Any]] = {}
    errors: dict[str, RdmactlError] = {}
    for role in DAEMONS:
        try:
            with Client(role, deadline_s=given.timeout) as client:
                answers[role] = client.call(_METHOD, {})
        except RdmactlError as failure:
            errors[role] = failure
    if given.json:
        print_json(SCHEMA, {"roles": {role: _json(role, answers, errors) for role in DAEMONS}})
    else:
        print("\n".join(text(answers, errors)))
    _raise(errors)
    return 0


def text(answers: dict[str, dict[str, Any]], errors: dict[str, RdmactlError]) -> list[str]:
    """A table, one line for each service of each role."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for role in DAEMONS:
        if role in answers:
            rows += [_row(role, answers[role], lane) for lane in _lanes(role, answers[role])]
        else:
            rows.append((role, "-", "-", "-", errors[role].code, "-", "-", "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _raise(errors: dict[str, RdmactlError]) -> None:
    """A daemon that runs and does not answer is an error; one that does not run only when no other does."""
    for error in errors.values():
        if error.code != _NOT_RUNNING:
            raise error
    if len(errors) == len(DAEMONS):
        raise Unavailable("no daemon is running", hint="start rdmactld.service", code=_NOT_RUNNING)


def _row(role: str, answer: dict[str, Any], lane: dict[str, Any]) -> tuple[str, ...]:
    ready = "yes" if lane.get("ready") else "no"
    cells = (answer.get("pid"), answer.get("version"), lane.get("name"), lane.get("state"), ready, lane.get("restarts"))
    return (role, *map(str, cells), str(lane.get("last_error") or "-"))


def _lanes(role: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The services of this role; a daemon that serves both roles answers with all of its services."""
    lanes = answer.get("lanes") or []
    return [lane for lane in lanes if lane.get("name") == role] or lanes


def _json(role: str, answers: dict[str, dict[str, Any]], errors: dict[str, RdmactlError]) -> dict[str, Any]:
    if role in errors:
        return {"running": False, "error": error_json(errors[role])}
    return {"running": True, "error": None, **answers[role], "lanes": _lanes(role, answers[role])}
