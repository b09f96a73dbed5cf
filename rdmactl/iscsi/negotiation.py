# SPDX-License-Identifier: Apache-2.0
"""Negotiation of the operational parameters: our offer, the target's answers and proposals, the result. Engine ring.

Targets do three things with an offer: answer it, leave it out where the result is clear (or they do not care), and
propose keys we did not send. LIO proposes every key it misses, once, and waits until each is answered. Reserved answers
(Irrelevant, NotUnderstood, Reject) are recognised before a value is read as a number; for most keys they mean the same
as silence: the default rules. An answer that was not offered is an error that names key, offer and answer.

Not here: when to send what (`login.py`), the rows of the keys (`keys.py`). Defined by RFC 7143 section 6.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rdmactl.errors import PeerError
from rdmactl.iscsi.keys import KEYS, Key, Kind, Use, Value, combine, format_value, read_value
from rdmactl.iscsi.names import printable
from rdmactl.iscsi.text import IRRELEVANT, NOT_UNDERSTOOD, REJECT, RESERVED, parse_number

__all__ = [
    "DISCOVERY_RECEIVE_BYTES",
    "ISER_MAX_XMIT_BYTES",
    "NegotiatedParameters",
    "Negotiation",
    "OperationalSettings",
    "negotiate",
]

DISCOVERY_RECEIVE_BYTES = 32768  # as open-iscsi; LIO serves no more in one part, and one part avoids its bugs
ISER_MAX_XMIT_BYTES = 8192  # LIO agrees to more, but posts buffers of this size and breaks the connection above it
_LENGTHS = (512, 0xFFFFFF)
_MAX_BURST_BYTES = 16776192  # the largest multiple of 512 in range, and what open-iscsi falls back to
_DEFAULT_LENGTH_BYTES = 262144  # open-iscsi's replacement for lengths out of range
_DIGEST_LISTS = (("None",), ("CRC32C",), ("CRC32C", "None"), ("None", "CRC32C"))
_MAX_TPGT = 65535


@dataclass(frozen=True, slots=True)
class OperationalSettings:
    """What we offer. The defaults are open-iscsi's."""

    header_digest: tuple[str, ...] = ("None",)
    """Digests of headers, the preferred one first; TCP only."""
    data_digest: tuple[str, ...] = ("None",)
    """Digests of data, the preferred one first; TCP only."""
    max_recv_data_segment_bytes: int = 262144
    """The longest data segment the target may send us."""
    max_xmit_data_segment_bytes: int = 0
    """The longest data segment we send; 0 leaves it to the target."""
    initial_r2t: bool = False
    """Yes forbids data the target did not ask for."""
    immediate_data: bool = True
    """Whether data may travel with a command."""
    max_burst_bytes: int = _MAX_BURST_BYTES
    """The longest sequence of data the target may ask for at once."""
    first_burst_bytes: int = 262144
    """The most data sent before the target asks for it."""
    max_outstanding_r2t: int = 1
    """Requests for data of one command at a time."""
    max_connections: int = 1
    """Connections of a session; the kernel has one."""
    default_time2wait_s: int = 2
    """Seconds to wait before a lost session is logged in again."""
    default_time2retain_s: int = 0
    """Seconds the target keeps a lost session's tasks."""
    error_recovery_level: int = 0
    """0 is all the kernel supports."""

    def clamped(self) -> tuple[OperationalSettings, list[str]]:
        """These settings moved into range as open-iscsi moves them, and a sentence for each change."""
        changes: dict[str, int] = {}
        for name, fallback in (
            ("max_recv_data_segment_bytes", _DEFAULT_LENGTH_BYTES),
            ("max_burst_bytes", _MAX_BURST_BYTES),
            ("first_burst_bytes", _DEFAULT_LENGTH_BYTES),
        ):
            given = getattr(self, name)
            length = given & ~3
            if not _LENGTHS[0] <= length <= _LENGTHS[1]:
                length = fallback
            if length != given:
                changes[name] = length
        max_burst = changes.get("max_burst_bytes", self.max_burst_bytes)
        if changes.get("first_burst_bytes", self.first_burst_bytes) > max_burst:
            changes["first_burst_bytes"] = max_burst
        fixed = {"error_recovery_level": 0, "max_connections": 1}
        changes.update({name: only for name, only in fixed.items() if getattr(self, name) != only})
        notes = [f"{name} {getattr(self, name)} is out of range, {value} is used" for name, value in changes.items()]
        return replace(self, **changes), notes  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class NegotiatedParameters:
    """The result of a login, as the kernel wants it. Lengths are bytes, times seconds.

    `target_alias` is as the target sent it: not to be printed without `names.printable`.
    """

    header_digest: bool
    data_digest: bool
    max_recv_data_segment_bytes: int
    max_xmit_data_segment_bytes: int
    initial_r2t: bool
    immediate_data: bool
    max_burst_bytes: int
    first_burst_bytes: int
    max_outstanding_r2t: int
    data_pdu_in_order: bool
    data_sequence_in_order: bool
    default_time2wait_s: int
    default_time2retain_s: int
    error_recovery_level: int
    max_connections: int
    rdma_extensions: bool
    target_alias: str | None


