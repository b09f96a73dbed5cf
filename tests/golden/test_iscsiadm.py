# SPDX-License-Identifier: Apache-2.0
"""Every recorded run of iscsiadm 2.1.8 that applies: same standard output, same standard error, same status.

What differs is listed here with its reason, and a test holds that it still differs: the lists cannot grow stale.
"""

from __future__ import annotations

import re

import pytest

from tests.golden.corpus import Expected, scenarios
from tests.golden.scenario import Played, is_ours, play
from tests.golden.shell import Result

pytestmark = pytest.mark.fake

SCENARIOS = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S10")

NOT_YET = {
    "statistics": {"stats-r1", "stats-iser", "stats-all", "session-nodaemon-stats"},
    "discovery over iSER": {"disc-I-iser", "disc-I-two"},
    "iSNS": {"ddb-isns-D", "ddb-isns-list", "ddb-isns-show", "discoveryd-isns-sessions"},
    "safe logout": {"safe-logout-busy", "safe-logout-busy-node", "safe-logout-free"},
}

DIFFERENT = {
    "iscsid.conf counts for new records also while no daemon runs, and nothing is said about the daemon": {
        "nodaemon-node-new",
        "nodaemon-node-show",
        "startup-true",
    },
    "iscsid.conf counts for new records of the interface iser as for every other": {"node-show-iser"},
    "one sentence says why a discovery failed, instead of a line for each attempt": {
        "disc-refused",
        "disc-unresolvable",
        "discdb-timeout",
        "disc-notiscsi",
    },
    "the module of a transport is the daemon's business": {"nomodule-discovery"},
    "states of a session come from the kernel, not from the daemon": {"session-nodaemon-P1"},
    "nonpersistent means that nothing is recorded, whatever else is asked": {"nonpersistent-new"},
    "a name that is too long is refused, not recorded in part": {"node-new-list", "node-list-P1-odd"},
    "a value with a line feed is refused: it could set another key": {"value-newline"},
    "there is no lock file that could go stale": {"stale-lock"},
    "records are not files that anybody could write odd things into": {"file-unknown-key-show", "file-bad-enum-update"},
}

EXCUSED = {name for group in (*NOT_YET.values(), *DIFFERENT.values()) for name in group}

UNORDERED = re.compile(
    r"(-R\b|-l\b|--login|-u\b|--logout|-L |-U |-o delete|-o new|-m discovery(db)?( -P 1)?(;|$)|-m host)"
)
"""Commands whose lines come in the order of directory entries, or as answers arrive."""


DISK = re.compile(r"disk sd[a-z]+")


def cases(*, excused: bool) -> list[tuple[str, str]]:
    return [
        (scenario, step.case.name)
        for scenario in SCENARIOS
        for step in scenarios()[scenario]
        if step.case is not None and is_ours(step) and (step.case.name in EXCUSED) is excused
    ]


def comparable(printed: Expected | Result) -> Result:
    """Without what the module loader says for itself, and without the names the kernel gives disks."""
    stderr = [line for line in printed.stderr.splitlines(keepends=True) if not line.startswith("libkmod: ")]
    return Result(DISK.sub("disk sdX", printed.stdout), "".join(stderr), printed.status)


def sorted_lines(printed: Result) -> tuple[list[str], list[str], int]:
    return sorted(printed.stdout.splitlines()), sorted(printed.stderr.splitlines()), printed.status


@pytest.fixture
def played(scenario: str, name: str) -> Played:
    """A case, after its scenario has been played: once for all of its cases."""
    return play(scenario)[name]


@pytest.mark.parametrize(("scenario", "name"), cases(excused=False))
def test_same_words_same_status(played: Played) -> None:
    assert played.result is not None
    expected = played.case.expected
    if expected is None:
        assert played.result.status == played.case.status
        return
    ours, theirs = comparable(played.result), comparable(expected)
    if ours != theirs and UNORDERED.search(played.command):
        assert sorted_lines(ours) == sorted_lines(theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize(("scenario", "name"), cases(excused=True))
def test_what_is_excused_still_differs(played: Played) -> None:
    assert played.result is not None
    if played.case.expected is None:
        assert played.result.status != played.case.status
    else:
        assert comparable(played.case.expected) != comparable(played.result)


def test_every_excuse_names_a_case() -> None:
    known = {step.case.name for steps in scenarios().values() for step in steps if step.case is not None}
    assert known >= EXCUSED
