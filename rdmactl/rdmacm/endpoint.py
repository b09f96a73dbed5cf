# SPDX-License-Identifier: Apache-2.0
"""A queue pair and all it needs: protection domain, completion queue, registered memory. Shell ring.

One message is one Send, in one slot of an arena; the slot's index is the work request's id (`_SEND` marks the send
side). Each connection has a protection domain of its own, because librdmacm's shared one would let one target use a
key given to another. The arenas grant no remote right.

Not here: the connection's state and its descriptors on the loop (`connection.py`).
Order of making and freeing, and the sizes: rdma_create_qp(3), ibv_create_cq(3), ibv_reg_mr(3).
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from rdmactl.errors import LocalError
from rdmactl.iscsi.iser import RemoteBuffer
from rdmactl.rdmacm import failures, library

__all__ = ["DISCOVERY", "Arena", "Completion", "Endpoint", "Sizes", "session_sizes"]

_SEND = 1 << 32
_BATCH = 32
_QUIET_SHARE = 4
"""A quarter of the send slots may be waiting for the next send that is reported."""

_HEADERS_BYTES = 76  # iSER header (28) and basic header segment (48)


class Sizes(NamedTuple):
    """Slots of the two arenas. The peer may send at most `receives` messages nobody has answered yet."""

    receive_bytes: int
    receives: int
    send_bytes: int
    sends: int


DISCOVERY = Sizes(
    # 32 KiB of text keeps the target list of practically every portal in one part: LIO mishandles several.
    receive_bytes=_HEADERS_BYTES + 32768,
    # Answers come one at a time; the others are for messages nobody asked for (NOP-In, Async, Reject).
    receives=4,
    # What LIO and the kernel's initiator have room for during login.
    send_bytes=_HEADERS_BYTES + 8192,
    sends=2,
)

_LOGIN_DATA_BYTES = 8192
_UNASKED = 4  # receives for what a target says unasked: NOP-In, Async, Reject


def session_sizes(depth: int) -> Sizes:
    """For a normal session with `depth` commands in flight: every answer finds a receive, and a few more do."""
    slot = _HEADERS_BYTES + _LOGIN_DATA_BYTES
    return Sizes(receive_bytes=slot, receives=depth + _UNASKED, send_bytes=slot, sends=depth + _UNASKED)


class Completion(NamedTuple):
    """A finished work request; `data` is the message when one was received. `status` 0 is success."""

    status: int
    data: bytes | None
    with_invalidate: bool


class Arena:
    """Page-aligned memory of equal slots, registered as one region."""

    def __init__(self, module: library.Handle, pd: library.Handle, slots: int, slot_bytes: int, access: int) -> None:
        self._module = module
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(-1, slots * slot_bytes)
        self._buffer = module.ffi.from_buffer(self._memory, require_writable=True)
        out = module.ffi.new("struct ibv_mr **")
        self.rc: int = module.lib.mr_register(pd, self._buffer, len(self._memory), access, out)
        self._mr = out[0] if self.rc == 0 else None
        self.lkey: int = module.lib.mr_lkey(self._mr) if self._mr else 0

    @cached_property
    def remote(self) -> RemoteBuffer:
        """How a peer names the first byte of it."""
        return RemoteBuffer(self._module.lib.mr_rkey(self._mr), int(self._module.ffi.cast("uintptr_t", self.base())))

    def base(self, slot: int = 0) -> library.Handle:
        """The address of a slot."""
        return self._module.ffi.cast("char *", self._buffer) + slot * self.slot_bytes

    def read(self, slot: int, length: int) -> bytes:
        start = slot * self.slot_bytes
        return self._memory[start : start + length]

    def write(self, slot: int, data: bytes) -> None:
        start = slot * self.slot_bytes
        self._memory[start : start + len(data)] = data

    def free(self) -> None:
        if self._mr is not None:
            self._module.lib.mr_free(self._mr)
            self._mr = None
        self._module.ffi.release(self._buffer)
        self._memory.close()


class Endpoint:
    """The queue pair of one rdma_cm_id, with its receives posted. Raises KernelError or PeerError naming `peer`."""

    def __init__(self, id: library.Handle, sizes: Sizes, peer: str) -> None:
        self._module = library.load()
        self._ffi, self._lib = self._module.ffi, self._module.lib
        self._id, self._sizes, self._peer = id, sizes, peer
        self._pd: library.Handle = None
        self._comp_channel: library.Handle = None
        self._cq: library.Handle = None
        self._has_qp = False
        self._arenas: list[Arena] = []
        self._out = self._ffi.new("struct completion[]", _BATCH)
        try:
            self._build(self._lib.cm_context(id))
        except BaseException:
            self.free()
            raise
        self._free_sends = deque(range(sizes.sends))
        self._under_way: deque[tuple[int, int]] = deque()  # slots in the order they were sent, and bytes to wipe
        self._unreported = 0

    @property
    def fd(self) -> int:
        """Readable when something has completed."""
        fd: int = self._lib.completion_channel_fd(self._comp_channel)
        return fd

    @property
    def can_send(self) -> bool:
        """Whether a send slot is free."""
        return bool(self._free_sends)

    def send(self, message: bytes, *, quiet: bool = False) -> None:
        """Post one message. LocalError when it does not fit or no slot is free.

        A `quiet` one may be reported as sent together with later ones, which saves most completions; its slot is not
        wiped.
        """
        if len(message) > self._sizes.send_bytes:
            raise LocalError(f"a message of {len(message)} bytes does not fit the {self._sizes.send_bytes} of a slot")
        if not self._free_sends:
            raise LocalError("all send slots are in use")
        slot = self._free_sends.popleft()
        self._transmit.write(slot, message)
        signaled = not quiet or self._unreported >= self._sizes.sends // _QUIET_SHARE
        self._unreported = 0 if signaled else self._unreported + 1
        self._under_way.append((slot, 0 if quiet else len(message)))
        base = self._transmit.base(slot)
        rc = self._lib.qp_post_send(self._id, _SEND | slot, base, len(message), self._transmit.lkey, int(signaled))
        if rc < 0:
            self._under_way.pop()
            self._free_sends.append(slot)
            self._check(rc, "ibv_post_send")

    def share(self, size_bytes: int, *, writable: bool) -> Arena:
        """Memory the peer may use: write into it when `writable`, else read from it. It lasts as long as the endpoint.

        Freed after the queue pair, so that a late write of the peer finds it or nothing.
        """
        access = self._lib.LOCAL_WRITE | self._lib.REMOTE_WRITE if writable else self._lib.REMOTE_READ
        return self._arena(1, size_bytes, access)

    def completions(self) -> Iterator[Completion]:
        """Everything that has completed. Arms first and polls afterwards: the other order loses wake-ups.

        A receive slot is copied out and posted again before its message is handed on, so the peer never runs dry
        while a handler works.
        """
        self._check(self._lib.cq_acknowledge_and_arm(self._comp_channel, self._cq), "ibv_req_notify_cq")
        while True:
            taken = self._check(self._lib.cq_poll(self._cq, self._out, _BATCH), "ibv_poll_cq")
            yield from self._batch(taken)
            if taken < _BATCH:
                return

    def free(self) -> None:
        """Give everything back, in the only order that never blocks. Harmless when called twice."""
        if self._has_qp:
            self._lib.cm_destroy_qp(self._id)
            self._has_qp = False
        for arena in self._arenas:
            arena.free()
        self._arenas.clear()
        if self._cq is not None:
            # ibv_destroy_cq waits for ever for events that were taken but not acknowledged.
            self._lib.cq_acknowledge_and_arm(self._comp_channel, self._cq)
            self._lib.cq_destroy(self._cq)
            self._cq = None
        if self._comp_channel is not None:
            self._lib.completion_channel_close(self._comp_channel)
            self._comp_channel = None
        if self._pd is not None:
            self._lib.pd_free(self._pd)
            self._pd = None

    def _build(self, context: library.Handle) -> None:
        sizes = self._sizes
        limits = self._ffi.new("struct device_limits *")
        self._check(self._lib.device_limits(context, limits), "ibv_query_device")
        self.reads_served = max(1, min(16, limits.max_qp_rd_atom))
        sends, receives = (min(wanted + 2, limits.max_qp_wr) for wanted in (sizes.sends, sizes.receives))
        self._pd = self._make("struct ibv_pd **", "ibv_alloc_pd", self._lib.pd_alloc, context)
        self._comp_channel = self._make(
            "struct ibv_comp_channel **", "ibv_create_comp_channel", self._lib.completion_channel_open, context
        )
        depth = min(sizes.sends + sizes.receives + 16, limits.max_cqe)
        self._cq = self._make(
            "struct ibv_cq **", "ibv_create_cq", self._lib.cq_create, context, depth, self._comp_channel
        )
        self._check(self._lib.cq_acknowledge_and_arm(self._comp_channel, self._cq), "ibv_req_notify_cq")
        self._check(self._lib.cm_create_qp(self._id, self._pd, self._cq, sends, receives), "rdma_create_qp")
        self._has_qp = True
        self._receive = self._arena(sizes.receives, sizes.receive_bytes, self._lib.LOCAL_WRITE)
        self._transmit = self._arena(sizes.sends, sizes.send_bytes, 0)
        self._check(self._post(0, sizes.receives), "ibv_post_recv")

    def _make(
        self, pointer: str, operation: str, function: library.Handle, *arguments: library.Handle
    ) -> library.Handle:
        out = self._ffi.new(pointer)
        self._check(function(*arguments, out), operation)
        return out[0]

    def _arena(self, slots: int, slot_bytes: int, access: int) -> Arena:
        arena = Arena(self._module, self._pd, slots, slot_bytes, access)
        if arena.rc < 0:
            arena.free()
            self._check(arena.rc, "ibv_reg_mr")
        self._arenas.append(arena)
        return arena

    def _post(self, first: int, count: int) -> int:
        arena = self._receive
        rc: int = self._lib.qp_post_receives(self._id, arena.base(), arena.slot_bytes, first, count, arena.lkey)
        return rc

    def _batch(self, taken: int) -> list[Completion]:
        """What was polled, without the sends that succeeded: those only give back their slots."""
        batch = []
        for index in range(taken):
            raw = self._out[index]
            wr_id, status, data = raw.wr_id, raw.status, None
            if wr_id & _SEND:
                self._sent(wr_id & (_SEND - 1))
                if status == 0:
                    continue
            elif status == 0:
                data = self._receive.read(wr_id, raw.byte_len)
                # Fails only on a queue pair that is in error already: what came before that is still to be read.
                self._post(wr_id, 1)
            batch.append(Completion(status, data, bool(raw.with_invalidate)))
        return batch

    def _sent(self, slot: int) -> None:
        """This slot, and those sent before it, are ours again. They may have held a CHAP response: do not keep it."""
        while self._under_way:
            done, wipe_bytes = self._under_way.popleft()
            if wipe_bytes:
                self._transmit.write(done, bytes(wipe_bytes))
            self._free_sends.append(done)
            if done == slot:
                return

    def _check(self, rc: int, operation: str) -> int:
        if rc < 0:
            raise failures.call_failed(self._peer, operation, -rc)
        return rc
