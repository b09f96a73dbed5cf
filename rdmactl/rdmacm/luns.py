# SPDX-License-Identifier: Apache-2.0
"""The walk through a target's logical units: which there are, what they say of themselves. Shell ring.

Nothing here writes. A unit that refuses one question is asked the shorter one, or the answer stays empty; a unit that
cannot be asked at all is listed with its error. Unit attentions, which every new session meets, are read away.

Not here: CDBs and answers (`rdmactl.iscsi.scsi`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from rdmactl.errors import PeerError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.scsi import Capacity
from rdmactl.iscsi.sense import BUSY, GOOD, TASK_SET_FULL
from rdmactl.rdmacm.report import Lun
from rdmactl.rdmacm.session import Result

__all__ = ["Commands", "ask", "capacity", "list_luns", "walk"]

T = TypeVar("T")

_TRIES = 4
_BUSY_PAUSE_S = 0.1
_DEADLINE_S = 5.0
_LIST_BYTES = 4096
_LIST_BYTES_MAX = 128 << 10
_ANSWER_BYTES = 255
_CAPACITY_BYTES = 32
_PRESENT = 0
_BLOCK_DEVICES = (0x00, 0x05, 0x07, 0x0E, 0x14)


class Commands(Protocol):
    """What a walk needs of a session."""

    async def execute(
        self, lun: bytes, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"", deadline_s: float = 30.0
    ) -> Result: ...


async def walk(session: Commands) -> tuple[Lun, ...]:
    """All units in the target's order. Raises when the list itself cannot be had, or the session ends."""
    return tuple([await _describe(session, lun) for lun in await list_luns(session)])


async def list_luns(session: Commands) -> list[bytes]:
    """The logical unit numbers, 8 bytes each."""
    zero = scsi.lun_bytes(0)
    await ask(session, zero, scsi.test_unit_ready())  # whatever it says: unit attentions are gone then
    size = _LIST_BYTES
    while True:
        result = await ask(session, zero, scsi.report_luns(size), size)
        luns, whole = scsi.parse_luns(result.require("REPORT LUNS").data)
        if whole <= size or size == _LIST_BYTES_MAX:
            return luns
        size = min(whole, _LIST_BYTES_MAX)


async def ask(session: Commands, lun: bytes, cdb: bytes, read_bytes: int = 0) -> Result:
    """A command that does no harm, again while the unit reports that something happened, or that it is busy."""
    for _ in range(_TRIES):
        result = await session.execute(lun, cdb, read_bytes=read_bytes, deadline_s=_DEADLINE_S)
        if result.status in (BUSY, TASK_SET_FULL):
            await asyncio.sleep(_BUSY_PAUSE_S)
        elif result.sense is None or not result.sense.unit_attention:
            break
    return result


async def capacity(session: Commands, lun: bytes) -> Capacity:
    """How large a unit is. PeerError when it does not say."""
    short = await ask(session, lun, scsi.read_capacity_16(_CAPACITY_BYTES), _CAPACITY_BYTES)
    if short.status == GOOD:
        return scsi.parse_capacity_16(short.data)
    if short.sense is None or not short.sense.unsupported:
        short.require("READ CAPACITY")
    found = scsi.parse_capacity_10((await ask(session, lun, scsi.read_capacity_10(), 8)).require("READ CAPACITY").data)
    if found is None:
        raise PeerError("the unit is too large for READ CAPACITY(10) and knows no other", code="scsi")
    return found


async def _describe(session: Commands, lun: bytes) -> Lun:
    view = Lun(scsi.lun_number(lun), lun.hex())
    answer = await ask(session, lun, scsi.inquiry(_ANSWER_BYTES), _ANSWER_BYTES)
    try:
        said = scsi.parse_inquiry(answer.require("INQUIRY").data)
    except PeerError as error:
        return view._replace(error=error.message)
    view = view._replace(
        device_type=scsi.DEVICE_TYPES.get(said.device_type, f"type {said.device_type:#04x}"),
        vendor=said.vendor,
        product=said.product,
        revision=said.revision,
    )
    if said.qualifier != _PRESENT:
        return view._replace(error="not connected")
    pages = await _page(session, lun, scsi.SUPPORTED_PAGES, scsi.parse_pages) or ()
    view = await _pages(session, lun, view, pages)
    return await _sized(session, lun, view) if said.device_type in _BLOCK_DEVICES else view


async def _pages(session: Commands, lun: bytes, view: Lun, pages: tuple[int, ...]) -> Lun:
    if scsi.UNIT_SERIAL_NUMBER in pages:
        serial = await _page(session, lun, scsi.UNIT_SERIAL_NUMBER, scsi.parse_serial)
        view = view._replace(serial=serial or "")
    if scsi.DEVICE_IDENTIFICATION in pages:
        designators = await _page(session, lun, scsi.DEVICE_IDENTIFICATION, scsi.parse_designators)
        view = view._replace(wwid=scsi.wwid(designators or ()))
    if scsi.BLOCK_LIMITS in pages:
        limits = await _page(session, lun, scsi.BLOCK_LIMITS, scsi.parse_block_limits)
        view = view._replace(transfer_blocks_max=limits.max_transfer if limits else 0)
    return view


async def _sized(session: Commands, lun: bytes, view: Lun) -> Lun:
    try:
        size = await capacity(session, lun)
    except PeerError as error:
        if error.code not in ("scsi", "scsi-protocol"):
            raise
        return view._replace(error=error.message)
    physical = size.block_bytes << size.exponent
    return view._replace(blocks=size.blocks, block_bytes=size.block_bytes, physical_block_bytes=physical)


async def _page(session: Commands, lun: bytes, page: int, parse: Callable[[bytes], T]) -> T | None:
    """A page of vital product data; None when the unit does not give it, or not as it should be."""
    result = await ask(session, lun, scsi.inquiry(_ANSWER_BYTES, page), _ANSWER_BYTES)
    if result.status != GOOD:
        return None
    try:
        return parse(result.data)
    except PeerError:
        return None
