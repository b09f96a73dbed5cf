# SPDX-License-Identifier: Apache-2.0
"""iwpmd: the iWARP port mapper alone, in the place of rdma-core's. Face ring. See iwpmd(8)."""

from __future__ import annotations

import signal
import sys

from rdmactl.daemons import logs
from rdmactl.daemons.background import detach
from rdmactl.daemons.mapper_role import dump_mappings, port_mapper
from rdmactl.daemons.runner import Program, run
from rdmactl.iwpm.options import parse

__all__ = ["main"]


def main() -> int:
    """Foreground with --systemd, else background, as the original. SIGTERM ends it with 0, SIGHUP with 1."""
    options = parse(sys.argv[1:])
    for complaint in options.complaints:
        print(complaint, file=sys.stderr)
    serving = (lambda: None) if options.systemd else detach()
    logs.set_up("iwpmd", background=not options.systemd)
    return run(
        lambda: Program(
            name="iwpmd",
            services={"iwpm": port_mapper()},
            exit_status={signal.SIGTERM: 0, signal.SIGHUP: 1, signal.SIGINT: 130},
            dump=dump_mappings,
            serving=serving,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
