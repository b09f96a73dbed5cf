# SPDX-License-Identifier: Apache-2.0
"""iseradm and an iSNS server that answers badly: one sentence or iscsiadm's lines, and the records as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.control.client import RemoteError
from rdmactl.iscsi.portal import Portal
from rdmactl.records.store import NodeId, Store
from tests.golden.world import ISNS_SERVER, T1, World

pytestmark = pytest.mark.fake

QUERY = ("-m", "discovery", "-t", "isns", "-p", str(ISNS_SERVER))
NODE = NodeId(T1, "10.9.0.1", 3260, 1, "default")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A machine that has found one target at its iSNS server."""
    world = World(tmp_path / "world")
    world.start_fixture()
    world.daemon = True
    world.isns = {T1: [Portal("10.9.0.1")]}
    assert world.iscsiadm([*QUERY]).status == 0
    return world


def nodes(world: World) -> list[NodeId]:
    with Store(str(world.state)) as store:
        return store.nodes()


@pytest.mark.parametrize("words", [QUERY, ("-m", "discoverydb", *QUERY[2:], "-D"), (*QUERY, "-o", "delete")])
@pytest.mark.parametrize("known", [None, {}])
def test_nothing_is_forgotten_because_nothing_was_said(
    world: World, words: Sequence[str], known: dict[str, list[Portal]] | None
) -> None:
    world.isns = known
    assert world.iscsiadm([*words]).status == (25 if known is None else 21)
    assert nodes(world) == [NODE]


def test_what_the_server_does_not_list_any_more_is_forgotten(world: World) -> None:
    world.isns = {f"{T1}.new": [Portal("10.9.0.1")]}
    assert world.iscsiadm([*QUERY]).status == 0
    assert [node.target for node in nodes(world)] == [f"{T1}.new"]


CASES = {
    "refused": ["socket disconnect, killing socket", "Warning: Timed out while waiting for reply"],
    "closed": ["socket disconnect, killing socket", "Warning: Timed out while waiting for reply"],
    "silent": ["Warning: Timed out while waiting for reply"],
    "unanswered": ["Warning: Timed out while waiting for reply"],
}


class Failing(Context):
    """Whatever the daemon is asked for fails in one way."""

    code = ""

    def client(self, deadline_s: float) -> Any:
        client = mock.MagicMock()
        message = f"iSNS server {ISNS_SERVER}: an answer that is none"
        client.__enter__.return_value.call.side_effect = RemoteError(message, code=self.code, err=25)
        return client


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[type[Failing]]:
    directories = {f"RDMACTL_{name}_DIRECTORY": str(tmp_path / name) for name in ("STATE", "RUNTIME", "CONFIG")}
    with mock.patch.dict(os.environ, directories):
        yield Failing


@pytest.mark.parametrize("code", [*CASES, "iscsi"])
def test_iscsiadms_lines(failing: type[Failing], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    context = failing("iscsiadm")
    context.code = code
    assert run(context, QUERY) == 25
    *before, cause, result = capsys.readouterr().err.splitlines()
    assert before == CASES.get(code, [])
    words = "Internal error" if code in CASES else f"iSNS server {ISNS_SERVER}: an answer that is none"
    assert cause == f"iscsiadm: iSNS discovery failed: {words}"
    assert result == "iscsiadm: Could not perform iSNS discovery: iSNS query failed"


@pytest.mark.parametrize("code", [*CASES, "iscsi"])
def test_one_sentence(failing: type[Failing], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    context = failing("iseradm")
    context.code = code
    assert run(context, QUERY) == 25
    text = f"iseradm: Could not perform iSNS discovery: iSNS server {ISNS_SERVER}: an answer that is none\n"
    assert capsys.readouterr().err == text
