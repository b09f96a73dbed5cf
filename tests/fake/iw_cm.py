# SPDX-License-Identifier: Apache-2.0
"""A model of the kernel's port mapper client: drivers/infiniband/core/iwcm.c, iwpm_msg.c, iwpm_util.c of Linux 6.12.

Applications call `listen`, `connect` and `destroy`; each blocks like the real thing while the port mapper is asked, so
tests call them in threads. What would crash a real kernel is noted in `violations`: an answer to a request that has
been answered, or has been given up. The same scenarios run against this and against the real one (tests/scenarios).
"""

from __future__ import annotations

import errno
import itertools
import struct
import sys
import threading
from dataclasses import dataclass, field

from rdmactl.netlink.message import NLM_F_MULTI, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, Message, attributes, build
from rdmactl.netlink.rdma import (
    IWPM_ABI_VERSION,
    IWPM_ABI_VERSION_MIN,
    NETLINK_RDMA,
    RDMA_NL_GROUP_IWPM,
    RDMA_NL_IWCM,
    RDMA_NL_IWPM_ADD_MAPPING,
    RDMA_NL_IWPM_HANDLE_ERR,
    RDMA_NL_IWPM_HELLO,
    RDMA_NL_IWPM_MAPINFO,
    RDMA_NL_IWPM_MAPINFO_NUM,
    RDMA_NL_IWPM_QUERY_MAPPING,
    RDMA_NL_IWPM_REG_PID,
    RDMA_NL_IWPM_REMOTE_INFO,
    ULIB_NAME,
    client_of,
    op_of,
)
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake import iwcm_messages as say
from tests.fake.kernel import FakeKernel, FakeSocket

__all__ = ["CmId", "FakeIwCm", "Waiter"]

PID_UNDEFINED, PID_UNAVAILABLE = -1, -2
UNDEF, INCOMPL, VALID = "undef", "incompl", "valid"

RECORDS_PER_DATAGRAM = 12
DATAGRAMS_MAX = 19
RECORDS_MAX = 227
WAIT_S = 10.0

USER_LIB_INFO_ERR = 15

# What each message must have: "u16", "u32", "str" or "addr" by attribute type.
RULES = {
    RDMA_NL_IWPM_REG_PID: ("u32", "str", "str", "u16", "u16"),
    RDMA_NL_IWPM_ADD_MAPPING: ("u32", "addr", "addr", "u16"),
    RDMA_NL_IWPM_QUERY_MAPPING: ("u32", "addr", "addr", "addr", "addr", "u16"),
    RDMA_NL_IWPM_REMOTE_INFO: ("u32", "addr", "addr", "addr", "addr", "u16"),
    RDMA_NL_IWPM_HANDLE_ERR: ("u32", "u16"),
    RDMA_NL_IWPM_MAPINFO: ("str", "u16"),
    RDMA_NL_IWPM_MAPINFO_NUM: ("u32", "u32", "u32"),
    RDMA_NL_IWPM_HELLO: ("u16",),
}
SIZES = {"u16": 2, "u32": 4, "addr": 128}


@dataclass
class Waiter:
    """A request, as long as the module lives (the kernel never frees them)."""

    seq: int
    op: int
    local: SockAddr | None = None
    remote: SockAddr | None = None
    device: str = ""
    code: int = errno.ETIMEDOUT
    mapped_local: SockAddr | None = None
    mapped_remote: SockAddr | None = None
    ended: bool = False
    event: threading.Event = field(default_factory=threading.Event)


@dataclass
class CmId:
    """A listener or a connection. `marked` ones are reported and send REMOVE."""

    local: SockAddr
    mapped: SockAddr
    remote: SockAddr | None = None
    mapped_remote: SockAddr | None = None
    marked: bool = False
    flags: int = 0


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder)


def _same(one: SockAddr | None, other: SockAddr | None) -> bool:
    return one is not None and other is not None and one[:3] == other[:3]


