# SPDX-License-Identifier: Apache-2.0
"""Keys, defaults and conversions of records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.records.model import (
    Key,
    Secret,
    Table,
    ValueProblem,
    convert,
    defaults,
    discovery_table,
    iface_table,
    node_table,
    plain,
    shown,
)

TABLES = [
    node_table("default"),
    node_table("eth-ipv6"),
    iface_table("default"),
    iface_table("eth-ipv6"),
    discovery_table("sendtargets"),
    discovery_table("isns"),
]
KEYS = sorted({key for table in TABLES for key in table.keys})


def key(name: str) -> Key:
    found = node_table("default").find(name)
    assert found is not None
    return found


@pytest.mark.parametrize("table", TABLES)
def test_each_default_is_a_value_of_its_key(table: Table) -> None:
    record = defaults(table)
    for each in table.keys:
        assert convert(each, plain(record[each.name])) == (record[each.name], [])


def test_how_many_keys_there_are() -> None:
    shown_keys = [len([each for each in table.keys if not each.hidden]) for table in TABLES]
    assert shown_keys == [107, 105, 55, 53, 17, 6]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"),
        ("  7 ", "7"),
        ("abc", "0"),
        ("", "0"),
        ("2.5", "2"),
        ("64k", "64"),
        ("0x10", "0"),
        ("-1", "-1"),
        ("+3", "3"),
        ("2147483648", "-2147483648"),
        ("99999999999", "1215752191"),
        ("9" * 60, "-1"),
        ("-" + "9" * 60, "-1"),
        ("--5", "0"),
    ],
)
def test_numbers_are_read_as_strtoul_does(text: str, value: str) -> None:
    assert convert(key("node.session.queue_depth"), text) == (value, [])


@pytest.mark.parametrize(
    ("name", "value"), [("iface.tos", "159"), ("iface.vlan_id", "34463"), ("iface.flow_label", "-1")]
)
def test_unsigned_numbers_are_cut_to_their_width(name: str, value: str) -> None:
    found = iface_table("x-ipv6").find(name) or iface_table("x").find(name)
    assert found is not None
    if value == "-1":
        assert convert(found, "-1")[0] == str((1 << 32) - 1)
    else:
        assert convert(found, "99999")[0] == value


def test_words_are_exact() -> None:
    assert convert(key("node.startup"), " automatic ") == ("automatic", [])
    for text in ("Automatic", "", "automatic # x", "auto"):
        with pytest.raises(ValueProblem):
            convert(key("node.startup"), text)


def test_lists_drop_what_they_do_not_know_and_say_so() -> None:
    chap_algs = key("node.session.auth.chap_algs")
    assert convert(chap_algs, "SHA1 MD5") == ("SHA1,MD5", [])
    assert convert(chap_algs, "SHA256,FOO,MD5,SHA256") == (
        "SHA256,MD5",
        [
            "Ignoring unknown value 'FOO' for 'node.session.auth.chap_algs'",
            "Ignoring repeated value 'SHA256' for 'node.session.auth.chap_algs'",
        ],
    )
    assert convert(chap_algs, "FOO")[0] == "MD5"


def test_strings_are_trimmed_and_cut_and_otherwise_kept() -> None:
    username = key("node.session.auth.username")
    assert convert(username, '  "a b" # c ') == ('"a b" # c', [])
    assert convert(username, "x" * 300)[0] == "x" * 255
    assert convert(username, "é" * 200)[0] == "é" * 127


@pytest.mark.parametrize("text", ["a\nnode.startup = automatic", "a\x00b", "a\x1b[2J"])
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueProblem):
        convert(key("node.session.auth.username"), text)


def test_an_old_name_finds_its_key() -> None:
    assert key("node.transport_name").name == "iface.transport_name"
    assert node_table("default").find("node.conn[1].startup") is None


def test_what_the_screen_shows() -> None:
    password = key("node.session.auth.password")
    assert shown(password, Secret("")) == "<empty>"
    assert shown(password, Secret("geheim")) == "********"
    assert shown(password, Secret("geheim"), reveal=True) == "geheim"
    assert shown(key("node.session.cmds_max"), "99999") == "34463"


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("geheim")
    assert "geheim" not in f"{secret} {secret!r} {[secret]} {(secret,)}"
    assert secret == Secret("geheim")
    assert secret != Secret("anders")
    assert not Secret("")


@given(st.sampled_from(KEYS), st.text())
def test_converting_twice_changes_nothing(each: Key, text: str) -> None:
    try:
        value, _ = convert(each, text)
    except ValueProblem:
        return
    assert convert(each, plain(value)) == (value, [])
    assert "\n" not in plain(value)
