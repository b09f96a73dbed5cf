# SPDX-License-Identifier: Apache-2.0
"""Errors to text and exit status: nothing that happens inside a front end ends in a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rdmactl.cli.errors import EXIT_BROKEN_PIPE, EXIT_INTERNAL, error_text, exit_status, guard, iscsiadm_status
from rdmactl.control.client import RemoteError
from rdmactl.errors import DeadlineExceeded, LocalError, RdmactlError, StoreError, Unavailable
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


def test_the_status_of_a_run_without_error_is_its_own() -> None:
    assert guard("prog", lambda: 21) == 21


@pytest.mark.parametrize(
    ("error", "native", "iscsiadm"),
    [
        (LocalError("bad"), 2, 7),
        (StoreError("store"), 1, 6),
        (Unavailable("gone", code="daemon-not-running"), 3, 20),
        (Unavailable("gone", code="daemon-gone"), 3, 18),
        (RemoteError("no", code="access-denied"), 4, 13),
        (RemoteError("no", code="not-permitted"), 4, 13),
        (RemoteError("no", code="restarting"), 3, 20),
        (RemoteError("no", code="stopping"), 3, 18),
        (RemoteError("no", code="invalid-portal"), 2, 7),
        (RemoteError("no", code="who-knows"), 1, 1),
        (LocalError("bad", code="odd"), 2, 7),
        (Unavailable("taken", code="role-taken"), 3, 20),
        (DeadlineExceeded("late", code="odd"), 5, 33),
        (DeadlineExceeded("late"), 5, 33),
        (IscsiFailure(IscsiErr.LOGIN_AUTH_FAILED, "no"), 1, 24),
        (RemoteError("no", code="iscsi", err=11), 1, 11),
    ],
)
def test_status(error: RdmactlError, native: int, iscsiadm: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(error) == native
    assert guard("prog", raising(error)) == native
    assert guard("prog", raising(error), status=iscsiadm_status) == iscsiadm
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"prog: {error_text(error)}\n" * 2


def test_the_hint_follows_the_message() -> None:
    assert error_text(LocalError("a is wrong", hint="use b")) == "a is wrong; use b"


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyError("secret"), RecursionError()])
def test_the_unforeseen_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard("prog", raising(error)) == EXIT_INTERNAL
    err = capsys.readouterr().err
    assert err == f"prog: internal error ({type(error).__name__}); please report it\n"


def test_the_authors_get_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    guard("prog", raising(ZeroDivisionError()), debug=lambda: True)
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard("prog", raising(PermissionError(13, "Permission denied", "/etc/x"))) == EXIT_INTERNAL
    assert capsys.readouterr().err == "prog: cannot use /etc/x: Permission denied\n"


def test_interrupt_and_broken_pipe_are_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rdmactl.cli.errors._silence_stdout", lambda: None)
    assert guard("prog", raising(KeyboardInterrupt())) == 130
    assert guard("prog", raising(KeyboardInterrupt()), interrupted=1) == 1
    assert guard("prog", raising(BrokenPipeError())) == EXIT_BROKEN_PIPE
    assert capsys.readouterr() == ("", "")
