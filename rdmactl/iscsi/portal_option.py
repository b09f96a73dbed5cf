# SPDX-License-Identifier: Apache-2.0
"""The `-p` option as iscsiadm reads it, which never rejects anything. Engine ring, import-light: every run needs it.

Not here: portals of our own settings and of targets, which are read strictly (`portal.py`). Defined by the behaviour of
open-iscsi 2.1.8.
"""

from __future__ import annotations

from rdmactl.values import NamedTuple

__all__ = ["PortalOption", "parse_option"]

_DEFAULT_PORT = 3260
_UNKNOWN_TPGT = -1
_DIGITS_MAX = 20


class PortalOption(NamedTuple):
    """A host as it was given, without brackets, a port and a portal group tag (-1 when none was given)."""

    address: str
    port: int
    tpgt: int


def parse_option(text: str, default_port: int = _DEFAULT_PORT) -> PortalOption | None:
    """Take "host[:port][,tpgt]" apart; None where iscsiadm sees no portal.

    Nothing is rejected: a number that is none counts as 0 and ports are not limited. One difference: brackets are
    believed also around an address with dots ("[::ffff:192.0.2.1]"), which iscsiadm cuts at the first colon.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            return None
        rest = rest[rest.find(":") :] if ":" in rest else rest[rest.find(",") :] if "," in rest else ""
    elif "." not in text and text.count(":") > 1:
        host, comma, rest = text.partition(",")
        rest = comma + rest
    else:
        cut = min((at for at in (text.find(":"), text.find(",")) if at >= 0), default=len(text))
        host, rest = text[:cut], text[cut:]
    if not host:
        return None
    port_text, comma, tag = rest.partition(",")
    port = _leading_number(port_text[1:]) if port_text.startswith(":") else default_port
    return PortalOption(host, port, _leading_number(tag) if comma else _UNKNOWN_TPGT)


def _leading_number(text: str) -> int:
    """What strtoul makes of `text`, without its overflow: the number it begins with, else 0."""
    text = text.lstrip(" \t")
    digits = text[1:] if text[:1] in ("+", "-") else text
    end = 0
    while end < min(len(digits), _DIGITS_MAX) and digits[end] in "0123456789":
        end += 1
    return (-1 if text[:1] == "-" else 1) * int(digits[:end] or "0")
