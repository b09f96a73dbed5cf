# SPDX-License-Identifier: Apache-2.0
"""iserd: the iSER connection manager alone. Face ring. See iserd(8)."""

from __future__ import annotations

import signal
import sys

from rdmactl.daemons.initiator_role import discovery_daemon, initiator, initiator_name
from rdmactl.daemons.options import parse
from rdmactl.daemons.runner import Program, run

__all__ = ["main"]


def main() -> int:
    """Stays in the foreground. A signal ends the daemon with 0 and leaves all sessions as they are."""
    parse("iserd", "The iSER connection manager: logs in to iSER and iSCSI targets through the kernel. See iserd(8).")
    return run(
        lambda: Program(
            name="iserd",
            services={"initiator": initiator()},
            attached={"discoveryd": discovery_daemon},
            exit_status={signal.SIGTERM: 0, signal.SIGHUP: 0, signal.SIGINT: 130},
            initiator_name=initiator_name(),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
