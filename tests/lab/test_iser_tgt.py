# SPDX-License-Identifier: Apache-2.0
"""A second target implementation: tgt, which does iSER in user space, over soft-RoCE and soft-iWARP.

It differs from LIO where initiators get it wrong: no private data in its reply, no padding, a command window that
begins closed, a controller at LUN 0. All of its iSER is on port 3260 of every device.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import iser_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iser_world import ME, RXE, SIW, rdmactl

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NAME = "iqn.2026-11.test:tgt"
ADMIN = "tgtadm --lld iser"
DISK = "/tmp/tgt.img"

both = pytest.mark.parametrize("address", [RXE, SIW], ids=["rxe", "siw"])


@pytest.fixture(scope="module", autouse=True)
def tgt() -> Iterator[None]:
    world.links()
    daemon = subprocess.Popen(["tgtd", "-f", "--iser", "pool_sz_mb=64", "--iscsi", f"portal={RXE}:3291"])
    try:
        wait_for(lambda: _says_yes(f"{ADMIN} --mode sys --op show"), "tgtd")
        sh(
            f"""
            truncate -s 32M {DISK}
            {ADMIN} --mode target --op new --tid 1 --targetname {NAME}
            {ADMIN} --mode logicalunit --op new --tid 1 --lun 1 --backing-store {DISK}
            {ADMIN} --mode target --op bind --tid 1 -I ALL
            {ADMIN} --mode target --op bind --tid 1 -Q {ME}
            """
        )
        yield
    finally:
        daemon.kill()
        daemon.wait()


def _says_yes(command: str) -> bool:
    return subprocess.run(command.split(), capture_output=True, check=False).returncode == 0


@both
def test_iser_36_discovery(address: str) -> None:
    done = rdmactl("iser", "ping", address, "-n", ME, "-j")
    assert done.status == 0, done.error
    (ping,) = done.json()["pings"]
    assert [target["name"] for target in ping["targets"]] == [NAME]


@both
def test_iser_36_a_session(address: str) -> None:
    done = rdmactl("iser", "ping", f"{address}/{NAME}", "-n", ME, "-j", "--nops", "20")
    assert done.status == 0, done.error
    (ping,) = done.json()["pings"]
    assert len(ping["nops"]) == 20
    assert ping["negotiated"]["immediate_data"] is False


@both
def test_iser_36_luns(address: str) -> None:
    done = rdmactl("iser", "luns", f"{address}/{NAME}", "-n", ME, "-j")
    assert done.status == 0, done.error
    controller, disk = done.json()["luns"]
    assert (controller["number"], controller["device_type"]) == (0, "controller")
    assert (disk["number"], disk["device_type"], disk["blocks"] * disk["block_bytes"]) == (1, "disk", 32 << 20)
    assert disk["serial"]


@both
def test_reads_and_writes(address: str) -> None:
    read = rdmactl("iser", "perf", f"{address}/{NAME}", "-n", ME, "-l", "1", "-d", "1.5", "-j")
    assert read.status == 0, read.error
    assert read.json()["result"]["commands"] > 0
    words = ("--write", "-l", "1", "--overwrite-lun", "1", "-d", "1.5", "-j")
    written = rdmactl("iser", "perf", f"{address}/{NAME}", "-n", ME, *words)
    assert written.status == 0, written.error
    with open(DISK, "rb") as file:
        assert any(file.read())
