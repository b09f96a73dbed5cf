# SPDX-License-Identifier: Apache-2.0
"""SCSI commands and answers: bytes as the standards have them, answers cut at each length, senses in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.iser import wrap
from rdmactl.iscsi.scsi import BlockLimits, Capacity, Designator
from rdmactl.iscsi.scsi_pdu import ScsiCommand, ScsiResponse, good_answer, sense_of
from rdmactl.iscsi.sense import Sense, parse_sense, status_words

# As LIO 6.12 answers for a file of 64 MiB with a serial number
INQUIRY = bytes.fromhex("000006021f000002") + b"LIO-ORG FILEIO          4.0 "
CAPACITY_16 = bytes.fromhex("000000000001ffff0000020000000000") + bytes(16)
NAA = bytes.fromhex("6001405aabbccddeeff0011223344556")
DESIGNATORS = b"\0\x83\x00\x38" + bytes((1, 3, 0, 16)) + NAA + bytes((2, 1, 0, 28)) + b"LIO-ORG FILEIO:aabbccdd-eeff"


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        (scsi.test_unit_ready(), "00" * 16),
        (scsi.report_luns(4096), "a000000000000000100000000000" + "0000"),
        (scsi.inquiry(255), "12000000ff00"),
        (scsi.inquiry(255, 0x83), "12018300ff00"),
        (scsi.read_capacity_10(), "25"),
        (scsi.read_capacity_16(32), "9e10" + "00" * 8 + "00000020"),
        (scsi.read_blocks(0x01020304, 0x0506), "28000102030400050600"),
        (scsi.write_blocks(1, 8), "2a000000000100000800"),
        (scsi.read_blocks(1 << 32, 8), "88000000000100000000" + "00000008"),
        (scsi.write_blocks(0, 0x10000), "8a000000000000000000" + "00010000"),
    ],
)
def test_commands(cdb: bytes, expected: str) -> None:
    assert cdb.hex() == expected.ljust(32, "0")


@pytest.mark.parametrize(("lba", "blocks"), [(-1, 1), (1 << 64, 1), (0, 0), (0, 1 << 32)])
def test_blocks_no_command_can_name(lba: int, blocks: int) -> None:
    with pytest.raises(LocalError):
        scsi.read_blocks(lba, blocks)


@given(st.integers(0, 0x3FFF))
def test_unit_numbers(number: int) -> None:
    assert scsi.lun_number(scsi.lun_bytes(number)) == number


def test_unit_numbers_beyond_the_simple_ones() -> None:
    assert scsi.lun_bytes(1).hex() == "0001000000000000"
    assert scsi.lun_bytes(256).hex() == "4100000000000000"
    assert scsi.lun_number(bytes.fromhex("c101000000000000")) == 0xC101  # the well known unit of REPORT LUNS
    assert scsi.lun_number(bytes.fromhex("0001000200000000")) == 0x20001
    with pytest.raises(LocalError):
        scsi.lun_bytes(0x4000)


def test_luns() -> None:
    one, two = scsi.lun_bytes(0), scsi.lun_bytes(1)
    assert scsi.parse_luns(b"\0\0\0\x10" + bytes(4) + one + two) == ([one, two], 24)
    assert scsi.parse_luns(b"\0\0\x10\0" + bytes(4) + one + two[:5]) == ([one], 4104)  # more than was moved
    with pytest.raises(PeerError, match="REPORT LUNS has 7 bytes"):
        scsi.parse_luns(bytes(7))


def test_inquiry() -> None:
    said = scsi.parse_inquiry(INQUIRY)
    assert (said.vendor, said.product, said.revision) == ("LIO-ORG", "FILEIO", "4.0")
    assert (said.qualifier, said.device_type, said.removable, said.version) == (0, 0, False, 6)
    assert scsi.parse_inquiry(b"\x6c" + INQUIRY[1:8] + bytes(range(28))).vendor == "?" * 7
    with pytest.raises(PeerError):
        scsi.parse_inquiry(INQUIRY[:35])


def test_capacities() -> None:
    assert scsi.parse_capacity_16(CAPACITY_16) == Capacity(131072, 512)
    assert scsi.parse_capacity_16(CAPACITY_16[:12]) == Capacity(131072, 512)
    assert scsi.parse_capacity_16(CAPACITY_16[:13] + b"\x03").exponent == 3
    assert scsi.parse_capacity_10(bytes.fromhex("0001ffff00000200")) == Capacity(131072, 512)
    assert scsi.parse_capacity_10(b"\xff" * 4 + b"\0\0\2\0") is None
    for parse, data in ((scsi.parse_capacity_10, bytes(8)), (scsi.parse_capacity_16, bytes(32))):
        with pytest.raises(PeerError, match="blocks of 0 bytes"):
            parse(data)


def test_pages() -> None:
    assert scsi.parse_pages(bytes.fromhex("00000004008083b0")) == (0x00, 0x80, 0x83, 0xB0)
    assert scsi.parse_serial(b"\0\x80\0\x06 ab\x07\0\0") == "ab?"
    limits = bytes.fromhex("00b0003c000000080000040000000100").ljust(64, b"\0")
    assert scsi.parse_block_limits(limits) == BlockLimits(8, 1024, 256)
    with pytest.raises(PeerError, match="page 0x83 was sent for page 0x80"):
        scsi.parse_serial(DESIGNATORS)


def test_designators() -> None:
    found = scsi.parse_designators(DESIGNATORS)
    assert found == (Designator(1, 3, 0, NAA), Designator(2, 1, 0, b"LIO-ORG FILEIO:aabbccdd-eeff"))
    assert scsi.wwid(found) == f"naa.{NAA.hex()}"
    assert scsi.wwid(found[1:]) == "t10.LIO-ORG FILEIO:aabbccdd-eeff"
    assert scsi.wwid((Designator(1, 2, 0, b"\x01\x02"), Designator(3, 8, 0, b"iqn.x"))) == "eui.0102"
    assert scsi.wwid((Designator(3, 8, 0, b"iqn.x\0\0"),)) == "iqn.x"
    assert scsi.wwid((Designator(1, 3, 1, NAA),)) == ""  # of the port, not of the unit


PARSERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (scsi.parse_luns, b"\0\0\0\x08" + bytes(12)),
    (scsi.parse_inquiry, INQUIRY),
    (scsi.parse_capacity_10, bytes.fromhex("0001ffff00000200")),
    (scsi.parse_capacity_16, CAPACITY_16),
    (scsi.parse_pages, bytes.fromhex("000000020080")),
    (scsi.parse_serial, b"\0\x80\0\x02ab"),
    (scsi.parse_designators, DESIGNATORS),
    (scsi.parse_block_limits, bytes.fromhex("00b0000c").ljust(16, b"\0")),
]


@pytest.mark.parametrize(("parse", "whole"), PARSERS)
def test_cut_at_each_length(parse: Callable[[bytes], object], whole: bytes) -> None:
    parse(whole)
    for length in range(4):
        with pytest.raises(PeerError, match=f"has {length} bytes"):
            parse(whole[:length])
    for length in range(4, len(whole)):
        with contextlib.suppress(PeerError):
            parse(whole[:length])


# The two PDUs

COMMANDS = st.builds(
    ScsiCommand,
    st.integers(0, 0xFFFFFFFF),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 0xFFFFFFFF),
    st.booleans(),
    st.booleans(),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
)
RESPONSES = st.builds(
    ScsiResponse,
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF),
    st.booleans(),
    st.booleans(),
    *[st.integers(0, 0xFFFFFFFF)] * 3,
)


@given(COMMANDS, RESPONSES)
def test_pack_and_unpack_are_inverse(command: ScsiCommand, response: ScsiResponse) -> None:
    assert ScsiCommand.unpack(command.pdu().header) == command
    assert ScsiResponse.unpack(response.pdu().header) == response


NUMBERS = [st.integers(0, 0xFFFFFFFF)] * 3


@given(RESPONSES | st.integers(0, 0xFFFFFFFF).map(ScsiResponse), st.binary(max_size=3), *NUMBERS)
def test_the_short_look_at_an_answer_sees_what_the_long_one_does(
    response: ScsiResponse, data: bytes, statsn: int, exp_cmdsn: int, max_cmdsn: int
) -> None:
    response = response._replace(statsn=statsn, exp_cmdsn=exp_cmdsn, max_cmdsn=max_cmdsn)
    plain = not data and response == ScsiResponse(response.itt, residual=response.residual)._replace(
        statsn=statsn, exp_cmdsn=exp_cmdsn, max_cmdsn=max_cmdsn
    )
    found = good_answer(wrap(response.pdu(data)))
    assert found == ((response.itt, statsn, exp_cmdsn, max_cmdsn) if plain else None)


@pytest.mark.parametrize("place", [*range(8), 28, *range(29, 36)])
def test_the_short_look_believes_nothing_it_does_not_know(place: int) -> None:
    message = bytearray(wrap(ScsiResponse(7).pdu()))
    assert good_answer(bytes(message)) is not None
    message[place] ^= 1
    assert good_answer(bytes(message)) is None
    assert good_answer(bytes(message[:-1])) is None


def test_a_command_byte_by_byte() -> None:
    pdu = ScsiCommand(7, scsi.lun_bytes(1), scsi.read_blocks(8, 1), 512, read=True, cmdsn=3, exp_statsn=9).pdu()
    assert pdu.header.hex() == (
        "01c100000000000000010000000000000000000700000200000000030000000928000000000800000100"
    ).ljust(96, "0")
    assert pdu.data == b""


def test_residuals() -> None:
    assert ScsiResponse(1).moved_bytes(512) == 512
    assert ScsiResponse(1, residual=24, overflow=True).moved_bytes(512) == 512
    assert ScsiResponse(1, residual=500, underflow=True).moved_bytes(512) == 12
    with pytest.raises(PeerError, match="residual of 513 of 512"):
        ScsiResponse(1, residual=513, underflow=True).moved_bytes(512)


def test_sense_in_a_response() -> None:
    assert sense_of(b"") == b""
    assert sense_of(b"\0\x02ab\0\0") == b"ab"
    for bad in (b"\0", b"\0\x03ab", b"\xff\xff"):
        with pytest.raises(PeerError):
            sense_of(bad)


@pytest.mark.parametrize(
    ("data", "expected", "words"),
    [
        ("7000060000000000000000002903", Sense(6, 0x29, 3), "unit attention: reset by the target (6/29/03)"),
        ("7100030000000000000000001100", Sense(3, 0x11, 0, True), "medium error: unrecovered read error (3/11/00)"),
        ("72052100", Sense(5, 0x21, 0), "illegal request: block address out of range (5/21/00)"),
        ("73054477", Sense(5, 0x44, 0x77, True), "illegal request (5/44/77)"),
        ("700005", Sense(5, 0, 0), "illegal request (5/00/00)"),
    ],
)
def test_senses(data: str, expected: Sense, words: str) -> None:
    sense = parse_sense(bytes.fromhex(data))
    assert sense == expected
    assert str(sense) == words


@pytest.mark.parametrize("data", [b"", b"\x70\0", b"\x72\0\0", b"\x7f" * 18, b"\0" * 18])
def test_what_is_no_sense(data: bytes) -> None:
    assert parse_sense(data) is None


def test_statuses_in_words() -> None:
    assert status_words(2, Sense(2, 4, 0)) == "check condition: not ready: logical unit not ready (2/04/00)"
    assert status_words(0x18, None) == "reservation conflict"
    assert status_words(0x99, None) == "SCSI status 0x99"
    assert Sense(5, 0x20, 0).unsupported
    assert not Sense(5, 0x21, 0).unsupported
