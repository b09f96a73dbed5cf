# SPDX-License-Identifier: Apache-2.0
"""The initiator and its discovery daemon, made ready: what outlives restarts kept, records looked up. Face ring.

Not here: what they do (`rdmactl.initiator.service`, `rdmactl.discoveryd.service`), the life of a daemon (`runner.py`),
the port mapper (`mapper_role.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from rdmactl.control.client import runtime_directory
from rdmactl.discoveryd.initiator import DispatchedInitiator
from rdmactl.discoveryd.service import DiscoveryService
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.service import InitiatorService
from rdmactl.initiator.sysfs import SessionView
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.ports import Service
from rdmactl.netlink.workers import WorkerPool
from rdmactl.records.conf import ensure_initiator_name
from rdmactl.records.recorded import record_moved, recorded_request

__all__ = ["discovery_daemon", "initiator", "initiator_name"]

_SESSIONS = "sessions"


def initiator() -> Callable[[], Service]:
    """A factory of initiators. Sessions found without settings of ours are looked up in the records."""
    runtime = f"{runtime_directory()}/{_SESSIONS}"

    def recorded(view: SessionView) -> LoginRequest | None:
        return recorded_request(view, initiator_name())

    scans = WorkerPool("initiator-scans")  # outlives restarts: a thread that does not come back keeps counting
    return lambda: InitiatorService(runtime=runtime, settings_of=recorded, record_moved=record_moved, scans=scans)


def discovery_daemon(dispatcher: Dispatcher) -> Service:
    """It asks the initiator next to it."""
    return DiscoveryService(DispatchedInitiator(dispatcher), initiator_name())


def initiator_name() -> str:
    """This host's name; made now if it has none."""
    return ensure_initiator_name()
