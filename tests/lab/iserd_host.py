# SPDX-License-Identifier: Apache-2.0
"""This machine with an iserd of its own, and what is asked of it with iseradm. For the lab's virtual machine only.

Not here: targets (`initiator_world.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.lab.guest import answering, wait_for


class Ran(NamedTuple):
    status: int
    stdout: str
    stderr: str


class Host:
    """This machine with its own iserd."""

    def __init__(self, directory: Path) -> None:
        self.environment = os.environ | {
            f"RDMACTL_{name}_DIRECTORY": str(directory / name.lower()) for name in ("STATE", "RUNTIME", "CONFIG")
        }
        self.socket = directory / "runtime" / "initiator.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.daemon = subprocess.Popen([sys.executable, "-m", "rdmactl.daemons.iserd"], env=self.environment)
        wait_for(lambda: answering(self.socket), "iserd's socket")

    def stop(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            assert self.daemon.wait(60) == 0

    def run(self, *words: str) -> Ran:
        command = [sys.executable, "-m", "rdmactl.cli.iseradm", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)
