# SPDX-License-Identifier: Apache-2.0
"""Failures of the initiator's own making, and one translation of everybody else's. Shell ring, no I/O.

Callers get `IscsiFailure` and nothing else, numbered as iscsiadm numbers it. Not here: failures of the protocol, which
the engines name (`rdmactl.iscsi.login_status`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rdmactl.errors import DeadlineExceeded, KernelError, RdmactlError, Unavailable
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure

__all__ = ["TryAgain", "as_failure", "translated"]


class TryAgain(IscsiFailure):
    """A failure that another attempt may not meet: silence, a refused connection, a target that is busy."""


def as_failure(error: RdmactlError, what: str) -> IscsiFailure:
    """`error`, which came up while `what` was done, as an IscsiFailure."""
    if isinstance(error, IscsiFailure):
        return error
    match error:
        case Unavailable():
            return IscsiFailure(IscsiErr.ACCESS, error.message, hint=error.hint)
        case DeadlineExceeded():
            return IscsiFailure(IscsiErr.REQ_TIMEDOUT, f"{what}: {error.message}", hint=error.hint)
        case KernelError():
            return IscsiFailure(IscsiErr.INTERNAL, f"{what}: {error.message}", hint=error.hint)
    return IscsiFailure(IscsiErr.INVAL, error.message, hint=error.hint)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Whatever fails inside, while `what` is done, leaves as an IscsiFailure."""
    try:
        yield
    except RdmactlError as error:
        raise as_failure(error, what) from error
