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
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from rdmactl.errors import LocalError
from rdmactl.iscsi.iser import IserHeader, RemoteBuffer
from rdmactl.rdmacm import failures, library

__all__ = ["BATCH", "DISCOVERY", "Arena", "Completions", "Endpoint", "Sizes", "session_sizes"]

BATCH = 32
"""Completions taken, and messages posted, in one call."""

_SEND = 1 << 32
_COMPLETION = struct.Struct("=QiIIi")  # struct completion of _cffi_build.py
_REMOTE_INVALID_REQUEST = 9  # IBV_WC_REM_INV_REQ_ERR

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
    # Twice as many to send from: while one half is under way unreported, the other one is filled.
    return Sizes(receive_bytes=slot, receives=depth + _UNASKED, send_bytes=slot, sends=2 * (depth + _UNASKED))


class Completions(NamedTuple):
    """What has finished: the messages received, in order, and the status of each work request that failed."""

    messages: list[bytes]
    failed: list[int]


class Arena:
    """Page-aligned memory of equal slots, registered as one region."""

    def __init__(self, module: library.Handle, pd: library.Handle, slots: int, slot_bytes: int, access: int) -> None:
        self._module = module
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(-1, slots * slot_bytes)
        self._buffer = module.ffi.from_buffer(self._memory, require_writable=True)
        self.start: library.Handle = module.ffi.cast("char *", self._buffer)
        out = module.ffi.new("struct ibv_mr **")
        self.rc: int = module.lib.mr_register(pd, self._buffer, len(self._memory), access, out)
        self._mr = out[0] if self.rc == 0 else None
        self.lkey: int = module.lib.mr_lkey(self._mr) if self._mr else 0

    @cached_property
    def read_header(self) -> bytes:
        """The iSER header of a command whose target writes into it."""
        return IserHeader(read=self.remote).pack()

    @cached_property
    def write_header(self) -> bytes:
        """The iSER header of a command whose target reads from it."""
        return IserHeader(write=self.remote).pack()

    @cached_property
    def remote(self) -> RemoteBuffer:
        """How a peer names the first byte of it."""
        return RemoteBuffer(self._module.lib.mr_rkey(self._mr), int(self._module.ffi.cast("uintptr_t", self.start)))

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
        self._out = self._ffi.new("struct completion[]", BATCH)
        self._taken = self._ffi.buffer(self._out)
        try:
            self._build(self._lib.cm_context(id))
        except BaseException:
            self.free()
            raise
        # The send slots are a ring: those under way begin at `_oldest`.
        self._oldest = self._under_way = self._unreported = 0
        self._wipe: dict[int, int] = {}

    @property
    def fd(self) -> int:
        """Readable when something has completed."""
        fd: int = self._lib.completion_channel_fd(self._comp_channel)
        return fd

    @property
    def room(self) -> int:
        """How many messages can be sent now."""
        return self._sizes.sends - self._under_way

    def send(self, messages: Sequence[bytes], *, quiet: bool = False) -> None:
        """Post messages, at most `BATCH`. LocalError when one does not fit, or there is not enough `room`.

        `quiet` ones are reported as sent when half of the slots wait for that, which saves most completions, each of
        which may wake the process; their slots are not wiped.
        """
        count, slots, slot_bytes = len(messages), self._sizes.sends, self._sizes.send_bytes
        if count > self.room:
            raise LocalError("all send slots are in use")
        pairs: list[int] = []
        slot = (self._oldest + self._under_way) % slots
        for message in messages:
            if len(message) > slot_bytes:
                raise LocalError(f"a message of {len(message)} bytes does not fit the {slot_bytes} of a slot")
            self._transmit.write(slot, message)
            if not quiet:
                self._wipe[slot] = len(message)
            pairs += (slot, len(message))
            slot = (slot + 1) % slots
        self._under_way += count
        self._unreported += count
        report = not quiet or self._unreported > slots // 2
        if report:
            self._unreported = 0
        packed = struct.pack(f"={2 * count}I", *pairs)
        arena = self._transmit
        rc = self._lib.qp_post_sends(self._id, arena.start, arena.slot_bytes, arena.lkey, packed, count, int(report))
        self._check(rc, "ibv_post_send")

    def share(self, size_bytes: int, *, writable: bool) -> Arena:
        """Memory the peer may use: write into it when `writable`, else read from it. It lasts as long as the endpoint.

        Freed after the queue pair, so that a late write of the peer finds it or nothing.
        """
        access = self._lib.LOCAL_WRITE | self._lib.REMOTE_WRITE if writable else self._lib.REMOTE_READ
        return self._arena(1, size_bytes, access)

    def completions(self) -> Completions:
        """Everything that has completed. Arms first and polls afterwards: the other order loses wake-ups.

        Receive slots are copied out and posted again before their messages are handed on, so the peer never runs dry
        while a handler works.
        """
        found = Completions([], [])
        taken = self._lib.cq_take(self._comp_channel, self._cq, self._out, BATCH)
        while self._check(taken, "ibv_poll_cq"):
            self._sort(taken, found)
            if taken < BATCH:
                break
            taken = self._lib.cq_poll(self._cq, self._out, BATCH)
        return found

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
        self._check(self._post(range(sizes.receives)), "ibv_post_recv")

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

    def _post(self, slots: Sequence[int]) -> int:
        arena, count = self._receive, len(slots)
        packed = struct.pack(f"={count}I", *slots)
        rc: int = self._lib.qp_post_receives(self._id, arena.start, arena.slot_bytes, arena.lkey, packed, count)
        return rc

    def _sort(self, taken: int, found: Completions) -> None:
        """Put what was polled where it belongs; sends that succeeded only give back their slots."""
        received = []
        for wr_id, status, length, _, invalidated in _COMPLETION.iter_unpack(self._taken[: taken * _COMPLETION.size]):
            if wr_id & _SEND:
                self._sent(wr_id & (_SEND - 1))
            elif status == 0:
                received.append(wr_id)
                if invalidated:  # what iSER's private data does not allow
                    found.failed.append(_REMOTE_INVALID_REQUEST)
                else:
                    found.messages.append(self._receive.read(wr_id, length))
            if status:
                found.failed.append(status)
        if received:
            # Fails only on a queue pair that is in error already: what came before that is still to be read.
            self._post(received)

    def _sent(self, slot: int) -> None:
        """This slot, and those sent before it, are ours again. They may have held a CHAP response: do not keep it."""
        slots = self._sizes.sends
        done = (slot - self._oldest) % slots + 1
        for place in range(self._oldest, self._oldest + done) if self._wipe else ():
            wipe_bytes = self._wipe.pop(place % slots, 0)
            if wipe_bytes:
                self._transmit.write(place % slots, bytes(wipe_bytes))
        self._oldest = (slot + 1) % slots
        self._under_way -= done

    def _check(self, rc: int, operation: str) -> int:
        if rc < 0:
            raise failures.call_failed(self._peer, operation, -rc)
        return rc
