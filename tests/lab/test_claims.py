# SPDX-License-Identifier: Apache-2.0
# lab: --systemd --timeout 600
"""Claims on a real kernel: the unit that logs in at boot, an administrator and a plugin share sessions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import initiator_world as lab
from tests.lab.guest import sh, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
UNITS = Path("/run/systemd/system")
BIN = ROOT / ".venv/bin"
UNIT = "rdmactl-sessions"
TCP, ISER = (("-T", lab.TARGET, "-p", str(portal), "-I", iface) for portal, iface in
             ((lab.TCP, "default"), (lab.ISER, "iser")))  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    """The TCP session is for the boot, the iSER one is not."""
    sh(f"make -s -C {ROOT} install-units BINDIR={BIN} UNITDIR={UNITS}")
    if str(ROOT).startswith(("/root", "/home")):
        (UNITS / "iserd.service.d").mkdir()
        (UNITS / "iserd.service.d/tree.conf").write_text("[Service]\nProtectHome=no\n")
    lab.set_up()
    sh("modprobe -a ib_iser iscsi_tcp; systemctl daemon-reload; systemctl start iserd")
    for words in (TCP, ISER):
        assert iseradm("-m", "node", *words, "-o", "new").returncode == 0
    assert iseradm("-m", "node", *TCP, "-o", "update", "-n", "node.startup", "-v", "automatic").returncode == 0


@pytest.fixture(autouse=True)
def boot() -> Iterator[None]:
    """Each test begins with what the unit has started, and leaves nothing."""
    sh(f"systemctl start {UNIT}")
    wait_for(lambda: claims() == {"tcp": ["boot"]}, "the session of the boot", limit_s=120)
    yield
    sh(f"systemctl stop {UNIT}")
    for sid in (each["sid"] for each in sessions()):
        rdmactl("session", "release", str(sid), "--everybody")
    assert sessions() == []


def run(program: str, *words: str, claim: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"RDMACTL_CLAIM": claim} if claim else {})
    command = [str(BIN / program), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def iseradm(*words: str, claim: str = "") -> subprocess.CompletedProcess[str]:
    return run("iseradm", *words, claim=claim)


def rdmactl(*words: str) -> subprocess.CompletedProcess[str]:
    return run("rdmactl", *words)


def sessions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rdmactl("session", "list", "-j").stdout)["sessions"]
    return found


def claims() -> dict[str, list[str]]:
    """By transport: there is one session of each at most."""
    return {each["transport"]: each["claims"] for each in sessions()}


def test_stopping_the_unit_ends_only_what_it_started() -> None:
    assert iseradm("-m", "node", *ISER, "-l").returncode == 0
    sh(f"systemctl stop {UNIT}")
    assert claims() == {"iser": ["administrator"]}


def test_a_session_stays_for_who_claims_it_too() -> None:
    assert iseradm("-m", "node", *TCP, "-l", claim="csi").returncode == 15
    assert claims() == {"tcp": ["boot", "csi"]}
    refused = iseradm("-m", "node", *TCP, "-u")
    assert refused.returncode == 28
    assert "claimed by boot, csi, not by administrator" in refused.stderr
    sh(f"systemctl stop {UNIT}")
    assert claims() == {"tcp": ["csi"]}
    assert iseradm("-m", "node", *TCP, "-u", claim="csi").returncode == 0
    assert claims() == {}


def test_claims_outlive_the_daemon() -> None:
    assert iseradm("-m", "node", *TCP, "-l", claim="csi").returncode == 15
    sh("systemctl kill --kill-whom=main -s KILL iserd")
    wait_for(lambda: claims() == {"tcp": ["boot", "csi"]}, "the next daemon", limit_s=120)
    released = iseradm("-m", "node", *TCP, "-u", claim="csi")
    assert released.returncode == 0
    assert "stays, it is also claimed by boot" in released.stderr
    assert claims() == {"tcp": ["boot"]}


def test_an_administrator_may_end_what_the_boot_has_started() -> None:
    assert iseradm("-m", "node", *TCP, "-u").returncode == 0
    assert claims() == {}


def test_a_disk_in_use_keeps_its_session() -> None:
    (session,) = sessions()
    (disk,) = session["disks"]
    sh(f"mkswap /dev/{disk} && swapon /dev/{disk}")
    refused = rdmactl("session", "release", str(session["sid"]), "--everybody")
    sh(f"swapoff /dev/{disk}")
    assert refused.returncode == 1
    assert f"{disk} is swap space" in refused.stderr


def test_the_unit_verifies() -> None:
    said = sh(f"systemd-analyze verify --man=no {UNIT}.service 2>&1")
    assert not [line for line in said.splitlines() if UNIT in line], said
