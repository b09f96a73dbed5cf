# SPDX-License-Identifier: Apache-2.0
"""The native front end: words, text, JSON and exit status of each command, without devices or daemons."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rdmactl import __version__
from rdmactl.cli import dev, iser_ping, rdmactl, status
from rdmactl.cli.rdmactl import COMMANDS, Command
from rdmactl.errors import DeadlineExceeded, PeerError, RdmactlError, Unavailable
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.devices import DeviceView, Gid, PortView
from rdmactl.rdmacm.report import FoundTarget, Question, Report

Output = pytest.CaptureFixture[str]

PORT = PortView(
    1, "ACTIVE", "LINK_UP", "Ethernet", "RoCE", "d0", "100 Gb/sec (4X EDR)", None, (Gid(1, "fe80::1", "RoCE v2", "d0"),)
)
DEVICE = DeviceView("rxe0", "RoCE", "CA", "1.2", "0000:00ff:fe00:0001", "", (PORT,))
STEPS = (("address", 0.001), ("connect", 0.0045))
GOOD = Report(STEPS, 0.0123, "rxe0", "RoCE", "10.9.0.1:5", (FoundTarget("iqn.a:t", ((Portal("10.9.0.1"), 1),)),))


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rdmactl", *words])
    return rdmactl.main()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_each_command_exists_and_explains_itself(command: Command, capsys: Output) -> None:
    module: Any = import_module(f"rdmactl.cli.{command.module}")
    with pytest.raises(SystemExit) as caught:
        module.run(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: rdmactl {' '.join(command.words)} ")
    assert "--json" in text
    assert command.summary in rdmactl.help_text()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_wrong_words_end_with_2(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *command.words, "--nonsense")
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dve"], "rdmactl: there is no object dve; there are: dev, iser, iname, records, status; see rdmactl --help\n"),
        (["iser"], "rdmactl: iser needs a verb; it has: ping\n"),
        (["iser", "pong"], "rdmactl: iser has no verb pong; it has: ping\n"),
    ],
)
def test_unknown_words(words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert run(monkeypatch, *words) == 2
    assert capsys.readouterr().err == sentence


def test_help_and_version(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"rdmactl {__version__}\n"
    assert run(monkeypatch, "--help") == 0
    assert capsys.readouterr().out == rdmactl.help_text()
    assert run(monkeypatch) == 2
    assert capsys.readouterr() == ("", rdmactl.help_text())


def imported_by(module: str, unwanted: set[str]) -> list[str]:
    """Which of the unwanted modules an interpreter without any site has after importing `module`."""
    code = f"import sys, {module}; print(*({unwanted!r} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=root)
    return done.stdout.split()


def test_starting_imports_next_to_nothing() -> None:
    heavy = {"asyncio", "argparse", "dataclasses", "inspect", "json", "logging", "socket", "_cffi_backend"}
    assert imported_by("rdmactl.cli.rdmactl", heavy) == []


@pytest.mark.parametrize("module", ["dev", "iser_ping", "status"])
def test_commands_leave_the_loop_and_the_library_alone(module: str) -> None:
    assert imported_by(f"rdmactl.cli.{module}", {"asyncio", "logging", "_cffi_backend"}) == []


# dev


def test_dev(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(dev, "read_devices", lambda: [DEVICE])
    assert run(monkeypatch, "dev") == 0
    assert capsys.readouterr().out == (
        "rxe0: RoCE, CA, firmware 1.2, node GUID 0000:00ff:fe00:0001\n"
        "  port 1: ACTIVE, LINK_UP, Ethernet, netdev d0, 100 Gb/sec (4X EDR)\n"
        "    GID 1: fe80::1 RoCE v2 d0\n"
    )
    assert run(monkeypatch, "dev", "-j") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["schema_version"], found["error"]) == ("rdmactl.dev", 1, None)
    (device,) = found["devices"]
    assert sorted(device) == sorted([*DeviceView._fields, "limits"])
    assert sorted(device["ports"][0]) == sorted(PortView._fields)
    assert device["ports"][0]["gids"] == [{"number": 1, "gid": "fe80::1", "type": "RoCE v2", "netdev": "d0"}]
    assert device["limits"] is None


def test_dev_with_limits_and_without(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(dev, "read_devices", lambda: [DEVICE])
    monkeypatch.setattr("rdmactl.rdmacm.verbs_limits.read_limits", lambda name, ports: {"max_qp": 9})
    assert run(monkeypatch, "dev", "rxe0") == 0
    assert "  max_qp: 9\n" in capsys.readouterr().out
    monkeypatch.setattr("rdmactl.rdmacm.verbs_limits.read_limits", lambda name, ports: None)
    assert run(monkeypatch, "dev", "-v") == 0
    assert "max_qp" not in capsys.readouterr().out


def test_dev_without_any(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(dev, "read_devices", list)
    assert run(monkeypatch, "dev", "-j") == 3
    output = capsys.readouterr()
    assert json.loads(output.out)["error"]["code"] == "no-rdma-device"
    assert output.err.startswith("rdmactl: this host has no RDMA device; ")


def test_dev_of_another_name(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(dev, "read_devices", lambda: [DEVICE])
    assert run(monkeypatch, "dev", "mlx5_0") == 2
    assert capsys.readouterr().err == "rdmactl: there is no RDMA device mlx5_0; there are: rxe0\n"


# iser ping


class FakeWorker:
    """Answers with `reports`, one after the other, the last one for ever."""

    reports: list[Report]
    questions: list[Question]

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def discover(self, question: Question) -> Report:
        FakeWorker.questions.append(question)
        return FakeWorker.reports.pop(0) if len(FakeWorker.reports) > 1 else FakeWorker.reports[0]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    FakeWorker.reports, FakeWorker.questions = [GOOD], []
    monkeypatch.setattr(iser_ping, "SyncWorker", FakeWorker)
    monkeypatch.setattr(iser_ping, "_own_name", lambda: "iqn.2026-11.test:me")
    return FakeWorker


def test_ping(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert run(monkeypatch, "iser", "ping", "10.9.0.1", "-t", "2", "-s", "10.9.0.2") == 0
    assert capsys.readouterr().out == (
        "10.9.0.1:3260: 1 target in 12.3 ms over RoCE (rxe0, from 10.9.0.1:5)\n  address 1.0  connect 4.5\n"
    )
    assert worker.questions == [Question(Portal("10.9.0.1"), "iqn.2026-11.test:me", 2.0, "10.9.0.2")]


def test_ping_as_json(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert run(monkeypatch, "iser", "ping", "[fd00::1]:3261", "-j", "-n", "iqn.2026-11.test:other") == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found) == ["pings", "portal", "schema", "schema_version"]
    assert (found["schema"], found["portal"]) == ("rdmactl.iser.ping", "[fd00::1]:3261")
    (result,) = found["pings"]
    assert sorted(result) == ["device", "error", "local", "ok", "steps", "targets", "total_s", "transport"]
    assert result["steps"][0] == {"name": "address", "seconds": 0.001}
    assert result["targets"] == [{"name": "iqn.a:t", "portals": [{"address": "10.9.0.1", "port": 3260, "tpgt": 1}]}]
    assert worker.questions[0].initiator_name == "iqn.2026-11.test:other"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PeerError("10.9.0.1:3260 refused", hint="enable it", code="refused"), 1),
        (Unavailable("no device", code="no-rdma-device"), 3),
        (DeadlineExceeded("10.9.0.1:3260 did not answer"), 5),
    ],
)
def test_ping_that_fails(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, capsys: Output, error: RdmactlError, code: int
) -> None:
    failed = GOOD._replace(error=error, targets=())
    worker.reports = [GOOD, failed, GOOD]
    assert run(monkeypatch, "iser", "ping", "10.9.0.1", "-c", "3") == code
    output = capsys.readouterr()
    assert f"failed ({error.code})" in output.out
    assert "2 of 3 answered; min/avg/max 12.3/12.3/12.3 ms" in output.out
    assert output.err.startswith(f"rdmactl: {error.message}")
    assert len(output.err.splitlines()) == 1
    worker.reports = [failed]
    assert run(monkeypatch, "iser", "ping", "10.9.0.1", "-j") == code
    assert json.loads(capsys.readouterr().out)["pings"][0]["error"]["code"] == error.code


@pytest.mark.parametrize("words", [["-c", "0"], ["-c", "x"], ["-t", "0"], ["-t", "-1"], ["-t", "nan"]])
@pytest.mark.usefixtures("worker")
def test_ping_with_numbers_out_of_range(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "iser", "ping", "10.9.0.1", *words)
    assert caught.value.code == 2


@pytest.mark.usefixtures("worker")
def test_ping_of_something_that_is_no_portal(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert run(monkeypatch, "iser", "ping", "10.9.0.1:99999") == 2
    assert "99999" in capsys.readouterr().err


# status

LANE = {"name": "iwpm", "state": "running", "ready": True, "restarts": 2, "last_error": None, "counters": {}}
ANSWER = {"version": "0.1.0", "pid": 7, "roles": ["iwpm"], "lanes": [LANE]}


def client_of(answers: dict[str, dict[str, Any] | RdmactlError]) -> type:
    class FakeClient:
        def __init__(self, role: str, *, deadline_s: float) -> None:
            self.role = role

        def __enter__(self) -> FakeClient:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
            assert method == "io.rdmactl.Daemon.Status"
            answer = answers[self.role]
            if isinstance(answer, RdmactlError):
                raise answer
            return answer

    return FakeClient


DOWN = Unavailable("not running", code="daemon-not-running")


def test_status_of_one_daemon(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(status, "Client", client_of({"iwpm": ANSWER, "initiator": DOWN}))
    assert run(monkeypatch, "status") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ROLE", "PID", "VERSION", "SERVICE", "STATE", "READY", "RESTARTS", "LAST", "ERROR"],
        ["iwpm", "7", "0.1.0", "iwpm", "running", "yes", "2", "-"],
        ["initiator", "-", "-", "-", "daemon-not-running", "-", "-", "-"],
    ]
    assert run(monkeypatch, "status", "-j") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "rdmactl.status"
    assert found["roles"]["iwpm"] == {"running": True, "error": None, **ANSWER}
    assert found["roles"]["initiator"]["running"] is False
    assert found["roles"]["initiator"]["error"]["code"] == "daemon-not-running"


def test_status_without_daemons(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(status, "Client", client_of({"iwpm": DOWN, "initiator": DOWN}))
    assert run(monkeypatch, "status") == 3
    assert capsys.readouterr().err == "rdmactl: no daemon is running; start rdmactld.service\n"


def test_status_of_a_daemon_that_hangs(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    late = DeadlineExceeded("iserd did not answer")
    monkeypatch.setattr(status, "Client", client_of({"iwpm": ANSWER, "initiator": late}))
    assert run(monkeypatch, "status") == 5
    assert "rdmactl: iserd did not answer\n" in capsys.readouterr().err
