# SPDX-License-Identifier: Apache-2.0
"""Which discovery records the daemon is to watch, and what to log in with: read from the records. Shell ring.

Nothing is written: sessions of the discovery daemon come without node records, as open-iscsi's do. Where there is a
node record all the same, its settings count; otherwise iscsid.conf's and the interface's, as for any new record.

Every function here opens the store and closes it again, and belongs into a worker thread: a disk may be slow.
Not here: when and how they are asked (`schedule.py`, `watcher.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import NamedTuple

from rdmactl.discoveryd.care import Place
from rdmactl.discoveryd.schedule import DEFAULT_POLL_S
from rdmactl.errors import RdmactlError
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.claims import DISCOVERY, NAME_MAX
from rdmactl.iscsi.portal import Portal
from rdmactl.records import conf, operations
from rdmactl.records.model import Record, plain, wire_record
from rdmactl.records.requests import login_request
from rdmactl.records.store import FILE_NAME, NodeId, Store, state_directory

__all__ = ["Watched", "login_requests", "stamp", "watched"]

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int] | None, ...]

_KEYS = {"sendtargets": "discovery.sendtargets", "isns": "discovery.isns"}


class Watched(NamedTuple):
    """A discovery record to watch, with the interfaces to ask through. Two that are equal ask the same."""

    type: str
    portal: Portal
    poll_s: float
    listens: bool
    record: dict[str, str]
    ifaces: tuple[dict[str, str], ...]

    @property
    def key(self) -> tuple[str, Portal]:
        """Which record it is, whatever its settings."""
        return self.type, self.portal

    @property
    def claim(self) -> str:
        """How its sessions are marked."""
        return f"{DISCOVERY}{self.type} {self.portal}"[:NAME_MAX]

    def __str__(self) -> str:
        return f"{self.portal} via {self.type}"


def stamp(directory: str | None = None) -> Stamp:
    """A value that is another one whenever the records may have changed. Two looks at the file system."""
    path = os.path.join(directory or state_directory(), FILE_NAME)
    return tuple(_stat(each) for each in (path, f"{path}-wal"))


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def watched(directory: str | None = None) -> list[Watched]:
    """The records with use_discoveryd = Yes. StoreError when they cannot be read. No database is made by looking."""
    if not any(stamp(directory)):
        return []
    with Store(directory, warn=log.warning) as store:
        found = []
        for type, address, port in store.discoveries():
            record = store.discovery(type, address, port)
            if record is not None and record.get(f"{_KEYS[type]}.use_discoveryd") == "Yes":
                found.append(_watched(store, type, Portal(address, port), record))
        return found


def _watched(store: Store, type: str, portal: Portal, record: Record) -> Watched:
    poll_s = float(plain(record.get(f"{_KEYS[type]}.discoveryd_poll_inval", "")) or 0)
    listens = type == "isns" and poll_s < 0
    names = operations.discovery_ifaces(store)
    ifaces = tuple(wire_record(iface) for name in names if (iface := operations.iface_record(store, name)) is not None)
    wire = wire_record(record)
    if type == "sendtargets":
        wire["discovery.sendtargets.reopen_max"] = "0"  # the next round is the next attempt
    return Watched(type, portal, DEFAULT_POLL_S if poll_s < 0 else poll_s, listens, wire, ifaces)


def login_requests(
    watched: Watched, places: Iterable[tuple[Place, int]], initiator_name: str, directory: str | None = None
) -> list[tuple[Place, LoginRequest]]:
    """What to log in with at these places; one that cannot be used is left out and logged."""
    settings, _ = conf.read_config()
    ifaces: dict[str, Record] = {iface["iface.iscsi_ifacename"]: dict(iface) for iface in watched.ifaces}
    source = operations.discovery_source(watched.type, *watched.portal)
    found = []
    with Store(directory) as store:
        for place, tpgt in places:
            if place.iface not in ifaces:
                continue
            node = NodeId(place.target, *place.portal, tpgt, place.iface)
            record = store.node(node) or operations.node_record(node, ifaces[place.iface], settings, source)
            try:
                found.append((place, login_request(wire_record(record), initiator_name)))
            except RdmactlError as error:
                log.warning("%s: no login to %s at %s: %s", watched, place.target, place.portal, error)
    return found
