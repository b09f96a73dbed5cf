# SPDX-License-Identifier: Apache-2.0
"""Where a daemon's log lines go. Face ring.

Under systemd to the journal, with fields, through systemd-python; in the background to syslog, facility daemon, as
rdma-core's iwpmd does; in a terminal to standard error. Not here: what is logged.
"""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["set_up"]


def set_up(program: str, *, background: bool = False, debug: bool = False) -> None:
    """Send the records of all loggers to one place; `program` is the syslog identifier."""
    root = logging.getLogger()
    root.handlers[:] = [_handler(program, background=background)]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    # asyncio reports slow callbacks and lost tasks; its debug chatter helps nobody here.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _handler(program: str, *, background: bool) -> logging.Handler:
    if os.environ.get("JOURNAL_STREAM") or os.environ.get("NOTIFY_SOCKET"):
        try:
            from systemd.journal import JournalHandler

            handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER=program)
            handler.setFormatter(logging.Formatter("%(message)s"))
            return handler
        except (ImportError, OSError):
            pass  # no journal after all: standard error reaches whoever started us
    if background:
        from logging.handlers import SysLogHandler

        handler = SysLogHandler("/dev/log", facility=SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"{program}[{os.getpid()}]: %(message)s"))
        return handler
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{program}: %(message)s"))
    return handler
