# SPDX-License-Identifier: Apache-2.0
"""Claims on messages."""

from __future__ import annotations

import pytest

from rdmactl.errors import LocalError
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.message import NETLINK_ISCSI, NETLINK_RDMA, NETLINK_ROUTE
from rdmactl.netlink.ports import ChannelSpec
from rdmactl.netlink.registry import Registry

IWPM = ChannelSpec(NETLINK_RDMA, groups=(2,), clients=(2,))


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (ChannelSpec(NETLINK_RDMA, clients=(2,)), "client 2 is already served by iwpm"),
        (ChannelSpec(NETLINK_RDMA, clients=(5, 2)), "client 2 is already served by iwpm"),
        (ChannelSpec(NETLINK_RDMA, groups=(2,), clients=(5,)), "group 2 is already served by iwpm"),
        (ChannelSpec(NETLINK_RDMA), "every client is already served by iwpm"),
    ],
)
def test_what_is_taken_is_refused(other: ChannelSpec, text: str) -> None:
    registry = Registry()
    registry.claim("iwpm", IWPM)
    with pytest.raises(LocalError, match=text):
        registry.claim("other", other)


def test_every_client_leaves_nothing_for_others() -> None:
    registry = Registry()
    registry.claim("all", ChannelSpec(NETLINK_RDMA))
    with pytest.raises(LocalError, match="client 2 is already served by all"):
        registry.claim("iwpm", IWPM)


@pytest.mark.parametrize(
    "other",
    [
        ChannelSpec(NETLINK_RDMA, clients=(5,)),
        ChannelSpec(NETLINK_ISCSI, groups=(2,)),
        ChannelSpec(NETLINK_ROUTE),
    ],
)
def test_what_is_free_is_given(other: ChannelSpec) -> None:
    registry = Registry()
    registry.claim("iwpm", IWPM)
    assert registry.claim("other", other).owner == "other"


def test_a_refused_claim_takes_nothing() -> None:
    registry = Registry()
    registry.claim("iwpm", IWPM)
    with pytest.raises(LocalError):
        registry.claim("other", ChannelSpec(NETLINK_RDMA, groups=(3,), clients=(2,)))
    registry.claim("third", ChannelSpec(NETLINK_RDMA, groups=(3,), clients=(5,)))


def test_a_late_release_does_not_free_the_successors_claim() -> None:
    registry = Registry()
    first = registry.claim("iwpm", IWPM)
    registry.release(first)
    registry.claim("iwpm", IWPM)
    registry.release(first)
    with pytest.raises(LocalError):
        registry.claim("other", IWPM)


def test_counters_add_up_field_by_field() -> None:
    total = Counters(messages=1, overruns=2)
    total.add(Counters(messages=10, late=3))
    assert total == Counters(messages=11, overruns=2, late=3)
    assert total.as_dict()["messages"] == 11


def test_events_of_the_host_are_for_everybody() -> None:
    registry = Registry()
    for owner in ("iwpm", "initiator"):
        registry.claim(owner, ChannelSpec(NETLINK_ROUTE, groups=(1, 5)))
