# SPDX-License-Identifier: Apache-2.0
"""What tests inside the lab's machines share: shell building blocks, waiting, and telling the other host.

Nothing here sleeps for a fixed time: everything waits for a condition, with a generous limit.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HOST = os.environ.get("LAB_HOST", "")
SHARE = Path(os.environ.get("LAB_SHARE", "/tmp/lab"))


def sh(script: str, *, timeout_s: float = 120) -> str:
    """Run shell text with lab/guest/lib.sh at hand; its standard output. A non-zero status raises with what it said."""
    text = f'. "$LAB/guest/lib.sh"\n{script}\n'
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise AssertionError(f"status {done.returncode} from:\n{script}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(condition: Callable[[], T], what: str, *, limit_s: float = 60) -> T:
    """Until `condition()` is true; what it returned. An AssertionError names `what` after `limit_s`."""
    end = time.monotonic() + limit_s
    while not (result := condition()):
        assert time.monotonic() < end, f"gave up after {limit_s} s waiting for {what}"
        time.sleep(0.05)
    return result


def answering(path: str | Path) -> bool:
    """Whether somebody listens on this socket; the file alone may be left from a process that was killed."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def here(event: str) -> None:
    """Tell the other host that `event` has happened on this one."""
    (SHARE / f"at-{HOST}-{event}").touch()


def there(event: str, *, limit_s: float = 300) -> None:
    """Wait until the other host has told of `event`."""
    other = "B" if HOST == "A" else "A"
    wait_for((SHARE / f"at-{other}-{event}").exists, f"{event} on host {other}", limit_s=limit_s)
