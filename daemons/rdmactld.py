# SPDX-License-Identifier: Apache-2.0
"""rdmactld: port mapper and iSER connection manager in one process. Face ring. See rdmactld(8)."""

from __future__ import annotations

import signal
import sys

from rdmactl.daemons.initiator_role import discovery_daemon, initiator, initiator_name
from rdmactl.daemons.mapper_role import dump_mappings, port_mapper
from rdmactl.daemons.options import parse
from rdmactl.daemons.runner import Program, run

__all__ = ["main"]


def main() -> int:
    """Stays in the foreground. A signal ends the daemon with 0; sessions stay, mapped ports are released."""
    parse("rdmactld", "The port mapper and the iSER connection manager in one process. See rdmactld(8).")
    return run(
        lambda: Program(
            name="rdmactld",
            services={"iwpm": port_mapper(), "initiator": initiator()},
            attached={"discoveryd": discovery_daemon},
            exit_status={signal.SIGTERM: 0, signal.SIGHUP: 0, signal.SIGINT: 130},
            dump=dump_mappings,
            initiator_name=initiator_name(),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
