# SPDX-License-Identifier: Apache-2.0
"""`rdmactl iser luns ADDR[:PORT]/NAME`: a target's logical units, without a session of the kernel. Face ring.

Not here: the walk itself (`rdmactl.rdmacm.luns`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.iser_options import add_options, failure_of, question, report_json
from rdmactl.cli.output import print_json
from rdmactl.rdmacm.client import SyncWorker

if TYPE_CHECKING:
    from rdmactl.rdmacm.report import Lun

__all__ = ["parser", "run", "table"]

SCHEMA = "rdmactl.iser.luns"

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_HEADINGS = ("LUN", "TYPE", "SIZE", "BLOCK", "VENDOR", "PRODUCT", "SERIAL", "WWID")


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl iser luns",
        description="Log in to an iSER target, list its logical units with size, serial number and WWID, and log out. "
        "Reads only; no block device appears. Without a name, the only target of the portal is taken.",
    )
    add_options(words)
    return words


def run(words: list[str]) -> int:
    """Do it."""
    given = parser().parse_args(words)
    with SyncWorker() as worker:
        report = worker.luns(question(given))
    if given.json:
        print_json(SCHEMA, report_json(report) | {"luns": [lun._asdict() for lun in report.luns]})
    elif report.error is None:
        print("\n".join(table(report.luns)))
    failure_of(report)
    return 0


def table(luns: tuple[Lun, ...]) -> list[str]:
    """The units for people; what could not be asked has its reason in the place of its size."""
    rows = [_HEADINGS, *(_row(lun) for lun in luns)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *(f"LUN {lun.number}: {lun.error}" for lun in luns if lun.error)]


def _row(lun: Lun) -> tuple[str, ...]:
    size = _size(lun.blocks * lun.block_bytes) if lun.blocks else "-"
    block = str(lun.block_bytes) if lun.block_bytes else "-"
    texts = (lun.vendor, lun.product, lun.serial, lun.wwid)
    return str(lun.number), lun.device_type or "-", size, block, *(text or "-" for text in texts)


def _size(size_bytes: int) -> str:
    amount, unit = float(size_bytes), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.4g} {_UNITS[unit]}"
