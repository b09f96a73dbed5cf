# SPDX-License-Identifier: Apache-2.0
"""key=value text. Numbers are rows of the checklist on text and login negotiation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi.text import MAX_TEXT_BYTES, TextCollector, build_text, chunks, parse_number, parse_text

PAIRS = [("InitiatorName", "iqn.2005-03.org.example:i"), ("SessionType", "Normal"), ("X-org.example.k", "")]


@pytest.mark.parametrize(
    ("data", "pairs"),
    [
        (b"A=1\0B=2", [("A", "1"), ("B", "2")]),  # row 24
        (b"\0\0\0", []),  # row 25
        (b"", []),
        (b"\0A=1\0\0\0B=2\0\0", [("A", "1"), ("B", "2")]),
        (b"A=b=c\0", [("A", "b=c")]),
        (b"A=\0", [("A", "")]),
        (b"TargetAlias=\xff\xfe\0", [("TargetAlias", "\ufffd\ufffd")]),  # row 26
        (b"K" * 63 + b"=1\0", [("K" * 63, "1")]),
        (b"A=" + b"v" * 255 + b"\0", [("A", "v" * 255)]),
        (b"CHAP_C=0x" + b"a" * 2048 + b"\0", [("CHAP_C", "0x" + "a" * 2048)]),
    ],
)
def test_024_025_026_readable_texts(data: bytes, pairs: list[tuple[str, str]]) -> None:
    assert parse_text(data) == pairs


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"K" * 64 + b"=1\0", "malformed key .* 64 bytes"),  # row 21
        (b"1Key=1\0", "malformed key"),
        (b"key=1\0", "malformed key"),
        (b"=1\0", "malformed key"),
        (b"K\xc3\xa4=1\0", "malformed key"),
        (b"A=" + b"v" * 256 + b"\0", "value of A has 256 bytes"),  # row 22
        (b"A=1\0nonsense\0", 'malformed text: "nonsense"'),  # row 23
        (b"A=1\0A=1\0", "duplicate key A"),  # row 27
    ],
)
def test_021_022_023_027_unreadable_texts_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(PeerError, match=reason):
        parse_text(data)


def test_truncation_at_each_length_gives_a_prefix_or_an_error() -> None:
    whole = build_text(PAIRS)
    for length in range(len(whole)):
        try:
            pairs = parse_text(whole[:length])
        except PeerError:
            continue
        for (key, value), (whole_key, whole_value) in zip(pairs, PAIRS, strict=False):
            assert key == whole_key
            assert whole_value.startswith(value)


_values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Za-z0-9.+@_-]{0,62}", fullmatch=True), _values))
def test_build_and_parse_are_inverse(pairs: dict[str, str]) -> None:
    assert dict(parse_text(build_text(pairs.items()))) == pairs


@given(st.binary(max_size=200), st.integers(1, 50))
def test_chunks_join_to_the_text(text: bytes, limit: int) -> None:
    parts = chunks(text, limit)
    collector = TextCollector()
    for part in parts:
        assert len(part) <= limit
        collector.add(part)
    assert collector.take() == text
    assert collector.take() == b""


def test_a_collector_is_bounded() -> None:
    collector = TextCollector()
    collector.add(bytes(MAX_TEXT_BYTES))
    with pytest.raises(PeerError, match=f"{MAX_TEXT_BYTES}"):
        collector.add(b"x")


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("8192", 8192), ("0x2000", 8192), ("0XfF", 255), ("00010", 10)]
    + [(bad, None) for bad in ("", "-5", "+5", " 5", "5 ", "0x", "abc", "1e3", "\u0665", "9" * 21, "Irrelevant")],
)
def test_numbers(text: str, number: int | None) -> None:
    assert parse_number(text) == number
