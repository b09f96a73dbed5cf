# SPDX-License-Identifier: Apache-2.0
"""The one file that turns errors into text and exit status. Face ring.

Every front end runs inside `guard`. What does not belong here: deciding that something is an error, and the wording
of single commands. Rules: one sentence per error on standard error, never a traceback; a broken pipe is quiet; an
interrupt ends with the status the program's users expect (128 + signal; iscsiadm's is 1).
"""

from __future__ import annotations

import os
import sys

from rdmactl.errors import DeadlineExceeded, LocalError, RdmactlError, StoreError, Unavailable

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXIT_BROKEN_PIPE", "EXIT_INTERNAL", "err_text", "error_text", "exit_status", "guard", "iscsiadm_status"]

EXIT_INTERNAL = 1

EXIT_BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended, as it does iscsiadm."""

_EXIT_BY_CODE = {
    # 2 is what argparse uses for a wrong command line; the others are free for us.
    "invalid": 2,
    "daemon-not-running": 3,
    "daemon-gone": 3,
    "unavailable": 3,
    "access-denied": 4,
    "deadline": 5,
}

_EXIT_BY_LAYER = {"address": 10, "rdma": 11, "login": 12, "authentication": 13, "session": 14, "scsi": 15}
"""Of commands that talk to a target: how far they came. What is missing on this host keeps its own status."""

_LOCAL_STATUS = frozenset({2, 3, 4})

_ISCSIADM_BY_CODE = {
    # open-iscsi's numbers (rdmactl.iscsi.errors), as plain integers: this file is imported by every client.
    "store": 6,
    "invalid": 7,
    "access-denied": 13,
    "daemon-gone": 18,
    "daemon-not-running": 20,
    "unavailable": 20,
    "deadline": 33,
}


_CODE_OF_GROUP = {
    # A code that has no line of its own counts as one that has.
    "not-permitted": "access-denied",
    "not-found": "invalid",
    "duplicate": "invalid",
    "restarting": "unavailable",
    "abandoned": "unavailable",
    "ended": "unavailable",
    "stopping": "daemon-gone",
    "no-such-service": "unavailable",
}

_CODE_OF_CLASS = (
    (DeadlineExceeded, "deadline"),
    (Unavailable, "unavailable"),
    (LocalError, "invalid"),
    (StoreError, "store"),
)


def error_text(error: RdmactlError) -> str:
    """The sentence for a person: message, and the hint where there is one."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def exit_status(error: RdmactlError) -> int:
    """The status of the native front ends."""
    status = _EXIT_BY_CODE.get(_known_code(error, _EXIT_BY_CODE), EXIT_INTERNAL)
    return status if status in _LOCAL_STATUS else _EXIT_BY_LAYER.get(error.layer or "", status)


def iscsiadm_status(error: RdmactlError) -> int:
    """The status as iscsiadm numbers it: the error's own `err` when it carries one, else by its code."""
    err = getattr(error, "err", None)
    return int(err) if err else _ISCSIADM_BY_CODE.get(_known_code(error, _ISCSIADM_BY_CODE), EXIT_INTERNAL)


def _known_code(error: RdmactlError, known: dict[str, int]) -> str:
    """The error's code, or one of `known` that stands for it: of its group, or of its class."""
    if error.code in known:
        return error.code
    if error.code.startswith("invalid-"):
        return "invalid"
    by_class = next((code for kind, code in _CODE_OF_CLASS if isinstance(error, kind)), error.code)
    return _CODE_OF_GROUP.get(error.code, by_class)


def err_text(err: int) -> str:
    """What open-iscsi's programs print for one of its numbers."""
    from rdmactl.iscsi.errors import IscsiErr

    return next((member.text for member in IscsiErr if member == err), IscsiErr.ERR.text)


def guard(
    program: str,
    run: Callable[[], int],
    *,
    status: Callable[[RdmactlError], int] = exit_status,
    interrupted: int = 130,
    debug: Callable[[], bool] | None = None,
) -> int:
    """Run a front end and return its exit status, whatever happens inside.

    `run` returns the status itself when all went well. `debug` says, when something unforeseen was raised, whether to
    print the traceback as well: it is for the authors, not for users.
    """
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return interrupted
    except RdmactlError as error:
        return _report(program, error_text(error), status(error))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _report(program, f"cannot use{where or ' a file'}: {error.strerror or error}", EXIT_INTERNAL)
    except Exception as error:
        if debug is not None and debug():
            import traceback

            traceback.print_exc()
        return _report(program, f"internal error ({type(error).__name__}); please report it", EXIT_INTERNAL)
    return result


def _report(program: str, sentence: str, status: int) -> int:
    try:
        sys.stdout.flush()
        print(f"{program}: {sentence}", file=sys.stderr, flush=True)
    except OSError:
        _silence_stdout()
    return status


def _silence_stdout() -> None:
    """Nobody reads any more: keep the interpreter from complaining when it flushes at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
