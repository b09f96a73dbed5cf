# SPDX-License-Identifier: Apache-2.0
"""Every recorded run of iscsiadm that needs neither a kernel nor another program: the same words, the same status.

The others are replayed on a real kernel (tests/lab/test_golden_*.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.compare import same
from tests.golden.corpus import scenarios
from tests.golden.deviations import DELIBERATE, ELSEWHERE, reason
from tests.golden.scenario import Played, is_ours, play

pytestmark = pytest.mark.fake

SCENARIOS = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S10")
TABLES = (DELIBERATE, ELSEWHERE)


def excused(name: str) -> bool:
    return any(name in names for table in TABLES for names in table.values())


def cases(*, differ: bool) -> list[tuple[str, str]]:
    return [
        (scenario, step.case.name)
        for scenario in SCENARIOS
        for step in scenarios()[scenario]
        if step.case is not None and is_ours(step) and excused(step.case.name) is differ
    ]


@pytest.fixture
def played(scenario: str, name: str) -> Played:
    """A case, after its scenario has been played: once for all of its cases."""
    return play(scenario)[name]


@pytest.mark.parametrize(("scenario", "name"), cases(differ=False))
def test_same_words_same_status(played: Played) -> None:
    assert played.result is not None
    assert same(played.case, played.command, played.result), (played.case.expected, played.result)


@pytest.mark.parametrize(("scenario", "name"), cases(differ=True))
def test_what_is_excused_still_differs(played: Played) -> None:
    """The tables cannot grow stale."""
    assert played.result is not None
    assert not same(played.case, played.command, played.result)


def test_every_excuse_names_a_case() -> None:
    known = {step.case.name for steps in scenarios().values() for step in steps if step.case is not None}
    for table in TABLES:
        for names in table.values():
            assert known >= names


def test_no_case_is_excused_twice() -> None:
    names = [name for table in TABLES for group in table.values() for name in group]
    assert len(names) == len(set(names))
    assert all(reason(name) is not None for group in DELIBERATE.values() for name in group)


def test_every_deliberate_difference_is_documented() -> None:
    """docs/compatibility.md has each reason word for word, for whoever looks for it."""
    text = " ".join((Path(__file__).parents[2] / "docs/compatibility.md").read_text().split())
    for words in DELIBERATE:
        assert words in text
