# SPDX-License-Identifier: Apache-2.0
"""Records as logins and discoveries."""

from __future__ import annotations

import pytest

from rdmactl.errors import LocalError
from rdmactl.initiator.api import SessionSettings
from rdmactl.iscsi.portal import Portal
from rdmactl.records.model import Key, Record, Secret, defaults, node_table, wire_node, wire_record
from rdmactl.records.requests import discovery_request, login_request

NODE = {"node.name": "iqn.a", "node.conn[0].address": "192.0.2.1", "node.conn[0].port": "3261", "node.tpgt": "1"}
SECRET = "suite-secret-4711"


def test_a_record_of_defaults_is_a_login_of_defaults() -> None:
    request = login_request(NODE, "iqn.host")
    assert (request.target, request.portal, request.tpgt) == ("iqn.a", Portal("192.0.2.1", 3261), 1)
    assert (request.iface_name, request.transport, request.initiator_name) == ("default", "tcp", "iqn.host")
    # Records that open-iscsi makes without its configuration file: these two differ from the distributed one.
    assert request.settings == SessionSettings(login_timeout_s=30.0, initial_login_retry_max=4)


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("node.session.cmds_max", "64", "cmds_max", 64),
        ("node.session.scan", "manual", "scan", "manual"),
        ("node.session.timeo.replacement_timeout", "0", "replacement_timeout_s", 0),
        ("node.session.iscsi.FastAbort", "No", "fast_abort", False),
        ("node.session.iscsi.InitialR2T", "Yes", "initial_r2t", True),
        ("node.session.iscsi.ERL", "2", "error_recovery_level", 2),
        ("node.session.iscsi.DefaultTime2Wait", "9", "default_time2wait_s", 9),
        ("node.conn[0].timeo.login_timeout", "7", "login_timeout_s", 7.0),
        ("node.conn[0].timeo.noop_out_timeout", "8", "noop_out_timeout_s", 8),
        ("node.conn[0].iscsi.HeaderDigest", "CRC32C,None", "header_digest", "CRC32C,None"),
        ("node.conn[0].tcp.type_of_service", "3", "type_of_service", 3),
    ],
)
def test_each_setting_arrives(key: str, text: str, field: str, value: object) -> None:
    assert getattr(login_request(NODE | {key: text}, "iqn.host").settings, field) == value


def another(key: Key) -> str:
    """A value that a key may have and does not have by default."""
    if key.kind in ("enum", "list"):
        return next(word for word in key.words if word != key.default)
    return f"{int(key.default) + 1}" if key.kind != "string" else "iser" if "transport" in key.name else "another"


@pytest.mark.parametrize("iface", ["default", "ipv6-iface"])
def test_what_travels_is_what_differs_and_means_the_same(iface: str) -> None:
    table = node_table(iface)
    usual: Record = defaults(table) | NODE | {"iface.iscsi_ifacename": iface}
    assert set(wire_node(usual)) <= {*NODE, "iface.iscsi_ifacename"}
    for key in table.keys:
        if key.name in NODE or key.name == "iface.iscsi_ifacename":
            continue
        text = another(key)
        record = usual | {key.name: Secret(text) if key.secret else text}
        assert wire_node(record)[key.name] == text
        assert login_request(wire_node(record), "iqn.host") == login_request(wire_record(record), "iqn.host"), key.name


def test_the_interface_arrives() -> None:
    iface = {
        "iface.iscsi_ifacename": "ifa",
        "iface.net_ifacename": "eth1",
        "iface.ipaddress": "192.0.2.9",
        "iface.hwaddress": "00:11:22:33:44:55",
        "iface.initiatorname": "iqn.other",
        "iface.transport_name": "iser",
    }
    request = login_request(NODE | iface, "iqn.host")
    assert (request.iface_name, request.netdev, request.source_address) == ("ifa", "eth1", "192.0.2.9")
    assert (request.hw_address, request.initiator_name, request.transport) == (
        "00:11:22:33:44:55",
        "iqn.other",
        "iser",
    )


def test_chap_counts_whatever_authmethod_says_and_its_secret_does_not_show() -> None:
    chap = {
        "node.session.auth.username": "u",
        "node.session.auth.password": SECRET,
        "node.session.auth.chap_algs": "SHA256,MD5",
    }
    request = login_request(NODE | chap, "iqn.host")
    assert (request.settings.chap.username, request.settings.chap.password) == ("u", SECRET)
    assert request.settings.chap.algorithms == ("SHA256", "MD5")
    assert SECRET not in repr(request)


@pytest.mark.parametrize(
    "wrong",
    [
        {"node.name": ""},
        {"node.conn[0].address": ""},
        {"node.conn[0].port": "0"},
        {"node.conn[0].port": "99999"},
        {"node.startup": "whenever"},
    ],
)
def test_a_record_that_cannot_be_used_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(LocalError):
        login_request(NODE | wrong, "iqn.host")


def test_without_an_initiator_name_nothing_works() -> None:
    with pytest.raises(LocalError, match="no initiator name"):
        login_request(NODE, "")


def test_a_discovery() -> None:
    record = {
        "discovery.sendtargets.address": "2001:db8::1",
        "discovery.sendtargets.auth.username": "u",
        "discovery.sendtargets.auth.password": SECRET,
        "discovery.sendtargets.reopen_max": "1",
        "discovery.sendtargets.timeo.login_timeout": "2",
        "iface.net_ifacename": "eth1",
    }
    request = discovery_request(record, "iqn.host")
    assert (request.portal, request.netdev) == (Portal("2001:db8::1", 3260), "eth1")
    assert (request.reopen_max, request.login_timeout_s, request.total_timeout_s) == (1, 2.0, 36.0)
    assert request.chap.password == SECRET
    assert SECRET not in repr(request)


def test_a_discovery_over_iser() -> None:
    record = {"discovery.sendtargets.address": "a", "iface.transport_name": "iser", "iface.ipaddress": "10.9.0.1"}
    request = discovery_request(record, "iqn.host")
    assert (request.transport, request.source_address) == ("iser", "10.9.0.1")


def test_a_discovery_over_a_transport_we_cannot_use() -> None:
    with pytest.raises(LocalError, match="over bnx2i is not supported"):
        discovery_request({"discovery.sendtargets.address": "a", "iface.transport_name": "bnx2i"}, "iqn.host")
