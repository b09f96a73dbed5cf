# SPDX-License-Identifier: Apache-2.0
"""The initiator, made ready for a daemon: what outlives its restarts kept, records looked up. Face ring.

Not here: what it does (`rdmactl.initiator.service`), the life of a daemon (`runner.py`), the port mapper
(`mapper_role.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from rdmactl.control.client import runtime_directory
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.service import InitiatorService
from rdmactl.initiator.sysfs import SessionView
from rdmactl.netlink.ports import Service
from rdmactl.records.conf import ensure_initiator_name
from rdmactl.records.recorded import recorded_request

__all__ = ["initiator", "initiator_name"]

_SESSIONS = "sessions"


def initiator() -> Callable[[], Service]:
    """A factory of initiators. Sessions found without settings of ours are looked up in the records."""
    runtime = f"{runtime_directory()}/{_SESSIONS}"

    def recorded(view: SessionView) -> LoginRequest | None:
        return recorded_request(view, initiator_name())

    return lambda: InitiatorService(runtime=runtime, settings_of=recorded)


def initiator_name() -> str:
    """This host's name; made now if it has none."""
    return ensure_initiator_name()
