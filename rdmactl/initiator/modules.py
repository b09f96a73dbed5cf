# SPDX-License-Identifier: Apache-2.0
"""Make a transport's kernel module be there: the one door to modprobe. Shell ring.

Blocking: run it in a lane's worker thread. Not here: which transport a record wants.
"""

from __future__ import annotations

import subprocess

from rdmactl.initiator import sysfs
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure

__all__ = ["TRANSPORTS", "transport_ready"]

# The module that registers each transport. sd_mod turns LUNs into disks: udev loads it by alias, a host without udev
# (an initramfs, a container host) would log in and see no disk.
TRANSPORTS = {
    "tcp": ("iscsi_tcp", "sd_mod"),
    "iser": ("ib_iser", "sd_mod"),
}
_MODPROBE_S = 30.0


def transport_ready(transport: str, root: str = "/sys") -> int:
    """The handle of a transport, after loading its module if need be; IscsiFailure (12) when that does not help.

    The handle is read anew for every session: it changes when the module is reloaded.
    """
    if transport not in TRANSPORTS:
        raise IscsiFailure(
            IscsiErr.TRANS_NOT_FOUND,
            f'transport "{transport}" is not supported',
            hint=f"use one of: {', '.join(TRANSPORTS)}",
        )
    handle = sysfs.transport_handle(transport, root)
    if handle is None:
        said = _modprobe(TRANSPORTS[transport])
        handle = sysfs.transport_handle(transport, root)
        if handle is None:
            module = TRANSPORTS[transport][0]
            raise IscsiFailure(
                IscsiErr.TRANS_NOT_FOUND,
                f"kernel module {module} for transport {transport} is not there",
                hint=said or f"load it with: modprobe {module}",
            )
    return handle


def _modprobe(modules: tuple[str, ...]) -> str:
    """Load modules; what modprobe complained about, "" when it did not."""
    try:
        done = subprocess.run(
            ["modprobe", "--all", "--quiet", *modules],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_MODPROBE_S,
            check=False,
        )
    except FileNotFoundError:
        return "modprobe is not installed"
    except subprocess.TimeoutExpired:
        return f"modprobe did not end within {_MODPROBE_S:.0f} s"
    return done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:][0] if done.stderr.strip() else ""
