# SPDX-License-Identifier: Apache-2.0
"""The initiator service on the fake kernel: the common scenarios, and faults that no real kernel makes to order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from tests import initiator_scenarios as scenarios
from tests.fake.initiator_bench import FakeWorld

pytestmark = pytest.mark.fake

Scenario = Callable[[scenarios.World, str], Awaitable[None]]


@pytest.mark.parametrize("transport", ["tcp", "iser"])
@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(tmp_path: Path, scenario: Scenario, transport: str) -> None:
    world = FakeWorld(tmp_path)
    world.run(partial(scenario, world, transport))