class Negotiation:
    """One negotiation. `offers()` once, `receive()` per complete response, `result()` at the end."""

    def __init__(self, settings: OperationalSettings, *, discovery: bool, iser: bool) -> None:
        self._settings = settings
        self._discovery = discovery
        self._iser = iser
        self._offers = dict(self._offered())
        self._values: dict[str, Value] = {}
        self.target_alias: str | None = None
        self.tpgt: int | None = None

    def offers(self) -> list[tuple[str, str]]:
        """The pairs to send first."""
        return list(self._offers.items())

    def receive(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take one response; gives the pairs to answer. PeerError for values out of range, not offered, or repeated."""
        replies = []
        for name, text in pairs:
            reply = self._take(name, text)
            if reply is not None:
                replies.append((name, reply))
        return replies

    def result(self) -> NegotiatedParameters:
        """What holds now; keys nobody answered have their default. PeerError when that is nothing we may accept."""
        value = self._value
        if self._iser and not self._discovery and not value("RDMAExtensions"):
            raise PeerError(
                "the target does not agree to RDMAExtensions, without which this is no iSER session",
                hint="log in over TCP, or use a portal of the target that speaks iSER",
                code="iscsi-key",
            )
        max_burst = int(value("MaxBurstLength"))
        return NegotiatedParameters(
            header_digest=value("HeaderDigest") == "CRC32C",
            data_digest=value("DataDigest") == "CRC32C",
            max_recv_data_segment_bytes=self._max_recv(),
            max_xmit_data_segment_bytes=self._max_xmit(),
            initial_r2t=bool(value("InitialR2T")),
            immediate_data=bool(value("ImmediateData")),
            max_burst_bytes=max_burst,
            first_burst_bytes=min(int(value("FirstBurstLength")), max_burst),  # the kernel refuses more
            max_outstanding_r2t=int(value("MaxOutstandingR2T")),
            data_pdu_in_order=bool(value("DataPDUInOrder")),
            data_sequence_in_order=bool(value("DataSequenceInOrder")),
            default_time2wait_s=int(value("DefaultTime2Wait")),
            default_time2retain_s=int(value("DefaultTime2Retain")),
            error_recovery_level=int(value("ErrorRecoveryLevel")),
            max_connections=int(value("MaxConnections")),
            rdma_extensions=bool(value("RDMAExtensions")),
            target_alias=self.target_alias,
        )

    def _offered(self) -> Iterable[tuple[str, str]]:
        """The offer of this kind of session, in the order open-iscsi uses."""
        s = self._settings
        iser_normal = self._iser and not self._discovery
        if iser_normal:
            yield "RDMAExtensions", "Yes"
            yield "InitiatorRecvDataSegmentLength", str(s.max_recv_data_segment_bytes)
            yield "TargetRecvDataSegmentLength", str(s.max_xmit_data_segment_bytes or ISER_MAX_XMIT_BYTES)
        elif not self._iser:
            yield "HeaderDigest", ",".join(s.header_digest)
            yield "DataDigest", ",".join(s.data_digest)
        if not iser_normal:
            # Over iSER a discovery sends nothing but this; LIO without it answers with empty lists for ever.
            yield "MaxRecvDataSegmentLength", str(s.max_recv_data_segment_bytes)
        if not self._discovery:
            yield from self._offered_normal()
        if not (self._iser and self._discovery):
            yield "DefaultTime2Wait", str(s.default_time2wait_s)
            yield "DefaultTime2Retain", str(s.default_time2retain_s)
            yield "ErrorRecoveryLevel", str(s.error_recovery_level)

    def _offered_normal(self) -> Iterable[tuple[str, str]]:
        s = self._settings
        yield "InitialR2T", format_value(s.initial_r2t)
        yield "ImmediateData", format_value(s.immediate_data)
        yield "MaxBurstLength", str(s.max_burst_bytes)
        yield "FirstBurstLength", str(s.first_burst_bytes)
        yield "MaxOutstandingR2T", str(s.max_outstanding_r2t)
        yield "MaxConnections", str(s.max_connections)
        yield "DataPDUInOrder", "Yes"
        yield "DataSequenceInOrder", "Yes"
        if not self._iser:  # obsolete, but LIO proposes them, at the price of a round trip, when they are missing
            yield "IFMarker", "No"
            yield "OFMarker", "No"

    def _take(self, name: str, text: str) -> str | None:
        """Take one pair; gives the answer to send, or None."""
        if name == "TargetAlias":
            self.target_alias = text
            return None
        if name == "TargetPortalGroupTag":
            self.tpgt = _read_tpgt(text)
            return None
        if name == "TargetAddress":  # means something only in a redirection and in SendTargets
            return None
        if text in RESERVED:
            self._take_reserved(name, text)
            return None
        key = KEYS.get(name)
        if key is None:
            return NOT_UNDERSTOOD
        if key.kind is Kind.DECLARE:
            self._values[name] = read_value(key, text)
            return None
        if name in self._values:
            raise PeerError(f"duplicate key {name}: the target negotiates it a second time", code="iscsi-key")
        if name in self._offers:
            self._values[name] = self._answered(key, text)
            return None
        return self._proposed(key, text)

    def _take_reserved(self, name: str, text: str) -> None:
        """An answer that is no value: the default rules, except where we could not live with it."""
        if text == REJECT and name in self._offers and KEYS[name].kind is Kind.LIST:
            raise PeerError(f"the target rejects {name}, offered was {self._offers[name]}", code="iscsi-key")

    def _answered(self, key: Key, text: str) -> Value:
        offer = self._offers[key.name]
        if key.kind is Kind.LIST and text not in offer.split(","):
            raise PeerError(
                f'{key.name}="{printable(text)}" was answered, but only "{offer}" was offered', code="iscsi-key"
            )
        return combine(key, read_value(key, offer), read_value(key, text))

    def _proposed(self, key: Key, text: str) -> str:
        """Answer a key the target brought up: our value is the one we would have offered, the default."""
        if not key.applies(discovery=self._discovery, iser=self._iser):
            return "None" if key.use is Use.DIGEST and "None" in text.split(",") else IRRELEVANT
        if key.kind is Kind.LIST:
            choice = next((entry for entry in text.split(",") if entry == key.default), REJECT)
            if choice != REJECT:
                self._values[key.name] = choice
            return choice
        value = combine(key, key.default, read_value(key, text))
        self._values[key.name] = value
        return format_value(value)

    def _value(self, name: str) -> Value:
        """The result of a key: negotiated, or of our offer and the target's silence, or the default."""
        key = KEYS[name]
        if name in self._values:
            return self._values[name]
        if name not in self._offers or key.kind is Kind.DECLARE:
            return key.default
        if key.kind is Kind.LIST and key.default not in self._offers[name].split(","):
            raise PeerError(f'the target does not answer {name}, offered was "{self._offers[name]}"', code="iscsi-key")
        return combine(key, read_value(key, self._offers[name]), key.default)

    def _max_recv(self) -> int:
        if self._iser and not self._discovery:
            return int(self._value("InitiatorRecvDataSegmentLength"))
        return self._settings.max_recv_data_segment_bytes

    def _max_xmit(self) -> int:
        limit = self._settings.max_xmit_data_segment_bytes
        if self._iser and not self._discovery:
            return min(int(self._value("TargetRecvDataSegmentLength")), ISER_MAX_XMIT_BYTES)
        declared = int(self._value("MaxRecvDataSegmentLength"))
        return min(limit, declared) if limit else declared


def negotiate(
    settings: OperationalSettings, answers: Iterable[tuple[str, str]], *, discovery: bool = False, iser: bool = False
) -> NegotiatedParameters:
    """The result of one exchange: our offer of `settings`, and everything the target answered."""
    negotiation = Negotiation(settings, discovery=discovery, iser=iser)
    negotiation.receive(answers)
    return negotiation.result()


def _read_tpgt(text: str) -> int:
    number = parse_number(text)
    if number is None or number > _MAX_TPGT:
        raise PeerError(
            f'TargetPortalGroupTag="{printable(text)}" is no number from 0 to {_MAX_TPGT}', code="iscsi-key"
        )
    return number
