# SPDX-License-Identifier: Apache-2.0
"""One question to a discovery address, through one interface. Shell ring.

Not here: when (`schedule.py`), what the answer means (`care.py`), the protocols (`rdmactl.iscsi`, `rdmactl.isns`).
"""

from __future__ import annotations

from rdmactl.discoveryd.care import Answer, Place
from rdmactl.discoveryd.initiator import Initiator
from rdmactl.discoveryd.watched import Watched
from rdmactl.netlink.ports import Lane
from rdmactl.records.requests import discovery_request

__all__ = ["ask"]


async def ask(
    lane: Lane, initiator: Initiator, watched: Watched, iface: dict[str, str], initiator_name: str
) -> tuple[Answer, tuple[str, ...]]:
    """What an interface finds at the record's address, and what was odd about it. RdmactlError when nothing came."""
    request = discovery_request({**iface, **watched.record}, initiator_name)
    found = await initiator.discover(request)
    name = iface.get("iface.iscsi_ifacename", "default")
    places = {Place(target.name, portal, name): tpgt for target in found.targets for portal, tpgt in target.portals}
    return Answer(name, places, complete=not found.skipped), found.warnings
