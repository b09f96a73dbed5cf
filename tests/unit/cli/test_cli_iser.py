# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iser ping|luns|perf`: words, secrets, text, JSON and exit status, without devices."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdmactl.cli import iser_luns, iser_options, iser_perf, iser_ping, rdmactl
from rdmactl.cli.iser_options import Target
from rdmactl.errors import DeadlineExceeded, LocalError, PeerError, RdmactlError, Unavailable
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.report import FoundTarget, Lun, Measured, Plan, Question, Report

Output = pytest.CaptureFixture[str]

PORTAL = Portal("10.9.0.1")
NAME = "iqn.2026-11.test:t"
SECRET = "suite-secret-4711"
STEPS = (("address", 0.001), ("connect", 0.0045))
FOUND = Report(STEPS, 0.0123, "rxe0", "RoCE", "10.9.0.1:5", (FoundTarget(NAME, ((PORTAL, 1),)),), portal=PORTAL)
DISK = Lun(0, "00" * 8, "disk", "LIO-ORG", "FILEIO", "4.0", "serial-1", "naa.6001", 131072, 512, 4096)
BROKEN = Lun(1, "0001" + "00" * 6, error="INQUIRY failed: busy")
SEEN = Measured(8915, 8915 * 4096, 4.0, (("min", 0.002), ("p50", 0.0068), ("max", 0.018)))
SESSION = FOUND._replace(
    targets=(),
    target=NAME,
    negotiated=(("rdma_extensions", True), ("max_burst_bytes", 262144), ("target_alias", "LIO\x1b[2J")),
    authentication="mutual CHAP",
    pings=(0.0005, 0.0006, 0.0008),
    luns=(DISK, BROKEN),
    measured=SEEN,
)


