# SPDX-License-Identifier: Apache-2.0
"""The key=value text of login and text PDUs. Engine ring.

    text = ( key "=" value NUL )*

Reading is liberal where peers are known to differ (no NUL at the end, runs of NUL) and strict where a mistake could
change a meaning (keys twice, malformed keys, lengths). Not here: what keys mean (`keys.py`, `chap.py`), and the list of
SendTargets, which has no limit by key and is read as a stream (`sendtargets.py`). Defined by RFC 7143 section 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rdmactl.errors import PeerError
from rdmactl.iscsi.names import printable

__all__ = [
    "IRRELEVANT",
    "MAX_TEXT_BYTES",
    "NOT_UNDERSTOOD",
    "REJECT",
    "RESERVED",
    "TextCollector",
    "build_text",
    "chunks",
    "parse_number",
    "parse_text",
]

IRRELEVANT = "Irrelevant"
NOT_UNDERSTOOD = "NotUnderstood"
REJECT = "Reject"
RESERVED = frozenset((IRRELEVANT, NOT_UNDERSTOOD, REJECT))  # look for them before reading a value as anything else

MAX_TEXT_BYTES = 65536  # of one text in all its parts; the longest sensible one (CHAP, 1024-byte challenge) has 2.2 KiB
_MAX_VALUE_BYTES = 255  # RFC 7143 section 6.1
_LONG_KEYS = frozenset(("CHAP_C", "CHAP_N", "CHAP_R"))  # their limits, and better words, are chap.py's
_MAX_NUMBER_CHARACTERS = 20  # above 2**64 - 1 in decimal; keeps int() cheap
_KEY = re.compile(r"[A-Z][A-Za-z0-9.+@_#-]{0,62}", re.ASCII)
_NUMBER = re.compile(r"0[xX]([0-9A-Fa-f]+)|([0-9]+)", re.ASCII)


def parse_text(data: bytes) -> list[tuple[str, str]]:
    """The pairs of one complete text in order; PeerError for a malformed one, and for a key that comes twice.

    A value that is not UTF-8 is kept with replacement characters (TargetAlias of old targets).
    """
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    for item in data.split(b"\0"):
        if not item:
            continue  # a run of NULs, or the end
        key, value = _pair(item)
        if key in seen:
            raise PeerError(f"duplicate key {key}", code="iscsi-text")
        seen.add(key)
        pairs.append((key, value))
    return pairs


def _pair(item: bytes) -> tuple[str, str]:
    raw_key, equals, raw_value = item.partition(b"=")
    if not equals:
        raise PeerError(f'malformed text: "{printable(item)}" has no "="', code="iscsi-text")
    key = raw_key.decode("ascii", "replace")
    if _KEY.fullmatch(key) is None:
        raise PeerError(f'malformed key "{printable(raw_key)}" of {len(raw_key)} bytes', code="iscsi-text")
    if len(raw_value) > _MAX_VALUE_BYTES and key not in _LONG_KEYS:
        raise PeerError(
            f"the value of {key} has {len(raw_value)} bytes, more than {_MAX_VALUE_BYTES}", code="iscsi-text"
        )
    return key, raw_value.decode("utf-8", "replace")


def build_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of `pairs`, each with its NUL."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)


def chunks(text: bytes, limit_bytes: int) -> list[bytes]:
    """`text` in data segments of at most `limit_bytes`; one empty segment for an empty text."""
    return [text[at : at + limit_bytes] for at in range(0, len(text), limit_bytes)] or [b""]


def parse_number(text: str) -> int | None:
    """A decimal or 0x number without sign or blanks; None when `text` is none."""
    match = _NUMBER.fullmatch(text) if len(text) <= _MAX_NUMBER_CHARACTERS else None
    if match is None:
        return None
    return int(match[1], 16) if match[1] else int(match[2])


class TextCollector:
    """Joins the parts of a text that the C bit splits, anywhere, also inside a key; bounded."""

    def __init__(self, limit_bytes: int = MAX_TEXT_BYTES) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0
        self._limit_bytes = limit_bytes

    def add(self, part: bytes) -> None:
        """Keep one part; PeerError above the limit."""
        self._bytes += len(part)
        if self._bytes > self._limit_bytes:
            raise PeerError(f"a text of more than {self._limit_bytes} bytes", code="iscsi-text")
        self._parts.append(part)

    def take(self) -> bytes:
        """The text so far; the collector is empty afterwards."""
        text = b"".join(self._parts)
        self._parts.clear()
        self._bytes = 0
        return text
