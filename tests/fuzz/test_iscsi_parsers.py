# SPDX-License-Identifier: Apache-2.0
"""Every reader of iSCSI and iSER bytes on bytes that are none: a value, or a PeerError with a printable sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError, RdmactlError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.iser import IserHeader, read_private_data, unwrap
from rdmactl.iscsi.keys import KEYS, read_value
from rdmactl.iscsi.logout import read_logout
from rdmactl.iscsi.names import check_name
from rdmactl.iscsi.negotiation import Negotiation, OperationalSettings
from rdmactl.iscsi.pdu import decode
from rdmactl.iscsi.portal import Portal, parse_target_address
from rdmactl.iscsi.portal_option import parse_option
from rdmactl.iscsi.scsi_pdu import ScsiResponse, sense_of
from rdmactl.iscsi.sendtargets import SendTargetsReader
from rdmactl.iscsi.sense import parse_sense
from rdmactl.iscsi.stream import StreamDecoder
from rdmactl.iscsi.text import parse_text

KEY_NAMES = sorted([*KEYS, "TargetAlias", "TargetPortalGroupTag", "TargetAddress", "X-vendor"])
VALUES = st.one_of(
    st.sampled_from(["Yes", "No", "None", "CRC32C", "Reject", "Irrelevant", "NotUnderstood", "0", "8192", "-1", ""]),
    st.integers().map(str),
    st.text(max_size=20),
)
LISTS = st.lists(
    st.one_of(
        st.sampled_from([b"TargetName=iqn.a", b"TargetName=", b"TargetAddress=[fd00::1]:1,1", b"TargetAddress=x", b""]),
        st.binary(max_size=30),
    ),
).map(b"\0".join)

READERS: list[Callable[[bytes], object]] = [
    decode,
    parse_text,
    unwrap,
    IserHeader.unpack,
    read_private_data,
    read_logout,
    lambda data: decode(data.ljust(48, b"\0")[:48]),
    lambda data: unwrap(b"\x10" + bytes(27) + data),
    scsi.parse_luns,
    scsi.parse_inquiry,
    scsi.parse_capacity_10,
    scsi.parse_capacity_16,
    scsi.parse_pages,
    scsi.parse_serial,
    lambda data: scsi.wwid(scsi.parse_designators(b"\0\x83" + data)),
    lambda data: scsi.parse_block_limits(b"\0\xb0" + data),
    lambda data: str(parse_sense(data)),
    sense_of,
    lambda data: ScsiResponse.unpack(data.ljust(48, b"\0")[:48]).moved_bytes(512),
]
TEXT_READERS: list[Callable[[str], object]] = [Portal.parse, parse_option, parse_target_address, check_name]


@pytest.mark.parametrize("reader", READERS)
@given(st.binary(max_size=200))
def test_bytes(reader: Callable[[bytes], object], data: bytes) -> None:
    try:
        reader(data)
    except PeerError as error:
        assert error.message.isprintable()  # noqa: PT017


@pytest.mark.parametrize("reader", TEXT_READERS)
@given(st.text(max_size=100))
def test_texts(reader: Callable[[str], object], text: str) -> None:
    try:
        reader(text)
    except RdmactlError as error:
        assert error.message.isprintable()  # noqa: PT017


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans(), st.booleans())
def test_streams(pieces: list[bytes], header_digest: bool, data_digest: bool) -> None:
    decoder = StreamDecoder()
    decoder.header_digest, decoder.data_digest = header_digest, data_digest
    try:
        for piece in pieces:
            for pdu in decoder.receive(piece):
                assert len(pdu.header) == 48
                assert len(pdu.data) <= 8192
    except PeerError as error:
        assert error.message.isprintable()  # noqa: PT017


@given(LISTS, st.integers(1, 50))
def test_lists_of_targets(data: bytes, step: int) -> None:
    reader, whole = SendTargetsReader(Portal("192.0.2.1")), SendTargetsReader(Portal("192.0.2.1"))
    for at in range(0, len(data), step):
        reader.receive(data[at : at + step])
    whole.receive(data)
    result = reader.finish()
    assert result == whole.finish()
    assert all(target.name == check_name(target.name) and target.portals for target in result.targets)
    assert all(warning.isprintable() for warning in result.warnings)


@given(st.lists(st.tuples(st.sampled_from(KEY_NAMES), VALUES), max_size=8), st.booleans(), st.booleans())
def test_negotiations(pairs: list[tuple[str, str]], discovery: bool, iser: bool) -> None:
    negotiation = Negotiation(OperationalSettings(), discovery=discovery, iser=iser)
    try:
        for name, _ in negotiation.receive(pairs):
            assert name in dict(pairs)
        result = negotiation.result()
    except PeerError as error:
        assert error.message.isprintable()  # noqa: PT017
        return
    assert 512 <= result.first_burst_bytes <= result.max_burst_bytes <= 0xFFFFFF
    assert 512 <= result.max_xmit_data_segment_bytes <= 0xFFFFFF
    assert result.error_recovery_level == 0
    assert result.max_connections == 1
    assert not result.header_digest


@given(st.sampled_from(sorted(KEYS)), VALUES)
def test_values(name: str, text: str) -> None:
    try:
        read_value(KEYS[name], text)
    except PeerError as error:
        assert name in error.message  # noqa: PT017
