# SPDX-License-Identifier: Apache-2.0
"""`iseradm`: iscsiadm's grammar, output and exit codes on top of rdmactl's records and daemon. Face ring.

Called by the name `iscsiadm` it is a drop-in: the same words on the same stream. Only what a run needs is imported,
because scripts call this program in loops.
Not here: anything but choosing the mode and ending the run.
"""

from __future__ import annotations

import io
import os
import sys

from rdmactl.cli.errors import guard, iscsiadm_status
from rdmactl.cli.iseradm_context import Context, Exit

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdmactl.cli.iseradm_grammar import Arguments

__all__ = ["main", "run"]

_INTERRUPTED = 1
"""iscsiadm's status after SIGINT."""

_STOP_S = 5.0

_DEBUG_TRACEBACK = 4
"""From this -d on, an internal error shows where it happened."""


def main() -> int:
    """Entry point; the exit status. Names that are not UTF-8 are printed as they were given."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    return run(Context(os.path.basename(sys.argv[0])), sys.argv[1:])


def run(context: Context, words: Sequence[str]) -> int:
    """One run of the program; returns its exit status."""
    try:
        return guard(
            context.program,
            lambda: _run(context, list(words)),
            status=iscsiadm_status,
            interrupted=_INTERRUPTED,
            debug=lambda: context.debug >= _DEBUG_TRACEBACK,
        )
    finally:
        context.close()


def _run(context: Context, words: list[str]) -> int:
    from rdmactl.cli.iseradm_grammar import parse

    wanted: int | None = None
    if not context.exact and any(word.startswith("--wait-d") for word in words):
        from rdmactl.cli.iseradm_devices import take

        wanted, words = take(words)
    try:
        arguments = parse(context, words)
        status = _dispatch(context, arguments)
    except Exit as end:
        return context.report(end)
    if wanted is None or status:
        return status
    from rdmactl.cli.iseradm_devices import name_devices

    return name_devices(arguments, wanted, context.sysfs)


def _dispatch(context: Context, arguments: Arguments) -> int:
    if arguments.kill is not None:
        return _stop_daemon(context, arguments.kill)
    match arguments.mode:
        case "node":
            from rdmactl.cli.iseradm_node import node_mode as mode
        case "session":
            from rdmactl.cli.iseradm_session import session_mode as mode
        case "discovery":
            from rdmactl.cli.iseradm_discovery import discovery_mode as mode
        case "discoverydb":
            from rdmactl.cli.iseradm_discovery import discoverydb_mode as mode
        case "iface":
            from rdmactl.cli.iseradm_iface import iface_mode as mode
        case "host":
            from rdmactl.cli.iseradm_host import host_mode as mode
        case _:
            from rdmactl.cli.iseradm_fw import firmware_mode as mode
    return mode(context, arguments)


def _stop_daemon(context: Context, priority: int) -> int:
    """-k 0: end the daemon by its signal, if it serves nothing else; the status says nothing about success."""
    from rdmactl.errors import Unavailable

    if priority > 0:
        raise Exit(0, f"Invalid iscsid priority {priority}. Priority must be 0.")
    try:
        with context.client(_STOP_S) as client:
            status = client.call("io.rdmactl.Daemon.Status")
    except Unavailable as error:
        if context.exact:
            raise Exit(
                0,
                "can not connect to iSCSI daemon (111)!",
                "initiator reported error (20 - could not connect to iscsid)",
                "Could not stop iscsid. Trying sending iscsid SIGTERM or SIGKILL signals manually",
            ) from None
        raise Exit(0, error.message) from None
    if status["roles"] != ["initiator"]:
        raise Exit(0, f"pid {status['pid']} also serves {', '.join(status['roles'])}: use systemctl stop")
    try:
        context.kill(status["pid"])
    except PermissionError:
        raise Exit(0, "Could not stop iscsid. Trying sending iscsid SIGTERM or SIGKILL signals manually") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
