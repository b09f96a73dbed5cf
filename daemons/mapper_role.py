# SPDX-License-Identifier: Apache-2.0
"""The port mapper, made ready for a daemon: configuration read, what outlives its restarts kept. Face ring.

Not here: what it does (`rdmactl.iwpm.service`), the life of a daemon (`runner.py`), and the initiator
(`initiator_role.py`): each daemon imports only what it runs, which is a fifth of its memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from rdmactl import settings
from rdmactl.control.client import runtime_directory
from rdmactl.errors import RdmactlError, Unavailable
from rdmactl.iwpm import conf
from rdmactl.iwpm import settings as mapper_settings
from rdmactl.iwpm.claims import ClaimKeeper
from rdmactl.iwpm.journal import MappingJournal
from rdmactl.iwpm.service import PortMapperService, in_initial_netns
from rdmactl.iwpm.vault import open_vaults
from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.ports import Service

__all__ = ["dump_mappings", "port_mapper"]

_log = logging.getLogger("rdmactl.daemon")
# What is dumped belongs to a running service: it answers in milliseconds.
_DUMP_S = 10.0
_JOURNAL = "iwpm.journal"


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
