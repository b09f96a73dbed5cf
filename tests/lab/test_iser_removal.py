# SPDX-License-Identifier: Apache-2.0
"""A device is removed while a session uses it: the error says so, all is given back, and the removal goes on.

`rdma link del` waits until nobody has the device open any more, so that it returns shows that the worker let go. Each
test takes a device away, so there is one for each. Order of events with this one: tests/fake/test_rdmacm_connection.py.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.lab import iser_world as world
from tests.lab.guest import wait_for
from tests.lab.iser_world import ME, RDMACTL, RXE, SIW, TARGET

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    world.set_up()


def remove_while(device: str, *words: str) -> tuple[int, str, str]:
    """Status, output and errors of `rdmactl iser ...`, which loses its device when its session is there."""
    command = [RDMACTL, "iser", *words, "-n", ME, "-t", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as user:
        wait_for(lambda: world.resources(device)["qp"] > 1, "the session to be there")
        with subprocess.Popen(["rdma", "link", "del", device]) as removal:
            output, error = user.communicate(timeout=120)
            assert removal.wait(timeout=30) == 0
    return user.returncode, output, error


def test_under_perf() -> None:
    status, _, error = remove_while("rxe0", "perf", f"{RXE}/{TARGET}", "-d", "60", "-j")
    assert (status, error) == (3, f"rdmactl: the RDMA device used for {RXE}:3260 was removed\n")


def test_under_ping_and_the_worker_goes_on() -> None:
    """The same worker, on the same loop, tries again, and says each time that there is nothing to try with."""
    status, output, error = remove_while("siw0", "ping", f"{SIW}/{TARGET}", "--nops", "1000", "-c", "40")
    assert (status, error) == (3, f"rdmactl: the RDMA device used for {SIW}:3260 was removed\n")
    assert "failed (unavailable)" in output
    assert output.count("failed (") > 1
