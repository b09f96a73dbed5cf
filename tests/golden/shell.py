# SPDX-License-Identifier: Apache-2.0
"""Enough of a shell for most command lines of the corpus: ";", "|", ">/dev/null", "2>&1", "$?", echo, sleep.

The program itself is run by whoever owns the machine it is to run on; the filters behind a pipe (grep, head, sort, ...)
are the system's. Not here: loops, redirections into files, other programs: those raise `NotForUs`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["NotForUs", "Result", "execute"]

FILTERS = {"grep", "head", "tail", "sort", "uniq", "wc", "sed"}
_BEYOND = re.compile(r"^for |^cd |^\(|&&|\$\(|\*/|>(?! ?/dev/null|&1)")


class Result(NamedTuple):
    stdout: str
    stderr: str
    status: int


class NotForUs(Exception):
    """A command line that needs a real shell, or another program."""


def execute(
    line: str, iscsiadm: Callable[[list[str]], Result], sleep: Callable[[float], None] = lambda seconds: None
) -> Result:
    """Run a command line; NotForUs, before anything is run, when it needs more than there is here."""
    if _BEYOND.search(line):
        raise NotForUs(line)
    commands = [command for command in _split(_words(line), ";") if command]
    for command in commands:
        for part in _split(command, "|"):
            _check(part)
    stdout, stderr, status = "", "", 0
    for command in commands:
        result = _pipeline([word.replace("$?", str(status)) for word in command], iscsiadm, sleep)
        stdout += result.stdout
        stderr += result.stderr
        status = result.status
    return Result(stdout, stderr, status)


def _words(line: str) -> list[str]:
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        # $'a\nb' is the one quoting of the corpus that shlex does not know.
        return [word[1:].replace("\\n", "\n") if word.startswith("$") and "\\n" in word else word for word in lexer]
    except ValueError:
        raise NotForUs(line) from None


def _split(words: list[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _check(command: list[str]) -> None:
    program = command[0] if command else ""
    from_file = program in FILTERS and any(word.startswith("/etc/") for word in command[1:])
    if program not in FILTERS | {"iscsiadm", "echo", "sleep"} or from_file:
        raise NotForUs(" ".join(command))


def _pipeline(words: list[str], iscsiadm: Callable[[list[str]], Result], sleep: Callable[[float], None]) -> Result:
    data, errors, status = "", "", 0
    for command in _split(words, "|"):
        redirected = command[-2:] == [">", "/dev/null"]
        merged = command[-3:] == ["2", ">", "&1"]
        program, *arguments = command[:-2] if redirected else command[:-3] if merged else command
        if program == "iscsiadm":
            result = iscsiadm(arguments)
        elif program == "echo":
            result = Result(" ".join(arguments) + "\n", "", 0)
        elif program == "sleep":
            sleep(float(arguments[0]))
            result = Result("", "", 0)
        else:
            done = subprocess.run([program, *arguments], input=data, capture_output=True, text=True, check=False)
            result = Result(done.stdout, done.stderr, done.returncode)
        data = "" if redirected else result.stdout + (result.stderr if merged else "")
        errors += "" if merged else result.stderr
        status = result.status
    return Result(data, errors, status)
