# SPDX-License-Identifier: Apache-2.0
"""Claims at the command line: in whose name iseradm logs in and out, and `rdmactl session claim` and `release`."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rdmactl.cli import session_claim, session_outcomes, session_release
from rdmactl.cli.iseradm_login import Login, log_in, log_out
from rdmactl.errors import LocalError, Unavailable
from rdmactl.iscsi.portal import Portal
from rdmactl.records.store import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterator

Output = pytest.CaptureFixture[str]

TARGET = "iqn.2026-11.test:t0"
NODE = NodeId(TARGET, "192.0.2.1", 3260, 1, "iser")
SESSION: Any = SimpleNamespace(sid=3, target=TARGET, persistent=Portal("192.0.2.1"), iface_name="iser")


class FakeDaemon:
    """Answers each session with `claims` or `failure`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.claims: list[str] = []
        self.failure: dict[str, Any] | None = None

    def __call__(self, *_: object, **__: object) -> FakeDaemon:
        return self

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method.rpartition(".")[2], parameters))
        return {"sessions": [{"sid": 3, "claims": ["boot"]}, {"sid": 4, "claims": ["csi"]}]}

    def more(self, method: str, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.asked.append((method.rpartition(".")[2], parameters))
        for index, _ in reversed(list(enumerate(parameters.get("sids") or parameters["records"]))):
            yield {"outcome": {"index": index, "sid": 3, "failure": self.failure, "claims": self.claims}}


class FakeContext:
    """What logging in and out needs of `iseradm_context.Context`."""

    program, exact = "iseradm", False

    def __init__(self, daemon: FakeDaemon) -> None:
        self.client: Any = daemon
        self.errors: list[str] = []
        self.error = self.errors.append

    def sessions(self) -> list[Any]:
        return [SESSION]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    daemon = FakeDaemon()
    monkeypatch.delenv("RDMACTL_CLAIM", raising=False)
    monkeypatch.setattr(session_outcomes, "Client", daemon)
    monkeypatch.setattr(session_release, "Client", daemon)
    return daemon


@pytest.fixture
def context(daemon: FakeDaemon) -> Any:
    return FakeContext(daemon)


def test_without_a_name_it_is_the_administrator(context: Any, daemon: FakeDaemon) -> None:
    assert log_in(context, [Login(NODE, {"node.name": TARGET}, 1, 0)]) == 0
    assert log_out(context, [SESSION]) == 0
    assert [(method, "claim" in asked) for method, asked in daemon.asked] == [("Login", False), ("Logout", False)]


def test_in_somebody_s_name(context: Any, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMACTL_CLAIM", "csi.example")
    assert log_in(context, [Login(NODE, {"node.name": TARGET}, 1, 0)]) == 0
    assert log_out(context, [SESSION]) == 0
    assert [asked["claim"] for _, asked in daemon.asked] == ["csi.example", "csi.example"]


@pytest.mark.parametrize("name", [None, "csi"])
def test_a_login_claims_what_is_there_already(
    context: Any, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name is not None:
        monkeypatch.setenv("RDMACTL_CLAIM", name)
    assert log_in(context, [Login(NODE, {}, 1, 1)]) == 15
    assert daemon.asked == [("Claim", {"sids": [3], "claim": name or "administrator"})]


@pytest.mark.parametrize(("name", "said"), [(None, 0), ("csi", 1)])
def test_without_a_daemon_only_a_name_misses_something(
    context: Any, monkeypatch: pytest.MonkeyPatch, name: str | None, said: int
) -> None:
    def nobody(_: float) -> None:
        raise Unavailable("iserd is not running", code="daemon-not-running")

    context.client = nobody
    if name is not None:
        monkeypatch.setenv("RDMACTL_CLAIM", name)
    assert log_in(context, [Login(NODE, {}, 1, 1)]) == 15
    assert context.errors[1:] == ["no claim for csi: iserd is not running"][:said]


def test_what_stays_is_said_and_is_no_failure(context: Any, daemon: FakeDaemon, capsys: Output) -> None:
    daemon.claims = ["boot", "csi"]
    assert log_out(context, [SESSION]) == 0
    (sentence,) = context.errors
    assert sentence == (
        f"session [sid: 3, target: {TARGET}, portal: 192.0.2.1,3260] stays, it is also claimed by boot, csi"
    )
    assert "successful" not in capsys.readouterr().out


def test_session_claim(daemon: FakeDaemon, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.claims = ["boot", "csi"]
    monkeypatch.setenv("RDMACTL_CLAIM", "csi")
    assert session_claim.run(["3", "4"]) == 0
    assert daemon.asked == [("Claim", {"sids": [3, 4], "claim": "csi"})]
    assert capsys.readouterr().out.splitlines() == [f"session {sid} stays, claimed by boot, csi" for sid in (3, 4)]


def test_session_release_of_all_that_a_name_claims(daemon: FakeDaemon, capsys: Output) -> None:
    assert session_release.run(["--claim", "boot"]) == 0
    method, asked = daemon.asked[-1]
    assert (method, asked["sids"], asked["claim"], asked["everybody"], asked["safe"]) == (
        "Logout", [3], "boot", False, True,
    )  # fmt: skip
    assert capsys.readouterr().out == "session 3 is logged out\n"


def test_session_release_of_everybody_by_force(daemon: FakeDaemon, capsys: Output) -> None:
    assert session_release.run(["3", "--everybody", "--force", "-j"]) == 0
    assert (daemon.asked[0][1]["everybody"], daemon.asked[0][1]["safe"]) == (True, False)
    assert json.loads(capsys.readouterr().out)["sessions"] == [{"sid": 3, "claims": [], "error": None}]


def test_session_release_that_is_refused(daemon: FakeDaemon, capsys: Output) -> None:
    daemon.failure = {"code": "iscsi", "message": "session 3 is in use: sda is swap space", "hint": None, "err": 28}
    assert session_release.run(["3"]) == 1
    assert capsys.readouterr().err == "rdmactl: session 3 is in use: sda is swap space\n"


@pytest.mark.parametrize("words", [[], ["--everybody"]])
def test_session_release_of_nobody_in_particular(daemon: FakeDaemon, words: list[str]) -> None:
    with pytest.raises(LocalError, match="no session is named"):
        session_release.run(words)
    assert daemon.asked == []
