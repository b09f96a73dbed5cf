# SPDX-License-Identifier: Apache-2.0
"""What a SCSI command that did not succeed says: status and sense data. Engine ring.

Not here: what to do about it. Defined by SAM-5 (status) and SPC-4 section 4.5 (sense data); the additional codes are a
selection of the list T10 publishes: those a storage administrator meets.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BUSY", "CHECK_CONDITION", "GOOD", "TASK_SET_FULL", "Sense", "parse_sense", "status_words"]

GOOD, CHECK_CONDITION, BUSY, RESERVATION_CONFLICT, TASK_SET_FULL = 0x00, 0x02, 0x08, 0x18, 0x28

_STATUS = {
    CHECK_CONDITION: "check condition",
    0x04: "condition met",
    BUSY: "busy",
    RESERVATION_CONFLICT: "reservation conflict",
    TASK_SET_FULL: "task set full",
    0x30: "ACA active",
    0x40: "task aborted",
}

_KEYS = (
    "no sense",
    "recovered error",
    "not ready",
    "medium error",
    "hardware error",
    "illegal request",
    "unit attention",
    "data protect",
    "blank check",
    "vendor specific",
    "copy aborted",
    "aborted command",
    "reserved",
    "volume overflow",
    "miscompare",
    "completed",
)

_ADDITIONAL = {
    (0x04, 0x00): "logical unit not ready",
    (0x04, 0x02): "logical unit not ready, it has to be started",
    (0x0C, 0x00): "write error",
    (0x11, 0x00): "unrecovered read error",
    (0x1D, 0x00): "miscompare during verify",
    (0x20, 0x00): "the command is not supported",
    (0x21, 0x00): "block address out of range",
    (0x24, 0x00): "a field of the command is not supported",
    (0x25, 0x00): "there is no such logical unit",
    (0x26, 0x00): "a field of the parameters is not supported",
    (0x27, 0x00): "write protected",
    (0x29, 0x00): "power on or reset",
    (0x29, 0x03): "reset by the target",
    (0x29, 0x07): "the session was lost",
    (0x2A, 0x09): "the capacity has changed",
    (0x3A, 0x00): "there is no medium",
    (0x3F, 0x03): "the inquiry data has changed",
    (0x3F, 0x0E): "the list of logical units has changed",
    (0x44, 0x00): "internal failure of the target",
}

UNIT_ATTENTION = 0x6
ILLEGAL_REQUEST = 0x5

_FIXED, _DESCRIPTOR = (0x70, 0x71), (0x72, 0x73)
_FIXED_CODES_END = 14


class Sense(NamedTuple):
    """Sense key, additional sense code and its qualifier. `deferred`: about an earlier command."""

    key: int
    asc: int
    ascq: int
    deferred: bool = False

    def __str__(self) -> str:
        words = _ADDITIONAL.get((self.asc, self.ascq), "")
        codes = f"{self.key:x}/{self.asc:02x}/{self.ascq:02x}"
        return f"{_KEYS[self.key]}{': ' if words else ''}{words} ({codes})"

    @property
    def unit_attention(self) -> bool:
        """Something happened to the logical unit; the command was not begun and may be sent again."""
        return self.key == UNIT_ATTENTION

    @property
    def unsupported(self) -> bool:
        """The logical unit knows no such command, page, or field."""
        return self.key == ILLEGAL_REQUEST and self.asc in (0x20, 0x24)


def parse_sense(data: bytes) -> Sense | None:
    """Sense data of either format; None for none, for a vendor's own format, and for data cut before the codes."""
    kind = data[0] & 0x7F if data else 0
    if kind in _FIXED and len(data) >= _FIXED_CODES_END:
        return Sense(data[2] & 0x0F, data[12], data[13], kind == _FIXED[1])
    if kind in _FIXED and len(data) > 2:
        return Sense(data[2] & 0x0F, 0, 0, kind == _FIXED[1])
    if kind in _DESCRIPTOR and len(data) >= 4:
        return Sense(data[1] & 0x0F, data[2], data[3], kind == _DESCRIPTOR[1])
    return None


def status_words(status: int, sense: Sense | None) -> str:
    """A status that is not GOOD, for a person."""
    words = _STATUS.get(status, f"SCSI status {status:#04x}")
    return f"{words}: {sense}" if sense is not None else words
