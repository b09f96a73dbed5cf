# SPDX-License-Identifier: Apache-2.0
"""Memory for whoever brings disks back must not wait for those disks. Shell ring.

When memory is short the kernel writes dirty pages out, and whoever asks for a page may have to wait for that. If the
pages belong to a disk of a lost session, the daemon would wait for the recovery that it alone can make. A thread
marked as an I/O flusher is never made to wait so (PR_SET_IO_FLUSHER). The mark is a thread's, and inherited by the
threads and processes it starts.

A scan is the other way round: it waits for I/O by nature, reads partition tables into the page cache, and must not eat
the reserves that the mark opens; so it takes the mark off.
Defined by prctl(2); needs CAP_SYS_RESOURCE. Without it everything works but for that moment of need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["mark_this_thread", "unmarked"]

_PR_SET_IO_FLUSHER, _PR_GET_IO_FLUSHER = 57, 58


def mark_this_thread(on: bool = True) -> bool:
    """Mark the calling thread, or take the mark off; False when the kernel refuses."""
    return _prctl(_PR_SET_IO_FLUSHER, int(on)) == 0


@contextlib.contextmanager
def unmarked() -> Iterator[None]:
    """While this lasts, the calling thread is an ordinary one."""
    if _prctl(_PR_GET_IO_FLUSHER, 0) != 1:
        yield
        return
    mark_this_thread(False)
    try:
        yield
    finally:
        mark_this_thread(True)


def _prctl(option: int, value: int) -> int:
    import ctypes  # front ends scan, too, and need it only then

    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return result
