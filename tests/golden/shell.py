# SPDX-License-Identifier: Apache-2.0
"""Enough of a shell for the command lines of the corpus: ";", "|", ">/dev/null", "2>&1", "$?", echo, sleep.

iscsiadm runs in this process; the filters behind a pipe (grep, head, sort, ...) are the system's.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import socket
import subprocess
from typing import NamedTuple
from unittest import mock

from rdmactl.cli.iseradm import run
from tests.golden.world import HOST1, World

__all__ = ["Result", "execute"]

FILTERS = {"grep", "head", "tail", "sort", "uniq", "wc", "sed"}


class Result(NamedTuple):
    stdout: str
    stderr: str
    status: int


class NotForUs(Exception):
    """A command about files of open-iscsi's database, which we do not have."""


def execute(world: World, line: str) -> Result:
    """Run a command line; NotForUs when it needs what is not here."""
    stdout, stderr, status = "", "", 0
    for command in _split(_words(line), ";"):
        if not command:
            continue
        result = _pipeline(world, [word.replace("$?", str(status)) for word in command])
        stdout += result.stdout
        stderr += result.stderr
        status = result.status
    return Result(stdout, stderr, status)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return [word[1:].replace("\\n", "\n") if word.startswith("$") and "\\n" in word else word for word in lexer]


def _split(words: list[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _pipeline(world: World, words: list[str]) -> Result:
    data, errors, status = "", "", 0
    for command in _split(words, "|"):
        redirected = command[-2:] == [">", "/dev/null"]
        merged = command[-3:] == ["2", ">", "&1"]
        program, *arguments = command[:-2] if redirected else command[:-3] if merged else command
        if program == "iscsiadm":
            result = iscsiadm(world, arguments)
        elif program == "echo":
            result = Result(" ".join(arguments) + "\n", "", 0)
        elif program == "sleep":
            result = Result("", "", 0)
        elif program in FILTERS and not any(word.startswith("/etc/") for word in arguments):
            done = subprocess.run([program, *arguments], input=data, capture_output=True, text=True, check=False)
            result = Result(done.stdout, done.stderr, done.returncode)
        else:
            raise NotForUs(program)
        data = "" if redirected else result.stdout + (result.stderr if merged else "")
        errors += "" if merged else result.stderr
        status = result.status
    return Result(data, errors, status)


def _getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    """The corpus's host names."""
    if host.endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (HOST1 if host == "host1.example" else host, 0))]


def iscsiadm(world: World, words: list[str]) -> Result:
    """One run of the program in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    environment = {
        "RDMACTL_STATE_DIRECTORY": str(world.state),
        "RDMACTL_CONFIG_DIRECTORY": str(world.config),
        "RDMACTL_RUNTIME_DIRECTORY": str(world.directory / "run"),
    }
    world.last_first = "node" in words
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch("socket.getaddrinfo", _getaddrinfo),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        status = run(world.context(), words)
    return Result(stdout.getvalue(), stderr.getvalue(), status)
