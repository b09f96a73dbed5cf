# SPDX-License-Identifier: Apache-2.0
"""iSER on this machine's kernel for tests of user-space sessions: LIO behind soft-RoCE and soft-iWARP.

For the lab's virtual machine only: it loads modules, makes network devices and targets.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmactl.rdmacm.channel import EventChannel
from tests.lab.guest import sh, wait_for

RXE, SIW = "10.9.0.1", "10.9.1.1"
TARGET = "iqn.2026-11.test:t0"
LOCKED = "iqn.2026-11.test:locked"
ME = "iqn.2026-11.test:me"
DEVICES = {RXE: ("rxe0", "RoCE"), SIW: ("siw0", "iWARP")}
RDMACTL = str(Path(sys.executable).parent / "rdmactl")
NOBODY = 65534

CONFIG = "/sys/kernel/config/target"

# A LIO portal always opens a TCP listener too, which takes soft-iWARP's port: it is made in another namespace.
_LINKS = f"""
    siw stock
    link rxe0 rxe d0 {RXE}/24
    link siw0 siw d1 {SIW}/24
    ip netns add aside
    ip -n aside link set lo up
    ip -n aside address add {SIW}/32 dev lo
"""


def portals(target: str) -> str:
    """Shell text: one iSER portal of a target on each transport."""
    return f"""
    target {target} {RXE}:3260 iser
    np={CONFIG}/iscsi/{target}/tpgt_1/np/{SIW}:3260
    nsenter --net=/run/netns/aside mkdir $np
    echo 1 > $np/iser
    """


def links() -> None:
    """A device for each transport, and no target."""
    sh(_LINKS)


def set_up() -> None:
    """One target, open to all, with portals on both transports; portals 3261 are for TCP only."""
    links()
    sh(f"{portals(TARGET)}target {TARGET} {RXE}:3261 tcp; target {TARGET} {SIW}:3261 tcp")


def second_unit(target: str, file: str, mebibytes: int = 16) -> None:
    """LUN 1 of a target, on a file of its own; both units get a serial number, without which LIO has no pages."""
    units = f"{CONFIG}/core/fileio_0"
    sh(
        f"""
        for unit in {units}/*; do echo serial-$(basename $unit) > $unit/wwn/vpd_unit_serial; done
        mkdir {units}/second; truncate -s {mebibytes}M {file}
        echo "fd_dev_name={file},fd_dev_size=$(({mebibytes} * 1048576))" > {units}/second/control
        echo 1 > {units}/second/enable
        echo serial-second > {units}/second/wwn/vpd_unit_serial
        mkdir {CONFIG}/iscsi/{target}/tpgt_1/lun/lun_1
        ln -s {units}/second {CONFIG}/iscsi/{target}/tpgt_1/lun/lun_1/second
        """
    )


def locked_target() -> None:
    """A target for `ME` only, by CHAP: joe with secret-of-joe-1; it proves to be array with secret-of-array-1."""
    group = f"{CONFIG}/iscsi/{LOCKED}/tpgt_1"
    sh(
        f"""
        {portals(LOCKED)}
        echo 0 > {group}/attrib/generate_node_acls
        echo 1 > {group}/attrib/authentication
        acl={group}/acls/{ME}
        mkdir $acl; mkdir $acl/lun_0; ln -s {group}/lun/lun_0 $acl/lun_0/unit
        echo -n joe > $acl/auth/userid; echo -n secret-of-joe-1 > $acl/auth/password
        echo -n array > $acl/auth/userid_mutual; echo -n secret-of-array-1 > $acl/auth/password_mutual
        """
    )


@dataclass
class Done:
    status: int
    output: str
    error: str
    seconds: float

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output)
        return found


def rdmactl(*words: str, uid: int = 0, environment: dict[str, str] | None = None, limit_s: float = 60) -> Done:
    """Run the native front end."""
    started = time.monotonic()
    done = subprocess.run(
        [RDMACTL, *words],
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
        env={**os.environ, **(environment or {})},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def resources(device: str) -> dict[str, int]:
    """What the kernel counts for a device."""
    (entry,) = (entry for entry in json.loads(sh("rdma resource show -j")) if entry["ifname"] == device)
    return {name: count for name, count in entry.items() if name in ("pd", "cq", "qp", "cm_id", "mr", "ctx")}


def held() -> list[str]:
    """The verbs objects of programs, as against the kernel's own; but for contexts, which librdmacm keeps."""
    return [
        f"{entry['ifname']}: {kind} of {entry['comm']}"
        for kind in ("pd", "cq", "qp", "mr", "cm_id")
        for entry in json.loads(sh(f"rdma resource show {kind} -j") or "[]")
        if "pid" in entry and not entry["comm"].startswith("[")
    ]


def wait_until_free() -> None:
    """No program holds anything."""
    wait_for(lambda: not held(), "all verbs objects to be freed", limit_s=20)


def run(function: Callable[[EventChannel], Awaitable[None]], limit_s: float = 60) -> None:
    """Do something with an event channel in a loop of this process."""

    async def inside() -> None:
        channel = EventChannel()
        async with asyncio.timeout(limit_s):
            await function(channel)
        await channel.settle()
        channel.close()

    asyncio.run(inside())
