# SPDX-License-Identifier: Apache-2.0
"""What a daemon asks the node records, and tells them. Shell ring.

The settings of a session somebody else has made, for a daemon that takes over from iscsid: the kernel knows the
session's name and portal, the record knows the rest. And that a target has moved for good (RFC 7143, 11.13.5, 0102).
Not here: what rdmactl's own daemon keeps of its sessions (`rdmactl.initiator.runtime`).
"""

from __future__ import annotations

import logging
from dataclasses import replace

from rdmactl.errors import RdmactlError
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.sysfs import SessionView
from rdmactl.iscsi.portal import Portal
from rdmactl.records.model import wire_record
from rdmactl.records.requests import login_request
from rdmactl.records.store import NodeId, Store

__all__ = ["record_moved", "recorded_request"]

log = logging.getLogger(__name__)


def recorded_request(view: SessionView, initiator_name: str, directory: str | None = None) -> LoginRequest | None:
    """The login the session's record asks for; None when there is no record, or none that can be used.

    Names and address are the session's own: it lives under them whatever the record says by now.
    """
    if view.persistent is None:
        return None
    iface = view.iface_name or "default"
    node = NodeId(view.target, view.persistent.address, view.persistent.port, view.tpgt, iface)
    try:
        with Store(directory) as store:
            record = store.node(node)
        request = None if record is None else login_request(wire_record(record), initiator_name)
    except RdmactlError as error:
        log.warning("the record of session %d cannot be used: %s", view.sid, error)
        return None
    name = view.interface().initiator_name
    return request if request is None or name is None else replace(request, initiator_name=name)


def record_moved(request: LoginRequest, home: Portal, directory: str | None = None) -> bool:
    """Whether there is a record of the login that was redirected; it is one of `home` from now on, settings and source
    its own. A record that is there already stays as it is, and so does the other then. RdmactlError.
    """
    target, old, iface = request.target, request.portal, request.iface_name
    with Store(directory) as store, store.transaction():
        found = store.nodes(target=target, address=old.address, port=old.port, iface=iface)
        if not found or store.nodes(target=target, address=home.address, port=home.port, iface=iface):
            return False
        record, source = store.node(found[0]), store.source(found[0])
        if record is None:
            return False
        store.delete_node(found[0])
        record |= {"node.conn[0].address": home.address, "node.conn[0].port": str(home.port)}
        store.write_node(NodeId(target, home.address, home.port, found[0].tpgt, iface), record, source or "")
        return True
