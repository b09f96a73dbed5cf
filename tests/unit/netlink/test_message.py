# SPDX-License-Identifier: Apache-2.0
"""Netlink framing. The captured bytes are an answer of a 6.12 kernel to a port mapper's HELLO, and its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink.message import (
    HEADER,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    align4,
    attribute,
    attributes,
    build,
    reply_code,
    split,
)

HELLO = bytes.fromhex("180000000808010001000000000000000600010004000000")
DONE = bytes.fromhex("140000000300020000000000d700000000000000")
ERROR = bytes.fromhex("240000000200000000000000d4000000eaffffff30000000060c010000000000d4000000")

messages = st.builds(
    Message,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=40),
)


def built(message: Message) -> bytes:
    return build(message.type, message.payload, flags=message.flags, seq=message.seq, pid=message.pid)


def test_captured_messages() -> None:
    hello, done = split(HELLO + DONE)
    assert hello == Message(0x0808, 1, 1, 0, bytes.fromhex("0600010004000000"))
    assert done == Message(NLMSG_DONE, 2, 0, 215, bytes(4))
    assert list(attributes(hello.payload)) == [(1, b"\x04\x00")]


def test_codes() -> None:
    (error,) = split(ERROR)
    assert error.type == NLMSG_ERROR
    assert reply_code(error) == -22
    assert reply_code(split(DONE)[0]) == 0
    assert reply_code(split(HELLO)[0]) is None
    assert reply_code(Message(NLMSG_DONE, 0, 0, 0, b"")) is None


@pytest.mark.parametrize("length", range(len(HELLO + DONE)))
def test_a_cut_datagram_keeps_its_whole_messages(length: int) -> None:
    found = split((HELLO + DONE)[:length])
    assert found == split(HELLO + DONE)[: len(found)]
    assert len(found) == (length >= len(HELLO))


@pytest.mark.parametrize("length", [0, HEADER.size - 1, len(HELLO) + 1, 0xFFFFFFFF])
def test_a_length_that_cannot_be_ends_the_list(length: int) -> None:
    assert split(length.to_bytes(4, "little") + HELLO[4:]) == []


@given(st.lists(messages, max_size=5))
def test_split_is_the_inverse_of_build(items: list[Message]) -> None:
    padded = [built(item) + bytes(-len(built(item)) & 3) for item in items]
    assert split(b"".join(padded)) == items


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=20)), max_size=5))
def test_attributes_is_the_inverse_of_attribute(items: list[tuple[int, bytes]]) -> None:
    payload = b"".join(attribute(type, value) for type, value in items)
    assert len(payload) == align4(len(payload))
    assert list(attributes(payload)) == items
    assert list(attributes(b"head" + payload, 4)) == items


def test_the_flags_of_an_attribute_type_are_not_part_of_it() -> None:
    assert list(attributes(attribute(0x8000 | 0x4000 | 5, b""))) == [(5, b"")]


@pytest.mark.parametrize("length", range(8))
def test_a_cut_attribute_is_left_out(length: int) -> None:
    assert list(attributes(attribute(1, b"abcd")[:length])) == []
