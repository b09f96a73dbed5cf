# SPDX-License-Identifier: Apache-2.0
"""One question to a discovery address, through one interface. Shell ring.

Not here: when (`schedule.py`), what the answer means (`care.py`), the protocols (`rdmactl.iscsi`, `rdmactl.isns`).
"""

from __future__ import annotations

from rdmactl.discoveryd.care import Answer, Place
from rdmactl.discoveryd.initiator import Initiator
from rdmactl.discoveryd.watched import Watched
from rdmactl.records.requests import discovery_request, isns_request

__all__ = ["ask", "initiator_names"]


async def ask(
    initiator: Initiator, watched: Watched, iface: dict[str, str], initiator_name: str
) -> tuple[Answer, tuple[str, ...]]:
    """What an interface finds at the record's address, and what was odd about it. RdmactlError when nothing came."""
    record = {**iface, **watched.record}
    request = (isns_request if watched.type == "isns" else discovery_request)(record, initiator_name)
    found = await initiator.discover(request)
    name = iface["iface.iscsi_ifacename"]
    places = {Place(target.name, portal, name): tpgt for target in found.targets for portal, tpgt in target.portals}
    return Answer(name, places, complete=not found.skipped), found.warnings


def initiator_names(watched: Watched, initiator_name: str) -> list[str]:
    """The names the interfaces log in with, each once: an iSNS server shows each of them what it may see."""
    return list(dict.fromkeys(iface.get("iface.initiatorname") or initiator_name for iface in watched.ifaces))
