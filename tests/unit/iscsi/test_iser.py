# SPDX-License-Identifier: Apache-2.0
"""The iSER header, the private data, and logout responses. Numbers are rows of the checklist on iSER engines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi.iser import (
    ISER_HEADER_BYTES,
    PRIVATE_DATA,
    CmFlags,
    IserHeader,
    RemoteBuffer,
    read_private_data,
    unwrap,
    wrap,
)
from rdmactl.iscsi.logout import read_logout
from rdmactl.iscsi.pdu import LogoutResponse, NopIn, Pdu, TextResponse

from .support import capture

PDU = TextResponse(1).pdu(b"fourteen bytes")

buffers = st.none() | st.builds(RemoteBuffer, st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFFFFFFFFFF))


def test_iser_01_offsets() -> None:
    """Row 1."""
    header = IserHeader(RemoteBuffer(0x01020304, 0x1112131415161718), RemoteBuffer(0x21222324, 0x3132333435363738))
    assert header.pack().hex() == "1c000000" + "01020304" + "1112131415161718" + "21222324" + "3132333435363738"
    assert IserHeader().pack() == b"\x10" + bytes(27)
    assert ISER_HEADER_BYTES == 28


@given(buffers, buffers)
def test_iser_01_pack_and_unpack_are_inverse(write: RemoteBuffer | None, read: RemoteBuffer | None) -> None:
    """Row 1, all combinations of flags."""
    header = IserHeader(write, read)
    assert IserHeader.unpack(header.pack()) == header
    assert wrap(PDU, header)[:28] == header.pack()


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_iser_02_padding_is_optional(padding: int) -> None:
    """Row 2: LIO pads, tgt and the kernel's initiator do not."""
    assert unwrap(wrap(PDU) + bytes(padding)) == PDU


def test_iser_02_truncation_at_each_length() -> None:
    """Row 2."""
    whole = wrap(PDU)
    assert len(whole) == 90
    for length in range(len(whole)):
        with pytest.raises(PeerError, match=f"{length} bytes"):
            unwrap(whole[:length])
    with pytest.raises(PeerError, match="94 bytes"):
        unwrap(whole + bytes(4))


def test_additional_headers_are_skipped() -> None:
    header = PDU.header[:4] + b"\x02" + PDU.header[5:]
    assert unwrap(IserHeader().pack() + header + b"ahs.ahs." + PDU.data) == Pdu(header, PDU.data)


@pytest.mark.parametrize("nibble", [0, 2, 3, 15])
def test_iser_03_other_headers_are_refused(nibble: int) -> None:
    """Row 3: Hello and HelloReply among them."""
    with pytest.raises(PeerError, match="Hello" if nibble in (2, 3) else "opcode"):
        unwrap(bytes((nibble << 4,)) + wrap(PDU)[1:])


@pytest.mark.parametrize(
    ("data", "flags"),
    [
        (b"", CmFlags(False, False)),
        (bytes(196), CmFlags(True, True)),
        (b"\xc0\0\0\0", CmFlags(False, False)),
        (b"\x80\0\0\0", CmFlags(False, True)),
        (b"\x40", CmFlags(True, False)),
        (b"\xc0" + bytes(195), CmFlags(False, False)),
    ],
)
def test_iser_05_private_data(data: bytes, flags: CmFlags) -> None:
    """Row 5."""
    assert read_private_data(data) == flags
    assert PRIVATE_DATA.hex() == "c0000000"


@pytest.mark.parametrize(("code", "done"), [(0, True), (1, True), (2, False), (3, False), (9, False)])
def test_logout_responses(code: int, done: bool) -> None:
    got = read_logout(LogoutResponse(1, code, time2wait_s=2, time2retain_s=20).pdu().header)
    assert (got.done, got.time2wait_s, got.time2retain_s) == (done, 2, 20)
    assert got.words


def test_a_captured_logout() -> None:
    (entry,) = [e for e in capture("discovery-noauth-logout-libiscsi") if e.raw[0] == 0x26]
    assert read_logout(entry.pdu.header).done
    with pytest.raises(PeerError, match="0x20"):
        read_logout(NopIn(1).pdu().header)
