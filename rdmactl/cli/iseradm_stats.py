# SPDX-License-Identifier: Apache-2.0
"""`iseradm --stats`: the kernel's counters of sessions, by way of the daemon. Face ring.

The kernel sends these answers to whoever listens to its events, and loops when nobody does: only the daemon, which
always listens, may ask. Not here: which sessions are meant.
"""

from __future__ import annotations

from rdmactl.cli.errors import err_text, error_text, iscsiadm_status
from rdmactl.cli.iseradm_login import DAEMON_DOWN, ask_daemon, session_text
from rdmactl.errors import RdmactlError

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rdmactl.cli.iseradm_context import Context
    from rdmactl.initiator.sysfs import SessionView

__all__ = ["print_statistics"]

_DEADLINE_S = 30.0


def print_statistics(context: Context, sessions: Sequence[SessionView]) -> int:
    """Print what is known of each session; the first failure's status."""
    status = 0
    for session in sessions:
        try:
            answer = ask_daemon(context, "Statistics", {"sid": session.sid}, _DEADLINE_S)
        except RdmactlError as error:
            status = status or iscsiadm_status(error)
            _complain(context, session, error)
        else:
            _print(session, answer)
    if status and context.exact:
        context.error(f"Could not execute operation on all sessions: {err_text(status)}")
    return status


def _complain(context: Context, session: SessionView, error: RdmactlError) -> None:
    if not context.exact:
        context.error(f"Could not get statistics of {session_text(session)}: {error_text(error)}")
    elif error.code == "daemon-not-running":
        for line in DAEMON_DOWN:
            context.error(line)


def _print(session: SessionView, answer: dict[str, Any]) -> None:
    print(f"Stats for session {session_text(session)}")
    print("iSCSI SNMP:")
    _print_counters(answer["fixed"])
    if answer["named"]:
        print("iSCSI Extended:")
        _print_counters(answer["named"])


def _print_counters(counters: Sequence[dict[str, Any]]) -> None:
    for counter in counters:
        print(f"\t{counter['name']}: {counter['value']}")
