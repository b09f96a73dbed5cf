# SPDX-License-Identifier: Apache-2.0
"""The native front end: `rdmactl OBJECT [VERB] ...`. Face ring.

A table of commands; the module of a command is imported when the command is given, so that starting costs what the one
command costs. Each command's `run(words)` parses its words, does its work and prints; errors leave it as RdmactlError.
Not here: what a command does, and the text of errors (`rdmactl.cli.errors`). Must change together with man/rdmactl.8.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from rdmactl import __version__
from rdmactl.cli.errors import guard
from rdmactl.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "Command", "find", "help_text", "main", "object_help"]


class Command(NamedTuple):
    """`words` are what is typed, `module` is under rdmactl.cli, `summary` one line for --help."""

    words: tuple[str, ...]
    module: str
    summary: str


COMMANDS = (
    Command(("dev",), "dev", "list the RDMA devices of this host"),
    Command(("discovery", "run"), "discovery_run", "ask an address for its targets, and record them"),
    Command(("discovery", "status"), "discovery_status", "say how the discovery records under watch are doing"),
    Command(("firmware", "list"), "firmware_list", "list what the firmware was told to boot from"),
    Command(("iser", "ping"), "iser_ping", "time the steps to an iSER portal or target, and NOPs there"),
    Command(("iser", "luns"), "iser_luns", "list the logical units of an iSER target"),
    Command(("iser", "perf"), "iser_perf", "measure reads (or writes) of a logical unit over iSER"),
    Command(("iname",), "iname", "make an initiator name"),
    Command(("records", "check"), "records_check", "look for damage in the records, and repair it"),
    Command(("records", "export"), "records_export", "write the records as open-iscsi's tree of files"),
    Command(("records", "import"), "records_import", "read the records of open-iscsi's tree of files"),
    Command(("session", "claim"), "session_claim", "keep sessions, whoever logs out of them"),
    Command(("session", "history"), "session_history", "tell what has happened to the sessions"),
    Command(("session", "list"), "session_list", "list the sessions to targets"),
    Command(("session", "release"), "session_release", "give claims up; the last one to go logs a session out"),
    Command(("status",), "status", "say which daemons run and how their services are doing"),
)

_USAGE = """\
usage: rdmactl OBJECT [VERB] [...]
       rdmactl --help | --version
"""

_EPILOGUE = """\
Every command takes -h/--help, and -j/--json for output that programs read.

Exit status:
  0    done
  1    failed; standard error says why
  2    wrong words
  3    something needed is not there: device, kernel module, library, daemon
  4    not permitted
  5    not done within the deadline
  10   iser: no way to the address
  11   iser: no RDMA connection
  12   iser: the login failed
  13   iser: authentication failed
  14   iser: the session failed
  15   iser: a SCSI command failed
  130  interrupted
"""


def help_text() -> str:
    """What --help prints."""
    return f"{_USAGE}\n{_listed(COMMANDS)}\n\n{_EPILOGUE}"


def object_help(name: str) -> str:
    """What `rdmactl OBJECT --help` prints: the object's verbs."""
    return f"usage: rdmactl {name} VERB [...]\n\n{_listed([one for one in COMMANDS if one.words[0] == name])}\n"


def _listed(commands: Sequence[Command]) -> str:
    width = max(len(" ".join(command.words)) for command in commands)
    return "\n".join(f"  {' '.join(command.words):{width}}  {command.summary}" for command in commands)


def find(words: list[str]) -> Command:
    """The command `words` begin with. LocalError, with what would have been right, when there is none."""
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return command
    verbs = [command.words[1] for command in COMMANDS if command.words[0] == words[0]]
    given = words[1] if verbs and len(words) > 1 else words[0]
    if verbs:
        known = ", ".join(verbs)
        message = f"{words[0]} has no verb {given}" if len(words) > 1 else f"{words[0]} needs a verb"
        raise LocalError(message, hint=f"it has: {known}")
    known = ", ".join(dict.fromkeys(command.words[0] for command in COMMANDS))
    raise LocalError(f"there is no object {given}", hint=f"there are: {known}; see rdmactl --help")


def main() -> int:
    """The program."""
    return guard("rdmactl", lambda: _run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    if not words:
        print(help_text(), end="", file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"rdmactl {__version__}")
        return 0
    if words[1:] in (["-h"], ["--help"]) and any(words[0] == one.words[0] and len(one.words) > 1 for one in COMMANDS):
        print(object_help(words[0]), end="")
        return 0
    command = find(words)
    from importlib import import_module

    module = import_module(f"rdmactl.cli.{command.module}")
    status: int = module.run(words[len(command.words) :])
    return status


if __name__ == "__main__":
    sys.exit(main())
