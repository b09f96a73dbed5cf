# SPDX-License-Identifier: Apache-2.0
"""A discovery of a front end: the daemon is asked through each interface, and the records follow. Face ring.

What was not named by an answer is deleted from the records only when every interface was answered, and no entry of any
list had to be left out. iscsiadm deletes in any case.
Not here: words and statuses (`iseradm_discovery.py`, `discovery_run.py`), what changes in the records
(`rdmactl.records.operations`).
"""

from __future__ import annotations

from rdmactl.iscsi.portal_option import parse_option
from rdmactl.records import operations
from rdmactl.records.model import wire_record
from rdmactl.records.operations import Changes, Found
from rdmactl.records.store import NodeId
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdmactl.cli.iseradm_context import Context
    from rdmactl.iscsi.portal_option import PortalOption
    from rdmactl.records.model import Record

__all__ = ["Answer", "Answers", "ask", "keep", "source_of"]

_ANSWER_S = 60.0
_ISNS_S = 120.0  # two connections and a minute for the answers
_DEADLINE_MAX_S = 3600.0


class Answer(NamedTuple):
    """What one interface has found. `skipped` entries of the list were left out, for the reasons among `warnings`."""

    iface: Record
    portals: list[Found]
    skipped: int
    warnings: list[str]

    @property
    def nodes(self) -> list[NodeId]:
        """The node records that belong to it."""
        name = str(self.iface["iface.iscsi_ifacename"])
        return [NodeId(*portal, name) for portal in self.portals]


class Answers(NamedTuple):
    """What all interfaces have found; `whole` if every one was answered, with nothing left out."""

    of_ifaces: Sequence[Answer]
    whole: bool


def ask(context: Context, record: Record, iface: Record) -> Answer:
    """Ask a discovery address through one interface. RdmactlError."""
    from rdmactl.cli.iseradm_login import ask_daemon

    answer = ask_daemon(context, "Discover", {"record": wire_record({**iface, **record})}, _deadline_s(record))
    known: dict[str, PortalOption | None] = {}  # most targets of a list share their portals
    portals = []
    for target in answer["targets"]:
        for text in target["addresses"]:
            if text not in known:
                known[text] = parse_option(text)
            portal = known[text]
            if portal is not None:
                portals.append(Found(target["name"], *portal))
    where = str(record["discovery.sendtargets.address"])
    return Answer(iface, portals, answer["skipped"], [f"{where}: {warning}" for warning in answer["warnings"]])


def source_of(context: Context, record: Record) -> operations.Source:
    """The source that node records found by a discovery record name."""
    return operations.source_of_discovery(
        context.store,
        str(record["discovery.type"]),
        str(record["discovery.sendtargets.address"]),
        int(str(record["discovery.sendtargets.port"])),
    )


def keep(
    context: Context, answers: Answers, source: operations.Source, changes: Changes, *, preserve: bool
) -> list[NodeId]:
    """Bring the node records into agreement with what was found; those that stay because they are in use."""
    counts = context.session_counts()
    settings, store = context.settings, context.store
    with store.transaction():
        for answer in answers.of_ifaces:
            operations.add_found(store, answer.portals, answer.iface, source, changes, settings)
        if not (changes.delete and answers.whole):
            return []
        found = [node for answer in answers.of_ifaces for node in answer.nodes]
        return operations.delete_stale(store, found, source, lambda node: counts.of(node) > 0, preserve=preserve)


def _deadline_s(record: Record) -> float:
    if record["discovery.type"] == "isns":
        return _ISNS_S
    prefix = "discovery.sendtargets"
    tries = max(int(str(record[f"{prefix}.reopen_max"])), 0) + 1
    each_s = max(int(str(record[f"{prefix}.timeo.login_timeout"])), 1)
    return min(tries * (each_s + 1.0) + _ANSWER_S, _DEADLINE_MAX_S)
