# SPDX-License-Identifier: Apache-2.0
# lab: --systemd
"""Started by capability: udev asks the kernel what a new RDMA device is, and an iWARP device wants iwpmd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.guest import sh, wait_for

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
UNITS = Path("/run/systemd/system")
RULES = Path("/run/udev/rules.d")
DEVICES = Path("/sys/class/infiniband")
BIN = ROOT / ".venv/bin"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Units and rule, into runtime directories; rdma-core's own rules stay."""
    sh(f"make -s -C {ROOT} install-units install-rules BINDIR={BIN} UNITDIR={UNITS} RULESDIR={RULES}")
    if str(ROOT).startswith(("/root", "/home")):
        drop_in = UNITS / "iwpmd.service.d"
        drop_in.mkdir()
        (drop_in / "tree.conf").write_text("[Service]\nProtectHome=no\n")
    sh("siw stock && modprobe -a rdma_rxe dummy && systemctl daemon-reload && udevadm control --reload")
    sh("ip link add iwarp0 type dummy && ip link add roce0 type dummy && ip addr add 10.77.0.1/24 dev iwarp0")
    sh("ip link set iwarp0 up && ip link set roce0 up")


def add_siw() -> str:
    """A soft-iWARP device; the name udev has left it with, once the rule has seen it by that name."""
    before = set(DEVICES.iterdir())
    sh("rdma link add siw0 type siw netdev iwarp0 && udevadm settle")
    (device,) = set(DEVICES.iterdir()) - before
    wait_for(lambda: "ID_RDMA_IWARP=1" in sh(f"udevadm info {device}"), "the rule to know the device for iWARP")
    return device.name


def is_active() -> bool:
    return sh("systemctl show -P ActiveState iwpmd.service").strip() == "active"


def test_an_iwarp_device_starts_the_port_mapper_and_no_other_does() -> None:
    """A soft-RoCE device does not; a soft-iWARP device does, and goes on doing without it when that is gone."""
    sh("rdma link add rxe0 type rxe netdev roce0 && udevadm settle")
    assert sh(f"{BIN}/rdmactl dev --iwarp rxe0; echo $?").strip() == "1"
    assert not is_active()
    device = add_siw()
    assert sh(f"{BIN}/rdmactl dev --iwarp {device}; echo $?").strip() == "0"
    wait_for(is_active, "iwpmd, wanted by the device")
    answer = json.loads(sh(f"{BIN}/iwpmctl stats -j"))
    assert answer["error"] is None
    sh(f"rdma link delete {device} && udevadm settle")
    assert is_active()  # as iwpmd(8) says: it stays
    sh("systemctl stop iwpmd")


def test_where_rdmactld_is_enabled_it_is_left_alone() -> None:
    """Starting iwpmd would end it."""
    wants = Path("/etc/systemd/system/multi-user.target.wants")
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "rdmactld.service").symlink_to(UNITS / "rdmactld.service")
    device = add_siw()
    assert "SYSTEMD_WANTS=iwpmd.service" not in sh(f"udevadm info /sys/class/infiniband/{device}")
    assert not is_active()
