# SPDX-License-Identifier: Apache-2.0
"""Headers: built and read, against captures, cut short."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi.pdu import (
    ALL_ONES,
    Async,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    Message,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    TextRequest,
    TextResponse,
    data_bytes,
    decode,
    next_serial,
)

from .support import Captured, capture, capture_names

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, ALL_ONES)
lun = st.binary(min_size=8, max_size=8)
isid = st.binary(min_size=6, max_size=6)
stage = st.integers(0, 3)
flag = st.booleans()

MESSAGES = st.one_of(
    st.builds(LoginRequest, isid, u32, stage, stage, flag, flag, u16, u16, u32, u32, u8, u8),
    st.builds(LoginResponse, isid, u32, stage, stage, flag, flag, u16, u32, u32, u32, u16, u8, u8),
    st.builds(TextRequest, u32, u32, u32, u32, lun, flag, flag, flag),
    st.builds(TextResponse, u32, u32, u32, u32, u32, lun, flag, flag),
    st.builds(NopOut, u32, u32, u32, u32, lun, flag),
    st.builds(NopIn, u32, u32, u32, u32, u32, lun),
    st.builds(LogoutRequest, u32, st.integers(0, 127), u16, u32, u32, flag),
    st.builds(LogoutResponse, u32, u8, u32, u32, u32, u16, u16),
    st.builds(Async, u8, u16, u16, u16, u32, u32, u32, u8, lun),
    st.builds(Reject, u8, u32, u32, u32, u32),
)


@given(MESSAGES, st.binary(max_size=70))
def test_pack_and_decode_are_inverse(message: Message, data: bytes) -> None:
    pdu = message.pdu() if isinstance(message, (LogoutRequest, LogoutResponse)) else message.pdu(data)
    assert decode(pdu.header) == message
    assert data_bytes(pdu.header) == len(pdu.data)


@pytest.mark.parametrize("name", capture_names())
def test_captured_headers_are_rebuilt_to_the_bit(name: str) -> None:
    for entry in capture(name):
        pdu = entry.pdu
        if pdu.header[0] & 0x3F in (0x01, 0x21, 0x25):  # SCSI PDUs, which the kernel speaks
            continue
        message = decode(pdu.header)
        bare = isinstance(message, (LogoutRequest, LogoutResponse))
        rebuilt = message.pdu() if bare else message.pdu(pdu.data)  # type: ignore[call-arg]
        if rebuilt.header != pdu.header:
            assert _only_odd_flags(entry, rebuilt), (name, entry.raw[:48].hex(), rebuilt.header.hex())


def _only_odd_flags(entry: Captured, rebuilt: Pdu) -> bool:
    """Real peers leave the F bit of NOPs and of some rejects clear; everything else must agree."""
    theirs, ours = bytearray(entry.raw[:48]), bytearray(rebuilt.header)
    theirs[1], ours[1] = theirs[1] | 0x80, ours[1] | 0x80
    return theirs == ours


@pytest.mark.parametrize("length", [*range(48), 49])
def test_a_header_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(PeerError, match=f"{length} bytes"):
        decode(bytes(length))


@pytest.mark.parametrize("opcode", [0xA3, 0xFF, 0x01, 0x21, 0x1C, 0x3E])
def test_opcodes_without_a_place_here_are_refused(opcode: int) -> None:
    with pytest.raises(PeerError, match=f"unexpected opcode {opcode:#04x}"):
        decode(bytes((opcode,)) + bytes(47))


def test_serial_numbers_wrap() -> None:
    assert (next_serial(0), next_serial(ALL_ONES)) == (1, 0)


def test_reject_reasons_have_words() -> None:
    (rejected,) = [entry.pdu for entry in capture("text-reject-bad-ttt-tgtd") if entry.raw[0] == 0x3F][:1]
    message = decode(rejected.header)
    assert isinstance(message, Reject)
    assert message.words == "invalid PDU field"
    assert len(rejected.data) == 48
    assert Reject(0x77).words == "reason 0x77"