class FakeIwCm(FakeKernel):
    """The kernel. `present`: iw_cm is there and asked from the right netns; `has_hello`: kernel 5.1 or later."""

    family = NETLINK_RDMA

    def __init__(self, *, wait_s: float = WAIT_S) -> None:
        super().__init__()
        self.wait_s = wait_s
        self.present = True
        self.has_hello = True
        self.pid = PID_UNDEFINED
        self.registration = UNDEF
        self.version = IWPM_ABI_VERSION_MIN
        self.ids: list[CmId] = []
        self.remote_infos: list[tuple[SockAddr, SockAddr, SockAddr]] = []  # mapped local, mapped remote, remote
        self.waiters: dict[int, Waiter] = {}
        self.violations: list[str] = []
        self.acknowledged: list[tuple[int, int]] = []  # MAPINFO_NUM: sent, processed
        self._ports = itertools.count(30000)

    # ---------------------------------------------------------------- applications

    def listen(self, local: SockAddr, *, flags: int = 0, device: str = "siw0") -> CmId:
        """rdma_listen on one device."""
        cm_id = CmId(local, local, flags=flags)
        self._map(cm_id, Waiter(0, RDMA_NL_IWPM_ADD_MAPPING, local, None, device))
        return cm_id

    def connect(self, local_host: SockAddr, remote: SockAddr, *, flags: int = 0, device: str = "siw0") -> CmId:
        """rdma_connect; the local port is chosen here, as rdma_cm does."""
        local = local_host.with_port(next(self._ports)) if local_host.port == 0 else local_host
        cm_id = CmId(local, local, remote, remote, flags=flags)
        self._map(cm_id, Waiter(0, RDMA_NL_IWPM_QUERY_MAPPING, local, remote, device))
        return cm_id

    def accepted(self, listener: CmId, source: SockAddr) -> SockAddr:
        """A TCP connection from `source` reaches the listener's mapped address: whom the application will see."""
        for entry in self.remote_infos:
            if _same(entry[0], listener.mapped) and _same(entry[1], source):
                self.remote_infos.remove(entry)
                return entry[2]
        return source

    def destroy(self, cm_id: CmId) -> None:
        """The end of a listener or connection."""
        if not cm_id.marked:
            return
        cm_id.marked = False
        self.ids.remove(cm_id)
        if self.pid > 0 and not self.unicast(self.pid, say.remove_mapping(self.next_seq(), cm_id.local)):
            self.pid = PID_UNDEFINED

    def reload(self) -> None:
        """rmmod and modprobe iw_cm."""
        self.pid, self.registration, self.version = PID_UNDEFINED, UNDEF, IWPM_ABI_VERSION_MIN
        self.ids.clear()
        self.remote_infos.clear()

    def _map(self, cm_id: CmId, waiter: Waiter) -> None:
        if not self._register(waiter.device) or self.pid <= 0:
            return
        cm_id.marked = True
        if self.registration == VALID and (self.version >= IWPM_ABI_VERSION or not cm_id.flags):
            self._ask(cm_id, waiter)
        self.ids.append(cm_id)

    def _register(self, device: str) -> bool:
        if self.registration == VALID or self.pid == PID_UNAVAILABLE:
            return True
        waiter = self._new_waiter(Waiter(0, RDMA_NL_IWPM_REG_PID, device=device))
        if not self.multicast(RDMA_NL_GROUP_IWPM, say.reg_pid(waiter.seq, "eth0", device)):
            self.pid = PID_UNAVAILABLE
            return False
        return self._wait(waiter) == 0

    def _ask(self, cm_id: CmId, waiter: Waiter) -> None:
        waiter = self._new_waiter(waiter)
        flags = cm_id.flags if self.version >= IWPM_ABI_VERSION else None
        if waiter.remote is None:
            datagram = say.add_mapping(waiter.seq, cm_id.local, flags)
        else:
            datagram = say.query_mapping(waiter.seq, cm_id.local, waiter.remote, flags)
        if not self.unicast(self.pid, datagram):
            if waiter.remote is None:
                self.pid = PID_UNDEFINED
            return
        if self._wait(waiter) == 0 and waiter.mapped_local is not None:
            cm_id.mapped = waiter.mapped_local
            if waiter.mapped_remote is not None and waiter.remote is not None:
                wildcard = waiter.mapped_remote.is_wildcard
                cm_id.mapped_remote = (
                    waiter.remote.with_port(waiter.mapped_remote.port) if wildcard else waiter.mapped_remote
                )

    def _new_waiter(self, waiter: Waiter) -> Waiter:
        with self.lock:
            waiter.seq = self.next_seq()
            self.waiters[waiter.seq] = waiter
        return waiter

    def _wait(self, waiter: Waiter) -> int:
        waiter.event.wait(self.wait_s)
        with self.lock:
            waiter.ended = True
            return waiter.code

    # ---------------------------------------------------------------- the port mapper's messages

    def handle(self, sender: FakeSocket, message: Message) -> None:
        if not message.flags & NLM_F_REQUEST:
            return
        op = op_of(message.type)
        known = client_of(message.type) == RDMA_NL_IWCM and op in RULES
        if not self.present or not known or (op == RDMA_NL_IWPM_HELLO and not self.has_hello):
            copy = build(message.type, message.payload, flags=message.flags, seq=message.seq, pid=message.pid)
            payload = struct.pack("=i", -errno.EINVAL) + copy
            sender.deliver(build(NLMSG_ERROR, payload, flags=0, seq=message.seq, pid=sender.portid))
            return
        found = self._checked(op, message.payload)
        code = -errno.EINVAL if found is None else self._handle(op, found, message)
        self.done(sender, message, code)

    def _checked(self, op: int, payload: bytes) -> dict[int, bytes] | None:
        found = dict(attributes(payload))
        for type_, kind in enumerate(RULES[op], 1):
            value = found.get(type_)
            if value is None:
                return None
            if kind == "str":
                if b"\0" not in value[:32]:
                    return None
            elif len(value) < SIZES[kind]:
                return None
        return found

    def _handle(self, op: int, found: dict[int, bytes], message: Message) -> int:
        if op == RDMA_NL_IWPM_HELLO:
            return self._hello(_number(found[1]), message)
        if op == RDMA_NL_IWPM_MAPINFO:
            return self._mapinfo(found[1], _number(found[2]), message)
        if op == RDMA_NL_IWPM_MAPINFO_NUM:
            self.acknowledged.append((_number(found[2]), _number(found[3])))
            return 0
        if op == RDMA_NL_IWPM_REMOTE_INFO:
            return self._remote_info(found)
        return self._answer(op, found, message)

    def _hello(self, version: int, message: Message) -> int:
        self.registration, self.version, self.pid = INCOMPL, min(IWPM_ABI_VERSION, version), message.pid
        delivered = self.unicast(message.pid, say.hello(self.next_seq(), self.version))
        return 0 if delivered else -errno.ECONNREFUSED

    def _mapinfo(self, name: bytes, version: int, message: Message) -> int:
        if name != ULIB_NAME or version < IWPM_ABI_VERSION_MIN:
            return -errno.EINVAL
        self.registration, self.pid = INCOMPL, message.pid
        records = [
            say.mapinfo(cm_id.local, cm_id.mapped, cm_id.flags if self.version >= IWPM_ABI_VERSION else None)
            for cm_id in self.ids
        ]
        if not records:
            return 0
        full = len(records) > RECORDS_MAX
        shown = records[: DATAGRAMS_MAX * RECORDS_PER_DATAGRAM] if full else records
        for start in range(0, len(shown), RECORDS_PER_DATAGRAM):
            datagram = b"".join(shown[start : start + RECORDS_PER_DATAGRAM]) + build(NLMSG_DONE, flags=NLM_F_MULTI)
            if not self.unicast(message.pid, datagram):
                return -errno.EAGAIN
        if full:
            return -errno.ENOMEM
        self.unicast(message.pid, say.mapinfo_num(self.next_seq(), len(shown)))
        return 0

    def _remote_info(self, found: dict[int, bytes]) -> int:
        local, remote, mapped_local, mapped_remote = (SockAddr.unpack(found[i]) for i in (2, 3, 4, 5))
        if local and remote and mapped_local and mapped_remote and mapped_local.family == local.family:
            self.remote_infos.append((mapped_local, mapped_remote, remote))
        return -errno.EINVAL  # success included

    def _answer(self, op: int, found: dict[int, bytes], message: Message) -> int:
        seq = _number(found[1])
        with self.lock:
            waiter = self.waiters.get(seq)
            if waiter is None:
                return 0 if op == RDMA_NL_IWPM_HANDLE_ERR else -errno.EINVAL
            if waiter.event.is_set() or waiter.ended:
                self.violations.append(f"request {seq} (op {waiter.op}) answered {'late' if waiter.ended else 'twice'}")
                return 0
            waiter.code = self._result(op, found, waiter, message)
            waiter.event.set()
        return 0

    def _result(self, op: int, found: dict[int, bytes], waiter: Waiter, message: Message) -> int:
        if op == RDMA_NL_IWPM_HANDLE_ERR:
            if _number(found[2]) == 0:
                self.violations.append("HANDLE_ERR with code 0 counts as success without addresses")
            return _number(found[2])
        if op != waiter.op:
            self.violations.append(f"request {waiter.seq} (op {waiter.op}) answered as op {op}")
            return USER_LIB_INFO_ERR
        if op == RDMA_NL_IWPM_REG_PID:
            device = found[2].split(b"\0")[0].decode()
            if device != waiter.device or found[3] != ULIB_NAME or _number(found[4]) < IWPM_ABI_VERSION_MIN:
                return USER_LIB_INFO_ERR
            self.registration, self.pid, self.version = VALID, message.pid, _number(found[4])
            return 0
        if not _same(SockAddr.unpack(found[2]), waiter.local):
            return USER_LIB_INFO_ERR
        if op == RDMA_NL_IWPM_ADD_MAPPING:
            waiter.mapped_local = SockAddr.unpack(found[3])
            return 0
        if not _same(SockAddr.unpack(found[3]), waiter.remote):
            return USER_LIB_INFO_ERR
        waiter.mapped_local, waiter.mapped_remote = SockAddr.unpack(found[4]), SockAddr.unpack(found[5])
        return 16 if _number(found[6]) == 16 else 0
