# SPDX-License-Identifier: Apache-2.0
"""Recorded runs of iscsiadm on this machine's kernel: start-up groups, a daemon that is gone, safe logout."""

from __future__ import annotations

import pytest

from tests.golden.corpus import DIRECTORY
from tests.golden.replay import replay

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("scenario", ["S6", "S7"])
def test_scenario(scenario: str) -> None:
    counts = replay(DIRECTORY, [scenario])
    assert counts["failing"] == 0
    assert counts["exact"] > 0
