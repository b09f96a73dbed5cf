# SPDX-License-Identifier: Apache-2.0
"""The compiled module (`rdmactl._rdmacm`) as a model in memory: descriptors, events, completions, and a log of calls.

A test decides what happens: `emit` an event, `deliver` a message, `complete` something badly. Sends complete at once.
Only what `rdmactl.rdmacm` calls is here; the real thing is in tests/lab.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from types import SimpleNamespace
from typing import Any

CONTEXT = "device context"
PAGE = 1 << 20
_COMPLETION = struct.Struct("=QiIIi")


class FakeFfi:
    """Memory: out parameters are lists, structures namespaces, addresses integers."""

    NULL = None

    def new(self, kind: str, count: int = 1) -> Any:
        if kind == "struct completion[]":
            return bytearray(count * _COMPLETION.size)
        if kind in ("struct cm_event *", "struct device_limits *"):
            return SimpleNamespace()
        return bytearray(count) if kind == "char[]" else [None]

    def cast(self, kind: str, value: Any) -> Any:
        return hash(value) if kind == "uintptr_t" and not isinstance(value, int) else getattr(value, "base", value)

    def from_buffer(self, memory: Any, *, require_writable: bool) -> Any:
        return SimpleNamespace(memory=memory, base=0)

    def release(self, buffer: Any) -> None:
        buffer.memory = None

    def buffer(self, data: Any, length: int | None = None) -> Any:
        return data if length is None else bytes(data[:length])

    def string(self, text: bytes) -> bytes:
        return text


class FakeLibrary:
    """The functions. `calls` has the names of those that matter, in order; `fail` maps names to negative errno."""

    LOCAL_WRITE, REMOTE_WRITE, REMOTE_READ = 1, 2, 4

    def __init__(self, *, iwarp: bool = False) -> None:
        self.iwarp = iwarp
        self.reads_at_once = 4
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.sent: list[bytes] = []
        self.posted: deque[int] = deque()
        self._events: deque[tuple[int, int, int, bytes]] = deque()
        self._completions: deque[tuple[int, int, int, int]] = deque()
        self._device_events: deque[int] = deque()
        self._memory: list[Any] = []
        self._fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
        self.id = 0

    # What a test does

    def emit(self, kind: int, status: int = 0, private_data: bytes = b"") -> None:
        self._events.append((self.id, kind, status, private_data))
        os.eventfd_write(self._fds[0], 1)

    def deliver(self, message: bytes) -> None:
        slot = self.posted.popleft()
        size = len(self._memory[0].memory) // self._slots
        self._memory[0].memory[slot * size : slot * size + len(message)] = message
        self._complete(slot, 0, len(message))

    def complete(self, status: int) -> None:
        self._complete(self.posted.popleft(), status, 0)

    def invalidate(self) -> None:
        """A message that invalidates a region of ours."""
        self._complete(self.posted.popleft(), 0, 0, invalidated=1)

    def device_event(self, kind: int) -> None:
        self._device_events.append(kind)
        os.eventfd_write(self._fds[2], 1)

    def reset(self) -> None:
        """Forget what has not been read and what was posted, for another connection."""
        self._events.clear()
        self._completions.clear()
        self.posted.clear()
        self._memory.clear()
        for which in range(len(self._fds)):
            self._clear(which)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _complete(self, wr_id: int, status: int, length: int, *, invalidated: int = 0) -> None:
        self._completions.append((wr_id, status, length, invalidated))
        os.eventfd_write(self._fds[1], 1)

    def _did(self, name: str) -> int:
        self.calls.append(name)
        return self.fail.get(name, 0)

    # What is called

    def __getattr__(self, name: str) -> Any:
        """Everything without a model succeeds, and is logged; what it makes is its own name."""

        def call(*arguments: Any) -> int:
            if arguments and isinstance(arguments[-1], list) and name not in self.fail:
                arguments[-1][0] = name
            return self._did(name)

        return call

    def cm_open(self, out: list[Any]) -> int:
        out[0] = "channel"
        return self._did("cm_open")

    def cm_fd(self, channel: Any) -> int:
        return self._fds[0]

    def cm_next_event(self, channel: Any, out: Any) -> int:
        if not self._events:
            self._clear(0)
            return 0
        out.id, out.event, out.status, data = self._events.popleft()
        out.listen_id = out.responder_resources = out.initiator_depth = 0
        out.private_data, out.private_data_len = data, len(data)
        return 1

    def cm_create_id(self, channel: Any, out: list[Any]) -> int:
        self.id += PAGE
        out[0] = self.id
        return self._did("cm_create_id")

    def cm_context(self, id: Any) -> str:
        return CONTEXT

    def cm_local_addr(self, id: Any, out: bytearray, size: int) -> int:
        return 0

    def device_name(self, context: Any) -> bytes:
        return b"fake0"

    def device_is_iwarp(self, context: Any) -> int:
        return int(self.iwarp)

    def device_limits(self, context: Any, out: Any) -> int:
        out.max_qp_wr, out.max_cqe, out.max_qp_rd_atom = 64, 64, self.reads_at_once
        return self._did("device_limits")

    def device_async_fd(self, context: Any) -> int:
        return self._fds[2]

    def device_next_async_event(self, context: Any, out: list[int]) -> int:
        if not self._device_events:
            self._clear(2)
            return 0
        out[0] = self._device_events.popleft()
        return 1

    def mr_register(self, pd: Any, buffer: Any, length: int, access: int, out: list[Any]) -> int:
        self._memory.append(buffer)
        out[0] = len(self._memory)
        return self._did("mr_register")

    def mr_lkey(self, mr: int) -> int:
        return mr

    def completion_channel_fd(self, channel: Any) -> int:
        return self._fds[1]

    def cq_acknowledge_and_arm(self, channel: Any, cq: Any) -> int:
        self._clear(1)
        return 0

    def cq_take(self, channel: Any, cq: Any, out: bytearray, count: int) -> int:
        self._clear(1)
        return self.cq_poll(cq, out, count)

    def cq_poll(self, cq: Any, out: bytearray, count: int) -> int:
        taken = min(count, len(self._completions))
        for index in range(taken):
            wr_id, status, length, invalidated = self._completions.popleft()
            _COMPLETION.pack_into(out, index * _COMPLETION.size, wr_id, status, length, 0, invalidated)
        return taken

    def qp_post_sends(
        self, id: Any, base: int, slot_bytes: int, lkey: int, pairs: bytes, count: int, report_last: int
    ) -> int:
        slot = 0
        for slot, length in struct.iter_unpack("=II", pairs):
            self.sent.append(bytes(self._memory[lkey - 1].memory[slot * slot_bytes :][:length]))
        if report_last:
            self._complete(1 << 32 | slot, 0, 0)
        return self._did("qp_post_sends")

    def qp_post_receives(self, id: Any, base: int, slot_bytes: int, lkey: int, slots: bytes, count: int) -> int:
        self._slots = len(self._memory[0].memory) // slot_bytes
        self.posted.extend(slot for (slot,) in struct.iter_unpack("=I", slots))
        return 0

    def _clear(self, which: int) -> None:
        try:
            os.eventfd_read(self._fds[which])
        except BlockingIOError:
            return


def fake_module(**options: Any) -> SimpleNamespace:
    """What `library.load()` returns."""
    return SimpleNamespace(ffi=FakeFfi(), lib=FakeLibrary(**options))
