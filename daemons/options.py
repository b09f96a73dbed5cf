# SPDX-License-Identifier: Apache-2.0
"""The command line of rdmactld and iserd, and their logging, which depends on it. Face ring.

iwpmd's is rdma-core's and has its own parser (`rdmactl.iwpm.options`).
"""

from __future__ import annotations

import argparse

from rdmactl import __version__
from rdmactl.daemons import logs

__all__ = ["parse"]


def parse(program: str, description: str) -> None:
    """Read sys.argv and set up logging; a wrong word ends the program with status 2, --help and --version with 0."""
    words = argparse.ArgumentParser(prog=program, description=description)
    words.add_argument("-f", "--foreground", action="store_true", help="accepted: the daemon always does")
    words.add_argument("-d", "--debug", action="store_true", help="log more")
    words.add_argument("-V", "--version", action="version", version=f"{program} {__version__}")
    logs.set_up(program, debug=words.parse_args().debug)
