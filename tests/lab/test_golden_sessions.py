# SPDX-License-Identifier: Apache-2.0
"""Recorded runs of iscsiadm on this machine's kernel: discovery, login, sessions, logout."""

from __future__ import annotations

import pytest

from tests.golden.corpus import DIRECTORY
from tests.golden.replay import replay

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("scenario", ["S4", "S5"])
def test_scenario(scenario: str) -> None:
    counts = replay(DIRECTORY, [scenario])
    assert counts["failing"] == 0
    assert counts["exact"] > 0
