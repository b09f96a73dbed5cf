# SPDX-License-Identifier: Apache-2.0
"""Two hosts with an adapter each that uses mapped ports: our iwpmd on both, and rdma-core's on either side.

Both hosts run this file. A connects (10.9.0.1), B listens (10.9.0.2). With this soft-iWARP a listener sits on the
mapped port only: if a mapper is wrong, the connection is refused.
"""

# lab: --hosts 2 --timeout 400

from __future__ import annotations

import signal
import time

import pytest

from tests.lab.guest import HOST, here, sh, there, wait_for
from tests.lab.mapper_world import C_IWPMD, Mapper, Rping, rping_client

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OURS = ""
LISTENER = "10.9.0.2:7174"


@pytest.fixture(scope="module", autouse=True)
def hosts() -> None:
    sh("siw map; ip link set lo up; two_stacks")


def connect(name: str, active: str, passive: str) -> None:
    """A's mapper is `active`, B's is `passive`; two connections, the second after B's mapper was killed."""
    if HOST == "B":
        mapper = Mapper(passive)
        listener = Rping(LISTENER)
        listening = wait_for(lambda: sh("ip netns exec rnic ss -ltnH").strip(), "the listener")
        assert ":7174 " not in listening  # it sits on the mapped port
        here(f"{name}-listening")
        there(f"{name}-connected")
        mapper.end(signal.SIGKILL)
        mapper = Mapper(passive)
        here(f"{name}-restarted")
        there(f"{name}-done")
        listener.close()
        mapper.end()
    else:
        mapper = Mapper(active)
        there(f"{name}-listening")
        assert rping_client(LISTENER)
        here(f"{name}-connected")
        there(f"{name}-restarted")
        # rdma-core's is up before it has its mappings back
        assert rping_client(LISTENER) or (passive and rping_client(LISTENER))
        here(f"{name}-done")
        mapper.end()


def test_ours_on_both() -> None:
    connect("both", OURS, OURS)


def test_ours_connects_to_rdma_cores() -> None:
    connect("active", OURS, C_IWPMD)


def test_rdma_cores_connects_to_ours() -> None:
    connect("passive", C_IWPMD, OURS)


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
    assert not rping_client(LISTENER)
    assert time.monotonic() - started < 8
    here("absent-done")
    mapper.end()
