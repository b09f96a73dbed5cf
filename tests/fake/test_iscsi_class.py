# SPDX-License-Identifier: Apache-2.0
"""The fake kernel answers as the real one does (tests/lab/test_iscsi_class.py runs the same cases there)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import iscsi_class_contract as contract
from tests.fake.initiator_bench import FakePlace
from tests.fake.iscsi_sysfs import FakeSysfs
from tests.fake.scsi_transport_iscsi import FakeIscsiClass

pytestmark = pytest.mark.fake


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[contract.Class]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        k = contract.Class(FakePlace(FakeIscsiClass(FakeSysfs(tmp_path)), listener))
        yield k
        k.close()


@pytest.mark.parametrize("case", contract.CASES, ids=lambda case: case.__name__)
def test_case(kernel: contract.Class, case: Callable[[contract.Class], None]) -> None:
    case(kernel)
