# SPDX-License-Identifier: Apache-2.0
"""What a discovery over iSER is asked, and what it reports. Shell ring, import-light.

Both travel between a process and its worker as JSON. A report also exists for a discovery that failed: it then has
`error`, and the steps say how far it came and what took long.
Not here: doing it (`discovery.py`), text for people (`rdmactl.cli.iser_ping`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.frames import pack_error, unpack_error

if TYPE_CHECKING:
    from typing import Any

    from rdmactl.errors import RdmactlError

__all__ = ["FoundTarget", "Question", "Report"]


class Question(NamedTuple):
    """A discovery of one portal. CHAP is used when `username` is set, mutual when `password_in` is, too.

    `source` is an address of this host to leave from, "" to let the routes decide; `algorithms` are CHAP numbers.
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

    def __repr__(self) -> str:
        return f"Question({self.portal}, {self.initiator_name}, {self.deadline_s:g} s)"  # never a secret

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


class Report(NamedTuple):
    """How a discovery went. `steps` are (name, seconds) in order; `device` and `transport` are "" when not reached."""

    steps: tuple[tuple[str, float], ...]
    total_s: float
    device: str = ""
    transport: str = ""
    local: str = ""
    targets: tuple[FoundTarget, ...] = ()
    error: RdmactlError | None = None

    def to_json(self) -> dict[str, Any]:
        """For `from_json`, and the base of what `rdmactl iser ping -j` prints."""
        return self._asdict() | {"error": pack_error(self.error) if self.error else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Report:
        """The inverse of `to_json`."""
        return cls(**values)._replace(
            steps=tuple((name, seconds) for name, seconds in values["steps"]),
            targets=tuple(
                FoundTarget(name, tuple((Portal(*portal), tpgt) for portal, tpgt in portals))
                for name, portals in values["targets"]
            ),
            error=unpack_error(values["error"]) if values["error"] else None,
        )
