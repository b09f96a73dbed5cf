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
from rdmactl.cli import dev, rdmactl, status
from rdmactl.cli.rdmactl import COMMANDS, Command
from rdmactl.errors import DeadlineExceeded, RdmactlError, Unavailable
from rdmactl.rdmacm.devices import DeviceView, Gid, PortView

Output = pytest.CaptureFixture[str]

PORT = PortView(
    1, "ACTIVE", "LINK_UP", "Ethernet", "RoCE", "d0", "100 Gb/sec (4X EDR)", None, (Gid(1, "fe80::1", "RoCE v2", "d0"),)
)
DEVICE = DeviceView("rxe0", "RoCE", "CA", "1.2", "0000:00ff:fe00:0001", "", (PORT,))


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
        (
            ["dve"],
            "rdmactl: there is no object dve; "
            "there are: dev, discovery, firmware, iser, iname, records, session, status; see rdmactl --help\n",
        ),
        (["iser"], "rdmactl: iser needs a verb; it has: ping, luns, perf\n"),
        (["iser", "pong"], "rdmactl: iser has no verb pong; it has: ping, luns, perf\n"),
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


def test_an_object_lists_its_verbs(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert run(monkeypatch, "iser", "--help") == 0
    assert capsys.readouterr().out == (
        "usage: rdmactl iser VERB [...]\n\n"
        "  iser ping  time the steps to an iSER portal or target, and NOPs there\n"
        "  iser luns  list the logical units of an iSER target\n"
        "  iser perf  measure reads (or writes) of a logical unit over iSER\n"
    )
    assert run(monkeypatch, "dve", "--help") == 2


def imported_by(module: str, unwanted: set[str]) -> list[str]:
    """Which of the unwanted modules an interpreter without any site has after importing `module`."""
    code = f"import sys, {module}; print(*({unwanted!r} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=root)
    return done.stdout.split()


def test_starting_imports_next_to_nothing() -> None:
    heavy = {"asyncio", "argparse", "dataclasses", "inspect", "json", "logging", "socket", "_cffi_backend"}
    assert imported_by("rdmactl.cli.rdmactl", heavy) == []


@pytest.mark.parametrize("module", ["dev", "iser_ping", "iser_luns", "iser_perf", "status"])
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


@pytest.mark.parametrize(("transport", "status"), [("iWARP", 0), ("RoCE", 1)])
def test_dev_iwarp_answers_by_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, transport: str, status: int
) -> None:
    """As udev asks."""
    port = PORT._replace(transport=transport)
    monkeypatch.setattr(dev, "read_devices", lambda: [DEVICE._replace(transport=transport, ports=(port,))])
    assert run(monkeypatch, "dev", "--iwarp", "rxe0") == status
    assert run(monkeypatch, "dev", "--iwarp", "siw7") not in (0, 1)
    assert capsys.readouterr().out == ""


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
