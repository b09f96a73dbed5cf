# SPDX-License-Identifier: Apache-2.0
"""iSCSI names: which ones we accept, and how hostile text is shown to a person. Engine ring.

Names come from targets and become directory names, record keys and lines on a terminal, so they are checked once, here,
before anything else sees them. Not here: looking names up, records, paths.
Defined by RFC 7143 section 4.2.7 (iqn., eui., naa.); the check on characters is ours and wider than RFC 3722's
profile, because names with `_` or upper case are in use.
"""

from __future__ import annotations

from rdmactl.errors import LocalError

__all__ = ["MAX_NAME_BYTES", "check_name", "name_problem", "printable"]

MAX_NAME_BYTES = 223  # RFC 7143 section 4.2.7.1
_SHOWN_CHARACTERS = 120  # of a name in a message; a longer one is cut, with its length behind it
_HEX = frozenset("0123456789abcdefABCDEF")
_HEX_DIGITS = {"eui.": (16,), "naa.": (16, 32)}  # RFC 7143: EUI-64; NAA of 64 or 128 bits


def name_problem(name: str) -> str | None:
    """Why `name` is no acceptable iSCSI name, as the end of a sentence ("has ..."); None when it is one."""
    length = len(name.encode("utf-8", "surrogatepass"))
    if not name:
        return "is empty"
    if length > MAX_NAME_BYTES:
        return f"has {length} bytes, more than {MAX_NAME_BYTES}"
    prefix, rest = name[:4], name[4:]
    if prefix in _HEX_DIGITS:
        if len(rest) not in _HEX_DIGITS[prefix] or not _HEX.issuperset(rest):
            return f"needs {' or '.join(map(str, _HEX_DIGITS[prefix]))} hexadecimal digits after {prefix}"
        return None
    if prefix != "iqn." or not rest:
        return "does not begin with iqn., eui. or naa."
    return _character_problem(name)


def _character_problem(name: str) -> str | None:
    if not name.isprintable():  # control characters, line ends, direction overrides, lone surrogates, rare spaces
        return "has control characters"
    if " " in name:
        return "has a space"
    if "/" in name or ".." in name:
        return "has a '/' or '..', which could leave a directory"
    return None


def check_name(name: str, what: str = "iSCSI name") -> str:
    """`name` itself; raises LocalError naming `what` when it is not acceptable."""
    problem = name_problem(name)
    if problem is not None:
        raise LocalError(
            f'{what} "{printable(name)}" {problem}',
            hint="a name looks like iqn.2005-03.org.example:disk1, eui.0123456789abcdef or naa.5000000000000001",
            code="invalid-name",
        )
    return name


def printable(text: str | bytes) -> str:
    """`text` from the other end, safe to print: one line, control characters escaped, cut to a sensible length."""
    if isinstance(text, bytes):
        text = text[: 4 * _SHOWN_CHARACTERS + 4].decode("utf-8", "backslashreplace")
    shown = text[:_SHOWN_CHARACTERS]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(text) <= _SHOWN_CHARACTERS else shown + "..."
