# SPDX-License-Identifier: Apache-2.0
"""The operational keys of a login as one table, and the arithmetic of their results. Engine ring.

A row says everything a key needs: how two values become one, its default and range, and in which sessions it has a
meaning. `negotiation.py` applies the table. Not here: keys that name things (InitiatorName, TargetAddress, ...) and
CHAP, which the login reads itself. Defined by RFC 7143 section 13 and RFC 7145 section 6; the markers by RFC 3720.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rdmactl.errors import PeerError
from rdmactl.iscsi.names import printable
from rdmactl.iscsi.text import parse_number

__all__ = ["KEYS", "Key", "Kind", "Use", "Value", "combine", "format_value", "read_value"]

Value = int | bool | str


class Kind(Enum):
    """How the values of both sides become the result."""

    DECLARE = "each side declares its own; no answer"
    LIST = "the first entry of the offer that the other side accepts"
    MINIMUM = "the smaller number"
    MAXIMUM = "the larger number"
    AND = "Yes if both say Yes"
    OR = "Yes if one says Yes"


class Use(Enum):
    """Where a key has a meaning; elsewhere its answer is Irrelevant."""

    ANY = "every session"
    NORMAL = "normal sessions"
    DIGEST = "every session over TCP; iSER has no digests"
    TCP = "normal sessions over TCP; obsolete, but some targets insist on an answer"
    ISER = "normal sessions over iSER"


@dataclass(frozen=True, slots=True)
class Key:
    """One row; `low` and `high` bound numbers."""

    name: str
    kind: Kind
    default: Value
    use: Use
    low: int = 0
    high: int = 0

    def applies(self, *, discovery: bool, iser: bool) -> bool:
        """Whether the key has a meaning in a session of this kind."""
        match self.use:
            case Use.ANY:
                return True
            case Use.DIGEST:
                return not iser
            case Use.NORMAL:
                return not discovery
            case Use.TCP:
                return not discovery and not iser
            case Use.ISER:
                return iser and not discovery


_LENGTH = (512, 0xFFFFFF)
_COUNT = (1, 65535)
_SECONDS = (0, 3600)


def _number(name: str, kind: Kind, default: int, use: Use, bounds: tuple[int, int]) -> Key:
    return Key(name, kind, default, use, *bounds)


def _boolean(name: str, kind: Kind, default: bool, use: Use) -> Key:
    return Key(name, kind, default, use)


_ROWS = (
    Key("HeaderDigest", Kind.LIST, "None", Use.DIGEST),
    Key("DataDigest", Kind.LIST, "None", Use.DIGEST),
    _number("MaxRecvDataSegmentLength", Kind.DECLARE, 8192, Use.ANY, _LENGTH),
    _number("InitiatorRecvDataSegmentLength", Kind.MINIMUM, 8192, Use.ISER, _LENGTH),
    _number("TargetRecvDataSegmentLength", Kind.MINIMUM, 8192, Use.ISER, _LENGTH),
    _boolean("RDMAExtensions", Kind.AND, False, Use.ISER),
    _number("MaxConnections", Kind.MINIMUM, 1, Use.NORMAL, _COUNT),
    _boolean("InitialR2T", Kind.OR, True, Use.NORMAL),
    _boolean("ImmediateData", Kind.AND, True, Use.NORMAL),
    _number("MaxBurstLength", Kind.MINIMUM, 262144, Use.NORMAL, _LENGTH),
    _number("FirstBurstLength", Kind.MINIMUM, 65536, Use.NORMAL, _LENGTH),
    _number("MaxOutstandingR2T", Kind.MINIMUM, 1, Use.NORMAL, _COUNT),
    _boolean("DataPDUInOrder", Kind.OR, True, Use.NORMAL),
    _boolean("DataSequenceInOrder", Kind.OR, True, Use.NORMAL),
    _number("DefaultTime2Wait", Kind.MAXIMUM, 2, Use.ANY, _SECONDS),
    _number("DefaultTime2Retain", Kind.MINIMUM, 20, Use.ANY, _SECONDS),
    _number("ErrorRecoveryLevel", Kind.MINIMUM, 0, Use.ANY, (0, 2)),
    _boolean("IFMarker", Kind.AND, False, Use.TCP),
    _boolean("OFMarker", Kind.AND, False, Use.TCP),
    Key("TaskReporting", Kind.LIST, "RFC3720", Use.NORMAL),
    _number("iSCSIProtocolLevel", Kind.MINIMUM, 1, Use.NORMAL, (0, 31)),
    _number("MaxOutstandingUnexpectedPDUs", Kind.DECLARE, 0, Use.ISER, (0, 0xFFFFFFFF)),
    _number("MaxAHSLength", Kind.DECLARE, 256, Use.ISER, (0, 0xFFFFFFFF)),
    _boolean("TaggedBufferForSolicitedDataOnly", Kind.DECLARE, False, Use.ISER),
    _boolean("iSERHelloRequired", Kind.DECLARE, False, Use.ISER),
)

KEYS: dict[str, Key] = {row.name: row for row in _ROWS}


def read_value(key: Key, text: str) -> Value:
    """The value of `key` in `text`, for a list its text; PeerError naming the range. Not for reserved answers."""
    if isinstance(key.default, str):
        return text
    if isinstance(key.default, bool):
        if text not in ("Yes", "No"):
            raise PeerError(f'{key.name}="{printable(text)}" is neither Yes nor No', code="iscsi-key")
        return text == "Yes"
    number = parse_number(text)
    if number is None or not key.low <= number <= key.high:
        raise PeerError(
            f'{key.name}="{printable(text)}" is no number from {key.low} to {key.high}',
            code="iscsi-key",
        )
    return number


def format_value(value: Value) -> str:
    """`value` as it is sent."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value)


def combine(key: Key, ours: Value, theirs: Value) -> Value:
    """The result of two values; for a declared key theirs, for a list their entry, which the caller has checked."""
    match key.kind:
        case Kind.MINIMUM:
            return min(int(ours), int(theirs))
        case Kind.MAXIMUM:
            return max(int(ours), int(theirs))
        case Kind.AND:
            return bool(ours) and bool(theirs)
        case Kind.OR:
            return bool(ours) or bool(theirs)
        case Kind.DECLARE | Kind.LIST:
            return theirs
