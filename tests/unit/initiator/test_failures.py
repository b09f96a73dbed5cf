# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong inside reaches callers as an IscsiFailure with iscsiadm's number."""

from __future__ import annotations

import pytest

from rdmactl.errors import DeadlineExceeded, KernelError, LocalError, RdmactlError, Unavailable
from rdmactl.initiator.failures import TryAgain, as_failure
from rdmactl.iscsi.errors import IscsiErr


@pytest.mark.parametrize(
    ("error", "err", "message"),
    [
        (Unavailable("not permitted", hint="run as root"), IscsiErr.ACCESS, "not permitted"),
        (DeadlineExceeded("no answer within 30 s"), IscsiErr.REQ_TIMEDOUT, "session 5: no answer within 30 s"),
        (
            KernelError("BIND_CONN", 22, "BIND_CONN: Invalid argument"),
            IscsiErr.INTERNAL,
            "session 5: BIND_CONN: Invalid argument",
        ),
        (LocalError("bad name"), IscsiErr.INVAL, "bad name"),
        (TryAgain(IscsiErr.TRANS, "refused"), IscsiErr.TRANS, "refused"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RdmactlError) else "",
)
def test_translation(error: RdmactlError, err: IscsiErr, message: str) -> None:
    failure = as_failure(error, "session 5")
    assert (failure.err, failure.message, failure.hint) == (err, message, error.hint)
