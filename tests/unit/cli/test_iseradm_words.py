# SPDX-License-Identifier: Apache-2.0
"""rdmactl.cli.iseradm_words: a line for each attempt, whatever the cause."""

from __future__ import annotations

import pytest

from rdmactl.cli.iseradm_words import discovery_lines
from rdmactl.control.client import RemoteError

RECORD = {"discovery.sendtargets.address": "192.0.2.1", "discovery.sendtargets.reopen_max": "1"}
EXCEEDED = "connection login retries (reopen_max) 1 exceeded"


@pytest.mark.parametrize(
    ("code", "attempt"),
    [
        ("refused", ["cannot make connection to 192.0.2.1: Connection refused"]),
        ("rdma", ["Connection to discovery portal 192.0.2.1 failed: encountered connection failure"]),
        ("silent", ["connect to 192.0.2.1 timed out"]),
        ("unanswered", ["Login I/O error, failed to receive a PDU", "retrying discovery login to 192.0.2.1"]),
        (
            "closed",
            [
                "Connection to Discovery Address 192.0.2.1 closed",
                "Login I/O error, failed to receive a PDU",
                "retrying discovery login to 192.0.2.1",
            ],
        ),
    ],
)
def test_each_attempt_has_its_lines(code: str, attempt: list[str]) -> None:
    assert list(discovery_lines(RemoteError("x", code=code, err=11), RECORD)) == [*attempt, *attempt, EXCEEDED]


def test_a_name_without_address() -> None:
    error = RemoteError('cannot resolve "nosuch": Name or service not known', code="unresolved", err=4)
    lines = discovery_lines(error, {**RECORD, "discovery.sendtargets.address": "nosuch"})
    assert list(lines) == [
        "Cannot resolve host nosuch. getaddrinfo error: [Name or service not known]",
        "cannot resolve host name nosuch",
        "cannot resolve host name nosuch",
    ]


def test_what_has_no_lines_is_one_sentence() -> None:
    error = RemoteError("it broke", code="iscsi", hint="mend it", err=11)
    assert list(discovery_lines(error, RECORD)) == ["it broke; mend it"]
