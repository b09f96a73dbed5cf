# SPDX-License-Identifier: Apache-2.0
"""The fake kernel answers as the real one does (tests/lab/test_iscsi_class.py runs the same cases there)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdmactl.netlink.ports import ChannelSpec
from rdmactl.netlink.sockaddr import SockAddr
from tests import iscsi_class_contract as contract
from tests.fake.iscsi_sysfs import FakeSysfs
from tests.fake.kernel import FakeSocket
from tests.fake.scsi_transport_iscsi import HANDLES, FakeIscsiClass, FakePortal

pytestmark = pytest.mark.fake

PORTAL = SockAddr.parse("10.9.0.1:3260")
REFUSED = SockAddr.parse("10.9.0.1:3999")
SILENT = SockAddr.parse("10.9.0.77:3260")


class SilentTarget:
    """Takes everything and answers nothing."""

    closed = False

    def receive(self, pdu: object) -> list[object]:
        return []


class FakePlace:
    def __init__(self, kernel: FakeIscsiClass, listener: socket.socket) -> None:
        self._kernel = kernel
        self._listener = listener
        kernel.portals[("10.9.0.1", 3260)] = FakePortal(SilentTarget)
        kernel.portals[("10.9.0.77", 3260)] = FakePortal(SilentTarget, mode="silent")
        kernel.portals[listener.getsockname()] = FakePortal(SilentTarget)

    def door(self, spec: ChannelSpec) -> FakeSocket:
        return self._kernel.open(spec)

    def handle(self, transport: str) -> int:
        return HANDLES[transport]

    def iser_portal(self) -> SockAddr:
        return PORTAL

    def iser_refused(self) -> SockAddr:
        return REFUSED

    def iser_silent(self) -> SockAddr:
        return SILENT

    def listener(self) -> socket.socket:
        return self._listener


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[contract.Class]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        k = contract.Class(FakePlace(FakeIscsiClass(FakeSysfs(tmp_path)), listener))
        yield k
        k.close()


@pytest.mark.parametrize("case", contract.CASES, ids=lambda case: case.__name__)
def test_case(kernel: contract.Class, case: Callable[[contract.Class], None]) -> None:
    case(kernel)
