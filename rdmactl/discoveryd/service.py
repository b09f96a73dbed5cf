# SPDX-License-Identifier: Apache-2.0
"""The discovery daemon as a service under the dispatcher: one watch for each record that asks for one. Shell ring.

It lives in a lane of its own, so that neither a slow disk below the records nor a long list holds up the sessions. The
records are read again whenever their files change, which is looked at every second: what an administrator sets counts
at once, without a restart. Watches whose record has not changed go on undisturbed.

A record that is deleted, or no longer asks for it, loses its watch and nothing else: its sessions stay as they are.
So do all when the service ends. open-iscsi's discoveryd logs out of everything it has made when iscsid stops.

Not here: what a watch does (`watcher.py`), which records there are (`watched.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.discoveryd.initiator import Initiator
from rdmactl.discoveryd.schedule import LONGEST_PAUSE_S
from rdmactl.discoveryd.watched import Stamp, Watched, stamp, watched
from rdmactl.errors import RdmactlError
from rdmactl.initiator import usage
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.ports import Lane

if TYPE_CHECKING:
    from rdmactl.discoveryd.listening import Ear, Subscription
    from rdmactl.discoveryd.watcher import DiscoveryStatus, Watcher
    from rdmactl.isns.api import WatchConfig

__all__ = ["DiscoveryService"]

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_STORE_S = 60.0


class _Watch(NamedTuple):
    watcher: Watcher
    task: asyncio.Task[None]


class DiscoveryService:
    """One instance per life of the service (`ports.Service`). `directory`: of the records; `root`: where sysfs is."""

    def __init__(
        self,
        initiator: Initiator,
        initiator_name: str,
        *,
        directory: str | None = None,
        root: str = "/sys",
        ear: Ear | None = None,
        uses: Callable[[int], list[str]] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._initiator = initiator
        self._initiator_name = initiator_name
        self._directory = directory
        self._ear = ear or _subscribe
        self._uses = uses or (lambda sid: usage.users(sid, root))
        self._uniform = uniform
        self._watches: dict[tuple[str, Portal], _Watch] = {}

    async def run(self, lane: Lane) -> None:
        """See `ports.Service.run`."""
        self._lane = lane
        lane.ready()
        seen: Stamp | None = None
        try:
            while True:
                now = await lane.blocking(lambda: stamp(self._directory), deadline_s=_STORE_S)
                if now != seen:
                    seen = now if await self._read() else None
                await asyncio.sleep(_LOOK_S)
        finally:
            for watch in self._watches.values():
                watch.task.cancel()
            await asyncio.gather(*(watch.task for watch in self._watches.values()), return_exceptions=True)

    def status(self) -> list[DiscoveryStatus]:
        """The watches, in the order in which their records were made."""
        return [watch.watcher.status() for watch in self._watches.values()]

    async def _read(self) -> bool:
        """Bring the watches into agreement with the records; whether these could be read."""
        try:
            wanted = await self._lane.blocking(lambda: watched(self._directory), deadline_s=_STORE_S)
        except RdmactlError as error:
            log.warning("the discovery records cannot be read: %s", error)
            return False
        before, self._watches = self._watches, {}
        for each in wanted:
            known = before.pop(each.key, None)
            if known is None or known.watcher.watched != each:
                known = await self._begin(each, known)
            self._watches[each.key] = known
        for gone in before.values():
            log.info("%s is not watched any more; its sessions stay", gone.watcher.watched)
            await _end(gone)
        return True

    async def _begin(self, record: Watched, before: _Watch | None) -> _Watch:
        """A watch, which goes on with what an earlier one of the same record knew."""
        log.info("%s is watched%s", record, "" if before is None else " with other settings")
        if before is not None:
            await _end(before)
        # Not with the module: most hosts have no record under watch, and a daemon's start is mostly imports.
        from rdmactl.discoveryd.watcher import Watcher

        watcher = Watcher(
            self._lane,
            record,
            self._initiator,
            self._initiator_name,
            care=None if before is None else before.watcher.care,
            ear=self._ear,
            uses=self._uses,
            directory=self._directory,
            uniform=self._uniform,
        )
        return _Watch(watcher, asyncio.create_task(self._run(watcher)))

    async def _run(self, watcher: Watcher) -> None:
        """A fault of one watch is not the others': it is logged, and the watch begins again after a pause."""
        while True:
            try:
                await watcher.run()
            except Exception:
                log.exception("the watch over %s has failed", watcher.watched)
            await asyncio.sleep(LONGEST_PAUSE_S)


def _subscribe(lane: Lane, config: WatchConfig) -> Subscription:
    """The iSNS client, imported for the first record that listens."""
    from rdmactl.isns.watch import Watch

    return Watch(lane, config)


async def _end(watch: _Watch) -> None:
    watch.task.cancel()
    await asyncio.wait([watch.task])
