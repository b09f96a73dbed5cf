# SPDX-License-Identifier: Apache-2.0
"""The SCSI commands that looking at logical units and moving blocks take: their CDBs, and their answers. Engine ring.

A builder gives 16 bytes, zero-filled. A parser takes what was really moved, which may be less than was asked for, and
raises PeerError when that is too little to mean anything; lengths inside are never trusted beyond it.

Not here: sending (`rdmactl.rdmacm.session`), sense data (`sense.py`), the order of a walk (`rdmactl.rdmacm.luns`).
Defined by SPC-4 (REPORT LUNS, INQUIRY, vital product data, TEST UNIT READY), SBC-3 (READ, WRITE, READ CAPACITY, block
limits) and SAM-5 section 4.7 (logical unit numbers).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.scsi_pdu import CDB_BYTES

__all__ = [
    "BLOCK_LIMITS",
    "DEVICE_IDENTIFICATION",
    "DEVICE_TYPES",
    "LUN_BYTES",
    "SUPPORTED_PAGES",
    "UNIT_SERIAL_NUMBER",
    "BlockLimits",
    "Capacity",
    "Designator",
    "Inquiry",
    "inquiry",
    "lun_bytes",
    "lun_number",
    "parse_block_limits",
    "parse_capacity_10",
    "parse_capacity_16",
    "parse_designators",
    "parse_inquiry",
    "parse_luns",
    "parse_pages",
    "parse_serial",
    "read_blocks",
    "read_capacity_10",
    "read_capacity_16",
    "report_luns",
    "test_unit_ready",
    "write_blocks",
    "wwid",
]

LUN_BYTES = 8
SUPPORTED_PAGES, UNIT_SERIAL_NUMBER, DEVICE_IDENTIFICATION, BLOCK_LIMITS = 0x00, 0x80, 0x83, 0xB0

DEVICE_TYPES = {
    0x00: "disk", 0x01: "tape", 0x03: "processor", 0x05: "cd/dvd", 0x07: "optical", 0x08: "changer",
    0x0C: "controller", 0x0D: "enclosure", 0x0E: "disk (reduced commands)", 0x11: "object storage",
    0x14: "zoned disk", 0x1E: "well known unit", 0x1F: "none",
}  # fmt: skip

_TEST_UNIT_READY, _INQUIRY, _READ_CAPACITY_10, _REPORT_LUNS, _SERVICE_ACTION_IN = 0x00, 0x12, 0x25, 0xA0, 0x9E
_READ_10, _WRITE_10, _READ_16, _WRITE_16 = 0x28, 0x2A, 0x88, 0x8A
_READ_CAPACITY_16 = 0x10  # service action

_REPORT_LUNS_CDB = struct.Struct("!B5xI6x")
_INQUIRY_CDB = struct.Struct("!BBBH11x")
_CAPACITY_16_CDB = struct.Struct("!BB8xI2x")
_TRANSFER_10 = struct.Struct("!BBIxH7x")
_TRANSFER_16 = struct.Struct("!BBQI2x")
_LUN_LIST = struct.Struct("!I4x")
_CAPACITY_10 = struct.Struct("!II")
_CAPACITY_16 = struct.Struct("!QI")
_BLOCK_LIMITS = struct.Struct("!4xxBHII")
_PAGE = struct.Struct("!xBH")

_INQUIRY_BYTES = 36
_MAX_LBA_10, _MAX_BLOCKS_10 = 0xFFFFFFFF, 0xFFFF
_MAX_LBA_16, _MAX_BLOCKS_16 = 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF
_TOO_LARGE_FOR_10 = 0xFFFFFFFF
_MAX_PERIPHERAL_LUN, _MAX_FLAT_LUN = 0xFF, 0x3FFF
_FLAT = 0x40

_BINARY, _ASCII, _UTF8 = 1, 2, 3  # code sets
_T10, _EUI64, _NAA, _NAME = 1, 2, 3, 8  # designator types
_WWID_ORDER = (_NAA, _EUI64, _NAME, _T10)


class Inquiry(NamedTuple):
    """Standard inquiry data; texts without the spaces around them. `qualifier` 0: the unit is there."""

    qualifier: int
    device_type: int
    removable: bool
    version: int
    vendor: str
    product: str
    revision: str


class Capacity(NamedTuple):
    """How many blocks of which size; `exponent`: 2 to its power logical blocks make a physical one."""

    blocks: int
    block_bytes: int
    exponent: int = 0


class Designator(NamedTuple):
    """One identifier of page 0x83. `association` 0: of the logical unit itself."""

    code_set: int
    kind: int
    association: int
    value: bytes


class BlockLimits(NamedTuple):
    """In blocks; 0: not said."""

    granularity: int
    max_transfer: int
    optimal_transfer: int


# Commands


def test_unit_ready() -> bytes:
    """No data."""
    return bytes(CDB_BYTES)


def report_luns(allocation_bytes: int) -> bytes:
    """All logical units but the well known ones."""
    return _REPORT_LUNS_CDB.pack(_REPORT_LUNS, allocation_bytes)


def inquiry(allocation_bytes: int, page: int | None = None) -> bytes:
    """Standard inquiry data, or a page of vital product data."""
    return _INQUIRY_CDB.pack(_INQUIRY, 0 if page is None else 1, page or 0, allocation_bytes)


def read_capacity_10() -> bytes:
    """8 bytes come back."""
    return bytes((_READ_CAPACITY_10,)).ljust(CDB_BYTES, b"\0")


def read_capacity_16(allocation_bytes: int) -> bytes:
    """Up to 32 bytes come back."""
    return _CAPACITY_16_CDB.pack(_SERVICE_ACTION_IN, _READ_CAPACITY_16, allocation_bytes)


def read_blocks(lba: int, blocks: int) -> bytes:
    """READ(10) where it can address that, else READ(16). LocalError for what neither can."""
    return _transfer(_READ_10, _READ_16, lba, blocks)


def write_blocks(lba: int, blocks: int) -> bytes:
    """WRITE(10) where it can address that, else WRITE(16). LocalError for what neither can."""
    return _transfer(_WRITE_10, _WRITE_16, lba, blocks)


def _transfer(short: int, long: int, lba: int, blocks: int) -> bytes:
    if not 0 <= lba <= _MAX_LBA_16 or not 0 < blocks <= _MAX_BLOCKS_16:
        raise LocalError(f"no command can move {blocks} blocks at block {lba}")
    if lba <= _MAX_LBA_10 and blocks <= _MAX_BLOCKS_10:
        return _TRANSFER_10.pack(short, 0, lba, blocks)
    return _TRANSFER_16.pack(long, 0, lba, blocks)


# Logical unit numbers


def lun_bytes(number: int) -> bytes:
    """A small number as targets number their units: peripheral addressing up to 255, flat above."""
    if not 0 <= number <= _MAX_FLAT_LUN:
        raise LocalError(f"there can be no logical unit {number}")
    method = 0 if number <= _MAX_PERIPHERAL_LUN else _FLAT
    return bytes((method | number >> 8, number & 0xFF)).ljust(LUN_BYTES, b"\0")


def lun_number(lun: bytes) -> int:
    """The number people know it by; the one Linux shows for levels and methods beyond the simple ones."""
    if not any(lun[2:]) and lun[0] & 0xC0 in (0, _FLAT):
        return (lun[0] & 0x3F) << 8 | lun[1]
    words = struct.unpack("!4H", lun)
    return int(sum(word << 16 * place for place, word in enumerate(words)))


# Answers


def parse_luns(data: bytes) -> tuple[list[bytes], int]:
    """The units listed in `data`, and how long the whole list is with its header."""
    _require(data, _LUN_LIST.size, "REPORT LUNS")
    (listed,) = _LUN_LIST.unpack_from(data)
    end = min(len(data), _LUN_LIST.size + listed)
    luns = [data[at : at + LUN_BYTES] for at in range(_LUN_LIST.size, end - LUN_BYTES + 1, LUN_BYTES)]
    return luns, _LUN_LIST.size + listed


def parse_inquiry(data: bytes) -> Inquiry:
    """Standard inquiry data."""
    _require(data, _INQUIRY_BYTES, "INQUIRY")
    return Inquiry(
        qualifier=data[0] >> 5,
        device_type=data[0] & 0x1F,
        removable=bool(data[1] & 0x80),
        version=data[2],
        vendor=_text(data[8:16]),
        product=_text(data[16:32]),
        revision=_text(data[32:36]),
    )


def parse_pages(data: bytes) -> tuple[int, ...]:
    """The pages there are, of page 0x00."""
    return tuple(_page(data, SUPPORTED_PAGES))


def parse_serial(data: bytes) -> str:
    """The serial number of page 0x80."""
    return _text(_page(data, UNIT_SERIAL_NUMBER))


def parse_designators(data: bytes) -> tuple[Designator, ...]:
    """The identifiers of page 0x83; one that is cut short ends the list."""
    body = _page(data, DEVICE_IDENTIFICATION)
    found = []
    while len(body) >= 4 and len(body) >= 4 + body[3]:
        length = body[3]
        found.append(Designator(body[0] & 0x0F, body[1] & 0x0F, body[1] >> 4 & 0x3, body[4 : 4 + length]))
        body = body[4 + length :]
    return tuple(found)


def parse_block_limits(data: bytes) -> BlockLimits:
    """Page 0xb0."""
    _page(data, BLOCK_LIMITS)
    _require(data, _BLOCK_LIMITS.size, "the block limits")
    _, granularity, most, optimal = _BLOCK_LIMITS.unpack_from(data)
    return BlockLimits(granularity, most, optimal)


def parse_capacity_10(data: bytes) -> Capacity | None:
    """None when the unit is too large for the short form."""
    _require(data, _CAPACITY_10.size, "READ CAPACITY(10)")
    last, block_bytes = _CAPACITY_10.unpack_from(data)
    return None if last == _TOO_LARGE_FOR_10 else _capacity(last, block_bytes, 0)


def parse_capacity_16(data: bytes) -> Capacity:
    """The long form."""
    _require(data, _CAPACITY_16.size, "READ CAPACITY(16)")
    last, block_bytes = _CAPACITY_16.unpack_from(data)
    return _capacity(last, block_bytes, data[13] & 0x0F if len(data) > 13 else 0)


def wwid(designators: tuple[Designator, ...]) -> str:
    """The name of the unit that is the same everywhere, as Linux writes it: "naa.…", "eui.…", "t10.…"; "" for none."""
    own = [designator for designator in designators if designator.association == 0 and designator.value]
    for kind in _WWID_ORDER:
        for designator in own:
            if designator.kind == kind:
                return _wwid(designator)
    return ""


def _wwid(designator: Designator) -> str:
    if designator.kind == _NAA:
        return f"naa.{designator.value.hex()}"
    if designator.kind == _EUI64:
        return f"eui.{designator.value.hex()}"
    text = _text(designator.value)
    return f"t10.{text}" if designator.kind == _T10 else text


def _capacity(last: int, block_bytes: int, exponent: int) -> Capacity:
    if block_bytes == 0:
        raise PeerError("a logical unit with blocks of 0 bytes", code="scsi-protocol")
    return Capacity(last + 1, block_bytes, exponent)


def _page(data: bytes, page: int) -> bytes:
    """The body of a page, as far as it is there."""
    _require(data, _PAGE.size, f"page {page:#04x}")
    given, length = _PAGE.unpack_from(data)
    if given != page:
        raise PeerError(f"page {given:#04x} was sent for page {page:#04x}", code="scsi-protocol")
    return data[_PAGE.size : _PAGE.size + length]


def _require(data: bytes, count: int, what: str) -> None:
    if len(data) < count:
        raise PeerError(f"the answer to {what} has {len(data)} bytes, {count} are needed", code="scsi-protocol")


def _text(data: bytes) -> str:
    """What may be shown of a field: printable ASCII, the rest as question marks, no spaces or zeros around it."""
    inner = data.strip(b" \0")
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in inner)
