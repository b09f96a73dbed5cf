# SPDX-License-Identifier: Apache-2.0
"""Ten thousand live mappings and kill -9: every port is held meanwhile and comes back, and how soon. (Real time.)"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from rdmactl.control.client import Client
from rdmactl.iwpm.journal import MappingJournal
from tests.lab.guest import wait_for
from tests.lab.mapper_world import Listeners, Mapper, build_listeners, kept, ports, set_up

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

JOURNAL = "/run/rdmactl/iwpm.journal"


def recorded() -> dict[str, str]:
    """The table; a list of ten thousand over the control socket takes an emulated processor too long."""
    return {str(state.local): str(state.mapped) for state in MappingJournal(JOURNAL).read()}


def live() -> int:
    with Client("iwpm", deadline_s=60) as client:
        return int(client.call("io.rdmactl.PortMapper.Status", {})["mappings"])


def test_ten_thousand(capsys: pytest.CaptureFixture[str]) -> None:
    """How long it took is printed, beside the same with an empty table, and not judged on an emulated processor."""
    set_up()
    build_listeners()
    mapper, empty_s = timed(Mapper)
    listeners = Listeners(10_000)
    before = recorded()
    assert len(before) == live() == 10_000
    assert kept() >= ports(before)
    mapper.end(signal.SIGKILL)
    mapper, took_s = timed(Mapper)
    assert live() == 10_000
    assert recorded() == before
    assert kept() >= ports(before)
    with capsys.disabled():
        print(f"\nstart to serving: {empty_s:.2f} s with no mapping, {took_s:.2f} s with 10,000")
        print("".join(line + "\n" for line in mapper.text().splitlines()[-12:]))
    listeners.close()
    wait_for(lambda: live() == 0, "all mappings to end", limit_s=120)
    assert mapper.end() == 0


def timed(make: Callable[[], Mapper]) -> tuple[Mapper, float]:
    started = time.monotonic()
    mapper = make()
    return mapper, time.monotonic() - started
