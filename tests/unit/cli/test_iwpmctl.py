# SPDX-License-Identifier: Apache-2.0
"""iwpmctl against a daemon that is a stub: what is asked, what is printed, how it ends."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rdmactl import __version__
from rdmactl.cli import iwpmctl
from rdmactl.cli.iwpmctl import age_text, list_text, main

Output = pytest.CaptureFixture[str]

MAPPINGS = [
    {
        "local": "10.7.0.1:7174", "mapped": "10.7.0.1:54919", "kind": "listener", "references": 1,
        "port_mapped": True, "claimed": True, "age_s": 4000.0,
    },
    {
        "local": "[fd00::1]:7175", "mapped": "[fd00::1]:7175", "kind": "restored", "references": 2,
        "port_mapped": False, "claimed": False, "age_s": 3.2,
    },
    {
        "local": "10.7.0.1:5001", "mapped": "10.7.0.1:40000", "kind": "connection", "references": 1,
        "port_mapped": True, "claimed": False, "age_s": 100000.0,
    },
]  # fmt: skip
STATUS = {
    "state": "refused", "registered": False, "abi_version": 3, "mappings": 2, "claims": 1, "queries_open": 0,
    "offers_open": 3, "counters": {"requests": 5, "stalls": 0, "peer_rejects": 2},
    "answer_times": [
        {"within_s": 0.0003, "answers": 4}, {"within_s": 1.0, "answers": 0}, {"within_s": None, "answers": 1},
    ],
    "unmapped": ["10.7.0.1:7180 on siw0 (process 41)"],
}  # fmt: skip


class Stub:
    """One answer for each call on a Unix socket, in Varlink's framing."""

    def __init__(self, path: Path, answer: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data = b""
                while not data.endswith(b"\0"):
                    data += connection.recv(4096)
                self.asked.append(json.loads(data[:-1]))
                connection.sendall(json.dumps({"parameters": self._answer}).encode() + b"\0")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDMACTL_RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["iwpmctl", *words])
    return main()


def test_list(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub(directory / "iwpm.sock", {"mappings": MAPPINGS})
    assert run(monkeypatch, "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "LOCAL           MAPPED             KIND        REFS  PORT                      AGE",
        "10.7.0.1:7174   -> 10.7.0.1:54919  listener    1     claimed                   1h06m",
        "[fd00::1]:7175  -> [fd00::1]:7175  restored    2     not mapped                3s",
        "10.7.0.1:5001   -> 10.7.0.1:40000  connection  1     TAKEN by another program  1d03h",
    ]
    assert stub.asked[0]["method"] == "io.rdmactl.PortMapper.List"
    assert run(monkeypatch, "list", "-j") == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "iwpmctl.list", "schema_version": 1, "error": None, "mappings": MAPPINGS,
    }  # fmt: skip
    stub.close()


def test_list_of_nothing() -> None:
    assert list_text({"mappings": []}) == ["no mappings"]


def test_stats(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub(directory / "iwpm.sock", STATUS)
    assert run(monkeypatch, "stats") == 0
    assert capsys.readouterr().out.splitlines() == [
        "state: waiting for the kernel's iw_cm, which does not answer",
        "kernel: not asked for yet, ABI version 3",
        "mappings: 2, ports claimed: 1",
        "exchanges with peers: 0 as the asking side, 3 as the asked side",
        "WITHOUT A MAPPING: 1 listeners, made while no port mapper was there:",
        "  10.7.0.1:7180 on siw0 (process 41)",
        "answers to the kernel within:",
        "    0.3 ms  4",
        "    longer  1",
        "counters:",
        "  requests      5",
        "  peer rejects  2",
    ]
    stub.close()


@pytest.mark.parametrize("words", ["10.7.0.1:7174", "7174", "54919", "10.7.0.1:54919"])
def test_show(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, words: str) -> None:
    stub = Stub(directory / "iwpm.sock", {"mappings": MAPPINGS})
    assert run(monkeypatch, "show", words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "10.7.0.1:7174",
        "  mapped to: 10.7.0.1:54919",
        "  kind: listener, 1 in use",
        "  port: claimed",
        "  age: 1h06m",
    ]
    assert run(monkeypatch, "show", words, "-j") == 0
    assert json.loads(capsys.readouterr().out)["mappings"] == MAPPINGS[:1]
    stub.close()


def test_show_of_an_unknown_one(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    stub = Stub(directory / "iwpm.sock", {"mappings": MAPPINGS})
    assert run(monkeypatch, "show", "7179") != 0
    assert capsys.readouterr().err.startswith("iwpmctl: there is no mapping 7179")
    stub.close()


MESSAGES = [
    {"time_s": 0.25, "direction": "kernel->daemon", "note": "ADD_MAPPING", "hex": "00", "waited_us": None},
    {"time_s": 0.5, "direction": "daemon->kernel", "note": "ADD_MAPPING reply", "hex": "00", "waited_us": 120},
]


def test_trace(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    stub = Stub(directory / "iwpm.sock", {"next": 9, "messages": MESSAGES})
    assert run(monkeypatch, "trace") == 0
    assert [line[8:] for line in capsys.readouterr().out.splitlines()] == [
        ".250000 <- ADD_MAPPING",
        ".500000 -> ADD_MAPPING reply  (after 120 us)",
    ]
    assert stub.asked == [{"method": "io.rdmactl.PortMapper.Trace", "parameters": {"since": 0}}]
    stub.close()


def test_trace_goes_on_where_it_was(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    stub = Stub(directory / "iwpm.sock", {"next": 9, "messages": MESSAGES})

    def sleep(seconds: float) -> None:
        if len(stub.asked) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(iwpmctl.time, "sleep", sleep)
    assert run(monkeypatch, "trace", "--follow", "-j") == 130
    assert [asked["parameters"]["since"] for asked in stub.asked] == [0, 9, 9]
    stub.close()


@pytest.mark.parametrize(("result", "status"), [("ok", 0), ("warning", 0), ("failed", 1)])
def test_selftest(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, result: str, status: int) -> None:
    checks = [{"name": "kernel", "result": result, "text": "registered"}]
    stub = Stub(directory / "iwpm.sock", {"checks": checks})
    assert run(monkeypatch, "selftest") == status
    assert capsys.readouterr().out.split() == [result, "kernel:", "registered"]
    stub.close()


def test_dump(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub(directory / "iwpm.sock", {"lines": ["print_iwpm_mapped_ports:", "Mapping #0"]})
    assert run(monkeypatch, "dump") == 0
    assert capsys.readouterr().out == "print_iwpm_mapped_ports:\nMapping #0\n"
    stub.close()


@pytest.mark.usefixtures("directory")
def test_no_daemon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list", "-j") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "daemon-not-running"
    assert captured.err.startswith("iwpmctl: ")


def test_wrong_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "lists")
    assert ended.value.code == 2
    assert "usage: iwpmctl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0s"), (59.9, "59s"), (200, "3m20s"), (14700, "4h05m"), (1047600, "12d03h")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def test_its_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["iwpmctl", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"iwpmctl {__version__}\n"
