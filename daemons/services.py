# SPDX-License-Identifier: Apache-2.0
"""The two services, made ready for a daemon: configuration read, what outlives their restarts kept. Face ring.

Not here: what they do (`rdmactl.iwpm.service`, `rdmactl.initiator.service`), and the life of a daemon (`runner.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from rdmactl import settings
from rdmactl.control.client import runtime_directory
from rdmactl.errors import RdmactlError, Unavailable
from rdmactl.initiator.api import LoginRequest
from rdmactl.initiator.service import InitiatorService
from rdmactl.initiator.sysfs import SessionView
from rdmactl.iwpm import conf
from rdmactl.iwpm import settings as mapper_settings
from rdmactl.iwpm.claims import ClaimKeeper
from rdmactl.iwpm.journal import MappingJournal
from rdmactl.iwpm.service import PortMapperService, in_initial_netns
from rdmactl.iwpm.vault import open_vaults
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.ports import Service
from rdmactl.records.conf import ensure_initiator_name
from rdmactl.records.recorded import recorded_request

__all__ = ["dump_mappings", "initiator", "initiator_name", "port_mapper"]

_log = logging.getLogger("rdmactl.daemon")
# What is dumped belongs to a running service: it answers in milliseconds.
_DUMP_S = 10.0
_JOURNAL = "iwpm.journal"
_SESSIONS = "sessions"


def port_mapper(config_file: str = conf.CONFIG_FILE) -> Callable[[], Service]:
    """A factory of port mappers that share the claimed ports."""
    if in_initial_netns() is False:
        raise Unavailable(
            "the kernel's port mapper client answers only in the initial network namespace, and this is another one",
            hint="start the daemon outside of the container, or with --net=host",
            code="wrong-namespace",
        )
    config, notes = conf.parse(_text(config_file))
    for note in notes:
        _log.warning("%s", note)
    fields = {key: type for key, (type, _) in mapper_settings.FIELDS.items()}
    known, unknown = settings.section(settings.read(), "iwpm", fields)
    for note in unknown:
        _log.warning("%s", note)
    doors = mapper_settings.parse(known)
    directory = runtime_directory()
    claims = ClaimKeeper(open_vaults(directory), MappingJournal(str(Path(directory) / _JOURNAL)))
    return lambda: PortMapperService(config, claims, settings=doors)


def initiator() -> Callable[[], Service]:
    """A factory of initiators. Sessions found without settings of ours are looked up in the records."""
    runtime = f"{runtime_directory()}/{_SESSIONS}"

    def recorded(view: SessionView) -> LoginRequest | None:
        return recorded_request(view, initiator_name())

    return lambda: InitiatorService(runtime=runtime, settings_of=recorded)


def initiator_name() -> str:
    """This host's name; made now if it has none."""
    return ensure_initiator_name()


async def dump_mappings(dispatcher: Dispatcher) -> None:
    """SIGUSR1: the mappings, one record per line, as rdma-core's iwpmd writes them."""
    try:
        lines = await dispatcher.call("iwpm", PortMapperService.dump, deadline_s=_DUMP_S)
    except RdmactlError as error:
        _log.warning("cannot dump the mappings: %s", error)
        return
    for line in lines:
        _log.warning("%s", line)


def _text(path: str) -> str:
    """A configuration file that is absent is empty; one that cannot be read is reported, and is empty as well."""
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        _log.warning("cannot read %s: %s", path, error.strerror)
        return ""
