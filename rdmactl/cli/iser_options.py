# SPDX-License-Identifier: Apache-2.0
"""What all `rdmactl iser` commands share: words for target, names, secrets and deadline; how they fail. Face ring.

A target is ADDR[:PORT][/NAME]. A secret is never a word of the command line, which everybody on the host may read: it
comes from standard input, a file, or a credential of systemd.
Not here: what a command does.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.cli.output import error_json
from rdmactl.errors import LocalError, StoreError
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.report import Question, Report

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Target", "add_options", "failure_of", "question", "questions", "report_json", "summary_line", "trace_lines"]

_TIMEOUT_S = 10.0
_SECRET_BYTES_MAX = 256
_TARGETS_MAX = 1024
_CREDENTIAL = "credential:"

_ANONYMOUS = "iqn.2026-11.io.rdmactl:ping"
"""For users who may not read the host's own name; a portal that lists targets by initiator shows it fewer."""

_LAYERS = {
    "address": "address",
    "route": "address",
    "resources": "rdma",
    "connect": "rdma",
    "port mapper": "rdma",
    "discovery": "login",
    "login": "login",
    "sendtargets": "session",
    "nop": "session",
    "luns": "scsi",
    "perf": "scsi",
}
_LOGIN_AUTH_FAILED = 24
_CHAP_FAILED = "iscsi-chap"


class Target(NamedTuple):
    """A portal, and the name of a target there; "" for whichever it has."""

    portal: Portal
    name: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ADDR[:PORT][/NAME]. LocalError for what is none."""
        where, slash, name = text.partition("/")
        if slash:
            from rdmactl.iscsi.names import check_name

            check_name(name, "target name")
        return cls(Portal.parse(where), name)


def add_options(words: argparse.ArgumentParser, *, several: bool = False) -> None:
    """The target, or `several`, and everything about how to reach it."""
    words.add_argument(
        "targets",
        nargs="+" if several else 1,
        metavar="ADDR[:PORT][/NAME]",
        help="address or name, [IPv6]:port; the port is 3260 if left out; the target's name behind a slash",
    )
    words.add_argument(
        "-t", "--timeout", type=_seconds, default=_TIMEOUT_S, metavar="S", help="seconds for each target (10)"
    )
    words.add_argument("-s", "--source", default="", metavar="ADDR", help="leave from this address of this host")
    words.add_argument("-n", "--initiator-name", metavar="NAME", help="who to be; default: this host's name")
    chap = words.add_argument_group(
        "CHAP", "FROM is a file, - for a line of standard input, or credential:NAME for a credential of systemd"
    )
    chap.add_argument("--chap-name", default="", metavar="NAME", help="log in with CHAP under this name")
    chap.add_argument("--chap-secret-from", metavar="FROM", help="where the secret is")
    chap.add_argument("--chap-name-in", default="", metavar="NAME", help="the target must prove to be this")
    chap.add_argument("--chap-secret-in-from", metavar="FROM", help="where the target's secret is")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")


def question(given: argparse.Namespace) -> Question:
    """What the words ask of their only target."""
    return questions(given)[0]


def questions(given: argparse.Namespace) -> list[Question]:
    """What the words ask. LocalError for words that contradict each other, StoreError for a secret that is missing."""
    targets = [Target.parse(word) for word in given.targets]
    if len(targets) > _TARGETS_MAX:
        raise LocalError(f"at most {_TARGETS_MAX} targets can be asked at once")
    if bool(given.chap_name) != bool(given.chap_secret_from):
        raise LocalError("CHAP needs both --chap-name and --chap-secret-from")
    if bool(given.chap_name_in) != bool(given.chap_secret_in_from):
        raise LocalError("mutual CHAP needs both --chap-name-in and --chap-secret-in-from")
    if given.chap_name_in and not given.chap_name:
        raise LocalError("mutual CHAP needs --chap-name as well")
    asked = Question(
        targets[0].portal,
        given.initiator_name or own_name(),
        given.timeout,
        given.source,
        given.chap_name,
        _secret(given.chap_secret_from) if given.chap_secret_from else "",
        given.chap_name_in,
        _secret(given.chap_secret_in_from) if given.chap_secret_in_from else "",
        trace=True,
    )
    return [asked._replace(portal=target.portal, target=target.name) for target in targets]


def own_name() -> str:
    """This host's initiator name, as far as the user may read it."""
    from rdmactl.records.conf import initiator_name

    try:
        name = initiator_name()
    except StoreError:
        name = None
    if name is None:
        print(f"rdmactl: this host's initiator name cannot be read; asking as {_ANONYMOUS}", file=sys.stderr)
    return name or _ANONYMOUS


def failure_of(report: Report) -> None:
    """Raise the report's error, with the layer that it belongs to."""
    if report.error is None:
        return
    refused = getattr(report.error, "err", None) == _LOGIN_AUTH_FAILED  # by the target; the other one: by us
    if refused or report.error.code == _CHAP_FAILED:
        report.error.layer = "authentication"
    else:
        report.error.layer = _LAYERS.get(report.stage)
    raise report.error


def summary_line(report: Report, outcome: str) -> str:
    """Where it was, what came of it, how long it took, over what."""
    where = f"{report.portal} {report.target}".rstrip()
    via = f" over {report.transport} ({report.device}, from {report.local})" if report.device else ""
    chap = f", {report.authentication}" if report.authentication else ""
    return f"{where}: {outcome} in {report.total_s * 1000:.1f} ms{via}{chap}"


def trace_lines(report: Report) -> list[str]:
    """The milliseconds of each step, and the port mapper's part where there is one."""
    lines = ["  " + "  ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in report.steps)] if report.steps else []
    return [*lines, f"  port mapper {report.port_mapper}"] if report.port_mapper else lines


def report_json(report: Report) -> dict[str, Any]:
    """What every command says of its session."""
    return {
        "ok": report.error is None,
        "portal": str(report.portal) if report.portal else None,
        "target": report.target or None,
        "total_s": report.total_s,
        "steps": [{"name": name, "seconds": seconds} for name, seconds in report.steps],
        "device": report.device,
        "transport": report.transport,
        "local": report.local,
        "port_mapper": report.port_mapper or None,
        "authentication": report.authentication or None,
        "negotiated": dict(report.negotiated),
        "failed_step": report.stage or None,
        "error": error_json(report.error) if report.error else None,
    }


def _secret(source: str) -> str:
    """One line. What was given is not repeated in errors: it might be the secret itself."""
    try:
        if source == "-":
            data = sys.stdin.buffer.readline(_SECRET_BYTES_MAX + 2)
        else:
            with open(_path(source), "rb") as file:
                data = file.readline(_SECRET_BYTES_MAX + 2)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such file"
        raise StoreError(f"a CHAP secret cannot be read: {reason}", hint="name a file, - or credential:NAME") from None
    text = data.rstrip(b"\r\n")
    if not 0 < len(text) <= _SECRET_BYTES_MAX:
        raise LocalError(f"a CHAP secret must have from 1 to {_SECRET_BYTES_MAX} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise LocalError("a CHAP secret must be UTF-8") from None


def _path(source: str) -> str:
    if not source.startswith(_CREDENTIAL):
        return source
    name = source.removeprefix(_CREDENTIAL)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory or "/" in name or name in ("", ".", ".."):
        raise LocalError("there is no such credential", hint="see LoadCredential= in systemd.exec(5)")
    return os.path.join(directory, name)


def _seconds(word: str) -> float:
    seconds = float(word)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be from 0.05 to 3600 seconds")
    return seconds
