# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/api.md, each run as the program it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import iser_world as world

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    world.set_up()
    world.second_unit(world.TARGET, "/tmp/second.img")
    world.locked_target()


@pytest.mark.parametrize("program", PROGRAMS, ids=[str(number) for number in range(len(PROGRAMS))])
def test_example(program: str) -> None:
    words = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    world.wait_until_free()


def test_there_are_examples() -> None:
    assert len(PROGRAMS) >= 8
