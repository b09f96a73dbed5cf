# SPDX-License-Identifier: Apache-2.0
"""The three readers of portals, and names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.names import check_name, name_problem, printable
from rdmactl.iscsi.portal import UNKNOWN_TPGT, Portal, TargetAddress, parse_target_address, target_address
from rdmactl.iscsi.portal_option import parse_option


@pytest.mark.parametrize(
    ("text", "address", "port", "tpgt"),
    [
        ("192.0.2.10", "192.0.2.10", 3260, -1),
        ("192.0.2.30,7", "192.0.2.30", 3260, 7),
        ("[2001:db8::10]:3260,1", "2001:db8::10", 3260, 1),
        ("[2001:db8::6],3", "2001:db8::6", 3260, 3),
        ("2001:db8::11,2", "2001:db8::11", 3260, 2),
        ("san.example:3261,4", "san.example", 3261, 4),
        ("storage1,1", "storage1", 3260, 1),
        ("storage1:3261", "storage1", 3261, -1),
        ("storage1", "storage1", 3260, -1),
        ("192.0.2.40:abc,1", "192.0.2.40", 0, 1),
        ("192.0.2.40:99999,1", "192.0.2.40", 99999, 1),
        ("192.0.2.40:3260,xx", "192.0.2.40", 3260, 0),
        ("192.0.2.40:3260,70000", "192.0.2.40", 3260, 70000),
        ("[::ffff:192.0.2.1]:3261", "::ffff:192.0.2.1", 3261, -1),
    ],
)
def test_option_is_read_as_iscsiadm_reads_it(text: str, address: str, port: int, tpgt: int) -> None:
    assert parse_option(text) == (address, port, tpgt)


@pytest.mark.parametrize("text", ["::ffff:192.0.2.1", "", ":3260,1", "[2001:db8::1:3260", "[]:3260"])
def test_option_without_an_address_counts_as_not_given(text: str) -> None:
    assert parse_option(text) is None


def test_option_takes_another_default_port() -> None:
    assert parse_option("192.0.2.1", 3205) == ("192.0.2.1", 3205, UNKNOWN_TPGT)


@given(st.text(max_size=60))
def test_option_never_raises(text: str) -> None:
    answer = parse_option(text)
    assert answer is None or answer.address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:3260,1", TargetAddress(Portal("127.0.0.1"), 1)),
        ("127.0.0.1", TargetAddress(Portal("127.0.0.1"))),
        ("[fd00::1],1", TargetAddress(Portal("fd00::1"), 1)),  # row 89, all four
        ("[fd00::1]", TargetAddress(Portal("fd00::1"))),
        ("fd00::1,1", TargetAddress(Portal("fd00::1"), 1, "is an IPv6 address without brackets")),
        ("[fd00::1]:3261,2", TargetAddress(Portal("fd00::1", 3261), 2)),
        ("san.example:3261,65535", TargetAddress(Portal("san.example", 3261), 65535)),
        ("no-such-host.example,1", TargetAddress(Portal("no-such-host.example"), 1)),
        ("127.0.0.1:3260,", TargetAddress(Portal("127.0.0.1"), UNKNOWN_TPGT)),
        (
            "[fe80::1%eth0]:3260,1",
            TargetAddress(Portal("fe80::1"), 1, "has a zone, which means nothing outside the target; it is left out"),
        ),
    ],
)
def test_target_address(text: str, expected: TargetAddress) -> None:
    assert parse_target_address(text) == expected


BAD_ADDRESSES = [
    *("[fd00::1", ":3260,1", "", "[]:3260,1", "[127.0.0.1]:3260", "[fd00::1]x,1"),  # row 90
    *("h:0,1", "h:70000,1", "h:-1,1", "h:32x,1", "h:,1"),  # row 92
    *("h:1,-5", "h:1,99999", "h:1,abc"),
    *("a b:3260", "../x:3260", "h\x1b[2J:1", "h\n", "-rf", "a" * 256, "\u0661:1", "h:\u0663"),
]


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_bad_target_address_is_refused_with_an_escaped_reason(text: str) -> None:
    with pytest.raises(PeerError) as caught:
        parse_target_address(text)
    assert caught.value.message.startswith('target address "')
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["", "[::1", "h:0", "h:99999", "a b", "h:1,1", "::1:x"])
def test_portal_parse_refuses_with_an_example(text: str) -> None:
    with pytest.raises(LocalError) as caught:
        Portal.parse(text)
    assert "192.0.2.10:3260" in (caught.value.hint or "")


_hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.just("fe80::1%eth0.5"),
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", fullmatch=True),
)


@given(_hosts, st.integers(1, 65535))
def test_str_and_parse_are_inverse(host: str, port: int) -> None:
    portal = Portal(host, port)
    assert Portal.parse(str(portal)) == portal
    assert parse_option(str(portal)) == (*portal, UNKNOWN_TPGT)


@given(_hosts, st.integers(1, 65535), st.integers(-1, 65535))
def test_target_addresses_are_read_as_written(host: str, port: int, tpgt: int) -> None:
    """By who distrusts them, and by front ends, which know who wrote them."""
    text = target_address(Portal(host, port), tpgt)
    assert parse_option(text) == (host, port, tpgt)
    if "%" not in host:  # a zone means nothing elsewhere
        assert parse_target_address(text) == TargetAddress(Portal(host, port), tpgt)


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2005-03.org.example:disk_1",
        "iqn.1993-08.org.debian:01:ABC",
        "iqn.2005-03.org.example:\u00e4",
        "eui.0123456789abcdef",
        "naa.5000000000000001",
        "naa." + "0123456789ABCDEF" * 2,
        "iqn." + "x" * 219,
    ],
)
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(  # rows 93-95
    ("name", "reason"),
    [
        ("", "empty"),
        ("iqn." + "x" * 220, "224 bytes"),
        ("iqn." + "\u00e4" * 110, "224 bytes"),
        ("disk1", "begin"),
        ("iqn.", "begin"),
        ("IQN.2005-03.org.example", "begin"),
        ("eui.012345678", "16"),
        ("naa.500000000000000g", "16 or 32"),
        ("iqn.../../x", "directory"),
        ("iqn.2005-03.org.example:a/b", "directory"),
        ("iqn.2005-03.org.example:a\nb", "control"),
        ("iqn.2005-03.org.example:\x1b[2J", "control"),
        ("iqn.2005-03.org.example:\u202eb", "control"),
        ("iqn.2005-03.org.example:\ud800", "control"),
        ("iqn.2005-03.org.example:a b", "space"),
    ],
)
def test_bad_names_say_why(name: str, reason: str) -> None:
    assert reason in (name_problem(name) or "")
    with pytest.raises(LocalError, match=reason) as caught:
        check_name(name, "target name")
    assert caught.value.message.isprintable()


@given(st.one_of(st.text(), st.binary()))
def test_printable_is_one_short_printable_line(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 1300
