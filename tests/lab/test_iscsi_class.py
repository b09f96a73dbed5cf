# SPDX-License-Identifier: Apache-2.0
"""The real kernel answers as the fake one does (tests/fake/test_iscsi_class.py runs the same cases there)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from rdmactl.initiator.modules import transport_ready
from rdmactl.netlink.ports import ChannelSpec
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.netlink.sockets import KernelSocket, open_socket
from tests import iscsi_class_contract as contract
from tests.lab import initiator_world as lab

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


class RealPlace:
    root = "/sys"

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def door(self, spec: ChannelSpec) -> KernelSocket:
        return open_socket(spec)

    def handle(self, transport: str) -> int:
        return transport_ready(transport)

    def iser_portal(self) -> SockAddr:
        return SockAddr.parse(str(lab.ISER))

    def iser_refused(self) -> SockAddr:
        return SockAddr.parse("10.9.0.1:3999")

    def iser_silent(self) -> SockAddr:
        return SockAddr.parse("10.9.0.77:3260")

    def listener(self) -> socket.socket:
        return self._listener


@pytest.fixture(scope="module", autouse=True)
def target() -> None:
    lab.set_up()


@pytest.fixture
def kernel() -> Iterator[contract.Class]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        k = contract.Class(RealPlace(listener))
        yield k
        k.close()
        k = contract.Class(RealPlace(listener))  # nothing of the case may hold the class up
        k.close()


@pytest.mark.parametrize("case", [*contract.CASES, *contract.REAL_ONLY], ids=lambda case: case.__name__)
def test_case(kernel: contract.Class, case: Callable[[contract.Class], None]) -> None:
    case(kernel)
