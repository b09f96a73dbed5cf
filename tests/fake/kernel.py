# SPDX-License-Identifier: Apache-2.0
"""The base of every fake kernel: netlink sockets in memory, byte for byte as the real ones behave.

Derive from `FakeKernel`, give it the family, and answer messages:

    class FakePortMapperClient(FakeKernel):
        family = NETLINK_RDMA

        def handle(self, sender: FakeSocket, message: Message) -> None:
            if message.type == 0x0808:                                            # HELLO
                self.unicast(sender.portid, build(0x0808, message.payload, seq=self.next_seq()))
            self.done(sender, message, 0)                                         # what the kernel adds by itself

    kernel = FakePortMapperClient()
    dispatcher = Dispatcher(door=kernel.open)               # or FakeKernels(kernel, other).open for several families

What is like the real thing:

* `handle` runs synchronously inside `send`, in the sender's thread, once for each message of the datagram, in order;
  whatever it sends is queued before `send` returns. It may block (a slow kernel) or raise OSError (a refused send).
* The receive queue is bounded in bytes, each datagram charged with an overhead. One that does not fit is dropped, and
  the next receive raises ENOBUFS once; what was queued before is still readable.
* `unicast` returns False for an unknown portid (ECONNREFUSED) or a full queue (EAGAIN). `multicast` returns how many
  sockets got it (0 is the kernel's ESRCH), and marks the groups bitmask on it.
* Sockets are readable on a selector while something is queued (eventfd). Closing gives the portid back.
* Portids are explicit; `taken` makes some of them busy.

`sent` keeps (portid, message) of everything that reached the kernel, in order. All methods may be called from any
thread: tests inject events from theirs while lanes read in their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections import deque

from rdmactl.errors import Unavailable
from rdmactl.netlink.message import HEADER, NLM_F_MULTI, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, Message, build, split
from rdmactl.netlink.ports import ChannelSpec
from rdmactl.netlink.sockets import fence_descriptor

__all__ = ["FakeKernel", "FakeKernels", "FakeSocket"]

DEFAULT_RECEIVE_BUFFER_BYTES = 212992
SKB_OVERHEAD_BYTES = 768  # what a small message costs the receive buffer beyond its own length


class FakeSocket:
    """One open socket of a fake kernel (`ports.NetlinkSocket`)."""

    def __init__(self, kernel: FakeKernel, spec: ChannelSpec, portid: int) -> None:
        self.kernel = kernel
        self.spec = spec
        self.portid = portid
        self.closed = False
        self.fenced = False
        self.receive_buffer_bytes = spec.receive_buffer_bytes or DEFAULT_RECEIVE_BUFFER_BYTES
        self._queue: deque[tuple[bytes, int, int]] = deque()
        self._queued_bytes = 0
        self._overrun = False
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return -1 if self.closed else self._event

    def send(self, datagram: bytes) -> None:
        """Hand a datagram to the kernel, which works on it before this returns."""
        if self.closed or self.fenced:
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        self.kernel.take(self, datagram)

    def receive(self) -> tuple[bytes, int, int] | None:
        with self._lock:
            if self.closed or self.fenced:
                raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
            if self._overrun:
                self._overrun = False
                self._update()
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            if not self._queue:
                return None
            item = self._queue.popleft()
            self._queued_bytes -= len(item[0]) + SKB_OVERHEAD_BYTES
            self._update()
        if len(item[0]) > self.spec.receive_bytes:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return item

    def deliver(self, datagram: bytes, sender: int = 0, groups: int = 0) -> bool:
        """Queue a datagram as the kernel would (or, with `sender`, another process); False if it did not fit."""
        with self._lock:
            if self.closed or self.fenced:
                return False
            charge = len(datagram) + SKB_OVERHEAD_BYTES
            fits = self._queued_bytes + charge <= self.receive_buffer_bytes
            if fits:
                self._queue.append((datagram, sender, groups))
                self._queued_bytes += charge
            else:
                self._overrun = True
            self._update()
            return fits

    def fence(self) -> None:
        with self._lock:
            if not self.closed:
                self.fenced = True
                fence_descriptor(self._event)
        self.kernel.forget(self)

    def close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
            os.close(self._event)
        self.kernel.forget(self)

    def _update(self) -> None:
        """Keep the eventfd readable exactly while there is something to receive."""
        if self._queue or self._overrun:
            os.eventfd_write(self._event, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event)


class FakeKernel:
    """One netlink family in memory. Derive and override `handle`."""

    family = -1

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        self.sent: list[tuple[int, Message]] = []
        self.taken: set[int] = set()
        self.seq = 0
        self.lock = threading.RLock()

    # ---------------------------------------------------------------- to override

    def handle(self, sender: FakeSocket, message: Message) -> None:
        """A message from user space. By default it is acknowledged the way NETLINK_RDMA does."""
        self.done(sender, message, 0)

    # ---------------------------------------------------------------- towards the program under test

    def open(self, spec: ChannelSpec) -> FakeSocket:
        """The `SocketDoor`."""
        if spec.family != self.family:
            raise Unavailable(f"the fake kernel has no netlink family {spec.family}", code="no-kernel-support")
        with self.lock:
            portid = next(portid for portid in range(1000, 1 << 30) if portid not in self.taken)
            self.taken.add(portid)
            sock = FakeSocket(self, spec, portid)
            self.sockets.append(sock)
        return sock

    def take(self, sender: FakeSocket, datagram: bytes) -> None:
        """A datagram arrives: record and handle its messages."""
        for message in split(datagram):
            self.sent.append((sender.portid, message))
            self.handle(sender, message)

    def forget(self, sock: FakeSocket) -> None:
        """A socket is closed."""
        with self.lock:
            if sock in self.sockets:
                self.sockets.remove(sock)
                self.taken.discard(sock.portid)

    # ---------------------------------------------------------------- what the kernel sends

    def next_seq(self) -> int:
        """The kernel's own counter of requests to user space; starts at 1."""
        with self.lock:
            self.seq += 1
            return self.seq

    def unicast(self, portid: int, datagram: bytes) -> bool:
        """To one socket; False when there is none of that portid or its queue is full."""
        with self.lock:
            found = [sock for sock in self.sockets if sock.portid == portid]
        return bool(found) and found[0].deliver(datagram)

    def multicast(self, group: int, datagram: bytes) -> int:
        """To all members of a group number; how many got it."""
        with self.lock:
            members = [sock for sock in self.sockets if group in sock.spec.groups]
        return sum(sock.deliver(datagram, 0, 1 << (group - 1)) for sock in members)

    def done(self, receiver: FakeSocket, message: Message, code: int) -> None:
        """NLMSG_DONE, as the dump machinery ends every NETLINK_RDMA message."""
        payload = code.to_bytes(4, sys.byteorder, signed=True)
        receiver.deliver(build(NLMSG_DONE, payload, flags=NLM_F_MULTI, seq=message.seq, pid=receiver.portid))

    def error(self, receiver: FakeSocket, message: Message, code: int) -> None:
        """NLMSG_ERROR: the code, then a copy of the request."""
        request = HEADER.pack(HEADER.size + len(message.payload), message.type, message.flags, message.seq, message.pid)
        payload = code.to_bytes(4, sys.byteorder, signed=True) + request + message.payload
        receiver.deliver(build(NLMSG_ERROR, payload, flags=0, seq=message.seq, pid=receiver.portid))

    def request(self, type: int, payload: bytes = b"", *, seq: int | None = None) -> bytes:
        """A message of the kernel's own, ready for `unicast` or `multicast`."""
        return build(type, payload, flags=NLM_F_REQUEST, seq=self.next_seq() if seq is None else seq, pid=0)


class FakeKernels:
    """Several families behind one door."""

    def __init__(self, *kernels: FakeKernel) -> None:
        self._kernels = {kernel.family: kernel for kernel in kernels}

    def open(self, spec: ChannelSpec) -> FakeSocket:
        """The `SocketDoor`."""
        kernel = self._kernels.get(spec.family)
        if kernel is None:
            raise Unavailable(f"the fake kernel has no netlink family {spec.family}", code="no-kernel-support")
        return kernel.open(spec)
