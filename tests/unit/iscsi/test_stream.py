# SPDX-License-Identifier: Apache-2.0
"""Framing in a TCP stream. Numbers are rows of the checklist on transport and framing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi.pdu import Pdu, TextResponse
from rdmactl.iscsi.stream import StreamDecoder, encode

from .support import capture, capture_names, pieces

ANSWER = TextResponse(1).pdu(b"TargetName=iqn.2005-03.org.example:t1\0")


@pytest.mark.parametrize("name", capture_names())
@pytest.mark.parametrize("step", [1, 48, None])
def test_017_captures_survive_any_segmentation(name: str, step: int | None) -> None:
    """Row 17. Digests, where a capture has them, are checked on the way in and rebuilt on the way out."""
    captured = capture(name)
    if step == 1:
        captured = captured[:12]
    for to_target in (True, False):
        decoder = StreamDecoder(0xFFFFFF)
        for entry in captured:
            if entry.to_target is to_target:
                decoder.header_digest, decoder.data_digest = entry.header_digest, entry.data_digest
                pdus = [pdu for piece in pieces(entry.raw, step) for pdu in decoder.receive(piece)]
                assert [encode(p, header_digest=entry.header_digest, data_digest=entry.data_digest) for p in pdus] == [
                    entry.raw
                ]
                assert decoder.partial() is None


def test_017_two_pdus_in_one_segment() -> None:
    """Row 17."""
    decoder = StreamDecoder()
    assert list(decoder.receive(encode(ANSWER) * 2)) == [ANSWER, ANSWER]


@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("data_digest", [False, True])
def test_004_005_006_009_013_truncation_at_each_length_waits_and_knows_what_is_missing(
    header_digest: bool, data_digest: bool
) -> None:
    """Rows 4-6, 9, 13."""
    whole = encode(ANSWER, header_digest=header_digest, data_digest=data_digest)
    for length in range(1, len(whole)):
        decoder = StreamDecoder()
        decoder.header_digest, decoder.data_digest = header_digest, data_digest
        assert list(decoder.receive(whole[:length])) == []
        assert decoder.partial() == (length, 48 if length < 48 else len(whole))
        assert list(decoder.receive(whole[length:])) == [ANSWER]


@pytest.mark.parametrize(("length", "limit"), [(40000, 32768), (0xFFFFFF, 32768), (8193, 8192)])
def test_010_011_a_long_data_segment_is_refused_by_its_header(length: int, limit: int) -> None:
    """Rows 10 and 11: nothing of it is awaited."""
    decoder = StreamDecoder(limit)
    header = ANSWER.header[:5] + length.to_bytes(3, "big") + ANSWER.header[8:]
    with pytest.raises(PeerError, match=f"{length} bytes exceeds our limit {limit}"):
        list(decoder.receive(header))


def test_012_additional_headers_are_skipped() -> None:
    """Row 12; row 13 is the truncation above."""
    header = ANSWER.header[:4] + b"\x0a" + ANSWER.header[5:]
    raw = header + b"\xee" * 40 + encode(ANSWER)[48:]
    decoder = StreamDecoder()
    assert list(decoder.receive(raw + encode(ANSWER))) == [Pdu(header, ANSWER.data), ANSWER]


def test_the_digest_of_a_header_covers_additional_headers() -> None:
    header = ANSWER.header[:4] + b"\x01" + ANSWER.header[5:]
    raw = encode(Pdu(header + b"abcd", b""), header_digest=True) + encode(ANSWER)[48:]
    decoder = StreamDecoder()
    decoder.header_digest = True
    assert list(decoder.receive(raw)) == [Pdu(header, ANSWER.data)]


@pytest.mark.parametrize("first", [0xA3, 0x1D, 0x3E])
def test_015_an_opcode_that_is_none_means_a_stream_out_of_step(first: int) -> None:
    """Row 15."""
    with pytest.raises(PeerError, match=f"unexpected opcode {first:#04x}"):
        list(StreamDecoder().receive(bytes((first,)) + ANSWER.header[1:]))


def test_016_padding_is_not_looked_at() -> None:
    """Row 16."""
    raw = encode(ANSWER)
    padding = -len(ANSWER.data) & 3
    assert padding
    assert list(StreamDecoder().receive(raw[:-padding] + b"\xff" * padding)) == [ANSWER]


@pytest.mark.parametrize(("at", "what"), [(10, "header"), (50, "header"), (60, "data"), (-1, "data")])
def test_018_019_a_wrong_digest_ends_the_stream(at: int, what: str) -> None:
    """Rows 18 and 19."""
    raw = bytearray(encode(ANSWER, header_digest=True, data_digest=True))
    raw[at] ^= 1
    decoder = StreamDecoder()
    decoder.header_digest = decoder.data_digest = True
    with pytest.raises(PeerError, match=f"the {what} digest is wrong") as caught:
        list(decoder.receive(bytes(raw)))
    assert caught.value.code == "iscsi-digest"
    with pytest.raises(PeerError):  # the stream is lost, also for whole PDUs
        list(decoder.receive(encode(ANSWER, header_digest=True, data_digest=True)))


def test_020_a_digest_nobody_agreed_to_is_called_that() -> None:
    """Row 20."""
    with pytest.raises(PeerError) as caught:
        list(StreamDecoder().receive(encode(ANSWER, header_digest=True) * 2))
    assert "out of step" in (caught.value.hint or "")


def test_digests_begin_between_two_pdus_of_one_segment() -> None:
    decoder = StreamDecoder()
    stream = decoder.receive(encode(ANSWER) + encode(ANSWER, header_digest=True, data_digest=True))
    assert next(stream) == ANSWER
    decoder.header_digest = decoder.data_digest = True
    assert list(stream) == [ANSWER]


@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans(), st.booleans(), st.integers(1, 60))
def test_encode_and_receive_are_inverse(parts: list[bytes], header: bool, data: bool, step: int) -> None:
    pdus = [TextResponse(number).pdu(part) for number, part in enumerate(parts)]
    raw = b"".join(encode(pdu, header_digest=header, data_digest=data) for pdu in pdus)
    decoder = StreamDecoder()
    decoder.header_digest, decoder.data_digest = header, data
    assert [pdu for piece in pieces(raw, step) for pdu in decoder.receive(piece)] == pdus
