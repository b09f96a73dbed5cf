# SPDX-License-Identifier: Apache-2.0
"""Two hosts with an adapter each that uses mapped ports: our iwpmd on both, and rdma-core's on either side.

Both hosts run this file. A connects (10.9.0.1), B listens (10.9.0.2). With this soft-iWARP a listener sits on the
mapped port only: if a mapper is wrong, the connection is refused. Each time over IPv4 and IPv6.
"""

# lab: --hosts 2

from __future__ import annotations

import time

import pytest

from tests.lab.guest import HOST, here, sh, there
from tests.lab.mapper_world import C_IWPMD, LISTENERS, Mapper, interoperate, rping_client

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OURS = ""


@pytest.fixture(scope="module", autouse=True)
def hosts() -> None:
    sh("""
        siw map; ip link set lo up; two_stacks; i=1; [ "$LAB_HOST" = A ] || i=2
        ip address add fd09::$i/64 dev eth0 nodad; ip -n rnic address add fd09::$i/64 dev eth1 nodad
    """)


def test_ours_on_both() -> None:
    interoperate("both", OURS, OURS)


def test_ours_connects_to_rdma_cores() -> None:
    interoperate("active", OURS, C_IWPMD)


def test_rdma_cores_connects_to_ours() -> None:
    interoperate("passive", C_IWPMD, OURS)


def test_nobody_listens() -> None:
    """The peer's REJECT reaches the application at once."""
    mapper = Mapper()
    here("reject-ready")
    there("reject-ready")
    if HOST == "A":
        started = time.monotonic()
        assert not rping_client("10.9.0.2:7199")
        assert time.monotonic() - started < 8
        here("reject-done")
    else:
        there("reject-done")
    mapper.end()


def test_no_mapper_at_the_peer() -> None:
    """ICMP says so at once; the kernel goes on unmapped, and is refused by a listener that is not there."""
    if HOST == "B":
        here("absent-ready")
        there("absent-done")
        return
    mapper = Mapper()
    there("absent-ready")
    started = time.monotonic()
    assert not rping_client(LISTENERS[0])
    assert time.monotonic() - started < 8
    here("absent-done")
    mapper.end()
