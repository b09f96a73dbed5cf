# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.adoption: every combination of kernel states a daemon may find at its start."""

from __future__ import annotations

import os

import pytest

from rdmactl.initiator.adoption import Adoption, judge, maker_lives
from rdmactl.initiator.sysfs import SessionView
from rdmactl.iscsi.portal import Portal

FOUND = SessionView(
    sid=1, host_no=6, transport="tcp", target="iqn.2026-11.test:t", tpgt=1, persistent=Portal("10.9.0.1"),
    iface_name="default", creator=4194303, state="LOGGED_IN", target_state="SCANNED", connection_state="up",
    exp_statsn=7, path="", root="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "connection", "target_state", "statsn", "verdict"),
    [
        ("LOGGED_IN", "up", "SCANNED", 7, Adoption.WATCH),
        ("LOGGED_IN", "up", "ALLOCATED", 7, Adoption.WATCH),
        ("LOGGED_IN", "up", "UNBINDING", 7, Adoption.REMOVE),
        ("LOGGED_IN", "up", "UNBOUND", 7, Adoption.REMOVE),
        ("LOGGED_IN", "down", "SCANNED", 7, Adoption.REMOVE),
        ("LOGGED_IN", "failed", "SCANNED", 7, Adoption.RECOVER),
        ("FAILED", "failed", "SCANNED", 7, Adoption.RECOVER),
        ("FAILED", "bound", "SCANNED", 7, Adoption.RECOVER),
        ("FAILED", "down", "ALLOCATED", 7, Adoption.RECOVER),
        ("FAILED", "failed", "UNBOUND", 7, Adoption.REMOVE),
        ("FREE", "failed", "UNBINDING", 7, Adoption.REMOVE),
        ("FREE", "failed", "SCANNED", 7, Adoption.RECOVER),
        ("FREE", "bound", "ALLOCATED", 7, Adoption.RECOVER),
        ("FREE", "bound", "ALLOCATED", 0, Adoption.REMOVE),
        ("FREE", "down", "ALLOCATED", 0, Adoption.REMOVE),
        ("FREE", None, "ALLOCATED", 0, Adoption.REMOVE),
        ("FAILED", None, "SCANNED", 7, Adoption.REMOVE),
    ],
)
def test_verdicts(state: str, connection: str | None, target_state: str, statsn: int, verdict: Adoption) -> None:
    found = FOUND._replace(state=state, connection_state=connection, target_state=target_state, exp_statsn=statsn)
    assert judge(found, maker_is_alive=False) is verdict
    alive = Adoption.LEAVE if verdict is Adoption.REMOVE else verdict
    assert judge(found, maker_is_alive=True) is alive
    assert judge(found._replace(creator=-1), maker_is_alive=False) is Adoption.LEAVE


def test_who_lives() -> None:
    assert not maker_lives(FOUND)  # nobody has this process id
    assert maker_lives(FOUND._replace(creator=os.getppid()))
    assert not maker_lives(FOUND._replace(creator=os.getpid() | 3 << 22))  # another socket of this process
    assert maker_lives(FOUND._replace(creator=-4711))  # a port id the kernel made up
    assert maker_lives(FOUND._replace(creator=None))
