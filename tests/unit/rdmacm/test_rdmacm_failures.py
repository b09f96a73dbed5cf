# SPDX-License-Identifier: Apache-2.0
"""Each number from below becomes a sentence that names the peer, says what happened, and what to do."""

from __future__ import annotations

import errno

import pytest

from rdmactl.errors import DeadlineExceeded, KernelError, PeerError, RdmactlError, Unavailable
from rdmactl.rdmacm import failures
from rdmactl.rdmacm.states import CmEvent

PEER = "192.0.2.7:3260"


@pytest.mark.parametrize(
    ("operation", "number", "kind", "code", "words"),
    [
        ("rdma_resolve_addr", errno.ENETUNREACH, PeerError, "no-route", "no route"),
        ("rdma_resolve_addr", errno.EADDRNOTAVAIL, PeerError, "no-route", "source address"),
        ("rdma_resolve_route", errno.ENODEV, Unavailable, "unavailable", "over RDMA"),
        ("rdma_connect", errno.ECONNREFUSED, PeerError, "refused", "nothing listens there"),
        ("rdma_connect", errno.ETIMEDOUT, PeerError, "unreachable", "does not answer"),
        ("ibv_reg_mr", errno.ENOMEM, KernelError, "kernel", "not enough memory"),
        ("ibv_create_cq", errno.EMFILE, KernelError, "kernel", "EMFILE (24)"),
    ],
)
def test_calls(operation: str, number: int, kind: type[RdmactlError], code: str, words: str) -> None:
    error = failures.call_failed(PEER, operation, number)
    assert type(error) is kind
    assert error.code == code
    assert PEER in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("event", "status", "code", "words"),
    [
        (CmEvent.REJECTED, 8, "refused", "nothing listens there for RDMA (reject reason 8)"),
        (CmEvent.REJECTED, 28, "refused", "the service itself refused"),
        (CmEvent.REJECTED, 10, "stale", "old connection"),
        (CmEvent.REJECTED, 26, "refused", "a parameter of the path"),
        (CmEvent.REJECTED, 77, "refused", "reason 77"),
        (CmEvent.REJECTED, -errno.ECONNREFUSED, "refused", "nothing listens there"),
        (CmEvent.REJECTED, -errno.ECONNRESET, "refused", "ended the RDMA connection"),
        (CmEvent.ADDR_ERROR, -errno.ETIMEDOUT, "unreachable", "ARP"),
        (CmEvent.ADDR_ERROR, -errno.ENODEV, "unavailable", "over RDMA"),
        (CmEvent.ADDR_ERROR, -errno.EHOSTUNREACH, "no-route", "no route to host"),
        (CmEvent.ROUTE_ERROR, -errno.ETIMEDOUT, "no-route", "path record"),
        (CmEvent.UNREACHABLE, -errno.ETIMEDOUT, "unreachable", "does not answer the RDMA connection request"),
        (CmEvent.DISCONNECTED, 0, "disconnected", "closed the RDMA connection"),
        (CmEvent.DEVICE_REMOVAL, 0, "unavailable", "was removed"),
        (CmEvent.ADDR_CHANGE, 0, "peer", "moved to another interface"),
        (CmEvent.CONNECT_ERROR, -errno.EPROTO, "peer", "CONNECT_ERROR: -71"),
    ],
)
def test_events(event: CmEvent, status: int, code: str, words: str) -> None:
    error = failures.event_failed(PEER, event, status)
    assert error.code == code
    assert PEER in error.message
    assert words in error.message


@pytest.mark.parametrize("status", [1, 2, 4, 5, 9, 10, 11, 12, 13, 21])
def test_completions_keep_their_number(status: int) -> None:
    error = failures.completion_failed(PEER, status, 4096)
    assert error.code == "disconnected"
    assert f"completion status {status}" in error.message
    assert ("4096 bytes" in error.message) is (status in (1, 2))


def test_no_device_is_not_a_kernel_error() -> None:
    assert isinstance(failures.no_device(errno.ENODEV), Unavailable)
    assert isinstance(failures.no_device(errno.ENOENT), Unavailable)
    refused = failures.no_device(errno.EACCES)
    assert isinstance(refused, KernelError)
    assert "/dev/infiniband/rdma_cm" in (refused.hint or "")


def test_deadlines_name_the_stage() -> None:
    error = failures.deadline_passed(PEER, "login", 2.5)
    assert isinstance(error, DeadlineExceeded)
    assert error.message == f"{PEER} did not answer within 2.5 s (stage: login)"
    assert "not be an iSER target" in (error.hint or "")
