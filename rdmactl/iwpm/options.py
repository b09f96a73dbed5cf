# SPDX-License-Identifier: Apache-2.0
"""The command line of iwpmd, as rdma-core's has it. Face ring.

Not here: what is done with it. Unit files and init scripts rely on that command line, and on its tolerance: an unknown
option is complained about, and the daemon starts. So this is getopt_long(3) and no argument parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Options", "parse"]

_SHORT = {"s": "systemd", "f": "foreground"}
_LONG = ("systemd",)


@dataclass(frozen=True, slots=True)
class Options:
    """`systemd`: stay in the foreground and tell systemd when ready. `complaints` belong on standard error."""

    systemd: bool = False
    complaints: tuple[str, ...] = ()


def parse(arguments: Sequence[str], program: str = "iwpmd") -> Options:
    """`arguments` without the program's name. `-f` does nothing, words are ignored, `--` ends the options."""
    found = set()
    complaints = []
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("--"):
            name = argument[2:]
            matches = [option for option in _LONG if name and option.startswith(name)]
            if matches:
                found.add(matches[0])
            elif name.partition("=")[0] in _LONG:
                complaints.append(f"{program}: option '--{name.partition('=')[0]}' doesn't allow an argument")
            else:
                complaints.append(f"{program}: unrecognized option '{argument}'")
        elif argument.startswith("-"):
            for letter in argument[1:]:
                if letter in _SHORT:
                    found.add(_SHORT[letter])
                else:
                    complaints.append(f"{program}: invalid option -- '{letter}'")
    return Options("systemd" in found, tuple(complaints))
