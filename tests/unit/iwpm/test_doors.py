# SPDX-License-Identifier: Apache-2.0
"""Who may reach the port mapper: settings, limits for each peer, the addresses of RDMA devices."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl import settings
from rdmactl.errors import LocalError
from rdmactl.iwpm.addresses import Address, Link, parse_address, parse_link, rdma_addresses
from rdmactl.iwpm.limits import BURST_S, SOURCES, PeerLimits
from rdmactl.iwpm.settings import FIELDS, MapperSettings, parse
from rdmactl.netlink.message import Message, attribute
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr

# Settings.


def test_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "rdmactl.toml").write_text('[iwpm]\nlisten = "rdma"\npeers = ["10.9.0.0/24", "fd09::1"]\nother = 1\n')
    fields = {key: type for key, (type, _) in FIELDS.items()}
    known, unknown = settings.section(settings.read(str(tmp_path)), "iwpm", fields)
    assert parse(known) == MapperSettings("rdma", (ip_network("10.9.0.0/24"), ip_network("fd09::1")), 5000)
    assert len(unknown) == 1
    assert "other" in unknown[0]


def test_the_defaults_need_no_file(tmp_path: Path) -> None:
    assert parse({}) == MapperSettings()
    assert set(FIELDS) == set(MapperSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({"listen": "some"}, "'some'"),
        ({"peers": ["10.9.0.0/33"]}, "10.9.0.0/33"),
        ({"peers": [5]}, "5"),
        ({"peer_rate": 0}, "peer_rate"),
    ],
)
def test_a_wrong_value_is_named(known: dict[str, object], text: str) -> None:
    with pytest.raises(LocalError, match=text):
        parse(known)


def test_the_manual_page_has_every_key() -> None:
    page = (Path(__file__).parents[3] / "man/rdmactl.toml.5").read_text()
    for key in FIELDS:
        assert f".It Cm {key}\n" in page


# Limits.


def test_a_peer_gets_its_burst_and_then_its_rate() -> None:
    limits = PeerLimits((), 100)
    assert sum(limits.admit("10.9.0.2", 5.0) for _ in range(1000)) == pytest.approx(100 * BURST_S, abs=1)
    assert limits.admit("10.9.0.3", 5.0)
    admitted = sum(limits.admit("10.9.0.2", 5.0 + tick / 1000) for tick in range(10_000))
    assert admitted == pytest.approx(1000, abs=2)
    assert limits.admit("10.9.0.2", 1000.0)


def test_only_allowed_peers_are_heard() -> None:
    limits = PeerLimits((ip_network("10.9.0.0/24"), ip_network("fe80::/10")), 100)
    assert limits.admit("10.9.0.7", 0.0)
    assert limits.admit("fe80::1", 0.0)
    for _ in range(3):
        assert not limits.admit("10.9.1.7", 0.0)
        assert not limits.admit("fd09::1", 0.0)


def test_many_sources_cost_bounded_memory() -> None:
    limits = PeerLimits((), 10)
    for number in range(3 * SOURCES):
        limits.admit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0)
    assert len(limits._spent) <= SOURCES


# Addresses.


def link(ifindex: int, name: str, *more: bytes) -> Message:
    payload = struct.pack("=BxHiII", 0, 1, ifindex, 1, 0) + attribute(3, name.encode() + b"\0") + b"".join(more)
    return Message(16, 0, 0, 0, payload)


def test_links_are_read() -> None:
    below, master = attribute(5, struct.pack("=i", 3)), attribute(10, struct.pack("=i", 9))
    vlan = attribute(18, attribute(1, b"vlan\0"))
    assert parse_link(link(7, "eth0")) == Link(7, "eth0", 0, 0)
    assert parse_link(link(7, "eth0.5", below, vlan)) == Link(7, "eth0.5", 3, 0)
    assert parse_link(link(7, "veth0", below, attribute(18, attribute(1, b"veth\0")))) == Link(7, "veth0", 0, 0)
    assert parse_link(link(7, "eth1", master)) == Link(7, "eth1", 0, 9)
    assert parse_link(link(7, "eth1")._replace(type=17)) is None


def test_addresses_are_read() -> None:
    head = struct.pack("=BBBBI", 2, 24, 0, 0, 4)
    other, own = attribute(1, bytes([10, 0, 0, 2])), attribute(2, bytes([10, 0, 0, 1]))
    assert parse_address(Message(20, 0, 0, 0, head + other + own)) == Address(AF_INET, 4, bytes([10, 0, 0, 1]))
    assert parse_address(Message(20, 0, 0, 0, head + attribute(1, bytes(3)))) is None
    head6 = struct.pack("=BBBBI", 10, 64, 0, 0, 4)
    assert parse_address(Message(20, 0, 0, 0, head6 + attribute(1, bytes(16)))) == Address(AF_INET6, 4, bytes(16))
    assert parse_address(Message(20, 0, 0, 0, head6 + attribute(1, bytes(4)))) is None


@given(st.integers(0, 30), st.binary(max_size=200))
def test_any_payload_is_read(type: int, payload: bytes) -> None:
    parse_link(Message(type, 0, 0, 0, payload))
    parse_address(Message(type, 0, 0, 0, payload))


def test_addresses_of_a_device_are_those_of_its_interfaces() -> None:
    links = {
        index: Link(index, name, below, master)
        for index, name, below, master in [
            (1, "lo", 0, 0), (2, "eth0", 0, 5), (3, "eth0.7", 2, 0), (4, "eth1", 0, 0), (5, "bond0", 0, 0),
            (6, "b.9", 5, 0),
        ]
    }  # fmt: skip
    addresses = [Address(AF_INET, index, bytes([10, 0, 0, index])) for index in links]
    addresses.append(Address(AF_INET6, 2, b"\xfe\x80" + bytes(14)))
    found = rdma_addresses({"irdma0": ("eth0",)}, links, addresses)
    v4 = {SockAddr(AF_INET, 0, bytes([10, 0, 0, index])) for index in (2, 3, 5, 6)}
    assert found.addresses == v4 | {SockAddr(AF_INET6, 0, b"\xfe\x80" + bytes(14), 2)}
    assert found.hidden == ()
    assert rdma_addresses({}, links, addresses).addresses == frozenset()
    assert rdma_addresses({"siw0": ("",), "siw1": ("eth1",)}, links, addresses).hidden == ("siw0",)
