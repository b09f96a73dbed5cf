# SPDX-License-Identifier: Apache-2.0
"""The Varlink interface of the discovery daemon. Shell ring.

asyncvarlink reads the annotations of this module at import, so they are real types here, not strings.
Not here: discoveries that somebody asks for (`initiator.py`, Initiator.Discover).
"""

from typing import Any, TypedDict

from asyncvarlink import VarlinkInterface, varlinkmethod

from rdmactl.control.interfaces import READ_DEADLINE_S, Caller, Failed

__all__ = ["Discovery"]


class Watch(TypedDict):
    """How the watch over one discovery record is doing.

    `places` are known: a target, a portal and an interface; `missing` of them were not in the last answers. `logins`
    are under way. `whole`: every interface was answered, with nothing left out. `failures`: questions without an
    answer since `answered_at_s` (seconds since 1970, null for never). `next_in_s` is null when it waits for a change.
    """

    type: str
    address: str
    port: int
    places: int
    missing: int
    logins: int
    answered_at_s: float | None
    whole: bool
    failures: int
    last_error: str
    listening: bool
    next_in_s: float | None


class Discovery(VarlinkInterface, name="io.rdmactl.Discovery"):
    """The discovery records under watch (use_discoveryd = Yes)."""

    errors = (Failed,)

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @varlinkmethod(return_parameter="watches")
    async def List(self) -> list[Watch]:  # noqa: N802 - Varlink's spelling
        """The watches, in the order in which their records were made."""

        async def ask(service: Any) -> Any:
            return service.status()

        found = await self._caller.call("discoveryd", ask, deadline_s=READ_DEADLINE_S)
        return [each._asdict() for each in found]
