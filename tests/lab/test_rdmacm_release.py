# SPDX-License-Identifier: Apache-2.0
"""Nothing is held: devices can be removed, and modules, with a worker ready. In a machine of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.client import WorkerPool
from rdmactl.rdmacm.report import Question
from tests.lab.guest import sh, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RDMACTL = str(Path(sys.executable).parent / "rdmactl")


def ping(address: str) -> subprocess.CompletedProcess[str]:
    words = [RDMACTL, "iser", "ping", address, "-n", "iqn.2026-11.test:me", "-t", "5"]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_iser_56_devices_are_not_held() -> None:
    sh("siw stock; link rxe0 rxe d0 10.9.0.1/24; link siw0 siw d1 10.9.1.1/24")
    sh("target iqn.2026-11.test:t0 10.9.0.1:3260 iser")
    answered, refused = ping("10.9.0.1"), ping("10.9.1.1")
    assert (answered.returncode, refused.returncode) == (0, 11), answered.stderr + refused.stderr
    portal = "/sys/kernel/config/target/iscsi/iqn.2026-11.test:t0/tpgt_1/np/10.9.0.1:3260"
    sh(f"rmdir {portal}")  # the target's own hold
    for device in ("rxe0", "siw0"):
        started = time.monotonic()
        sh(f"timeout 20 rdma link del {device}")
        assert time.monotonic() - started < 5
    absent = ping("10.9.0.1")
    assert absent.returncode == 3
    assert "this host has no usable RDMA device" in absent.stderr


def test_iser_56_a_worker_that_is_ready_holds_nothing_and_finds_what_comes_later() -> None:
    sh("link rxe7 rxe d7 10.9.7.1/24")

    def ready(pid: int) -> bool:
        maps = Path(f"/proc/{pid}/maps").read_text()
        files = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        return "librxe" in maps and "/dev/infiniband/rdma_cm" not in files

    async def use() -> None:
        pool = WorkerPool()
        await pool.warm()
        pid = pool._idle[0].process.pid
        wait_for(lambda: ready(pid), "the worker to have looked for devices")
        sh("timeout 20 rdma link del rxe7")
        sh("modprobe -r rdma_ucm && modprobe rdma_ucm")
        sh("link rxe8 rxe d8 10.9.8.1/24; target iqn.2026-11.test:later 10.9.8.1:3260 iser")
        report = await pool.discover(Question(Portal("10.9.8.1"), "iqn.2026-11.test:me"))
        assert (report.error, report.device) == (None, "rxe8")
        assert [target.name for target in report.targets] == ["iqn.2026-11.test:later"]
        assert pool._idle[0].process.pid == pid
        await pool.close()

    asyncio.run(use())
