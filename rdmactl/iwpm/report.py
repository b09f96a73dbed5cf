# SPDX-License-Identifier: Apache-2.0
"""Bringing the mapping table into agreement with the kernel's report of its mappings. Engine ring.

Not here: when to ask for a report (`link.py`), and the table's own rules (`table.py`).

The kernel sends one record per connection manager id, in no order. Equal records are references. A record mapped to
itself stands for an id whose request failed, or which asked for no mapping; next to a real mapping of the same address
it is a refusal whose REMOVE is still to come. The report says nothing of requests that were answered a moment ago,
because the kernel enters a mapping after it has the answer: entries touched that recently are left alone, and counted
as doubtful so that the owner asks once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rdmactl.iwpm.table import Mapping, MappingKey, MappingTable, key_of
from rdmactl.netlink.rdma import IWPM_FLAGS_NO_PORT_MAP, MapInfo

__all__ = ["YOUNG_S", "Reconciled", "reconcile"]

YOUNG_S = 10.0
"""As long as the kernel waits for an answer: what it asked before that it has either entered or given up."""


class Reconciled(NamedTuple):
    """What a report has changed. `dropped` mappings are gone already; `conflicts` are records without an entry."""

    restored: list[Mapping]
    dropped: list[Mapping]
    conflicts: list[MapInfo]
    doubtful: int


def reconcile(table: MappingTable, records: Sequence[MapInfo], complete: bool, now: float) -> Reconciled:
    """Make the table agree with `records`. Only a `complete` report can say that a mapping has ended."""
    groups: dict[MappingKey, list[MapInfo]] = {}
    for record in records:
        groups.setdefault(key_of(record.local), []).append(record)
    result = Reconciled([], [], [], 0)
    refused: dict[MappingKey, int] = {}
    doubtful = 0
    if complete:
        for mapping in list(table):
            if mapping.key not in groups:
                if _is_young(mapping, now):
                    doubtful += 1
                else:
                    table.drop(mapping)
                    result.dropped.append(mapping)
    # Real mappings first: one of them must not lose its place to the leftover of a refused request.
    for key, group in sorted(groups.items(), key=lambda item: all(map(_is_leftover, item[1]))):
        wanted = _main_record(table, group)
        matching = sum(_same(record, wanted) for record in group)
        others = len(group) - matching
        existing = table.get(wanted.local)
        if existing is not None and existing.mapped[:3] == wanted.mapped[:3]:
            doubtful += _count_references(table, existing, matching, complete, now)
        elif existing is not None and _is_young(existing, now):
            doubtful += 1
        else:
            if existing is not None:
                table.drop(existing)
                result.dropped.append(existing)
            restored = table.restore(wanted.local, wanted.mapped, matching, now)
            if restored is None:
                result.conflicts.append(wanted)
                others = len(group)
            else:
                restored.touched = now - YOUNG_S  # the kernel's own word: not young
                result.restored.append(restored)
        if others:
            refused[key] = others
    if complete:
        table.set_refused(refused)
    return result._replace(doubtful=doubtful)


def _is_young(mapping: Mapping, now: float) -> bool:
    return now - mapping.touched < YOUNG_S


def _is_leftover(record: MapInfo) -> bool:
    return record.mapped.port == record.local.port and not record.flags & IWPM_FLAGS_NO_PORT_MAP


def _main_record(table: MappingTable, group: list[MapInfo]) -> MapInfo:
    """The record that tells the mapping: the one the table has, else a real one, else any."""
    existing = table.get(group[0].local)
    if existing is not None:
        for record in group:
            if record.mapped[:3] == existing.mapped[:3]:
                return record
    return min(group, key=_is_leftover)


def _same(one: MapInfo, other: MapInfo) -> bool:
    return one.mapped[:3] == other.mapped[:3]


def _count_references(table: MappingTable, mapping: Mapping, reported: int, complete: bool, now: float) -> int:
    """Believe the kernel, unless it may not have seen our last answer yet (1 then), or has not told all."""
    if reported == mapping.refs:
        return 0
    young = _is_young(mapping, now)
    if young or not complete:
        reported = max(mapping.refs, reported)
    table.set_references(mapping, reported)
    return int(young)
