# SPDX-License-Identifier: Apache-2.0
"""Who wants a session, and so who may end it. Engine ring.

A session is claimed by names: the administrator, the unit that logs in at boot, a storage plugin, a discovery record.
A login claims, also one that finds its session there already; a logout gives the claim up, and the last one to go ends
the session. A claim is a name and not a count: who has logged in twice logs out once.

A session of which nobody knows who asked for it (another program made it) counts as the administrator's: a plain logout
ends it, as ever, and nobody else does. So it does where only machinery claims it that acts for the administrator: the
unit that logs in at boot, discovery records.

Not here: keeping claims over a restart (`runtime.py`), logging out (`service.py`).
"""

from __future__ import annotations

from rdmactl.iscsi.errors import IscsiErr, IscsiFailure

__all__ = ["ADMINISTRATOR", "BOOT", "DISCOVERY", "NAME_MAX", "Claims", "checked", "with_claim", "without_claim"]

Claims = tuple[str, ...]
"""By age, the first one first; never empty while the session lives."""

ADMINISTRATOR = "administrator"
BOOT = "boot"
"""The unit `rdmactl-sessions.service`."""
DISCOVERY = "discovery:"
"""What claims of discovery records begin with."""

NAME_MAX = 128


def checked(name: str) -> str:
    """`name`, if it can be one; IscsiFailure (7)."""
    fits = name.isascii() and name.isprintable() and name == name.strip() and "," not in name
    if not fits or not 0 < len(name) <= NAME_MAX:
        raise IscsiFailure(
            IscsiErr.INVAL,
            f"{name[:NAME_MAX]!r} cannot be the name of a claim",
            hint=f"use 1 to {NAME_MAX} printable ASCII characters, without commas and without blanks at the ends",
        )
    return name


def with_claim(claims: Claims, name: str) -> Claims:
    """One more claim, or the same when it is there."""
    return claims if name in claims else (*claims, name)


def without_claim(claims: Claims, name: str, session: str) -> Claims:
    """What is left when `name` gives its claim up; IscsiFailure (28) when it holds none, so that others do."""
    left = tuple(each for each in claims if each != name)
    if name == ADMINISTRATOR and all(each == BOOT or each.startswith(DISCOVERY) for each in left):
        return ()
    if name not in claims:
        raise IscsiFailure(
            IscsiErr.BUSY,
            f"{session} stays: it is claimed by {', '.join(claims)}, not by {name}",
            hint="rdmactl session release with --claim gives that claim up, with --everybody all of them",
        )
    return left
