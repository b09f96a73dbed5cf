# SPDX-License-Identifier: Apache-2.0
"""The UDP message: captured bytes, every length, and parse as the inverse of build."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iwpm.wire import ACCEPT, ACK, REJECT, REQUEST, WireMessage, parse
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake.mapper_bench import addr

HANDLE = 0x1122334455667788
REQ = bytes.fromhex(
    "0400a0281c0613891122334455667788"
    "0a070002000000000000000000000000"
    "0a070001000000000000000000000000"
    "0a070002000000000000000000000000"
)
REQ6 = bytes.fromhex(
    "0600ba461c23ba461122334455667788"
    "fd000007000000000000000000000001"
    "fd000007000000000000000000000002"
    "fd000007000000000000000000000001"
)


def messages() -> st.SearchStrategy[WireMessage]:
    def of_family(family: int, size: int) -> st.SearchStrategy[WireMessage]:
        address = st.builds(
            SockAddr, st.just(family), st.integers(0, 0xFFFF), st.binary(min_size=size, max_size=size), st.just(0)
        )
        handle, byte = st.integers(0, 2**64 - 1), st.integers(0, 255)
        asked = st.builds(WireMessage, st.just(REQUEST), handle, address, address, address, st.integers(0, 3), byte)
        answers = st.sampled_from([ACCEPT, ACK, REJECT])
        answered = st.builds(WireMessage, answers, handle, address, address, st.none(), st.integers(0, 3), byte)
        return asked | answered

    return of_family(2, 4) | of_family(10, 16)


def test_request_as_captured() -> None:
    message = parse(REQ)
    assert message == WireMessage(REQUEST, HANDLE, addr("10.7.0.2:5001"), addr("10.7.0.1:7174"), addr("10.7.0.2:41000"))
    assert message.build() == REQ


def test_answers_as_captured() -> None:
    accept = parse(REQ).accept(addr("10.7.0.1:54919"))
    assert accept.build() == bytes.fromhex("14000000d6871389") + REQ[8:48]
    assert accept.ack().build() == b"\x24" + accept.build()[1:]
    assert parse(REQ).reject().build() == b"\x34\0\0\0" + REQ[4:48]


def test_ipv6_as_captured() -> None:
    assert parse(REQ6).build() == REQ6
    assert parse(REQ6).mapped_cp == addr("[fd00:7::1]:47686")


@given(messages())
def test_parse_and_build_are_inverse(message: WireMessage) -> None:
    assert parse(message.build()) == message


def test_every_length() -> None:
    for length in range(len(REQ) + 10):
        data = (REQ + bytes(10))[:length]
        if length in (48, 64):
            assert parse(data).handle == HANDLE
        else:
            with pytest.raises(PeerError, match=f"not {length}"):
                parse(data)


def test_an_answer_of_64_bytes_is_taken() -> None:
    """rdma-core's accepts it, so somebody may send it."""
    accept = parse(REQ).accept(addr("10.7.0.1:54919"))
    assert parse(accept.build() + b"\xff" * 16) == accept
