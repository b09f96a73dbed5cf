# SPDX-License-Identifier: Apache-2.0
"""Socket addresses: the kernel's bytes and people's text."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SOCKADDR_STORAGE_BYTES, SockAddr, address_text

PORTS = st.integers(0, 0xFFFF)
V4 = st.builds(SockAddr, st.just(AF_INET), PORTS, st.binary(min_size=4, max_size=4), st.just(0))
V6 = st.builds(SockAddr, st.just(AF_INET6), PORTS, st.binary(min_size=16, max_size=16), st.integers(0, 0xFFFFFFFF))
ADDRESSES = V4 | V6


def test_constants_are_the_systems() -> None:
    assert (AF_INET, AF_INET6) == (socket.AF_INET, socket.AF_INET6)


def test_ipv4_bytes_as_captured() -> None:
    storage = bytes.fromhex("02001c060a070001") + bytes(120)
    assert SockAddr.unpack(storage) == SockAddr(AF_INET, 7174, bytes([10, 7, 0, 1]))
    assert SockAddr(AF_INET, 7174, bytes([10, 7, 0, 1])).pack() == storage


def test_ipv6_keeps_the_scope_and_drops_the_flow_label() -> None:
    address = bytes.fromhex("fe80000000000000" + "0000000000000001")
    storage = bytes.fromhex("0a001c06" + "00012345") + address + (3).to_bytes(4, "little") + bytes(100)
    parsed = SockAddr.unpack(storage)
    assert parsed == SockAddr(AF_INET6, 7174, address, 3)
    assert parsed.pack()[4:8] == bytes(4)
    assert str(parsed) == "[fe80::1%3]:7174"
    assert parsed.is_link_local


@pytest.mark.parametrize("family", [0, 1, 16, 99])
def test_other_families_are_none(family: int) -> None:
    assert SockAddr.unpack(family.to_bytes(2, "little") + bytes(126)) is None


def test_bytes_behind_the_storage_are_ignored() -> None:
    address = SockAddr(AF_INET, 1, bytes(4))
    assert SockAddr.unpack(address.pack() + b"\xff" * 12) == address


@given(ADDRESSES)
def test_pack_and_unpack_are_inverse(address: SockAddr) -> None:
    assert len(address.pack()) == SOCKADDR_STORAGE_BYTES
    assert SockAddr.unpack(address.pack()) == address


@given(ADDRESSES)
def test_text_and_parse_are_inverse(address: SockAddr) -> None:
    assert SockAddr.parse(str(address)) == address


@given(st.binary(min_size=16, max_size=16).filter(lambda a: not a.startswith(bytes(10))))
def test_ipv6_text_is_inet_ntops(address: bytes) -> None:
    assert address_text(address) == socket.inet_ntop(socket.AF_INET6, address)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("[::]:1", "[::]:1"), ("0.0.0.0:65535", "0.0.0.0:65535"), ("[1:0:0:2::]:9", "[1:0:0:2::]:9")],
)
def test_text_examples(text: str, canonical: str) -> None:
    assert str(SockAddr.parse(text)) == canonical


def test_v4_mapped_text_is_dotted() -> None:
    assert str(SockAddr.parse("10.0.0.1:5").as_v4_mapped()) == "[::ffff:10.0.0.1]:5"


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:70000", "::1:80", "[10.0.0.1]:80", "host:1"])
def test_bad_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        SockAddr.parse(text)


def test_wildcards() -> None:
    assert SockAddr.parse("0.0.0.0:7").is_wildcard
    assert SockAddr.parse("[::]:7").is_wildcard
    assert not SockAddr.parse("10.0.0.1:7").is_wildcard
