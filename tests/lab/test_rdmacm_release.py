# SPDX-License-Identifier: Apache-2.0
"""A device can be removed right after `rdmactl iser ping`, and then its absence is said. In a machine of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.guest import sh

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RDMACTL = str(Path(sys.executable).parent / "rdmactl")


def ping(address: str) -> subprocess.CompletedProcess[str]:
    words = [RDMACTL, "iser", "ping", address, "-n", "iqn.2026-11.test:me", "-t", "5"]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_devices_are_not_held() -> None:
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
