# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.connect: which network device an interface is bound to."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmactl.initiator.connect import bound_device
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name, address in (("lo", "00:00:00:00:00:00"), ("eth0", "02:00:00:00:09:01"), ("eth1", "02:00:00:00:09:02")):
        (tmp_path / "class/net" / name).mkdir(parents=True)
        (tmp_path / "class/net" / name / "address").write_text(f"{address}\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("netdev", "hw_address", "device"),
    [("", "", ""), ("eth0", "", "eth0"), ("eth0", "02:00:00:00:09:02", "eth0"), ("", "02:00:00:00:09:02", "eth1")],
)
def test_by_name_or_by_hardware_address(root: str, netdev: str, hw_address: str, device: str) -> None:
    assert bound_device(netdev, hw_address, root) == device


def test_letters_of_either_case(root: str) -> None:
    assert bound_device("", "02:00:00:00:09:01".upper(), root) == "eth0"


def test_an_address_nobody_has(root: str) -> None:
    with pytest.raises(IscsiFailure, match="0A:00:00:00:00:01") as caught:
        bound_device("", "0A:00:00:00:00:01", root)
    assert caught.value.err is IscsiErr.TRANS_TIMEOUT
