# SPDX-License-Identifier: Apache-2.0
"""What befalls a session from outside: another address family, too little memory to lock, a process that stands still,
a link that goes down. Last the link, after which soft-RoCE has to make its device anew.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab import iser_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iser_world import ME, NOBODY, RDMACTL, RXE, SIW, TARGET

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

both = pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    world.set_up()


def test_iser_14_ipv6() -> None:
    sh(f"ip address add fd09::1/64 dev d0 nodad; target {TARGET} [fd09::1]:3260 iser")
    done = world.rdmactl("iser", "ping", "[fd09::1]", f"[fd09::1]:3260/{TARGET}", "-n", ME, "-j")
    assert done.status == 0, done.error
    discovery, session = done.json()["pings"]
    assert [target["name"] for target in discovery["targets"]] == [TARGET]
    assert (session["portal"], len(session["nops"])) == ("[fd09::1]:3260", 10)


@both
def test_iser_24_too_little_memory_may_be_locked(address: str) -> None:
    words = [RDMACTL, "iser", "ping", address, "-n", ME]
    limit = (64 << 10, 64 << 10)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, user=NOBODY, group=NOBODY, extra_groups=[],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, limit),
    )  # fmt: skip
    assert done.returncode == 11, done
    assert "raise the limit of locked memory" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    world.wait_until_free()


def workers(parent: int) -> list[int]:
    """The RDMA workers of a front end."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@both
def test_iser_57_stopped_for_a_while_it_goes_on_or_says_why_not(address: str) -> None:
    """Soft-RoCE's target tries again while nobody is there to post receives; soft-iWARP has to end the connection."""
    device, _ = world.DEVICES[address]
    words = [RDMACTL, "iser", "perf", f"{address}/{TARGET}", "-n", ME, "-d", "3", "-j"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as user:
        wait_for(lambda: world.resources(device)["qp"] > 1, "the session to be there")
        (worker,) = workers(user.pid)
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: " T " in Path(f"/proc/{worker}/stat").read_text(), "the worker to stand still")
        sh("sleep 5")  # nothing is waited for: this is how long it stands still
        os.kill(worker, signal.SIGCONT)
        _, error = user.communicate(timeout=60)
    assert user.returncode == 0 or (user.returncode in (14, 15) and len(error.splitlines()) == 1), error
    world.wait_until_free()
    assert world.rdmactl("iser", "ping", f"{address}/{TARGET}", "-n", ME, "-t", "20").status == 0


def test_iser_53_a_link_that_goes_down() -> None:
    words = [RDMACTL, "iser", "perf", f"{RXE}/{TARGET}", "-n", ME, "-d", "60", "-j"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as user:
        wait_for(lambda: world.resources("rxe0")["qp"] > 1, "the session to be there")
        sh("ip link set d0 down")
        _, error = user.communicate(timeout=120)
    assert user.returncode in (11, 14, 15), error
    assert f"{RXE}:3260" in error
    assert len(error.splitlines()) == 1
    world.wait_until_free()
    assert world.rdmactl("iser", "ping", f"{SIW}/{TARGET}", "-n", ME).status == 0
