# SPDX-License-Identifier: Apache-2.0
# lab: --systemd
"""Claimed ports under a real systemd: in its descriptor store, and beyond its limit with the keeper's unit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmactl.control.client import Client
from rdmactl.errors import RdmactlError
from rdmactl.iwpm.spares import STOCK
from rdmactl.iwpm.vault import SYSTEMD_LIMIT
from tests.lab.guest import sh, wait_for
from tests.lab.mapper_world import Listeners, build_listeners, is_taken, kept, list_mappings, ports, set_up

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
UNITS = Path("/run/systemd/system")
MANY = SYSTEMD_LIMIT + 100


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    set_up()
    build_listeners()
    sh(f"make -s -C {ROOT} install-units BINDIR={ROOT}/.venv/bin UNITDIR={UNITS}")
    if str(ROOT).startswith(("/root", "/home")):
        for name in ("iwpmd.service", "rdmactld.service", "iwpm-keeper.service"):
            (UNITS / f"{name}.d").mkdir()
            (UNITS / f"{name}.d/tree.conf").write_text("[Service]\nProtectHome=no\n")
    sh("systemctl daemon-reload")


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    sh("pkill -x listeners; systemctl stop iwpmd rdmactld iwpm-keeper.service iwpm-keeper.socket; true")


def show(unit: str, name: str) -> str:
    return sh(f"systemctl show -P {name} {unit}").strip()


def mappings() -> dict[str, str]:
    with Client("iwpm", deadline_s=30) as client:
        found = list_mappings(client)
    return {item["local"]: item["mapped"] for item in found}


def is_another(unit: str, pid: int) -> bool:
    """Whether the unit runs again, as another process, and its control socket answers."""
    if show(unit, "ActiveState") != "active" or show(unit, "MainPID") in ("0", str(pid)):
        return False
    try:
        return bool(mappings())
    except RdmactlError:
        return False


@pytest.mark.parametrize(("unit", "count"), [("iwpmd", 40), ("iwpmd", MANY), ("rdmactld", 40)])
def test_no_port_is_free_meanwhile_and_none_changes(unit: str, count: int) -> None:
    """After kill -9 and with `systemctl restart`, as an upgrade does it."""
    sh(f"systemctl start {unit}")
    listeners = Listeners(count)
    before = mappings()
    assert len(before) == count
    wait_for(lambda: int(show(unit, "NFileDescriptorStore")) >= min(count, SYSTEMD_LIMIT), "systemd's store")
    for how in ("kill -9 {pid}", "systemctl restart {unit}"):
        pid = int(show(unit, "MainPID"))
        if how.startswith("kill"):
            os.kill(pid, 9)
            assert all(is_taken(port) for port in ports(before))
        else:
            sh(how.format(pid=pid, unit=unit))
        wait_for(lambda: is_another(unit, pid), "the restart", limit_s=120)  # noqa: B023
        assert mappings() == before
    if count > SYSTEMD_LIMIT:
        assert len(kept() & ports(before)) >= count - SYSTEMD_LIMIT
    listeners.close()
    wait_for(lambda: mappings() == {}, "all mappings to end")
    wait_for(lambda: int(show(unit, "NFileDescriptorStore")) <= STOCK, "the store to be emptied")


def test_the_keeper_survives_stop_and_start() -> None:
    """systemd gives its store up with `stop`; what the keeper has stays, and the rest is claimed again by number."""
    sh("systemctl start iwpmd")
    listeners = Listeners(MANY)
    before = mappings()
    sh("systemctl stop iwpmd")
    assert len(kept() & ports(before)) >= MANY - SYSTEMD_LIMIT
    sh("systemctl start iwpmd")
    assert mappings() == before
    listeners.close()
