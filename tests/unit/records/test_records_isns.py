# SPDX-License-Identifier: Apache-2.0
"""Which records an iSNS discovery claims: with a discovery record of its own, and without one, as iscsiadm has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmactl.errors import LocalError
from rdmactl.iscsi.portal import Portal
from rdmactl.records import operations
from rdmactl.records.operations import Changes, Found, Source
from rdmactl.records.requests import isns_request
from rdmactl.records.store import NodeId, Store

SERVER = ("isns", "192.0.2.5", 3205)
OTHER = ("isns", "192.0.2.6", 3205)
ALL = Changes(add=True, overwrite=True, delete=True)
A, B, C = (Found(f"iqn.2005-03.org.example:{name}", "192.0.2.10", 3260, 1) for name in "abc")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path)) as store:
        yield store


def node(found: Found) -> NodeId:
    return NodeId(*found, "default")


def discover(store: Store, discovery: tuple[str, str, int], *found: Found) -> Source:
    """What `discovery -t isns` does with an answer."""
    source = operations.source_of_discovery(store, *discovery)
    iface = operations.iface_record(store, "default")
    assert iface is not None
    with store.transaction():
        operations.add_found(store, found, iface, source, ALL, [])
        operations.delete_stale(store, [node(portal) for portal in found], source, lambda _: False)
    return source


def test_without_a_discovery_record_nobody_claims_what_was_found(store: Store) -> None:
    discover(store, SERVER, A)
    record = store.node(node(A))
    assert store.source(node(A)) == "isns"
    assert record is not None
    assert (record["node.discovery_address"], record["node.discovery_port"]) == ("192.0.2.5", "3205")


def test_what_one_server_does_not_list_any_more_is_deleted_and_nothing_of_another_one(store: Store) -> None:
    discover(store, SERVER, A, B)
    discover(store, OTHER, C)
    discover(store, SERVER, A)
    assert store.nodes() == [node(A), node(C)]


def test_a_discovery_record_takes_over_what_was_found_without_it(store: Store) -> None:
    discover(store, SERVER, A, B)
    discover(store, OTHER, C)
    operations.new_discovery(store, *SERVER, [])
    discover(store, SERVER, A)
    assert store.source(node(A)) == "isns 192.0.2.5,3205"
    assert store.nodes() == [node(A), node(C)]
    operations.delete_discovery(store, *SERVER)
    assert store.nodes() == [node(C)]


def test_a_record_as_a_query() -> None:
    record = {"discovery.type": "isns", "discovery.sendtargets.address": "192.0.2.5"}
    record["discovery.sendtargets.port"] = "3205"
    request = isns_request({**record, "iface.initiatorname": "iqn.2005-03.org.example:i"}, "iqn.2005-03.org.example:h")
    assert (request.server, request.initiator_name) == (Portal("192.0.2.5", 3205), "iqn.2005-03.org.example:i")
    assert isns_request(record, "iqn.2005-03.org.example:h").initiator_name == "iqn.2005-03.org.example:h"
    with pytest.raises(LocalError):
        isns_request({**record, "discovery.sendtargets.port": "0"}, "iqn.2005-03.org.example:h")
