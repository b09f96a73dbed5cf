# SPDX-License-Identifier: Apache-2.0
"""What a discovery or a session over iSER is asked, and what it reports. Shell ring, import-light.

Both travel between a process and its worker as JSON. A report also exists for what failed: it then has `error`, and
`stage` and the steps say how far it came and what took long.
Not here: doing it (`discovery.py`, `operations.py`), text for people (`rdmactl.cli`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.frames import pack_error, unpack_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from rdmactl.errors import RdmactlError

__all__ = ["FoundTarget", "Lun", "Measured", "Plan", "Question", "Report", "measured_from_json"]


class Question(NamedTuple):
    """What to connect to: a portal for discovery, or, where `target` is set, that target at the portal.

    CHAP is used when `username` is set, mutual when `password_in` is, too; `algorithms` are CHAP numbers. `source` is
    an address of this host to leave from, "" to let the routes decide. `trace`: find out also what took part.
    """

    portal: Portal
    initiator_name: str
    deadline_s: float = 10.0
    source: str = ""
    username: str = ""
    password: str = ""
    username_in: str = ""
    password_in: str = ""
    algorithms: tuple[int, ...] = (5,)
    target: str = ""
    trace: bool = False

    def __repr__(self) -> str:
        return f"Question({self.portal}, {self.initiator_name}, {self.deadline_s:g} s)"  # never a secret

    @property
    def authentication(self) -> str:
        """ "", "CHAP" or "mutual CHAP": what a login that succeeds has verified."""
        return "" if not self.username else "mutual CHAP" if self.password_in else "CHAP"

    def to_json(self) -> dict[str, Any]:
        """For `from_json`; contains the secrets."""
        return self._asdict()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Question:
        """The inverse of `to_json`."""
        question = cls(**values)
        return question._replace(portal=Portal(*question.portal), algorithms=tuple(question.algorithms))


class FoundTarget(NamedTuple):
    """A target as announced: its name and each (portal, portal group tag); -1 when no tag was given."""

    name: str
    portals: tuple[tuple[Portal, int], ...]


class Lun(NamedTuple):
    """A logical unit as it describes itself; "" and 0 for what it does not say. `error` is why nothing more is known.

    `lun` is the 8 bytes in hexadecimal. `transfer_blocks_max` is the most one command should move.
    """

    number: int
    lun: str
    device_type: str = ""
    vendor: str = ""
    product: str = ""
    revision: str = ""
    serial: str = ""
    wwid: str = ""
    blocks: int = 0
    block_bytes: int = 0
    physical_block_bytes: int = 0
    transfer_blocks_max: int = 0
    error: str = ""


class Plan(NamedTuple):
    """A measurement: `depth` commands of `block_bytes` each under way for `duration_s`, on one logical unit.

    Blocks are chosen at random, or one behind the other. `write` overwrites the unit's data.
    """

    lun: int = 0
    depth: int = 16
    block_bytes: int = 4096
    duration_s: float = 5.0
    write: bool = False
    sequential: bool = False


class Measured(NamedTuple):
    """What a measurement saw: commands and bytes in `seconds`; latencies in seconds, by percentile ("p50", ...)."""

    commands: int
    moved_bytes: int
    seconds: float
    latency_s: tuple[tuple[str, float], ...] = ()

    @property
    def iops(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth."""
        return self.moved_bytes / self.seconds if self.seconds else 0.0


class Report(NamedTuple):
    """How it went. `steps` are (name, seconds) in order; `device` and `transport` are "" when not reached.

    `stage` is the step that failed, "" when none did. Of a session: its `target`, at `portal`, what was negotiated,
    how it was authenticated ("", "CHAP" or "mutual CHAP"), and what was asked for: pings in seconds, units, or a
    measurement. `port_mapper`: its part in words, when the question was to trace it and the transport has one.
    `skipped` entries of a list of targets were left out, for the reasons among `warnings`.
    """

    steps: tuple[tuple[str, float], ...]
    total_s: float
    device: str = ""
    transport: str = ""
    local: str = ""
    targets: tuple[FoundTarget, ...] = ()
    error: RdmactlError | None = None
    stage: str = ""
    target: str = ""
    portal: Portal | None = None
    negotiated: tuple[tuple[str, int | bool | str | None], ...] = ()
    authentication: str = ""
    pings: tuple[float, ...] = ()
    luns: tuple[Lun, ...] = ()
    measured: Measured | None = None
    skipped: int = 0
    warnings: tuple[str, ...] = ()
    port_mapper: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return self._asdict() | {"error": pack_error(self.error) if self.error else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Report:
        """The inverse of `to_json`."""
        targets = (
            FoundTarget(name, tuple((Portal(*portal), tpgt) for portal, tpgt in portals))
            for name, portals in values["targets"]
        )
        report = cls(**values)
        return report._replace(
            steps=_pairs(report.steps),
            targets=tuple(targets),
            error=unpack_error(values["error"]) if values["error"] else None,
            portal=Portal(*report.portal) if report.portal else None,
            negotiated=_pairs(report.negotiated),
            pings=tuple(report.pings),
            luns=tuple(Lun(*lun) for lun in report.luns),
            measured=measured_from_json(report.measured) if report.measured else None,
            warnings=tuple(report.warnings),
        )


def measured_from_json(values: Sequence[Any]) -> Measured:
    """A `Measured` that has travelled as JSON."""
    measured = Measured(*values)
    return measured._replace(latency_s=_pairs(measured.latency_s))


def _pairs(values: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(tuple(pair) for pair in values)
