# SPDX-License-Identifier: Apache-2.0
"""Going into the background, for iwpmd without --systemd: daemon(3), but the parent waits for the outcome. Face ring.

rdma-core's iwpmd reports success before it has bound anything, so that a script cannot tell a failed start. Here the
parent exits when the daemon serves, or has failed. Not here: signals, logging.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["detach"]

_SERVING = b"+"


def detach() -> Callable[[], None]:
    """Continue in a child of init's, in /, without terminal; returns what the child calls once it serves.

    The parent leaves this process here: with 0 when the child has called it, with 1 when the child ended before.
    """
    outcome, told = os.pipe()
    if os.fork():
        os.close(told)
        os._exit(0 if os.read(outcome, 1) == _SERVING else 1)
    os.close(outcome)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)

    def serving() -> None:
        os.write(told, _SERVING)
        os.close(told)

    return serving
