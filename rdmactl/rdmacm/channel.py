# SPDX-License-Identifier: Apache-2.0
"""The event channel: one reader for the events of all connections of a loop, and of the devices below. Shell ring.

Events are copied and acknowledged (in C, in one step) before any handler runs: `rdma_destroy_id` waits for the
acknowledgement of every event that was read. Handlers are found by the address of the id; a handler is called on the
loop and must not block. Descriptors are level-triggered and read until empty.

Not here: what an event means to a connection (`connection.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from rdmactl.rdmacm import failures, library
from rdmactl.rdmacm.states import CmEvent

__all__ = ["DeviceHandler", "EventChannel", "Handler", "Notice"]

_KNOWN = frozenset(CmEvent)


class Notice(NamedTuple):
    """One connection event. `status` is 0, -errno or a reject reason; `id` and `listen_id` are addresses."""

    kind: CmEvent
    status: int
    id: int
    listen_id: int
    private_data: bytes
    responder_resources: int
    initiator_depth: int


Handler = Callable[[Notice], None]
DeviceHandler = Callable[[int], None]
"""Takes an enum ibv_event_type."""


class EventChannel:
    """An open event channel on the running loop. Raises Unavailable when this host cannot do RDMA."""

    def __init__(self) -> None:
        self._ffi, self._lib = library.load().ffi, library.load().lib
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Handler] = {}
        self._devices: dict[int, tuple[int, library.Handle, list[DeviceHandler]]] = {}
        self._teardowns: set[asyncio.Task[None]] = set()
        out = self._ffi.new("struct rdma_event_channel **")
        rc = self._lib.cm_open(out)
        if rc < 0:
            raise failures.no_device(-rc)
        self._channel = out[0]
        self._event = self._ffi.new("struct cm_event *")
        self._device_event = self._ffi.new("int *")
        self._fd: int = self._lib.cm_fd(self._channel)
        self._loop.add_reader(self._fd, self._read)

    def create_id(self, handler: Handler) -> library.Handle:
        """A new rdma_cm_id whose events go to `handler`."""
        out = self._ffi.new("struct rdma_cm_id **")
        rc = self._lib.cm_create_id(self._channel, out)
        if rc < 0:
            raise failures.no_device(-rc)
        self.adopt(self.key(out[0]), handler)
        return out[0]

    def handle(self, key: int) -> library.Handle:
        """The rdma_cm_id at an address given in a `Notice`."""
        return self._ffi.cast("struct rdma_cm_id *", key)

    def key(self, id: library.Handle) -> int:
        """The address of an rdma_cm_id."""
        return int(self._ffi.cast("uintptr_t", id))

    def adopt(self, key: int, handler: Handler) -> None:
        """Send the events of this id to `handler` from now on."""
        self._handlers[key] = handler

    def forget(self, key: int) -> None:
        """The id is about to be destroyed; a new one may get the same address."""
        self._handlers.pop(key, None)

    def watch_device(self, context: library.Handle, handler: DeviceHandler) -> None:
        """Send the asynchronous events of a device to `handler` too; all ids of a device share one descriptor."""
        key = int(self._ffi.cast("uintptr_t", context))
        if key not in self._devices:
            fd = self._lib.device_async_fd(context)
            if fd < 0:
                return
            self._devices[key] = (fd, context, [])
            self._loop.add_reader(fd, self._read_device, key)
        self._devices[key][2].append(handler)

    def unwatch_device(self, context: library.Handle, handler: DeviceHandler) -> None:
        """The inverse of `watch_device`; harmless when nothing is watched."""
        key = int(self._ffi.cast("uintptr_t", context))
        fd, _, handlers = self._devices.get(key, (-1, None, []))
        if handler in handlers:
            handlers.remove(handler)
        if fd >= 0 and not handlers:
            self._loop.remove_reader(fd)
            del self._devices[key]

    def taking_down(self, task: asyncio.Task[None]) -> None:
        """A connection is being taken down by `task`, whoever waits for it."""
        self._teardowns.add(task)
        task.add_done_callback(self._teardowns.discard)

    async def settle(self) -> None:
        """Wait for those; each ends by itself within its deadlines."""
        if self._teardowns:
            await asyncio.wait(set(self._teardowns))

    def close(self) -> None:
        """Close the descriptor. Every id must have been destroyed."""
        self._loop.remove_reader(self._fd)
        for fd, _, _ in self._devices.values():
            self._loop.remove_reader(fd)
        self._devices.clear()
        self._lib.cm_close(self._channel)

    def _read(self) -> None:
        while (rc := self._lib.cm_next_event(self._channel, self._event)) > 0:
            if self._event.event in _KNOWN:
                self._dispatch(self._copy())
        if rc < 0:
            self._broken(rc)

    def _copy(self) -> Notice:
        event = self._event
        return Notice(
            CmEvent(event.event),
            event.status,
            event.id,
            event.listen_id,
            bytes(self._ffi.buffer(event.private_data, event.private_data_len)),
            event.responder_resources,
            event.initiator_depth,
        )

    def _dispatch(self, notice: Notice) -> None:
        requested = notice.kind is CmEvent.CONNECT_REQUEST
        handler = self._handlers.get(notice.listen_id if requested else notice.id)
        if handler is not None:
            handler(notice)
        elif requested:
            refuse(self._lib, self.handle(notice.id))

    def _broken(self, rc: int) -> None:
        """The descriptor itself fails: to every connection that is the end of its device."""
        self._loop.remove_reader(self._fd)
        for key, handler in list(self._handlers.items()):
            handler(Notice(CmEvent.DEVICE_REMOVAL, rc, key, 0, b"", 0, 0))

    def _read_device(self, key: int) -> None:
        fd, context, handlers = self._devices[key]
        while (rc := self._lib.device_next_async_event(context, self._device_event)) > 0:
            for handler in list(handlers):
                handler(self._device_event[0])
        if rc < 0:
            self._loop.remove_reader(fd)


def refuse(lib: library.Handle, id: library.Handle) -> None:
    """Reject a connection request nobody wants, and give its id back."""
    lib.cm_reject(id, b"", 0)
    lib.cm_destroy_id(id)
