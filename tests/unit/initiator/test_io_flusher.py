# SPDX-License-Identifier: Apache-2.0
"""The mark of an I/O flusher: a thread's, inherited by threads it starts, and off while scanning."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rdmactl.initiator import io_flusher
from rdmactl.initiator.io_flusher import mark_this_thread, unmarked

_GET = 58


def marked() -> bool:
    return io_flusher._prctl(_GET, 0) == 1


def in_a_thread(function: Callable[[], None]) -> None:
    """A thread of its own, so that the test's is left as it is."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def test_the_mark_and_its_absence() -> None:
    def run() -> None:
        if not mark_this_thread():
            pytest.skip("takes CAP_SYS_RESOURCE")
        seen = []
        assert marked()
        with unmarked():
            assert not marked()
        assert marked()
        child = threading.Thread(target=lambda: seen.append(marked()))
        child.start()
        child.join()
        assert seen == [True]

    in_a_thread(run)


def test_a_thread_without_the_mark_gets_none() -> None:
    def run() -> None:
        with unmarked():
            assert not marked()
        assert not marked()

    in_a_thread(run)
