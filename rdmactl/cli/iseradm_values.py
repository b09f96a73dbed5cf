# SPDX-License-Identifier: Apache-2.0
"""`iseradm --from`: a value that is not on the command line, where every user of the host could read it. Face ring.

The option's name begins with a letter that none of iscsiadm's options begins with, so that all abbreviations of those
still mean what they meant; and it is an option of its own, because any text is a legal argument of -v.
"""

from __future__ import annotations

import os
import sys

from rdmactl.cli.iseradm_context import Exit

__all__ = ["read_value"]

_BYTES_MAX = 4096
"""Values have 255 bytes; what is longer than this is some other file."""

_FORMS = "stdin, file:PATH or credential:NAME"


def read_value(source: str) -> str:
    """The first line of standard input, of a file, or of a credential that systemd has passed to the unit."""
    kind, _, name = source.partition(":")
    try:
        if source == "stdin":
            data = sys.stdin.buffer.readline(_BYTES_MAX + 1)
        elif kind == "file" and name:
            data = _read(name)
        elif kind == "credential" and name:
            data = _read(_credential(name))
        else:
            raise Exit(7, f"Can not take a value from '{source}'. Use {_FORMS}.")
    except OSError as error:
        raise Exit(7, f"Could not read a value from {source}: {error.strerror}.") from None
    line = data.split(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise Exit(7, f"There is no value in {source}.")
    if len(line) > _BYTES_MAX:
        raise Exit(7, f"The value in {source} is too long.")
    return os.fsdecode(line)


def _credential(name: str) -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise Exit(7, f"There is no credential {name}: systemd has not passed any to this program.")
    if "/" in name or name in (".", ".."):
        raise Exit(7, f"{name} is no name of a credential.")
    return os.path.join(directory, name)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_BYTES_MAX + 1)
