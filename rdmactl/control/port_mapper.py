# SPDX-License-Identifier: Apache-2.0
"""io.rdmactl.PortMapper: iWARP port mappings. Shell ring. See `interfaces.py` for what holds in all of these."""

from collections.abc import AsyncIterator
from typing import TypedDict

from asyncvarlink import LastResult, VarlinkInterface, varlinkmethod

from rdmactl.control.interfaces import READ_DEADLINE_S, Caller, Failed
from rdmactl.iwpm.view import MappingInfo, mapping_list
from rdmactl.netlink.message import NETLINK_RDMA, split
from rdmactl.netlink.rdma import RDMA_NL_IWCM, client_of
from rdmactl.netlink.trace import TraceEntry

__all__ = ["MAPPINGS_EACH", "PortMapper"]

MAPPINGS_EACH = 256
"""Mappings in one answer: some milliseconds of work, so that other callers get theirs in between."""

SELFTEST_DEADLINE_S = 30.0
"""Reading what the kernel has (5 s at most), and up to 2 s for each address that does not answer."""


class Mapping(TypedDict):
    """Addresses are text: "192.0.2.1:4711", "[2001:db8::1]:4711". The other fields are MappingInfo's."""

    local: str
    mapped: str
    kind: str
    references: int
    port_mapped: bool
    claimed: bool
    age_s: float


class AnswerTime(TypedDict):
    """How many answers took at most `within_s` and more than the bound before; the last one has no bound."""

    within_s: float | None
    answers: int


class PortMapperStatus(TypedDict):
    state: str
    registered: bool
    abi_version: int
    mappings: int
    claims: int
    queries_open: int
    offers_open: int
    counters: dict[str, int]
    answer_times: list[AnswerTime]
    unmapped: list[str]


class TraceMessage(TypedDict):
    """A datagram between the kernel and the port mapper, as a recording has it (`rdmactl.netlink.trace`)."""

    time_s: float
    direction: str
    note: str
    hex: str
    waited_us: int | None


class Trace(TypedDict):
    """`next` is the `since` of a call that goes on from here."""

    next: int
    messages: list[TraceMessage]


class Check(TypedDict):
    """What the daemon found when it looked at itself: `result` is ok, warning or failed."""

    name: str
    result: str
    text: str


class PortMapper(VarlinkInterface, name="io.rdmactl.PortMapper"):
    """iWARP port mappings."""

    errors = (Failed,)

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @varlinkmethod(return_parameter="mappings")
    async def List(self) -> AsyncIterator[list[Mapping]]:  # noqa: N802
        """Every mapping of this host at one moment, oldest first, MAPPINGS_EACH in an answer."""
        found, now = await self._caller.call("iwpm", lambda service: service.snapshot(), deadline_s=READ_DEADLINE_S)
        last = max(0, len(found) - 1) // MAPPINGS_EACH * MAPPINGS_EACH
        for at in range(0, last, MAPPINGS_EACH):
            yield _mappings(mapping_list(found[at : at + MAPPINGS_EACH], now))
        raise LastResult(_mappings(mapping_list(found[last:], now)))

    @varlinkmethod
    async def Status(self) -> PortMapperStatus:  # noqa: N802
        """How the port mapper is doing."""
        status = await self._caller.call("iwpm", lambda service: service.status(), deadline_s=READ_DEADLINE_S)
        return {
            "state": status.state,
            "registered": status.registered,
            "abi_version": status.abi_version,
            "mappings": status.mappings,
            "claims": status.claims,
            "queries_open": status.queries_open,
            "offers_open": status.offers_open,
            "counters": status.counters,
            "answer_times": [{"within_s": bound, "answers": answers} for bound, answers in status.answer_times],
            "unmapped": list(status.unmapped),
        }

    @varlinkmethod(return_parameter="lines")
    async def Dump(self) -> list[str]:  # noqa: N802
        """The lines rdma-core's iwpmd logs on SIGUSR1."""
        lines: list[str] = await self._caller.call("iwpm", lambda service: service.dump(), deadline_s=READ_DEADLINE_S)
        return lines

    @varlinkmethod
    async def Trace(self, *, since: int) -> Trace:  # noqa: N802
        """The last messages exchanged with the kernel's iw_cm: those after the first `since` ones of all."""
        reached, entries = self._caller.trace(since)
        # Acknowledgements do not say whose they are; the socket does.
        portids = {entry.portid for entry in entries if _is_iwcm(entry)}
        messages: list[TraceMessage] = [
            {
                "time_s": entry.time_s,
                "direction": entry.direction,
                "note": entry.note,
                "hex": entry.datagram.hex(),
                "waited_us": None if entry.waited_s is None else round(entry.waited_s * 1e6),
            }
            for entry in entries
            if entry.portid in portids
        ]
        return {"next": reached, "messages": messages}

    @varlinkmethod(return_parameter="checks")
    async def Selftest(self) -> list[Check]:  # noqa: N802
        """Look whether everything that is needed is there; disturbs nothing."""
        found = await self._caller.call("iwpm", lambda service: service.selftest(), deadline_s=SELFTEST_DEADLINE_S)
        return [{"name": check.name, "result": check.result.value, "text": check.text} for check in found]


def _mappings(found: list[MappingInfo]) -> list[Mapping]:
    return [
        {
            "local": str(mapping.local),
            "mapped": str(mapping.mapped),
            "kind": mapping.kind,
            "references": mapping.references,
            "port_mapped": mapping.port_mapped,
            "claimed": mapping.claimed,
            "age_s": mapping.age_s,
        }
        for mapping in found
    ]


def _is_iwcm(entry: TraceEntry) -> bool:
    return entry.family == NETLINK_RDMA and any(
        client_of(message.type) == RDMA_NL_IWCM for message in split(entry.datagram)
    )
