# SPDX-License-Identifier: Apache-2.0
"""rdmactl.netlink.iscsi_adapter and iscsi_iface: requests byte by byte, answers from bytes, secrets out of traces."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import LocalError
from rdmactl.netlink import iscsi, iscsi_adapter
from rdmactl.netlink.iscsi import UEVENT, Uevent
from rdmactl.netlink.iscsi_adapter import ChapEntry, IfaceParam
from rdmactl.netlink.iscsi_iface import iface_params
from rdmactl.netlink.message import build, split

HANDLE = 0xFFFFFFFFC06BE120
CHAP = struct.Struct("=H2xi256s256sB3x")
SECRET = "adapter-secret-1"
ENTRY = ChapEntry(5, True, "user", SECRET)


def parts(request: bytes) -> tuple[int, int, bytes, bytes]:
    """(type, handle, u, payload)"""
    (message,) = split(request)
    kind, iferror, handle, u, r = UEVENT.unpack_from(message.payload)
    assert (message.type, iferror, r) == (kind, 0, bytes(16))
    return kind, handle, u, message.payload[UEVENT.size :]


@pytest.mark.parametrize(
    ("request_", "number", "u", "payload"),
    [
        (iscsi_adapter.get_chap(HANDLE, 3, 64, 7), 33, struct.pack("=IIH14x", 3, 64, 7), b""),
        (iscsi_adapter.delete_chap(HANDLE, 3, 7), 34, struct.pack("=IH18x", 3, 7), b""),
        (iscsi_adapter.new_flashnode(HANDLE, 3, "ipv6"), 36, struct.pack("=II16x", 3, 5), b"ipv6\0"),
        (
            iscsi_adapter.flashnode_request(Uevent.LOGOUT_FLASHNODE, HANDLE, 3, 9),
            39,
            struct.pack("=II16x", 3, 9),
            b"",
        ),
        (iscsi_adapter.get_host_stats(HANDLE, 3), 42, struct.pack("=I20x", 3), b""),
        (
            iscsi_adapter.ping(HANDLE, 3, 1, 77, 64, bytes(16), ipv6=False),
            32,
            struct.pack("=IIIII4x", 3, 1, 1, 64, 77),
            bytes(16),
        ),
        (
            iscsi_adapter.set_flashnode(HANDLE, 3, 9, [(32, b"\xbc\x0c")]),
            35,
            struct.pack("=III12x", 3, 9, 1),
            bytes.fromhex("0c002000 02000000 2000 bc0c"),
        ),
        (
            iscsi_adapter.set_iface_params(HANDLE, 3, 1, ipv6=True, params=[IfaceParam(12, 2, b"\x02")]),
            31,
            struct.pack("=II16x", 3, 1),
            bytes.fromhex("11000c00 01000000 01000000 0c00 02 02 02 000000"),
        ),
    ],
)
def test_requests(request_: bytes, number: int, u: bytes, payload: bytes) -> None:
    assert parts(request_) == (number, HANDLE, u, payload)


def test_a_line_of_the_chap_table_is_five_attributes() -> None:
    kind, _, u, payload = parts(iscsi_adapter.set_chap(HANDLE, 3, ENTRY))
    assert (kind, u[:4]) == (41, struct.pack("=I", 3))
    assert payload.startswith(bytes.fromhex("0c000000 02000000 0000 0500"))
    assert SECRET.encode() in payload


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.booleans(), st.text("abc", max_size=255)), max_size=5))
def test_the_chap_table_from_bytes(lines: list[tuple[int, bool, str]]) -> None:
    payload = b"".join(CHAP.pack(number, kind, name.encode(), b"xyz!", 3) for number, kind, name in lines)
    u = struct.pack("=IIH", 3, len(lines), 0)
    assert iscsi_adapter.parse_chap(u, payload) == [ChapEntry(*line, "xyz") for line in lines]


@pytest.mark.parametrize("length", [0, 1, 523])
def test_a_table_cut_short(length: int) -> None:
    assert iscsi_adapter.parse_chap(struct.pack("=IIH", 3, 1, 0), bytes(length)) is None


@given(st.binary(max_size=200))
def test_whatever_comes_is_an_answer_or_not(payload: bytes) -> None:
    (received,) = split(build(0, payload, flags=0))
    iscsi_adapter.ping_status(received, 3, 1)
    iscsi_adapter.answer_of(received, Uevent.GET_CHAP, 3)


def test_the_outcome_of_a_ping_names_its_number() -> None:
    def event(host: int, status: int, number: int) -> bytes:
        return build(0, UEVENT.pack(111, 0, 0, b"", struct.pack("=IIII", host, status, number, 0)), flags=0)

    (ours,) = split(event(3, 9, 77))
    assert iscsi_adapter.ping_status(ours, 3, 77) == 9
    assert iscsi_adapter.ping_status(ours, 3, 78) is None
    assert iscsi_adapter.ping_status(ours, 4, 77) is None


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(ENTRY)
    answer = build(0, UEVENT.pack(33, 0, 0, b"", b"") + CHAP.pack(1, 0, b"u", SECRET.encode(), 16), flags=0)
    flash = iscsi_adapter.set_flashnode(HANDLE, 3, 9, [(54, SECRET.encode() + b"\0")])
    for datagram in (iscsi_adapter.set_chap(HANDLE, 3, ENTRY), answer, flash):
        assert SECRET.encode() in datagram
        redacted = iscsi.redacted(datagram)
        assert SECRET.encode() not in redacted
        assert len(redacted) == len(datagram)


# Settings of an interface


@pytest.mark.parametrize(
    ("key", "text", "ipv6", "expected"),
    [
        ("ipaddress", "192.0.2.1", False, IfaceParam(1, 2, bytes((192, 0, 2, 1)))),
        ("ipaddress", "2001:db8::1", True, IfaceParam(7, 2, bytes.fromhex("20010db8" + "00" * 11 + "01"))),
        ("bootproto", "dhcp", False, IfaceParam(4, 2, b"\x02")),
        ("ipv6_autocfg", "nd", True, IfaceParam(9, 2, b"\x02")),
        ("linklocal_autocfg", "auto", True, IfaceParam(10, 2, b"\x01")),
        ("router_autocfg", "manual", True, IfaceParam(11, 2, b"\x02")),
        ("tcp_nagle", "disable", False, IfaceParam(25, 2, b"\x01")),
        ("mtu", "9000", False, IfaceParam(19, 2, struct.pack("=H", 9000))),
        ("vlan_id", "12", False, IfaceParam(16, 2, struct.pack("=H", 12))),
        ("initiatorname", "iqn.x", False, IfaceParam(17, 5, b"iqn.x\0")),
        ("flow_label", "70000", True, IfaceParam(47, 2, struct.pack("=I", 70000))),
    ],
)
def test_a_setting(key: str, text: str, ipv6: bool, expected: IfaceParam) -> None:
    assert iface_params({f"iface.{key}": text}, ipv6=ipv6) == [expected]


@pytest.mark.parametrize(
    ("key", "text"), [("mtu", "0"), ("gateway", ""), ("ipv6_router", "fe80::1"), ("vlan_id", "5000")]
)
def test_what_is_not_sent(key: str, text: str) -> None:
    assert iface_params({f"iface.{key}": text}, ipv6=False) == []


@pytest.mark.parametrize(("key", "text"), [("gateway", "gw.example"), ("gateway", "fe80::1"), ("mtu", "99999")])
def test_what_cannot_be_sent(key: str, text: str) -> None:
    with pytest.raises(LocalError, match=f"iface.{key}"):
        iface_params({f"iface.{key}": text}, ipv6=False)
