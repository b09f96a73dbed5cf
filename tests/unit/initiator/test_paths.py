# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.paths: which messages are a reason to try again, and how often it is told."""

from __future__ import annotations

import pytest

from rdmactl.initiator.paths import Paths
from rdmactl.netlink.message import Message
from rdmactl.netlink.ports import Received
from rdmactl.netlink.route import RTM_DELADDR, RTM_NEWADDR


def device(action: str, subsystem: str = "infiniband") -> Message:
    text = f"{action}@/devices/virtual/{subsystem}/rxe0\0ACTION={action}\0SUBSYSTEM={subsystem}\0"
    return Message(0, 0, 0, 0, text.encode())


def told(*messages: Message) -> list[str]:
    """What is told after one batch of messages."""
    said: list[str] = []
    paths = Paths(said.append)
    for message in messages:
        paths.received(Received(message, 0, 1), 0.0)
    paths.drained(0.0)
    paths.drained(0.0)
    return said


def test_a_batch_is_told_once() -> None:
    assert told(device("add"), Message(RTM_NEWADDR, 0, 0, 0, bytes(8)), device("add")) == ["RDMA device rxe0 has come"]


@pytest.mark.parametrize(
    "message",
    [
        device("remove"),
        device("change"),
        device("add", "block"),
        Message(RTM_DELADDR, 0, 0, 0, bytes(8)),
        Message(0, 0, 0, 0, b"\xff\0SUBSYSTEM=infiniband\0"),
        Message(0, 0, 0, 0, b""),
    ],
)
def test_what_goes_and_what_is_something_else(message: Message) -> None:
    assert told(message) == []


def test_what_was_lost_may_have_been_a_reason() -> None:
    said: list[str] = []
    paths = Paths(said.append)
    paths.overrun(0.0)
    paths.drained(0.0)
    assert said == ["network changes"]