class FakeWorker:
    """Answers with `reports`, one after the other, the last one for ever."""

    reports: list[Report]
    asked: list[tuple[Any, ...]]

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def discover_many(self, questions: list[Question], done: Callable[[int, Report], None]) -> list[Report]:
        return self._many(done, [("discover", question) for question in questions])

    def ping_many(self, questions: list[Question], count: int, done: Callable[[int, Report], None]) -> list[Report]:
        return self._many(done, [("ping", question, count) for question in questions])

    def _many(self, done: Callable[[int, Report], None], asked: list[tuple[Any, ...]]) -> list[Report]:
        reports = [self._answer(*each) for each in asked]
        for index, report in enumerate(reports):
            done(index, report)
        return reports

    def luns(self, question: Question) -> Report:
        return self._answer("luns", question)

    def perf(self, question: Question, plan: Plan, progress: Callable[[Measured], None]) -> Report:
        progress(SEEN._replace(seconds=2.0))
        return self._answer("perf", question, plan)

    def _answer(self, *asked: Any) -> Report:
        FakeWorker.asked.append(asked)
        return FakeWorker.reports.pop(0) if len(FakeWorker.reports) > 1 else FakeWorker.reports[0]


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    FakeWorker.reports, FakeWorker.asked = [SESSION], []
    for module in (iser_ping, iser_luns, iser_perf):
        monkeypatch.setattr(module, "SyncWorker", FakeWorker)
    monkeypatch.setattr(iser_options, "own_name", lambda: "iqn.2026-11.test:me")
    return FakeWorker


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def iser(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rdmactl", "iser", *words])
        return rdmactl.main()

    return iser


Run = Callable[..., int]


# Targets and secrets


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("10.9.0.1", Target(PORTAL, "")),
        (f"10.9.0.1:3261/{NAME}", Target(Portal("10.9.0.1", 3261), NAME)),
        (f"[fd00::1]:3261/{NAME}", Target(Portal("fd00::1", 3261), NAME)),
        ("fd00::1/eui.02004567a425678d", Target(Portal("fd00::1"), "eui.02004567a425678d")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize("text", ["", "/iqn.x", "10.9.0.1:99999", "10.9.0.1/", "10.9.0.1/disk", "10.9.0.1/iqn.a b"])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(LocalError):
        Target.parse(text)


def test_secrets_from_a_file_standard_input_and_a_credential(
    run: Run, worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text(f"{SECRET}\nsecond line\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"of-the-target-1\r\n")))
    mutual = ("--chap-name-in", "array", "--chap-secret-in-from", "-")
    assert run("luns", "10.9.0.1", "--chap-name", "joe", "--chap-secret-from", str(tmp_path / "one"), *mutual) == 0
    assert run("luns", "10.9.0.1", "--chap-name", "joe", "--chap-secret-from", "credential:one") == 0
    both, one = (asked[1] for asked in worker.asked)
    assert (both.username, both.password, both.username_in, both.password_in) == (
        "joe", SECRET, "array", "of-the-target-1",
    )  # fmt: skip
    assert (one.password, one.authentication, both.authentication) == (SECRET, "CHAP", "mutual CHAP")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--chap-name", "joe"], 2, "CHAP needs both"),
        (["--chap-secret-from", "-"], 2, "CHAP needs both"),
        (["--chap-name-in", "a", "--chap-secret-in-from", "-"], 2, "needs --chap-name as well"),
        (["--chap-name", "joe", "--chap-secret-from", SECRET], 1, "a CHAP secret cannot be read: No such file"),
        (["--chap-name", "joe", "--chap-secret-from", f"credential:../{SECRET}"], 2, "no such credential"),
        (["--chap-name", "joe", "--chap-secret-from", "/dev/null"], 2, "from 1 to 256 bytes"),
        (["--chap-name", "joe", "--chap-secret-from", "/dev/zero"], 2, "from 1 to 256 bytes"),
    ],
)
def test_secrets_that_are_none(run: Run, capsys: Output, words: list[str], status: int, sentence: str) -> None:
    assert run("ping", "10.9.0.1", *words) == status
    output = capsys.readouterr()
    assert sentence in output.err
    assert SECRET not in output.out + output.err


# ping


def test_ping_of_a_portal(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    worker.reports = [FOUND]
    assert run("ping", "10.9.0.1", "-t", "2", "-s", "10.9.0.2") == 0
    assert capsys.readouterr().out == (
        "10.9.0.1:3260: 1 target in 12.3 ms over RoCE (rxe0, from 10.9.0.1:5)\n  address 1.0  connect 4.5\n"
    )
    assert worker.asked == [("discover", Question(PORTAL, "iqn.2026-11.test:me", 2.0, "10.9.0.2", trace=True))]


def test_ping_of_a_target(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    assert run("ping", f"10.9.0.1/{NAME}", "-v") == 0
    assert capsys.readouterr().out == (
        f"10.9.0.1:3260 {NAME}: logged in and out in 12.3 ms over RoCE (rxe0, from 10.9.0.1:5), mutual CHAP\n"
        "  address 1.0  connect 4.5\n"
        "  3 NOPs: min 0.50  median 0.60  p99 0.80\n"
        "  rdma_extensions: Yes\n  max_burst_bytes: 262144\n  target_alias: LIO?[2J\n"
    )
    (asked,) = worker.asked
    assert (asked[0], asked[1].target, asked[2]) == ("ping", NAME, 10)
    assert run("ping", "10.9.0.1", "--nops", "3") == 0
    assert worker.asked[1][0::2] == ("ping", 3)


def test_pings_of_several(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    worker.reports = [FOUND, FOUND, SESSION]
    assert run("ping", "10.9.0.1", f"10.9.0.2/{NAME}", "10.9.0.3", "-j") == 0
    assert [asked[1].portal.address for asked in worker.asked] == ["10.9.0.1", "10.9.0.3", "10.9.0.2"]
    assert [ping["target"] for ping in json.loads(capsys.readouterr().out)["pings"]] == [None, NAME, None]


def test_ping_as_json(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    worker.reports = [FOUND, SESSION]
    assert run("ping", "10.9.0.1", "-j", "-c", "2", "-n", "iqn.2026-11.test:other") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["schema_version"], found["portal"]) == ("rdmactl.iser.ping", 1, "10.9.0.1:3260")
    first, second = found["pings"]
    assert first["steps"][0] == {"name": "address", "seconds": 0.001}
    assert first["targets"] == [{"name": NAME, "portals": [{"address": "10.9.0.1", "port": 3260, "tpgt": 1}]}]
    assert (first["nops"], first["nop_seconds"], first["ok"], first["error"]) == ([], None, True, None)
    assert second["nop_seconds"] == {"min": 0.0005, "median": 0.0006, "p99": 0.0008}
    assert (second["negotiated"]["max_burst_bytes"], second["authentication"]) == (262144, "mutual CHAP")
    assert worker.asked[0][1].initiator_name == "iqn.2026-11.test:other"


@pytest.mark.parametrize(
    ("error", "stage", "status"),
    [
        (PeerError("no route", code="no-route"), "address", 10),
        (PeerError("10.9.0.1:3260 refused", hint="enable it", code="refused"), "connect", 11),
        (DeadlineExceeded("10.9.0.1:3260 did not answer"), "connect", 11),
        (IscsiFailure(IscsiErr.FATAL_LOGIN, "no such target"), "login", 12),
        (IscsiFailure(IscsiErr.LOGIN_AUTH_FAILED, "wrong secret"), "login", 13),
        (IscsiFailure(IscsiErr.FATAL_LOGIN, "the target failed authentication", code="iscsi-chap"), "login", 13),
        (PeerError("lost", code="disconnected"), "nop", 14),
        (PeerError("medium error", code="scsi"), "luns", 15),
        (Unavailable("no device", code="no-rdma-device"), "address", 3),
        (LocalError("bad name"), "address", 2),
        (DeadlineExceeded("the worker did not answer"), "", 5),
    ],
)
def test_the_status_tells_the_layer(
    run: Run, worker: type[FakeWorker], capsys: Output, error: RdmactlError, stage: str, status: int
) -> None:
    failed = FOUND._replace(error=error, stage=stage, targets=())
    worker.reports = [FOUND, failed, FOUND]
    assert run("ping", "10.9.0.1", "-c", "3") == status
    output = capsys.readouterr()
    assert f"failed ({error.code})" in output.out
    assert "2 of 3 answered; min/avg/max 12.3/12.3/12.3 ms" in output.out
    assert output.err.startswith(f"rdmactl: {error.message}")
    assert len(output.err.splitlines()) == 1
    for verb in ("ping", "luns", "perf"):
        worker.reports = [failed]
        assert run(verb, "10.9.0.1", "-j") == status
        answer = json.loads(capsys.readouterr().out)
        answer = answer["pings"][0] if verb == "ping" else answer
        assert (answer["ok"], answer["error"]["code"], answer["failed_step"]) == (False, error.code, stage or None)


@pytest.mark.parametrize(
    "words",
    [
        ["ping", "-c", "0"], ["ping", "-c", "x"], ["ping", "-t", "0"], ["ping", "-t", "-1"], ["ping", "-t", "nan"],
        ["ping", "--nops", "0"], ["perf", "-l", "-1"], ["perf", "-b", "4Q"], ["perf", "-l", "x"],
    ],
)  # fmt: skip
def test_numbers_out_of_range(run: Run, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(words[0], "10.9.0.1", *words[1:])
    assert caught.value.code == 2


# luns


def test_luns(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    assert run("luns", f"10.9.0.1/{NAME}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["LUN", "TYPE", "SIZE", "BLOCK", "VENDOR", "PRODUCT", "SERIAL", "WWID"]
    assert lines[1].split() == ["0", "disk", "64", "MiB", "512", "LIO-ORG", "FILEIO", "serial-1", "naa.6001"]
    assert lines[2].split() == ["1", *["-"] * 7]
    assert lines[3] == "LUN 1: INQUIRY failed: busy"


def test_luns_as_json(run: Run, capsys: Output) -> None:
    assert run("luns", f"10.9.0.1/{NAME}", "-j") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["target"]) == ("rdmactl.iser.luns", NAME)
    assert found["luns"][0] == DISK._asdict()


# perf


def test_perf(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    assert run("perf", f"10.9.0.1/{NAME}", "-b", "8K", "-d", "4", "-q", "8") == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        f"10.9.0.1:3260 {NAME}: read LUN 0 in 12.3 ms over RoCE (rxe0, from 10.9.0.1:5), mutual CHAP",
        "  2229 IOPS, 9.13 MB/s, 8915 commands in 4.00 s",
        "  latency ms: min 2.00  p50 6.80  max 18.00",
    ]
    assert output.err == "    2 s  4458 IOPS, 18.26 MB/s\n"
    assert worker.asked[0][2] == Plan(0, 8, 8192, 4.0)


def test_perf_as_json(run: Run, capsys: Output) -> None:
    assert run("perf", "10.9.0.1", "-j", "--sequential", "-l", "2") == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert (found["plan"]["lun"], found["plan"]["sequential"], found["plan"]["write"]) == (2, True, False)
    assert found["result"]["iops"] == pytest.approx(2228.75)
    assert found["result"]["latency_s"]["p50"] == 0.0068
    assert output.err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["--write"],
        ["--write", "--lun", "1"],
        ["--write", "--overwrite-lun", "0"],
        ["--write", "--lun", "1", "--overwrite-lun", "0"],
        ["--lun", "1", "--overwrite-lun", "1"],
    ],
)
def test_nothing_is_overwritten_by_accident(
    run: Run, worker: type[FakeWorker], capsys: Output, words: list[str]
) -> None:
    assert run("perf", "10.9.0.1", *words) == 2
    assert worker.asked == []
    assert capsys.readouterr().err.startswith("rdmactl: --")


def test_a_unit_named_twice_is_written(run: Run, worker: type[FakeWorker], capsys: Output) -> None:
    assert run("perf", "10.9.0.1", "--write", "--lun", "1", "--overwrite-lun", "1") == 0
    assert worker.asked[0][2].write
    assert "wrote LUN 1" in capsys.readouterr().out
