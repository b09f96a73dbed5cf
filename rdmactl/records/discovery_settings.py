# SPDX-License-Identifier: Apache-2.0
"""The section [discovery] of rdmactl.toml. Shell ring.

Not here: reading files (`rdmactl.settings`), settings of one discovery, which are its record's.
"""

from __future__ import annotations

from rdmactl import settings

__all__ = ["FIELDS", "DiscoverySettings", "read"]

FIELDS: dict[str, tuple[type, str]] = {
    "preserve": (
        bool,
        "Whether a discovery keeps the records that are there: what an administrator has changed in them, and the"
        " settings of the discovery record, stay. A record that was changed is not deleted when its portal is no longer"
        " reported. The default, false, is what iscsiadm does: it resets them.",
    ),
}
"""Each key, its type, and what it means."""


class DiscoverySettings:
    """What the section says."""

    __slots__ = ("preserve",)

    def __init__(self, *, preserve: bool = False) -> None:
        self.preserve = preserve
        """Whether a discovery keeps the records that are there."""


def read(where: str | None = None) -> tuple[DiscoverySettings, list[str]]:
    """The settings, and sentences about keys that nobody knows."""
    fields = {name: field for name, (field, _) in FIELDS.items()}
    known, unknown = settings.section(settings.read(where), "discovery", fields)
    return DiscoverySettings(**known), unknown
