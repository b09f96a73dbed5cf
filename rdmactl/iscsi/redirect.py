# SPDX-License-Identifier: Apache-2.0
"""Redirections, bounded: which portals a login was sent through. Engine ring.

Not here: reading the redirection (`login.py`), connecting. Redirections are defined by RFC 7143 section 11.13.5.
"""

from __future__ import annotations

from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal

__all__ = ["MAX_HOPS", "RedirectChain"]

MAX_HOPS = 8  # arrays use one, or two during a controller takeover


class RedirectChain:
    """The portals one login visited, the first one included.

    `home` is where the next login begins: behind the permanent redirections (0102) at the head of the chain. What lies
    behind a temporary one (0101) is for this login only.
    """

    def __init__(self, first: Portal) -> None:
        self.portals = [first]
        self.home = first

    def follow(self, portal: Portal, *, permanent: bool = False) -> None:
        """Note a hop to `portal`; IscsiFailure when it would close a loop or be one too many."""
        chain = " -> ".join(map(str, (*self.portals, portal)))
        hint = "the targets point at each other; look at their redirection settings"
        if portal in self.portals:
            raise IscsiFailure(IscsiErr.FATAL_LOGIN, f"redirect loop: {chain}", hint=hint)
        if len(self.portals) > MAX_HOPS:
            raise IscsiFailure(IscsiErr.FATAL_LOGIN, f"more than {MAX_HOPS} redirections: {chain}", hint=hint)
        if permanent and self.home == self.portals[-1]:
            self.home = portal
        self.portals.append(portal)
