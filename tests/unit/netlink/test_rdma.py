# SPDX-License-Identifier: Apache-2.0
"""The messages of RDMA_NL_IWCM: captured bytes both ways, truncation at each length, what must be there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import KernelError
from rdmactl.netlink import rdma
from rdmactl.netlink.message import attribute, attributes, split
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake import iwcm_messages as say


def addr(text: str) -> SockAddr:
    return SockAddr.parse(text)


def payload(datagram: bytes) -> bytes:
    (message,) = split(datagram)
    return message.payload


LOCAL, REMOTE, MAPPED = addr("10.7.0.1:7174"), addr("10.7.0.2:7200"), addr("10.7.0.1:54919")

PARSERS: dict[str, tuple[bytes, Callable[[bytes], object], object]] = {
    "REG_PID": (
        payload(say.reg_pid(22, "veth0", "siw0")),
        rdma.parse_reg_pid,
        rdma.RegPid("veth0", "siw0", "iWarpPortMapperUser"),
    ),
    "ADD_MAPPING": (
        payload(say.add_mapping(3, LOCAL, 1)),
        lambda data: rdma.parse_add_mapping(data, 4),
        (LOCAL, 1),
    ),
    "ADD_MAPPING version 3": (
        payload(say.add_mapping(3, LOCAL, None)),
        lambda data: rdma.parse_add_mapping(data, 3),
        (LOCAL, 0),
    ),
    "QUERY_MAPPING": (
        payload(say.query_mapping(3, LOCAL, REMOTE, 1)),
        lambda data: rdma.parse_query_mapping(data, 4),
        rdma.QueryMapping(LOCAL, REMOTE, 1),
    ),
    "QUERY_MAPPING version 3": (
        payload(say.query_mapping(3, LOCAL, REMOTE, None)),
        lambda data: rdma.parse_query_mapping(data, 3),
        rdma.QueryMapping(LOCAL, REMOTE, 0),
    ),
    "REMOVE_MAPPING": (payload(say.remove_mapping(3, LOCAL)), rdma.parse_remove_mapping, LOCAL),
    "MAPINFO": (
        payload(say.mapinfo(LOCAL, MAPPED, 0)),
        lambda data: rdma.parse_mapinfo(data, 4),
        rdma.MapInfo(LOCAL, MAPPED, 0),
    ),
    "MAPINFO version 3": (
        payload(say.mapinfo(LOCAL, MAPPED, None)),
        lambda data: rdma.parse_mapinfo(data, 3),
        rdma.MapInfo(LOCAL, MAPPED, 0),
    ),
    "MAPINFO_NUM": (payload(say.mapinfo_num(3, 5)), rdma.parse_mapinfo_num, 5),
    "HELLO": (payload(say.hello(3, 4)), rdma.parse_hello, 4),
}


@pytest.mark.parametrize("name", PARSERS)
def test_parse(name: str) -> None:
    data, parse, expected = PARSERS[name]
    assert parse(data) == expected


@pytest.mark.parametrize("name", PARSERS)
def test_truncation_at_each_length(name: str) -> None:
    """Cut anywhere, a message is refused, except for padding behind its last attribute."""
    data, parse, expected = PARSERS[name]
    needed = 6 if name == "HELLO" else len(data)
    for length in range(len(data)):
        if length >= needed:
            assert parse(data[:length]) == expected
        else:
            with pytest.raises(KernelError):
                parse(data[:length])


def test_kernel_bytes_as_captured() -> None:
    captured = bytes.fromhex(
        "7400000000080100020000000000000008000100010000001400020076657468300000000000000000000000"
        "24000300736977300000000000000000000000000000000000000000000000000000000024000400"
        "6957617270506f72744d61707065725573657200000000000000000000000000"
    )
    assert say.reg_pid(2, "veth0", "siw0", echo=1) == captured
    assert say.hello(1, 4) == bytes.fromhex("180000000808010001000000000000000600010004000000")
    assert say.add_mapping(3, LOCAL, 0, echo=2)[:40].hex() == (
        "a40000000108010003000000000000000800010002000000" + "8400020002001c060a07000100000000"
    )
    assert say.mapinfo(LOCAL, LOCAL, 1)[:16].hex() == "20010000060802000000000000000000"


def test_our_bytes_as_captured() -> None:
    name = "6957617270506f72744d6170706572557365720" + "0"
    assert rdma.hello(4).hex() == "0600010004000000"
    assert rdma.mapinfo_request(4).hex() == "18000100" + name + "0600020004000000"
    assert rdma.mapinfo_num_ack(21, 5, 5).hex() == "080001001500000008000200050000000800030005000000"
    assert rdma.reg_pid_reply(2, "siw0", 4).hex() == (
        "0800010002000000" + "090002007369773000000000" + "18000300" + name + "0600040004000000" + "0600050000000000"
    )
    assert rdma.handle_err(101, 12).hex() == "080001006500000006000200" + "0c000000"
    answer = rdma.add_mapping_reply(3, LOCAL, MAPPED)
    assert len(answer) == 296 - 16
    assert answer.hex() == (
        "0800010003000000"
        + ("8400020002001c060a070001" + "00" * 120)
        + ("840003000200d6870a070001" + "00" * 120)
        + "0600040000000000"
    )


def test_a_query_answer_has_six_attributes_of_which_four_are_addresses() -> None:
    answer = rdma.query_mapping_reply(9, LOCAL, REMOTE, MAPPED, addr("10.7.0.2:40000"), 16)
    assert len(answer) == 560 - 16
    found = dict(attributes(answer))
    assert [SockAddr.unpack(found[i]) for i in (2, 3, 4, 5)] == [LOCAL, REMOTE, MAPPED, addr("10.7.0.2:40000")]
    assert (found[1], found[6]) == (b"\x09\0\0\0", b"\x10\0")
    assert rdma.seq_of(answer) == 9


def test_remote_info_is_an_answer_to_nothing() -> None:
    assert rdma.remote_info(LOCAL, REMOTE, MAPPED, REMOTE) == rdma.query_mapping_reply(0, LOCAL, REMOTE, MAPPED, REMOTE)


def test_types() -> None:
    assert rdma.iwcm_type(rdma.RDMA_NL_IWPM_HELLO) == 0x0808
    assert (rdma.client_of(0x0808), rdma.op_of(0x0808)) == (2, 8)


def test_handle_err_0_cannot_be_built() -> None:
    with pytest.raises(AssertionError):
        rdma.handle_err(1, 0)


@given(seq=st.integers(0, 2**32 - 1), flags=st.integers(0, 2**32 - 1), storage=st.binary(min_size=128, max_size=128))
def test_the_usual_shape_of_a_request_is_read_as_any_other(seq: int, flags: int, storage: bytes) -> None:
    """An attribute more, which nobody knows, sends the same request the long way."""
    for family in (b"\x02\x00", b"\x0a\x00", storage[:2]):
        seq_part, address = attribute(1, seq.to_bytes(4, "little")), attribute(2, family + storage[2:])
        add = seq_part + address + attribute(3, flags.to_bytes(4, "little"))
        remove = seq_part + address
        unknown = attribute(77, b"")
        assert outcome(rdma.parse_add_mapping, add, 4) == outcome(rdma.parse_add_mapping, add + unknown, 4)
        assert outcome(rdma.parse_remove_mapping, remove) == outcome(rdma.parse_remove_mapping, remove + unknown)


def outcome(parse: Callable[..., object], *arguments: object) -> object:
    try:
        return parse(*arguments)
    except KernelError as error:
        return str(error)
