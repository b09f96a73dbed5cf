# SPDX-License-Identifier: Apache-2.0
"""Two hosts with soft-iWARP as every kernel has it, which wants no port mapped: ours and rdma-core's in all roles."""

# lab: --hosts 2

from __future__ import annotations

import pytest

from tests.lab.guest import sh
from tests.lab.mapper_world import C_IWPMD, interoperate

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OURS = ""


@pytest.fixture(scope="module", autouse=True)
def hosts() -> None:
    sh("""
        siw stock; ip link set lo up; modprobe virtio_net; i=1; [ "$LAB_HOST" = A ] || i=2
        wait_for 10 'ip link show eth0'
        link siw0 siw eth0 10.9.0.$i/24; ip address add fd09::$i/64 dev eth0 nodad
    """)


@pytest.mark.parametrize(
    ("active", "passive"),
    [(OURS, OURS), (OURS, C_IWPMD), (C_IWPMD, OURS)],
    ids=["both ours", "ours asks", "ours is asked"],
)
def test_interoperate(active: str, passive: str) -> None:
    interoperate(f"stock-{bool(active)}-{bool(passive)}", active, passive, inside=())
