#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long the dispatcher takes from a kernel request to its answer, in microseconds.

No privilege, no RDMA: another process stands in for the kernel, at the other end of a packet socket. It sends one
request, waits for the answer, and notes the time, as the kernel's iw_cm waits for a port mapper. The handler does
nothing but answer, so this is the cost of the way: epoll, loop, channel, send. Cases:

    floor       recv and send in a bare loop: what Python and the two processes cost anyway
    lane        a service in a lane
    traced      the same with the trace on
    busy        the same while the other lane handles an endless burst of events
    computing   the same while the other lane computes without a pause (it would be restarted after 5 s)
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdmactl.netlink.dispatcher import Dispatcher
from rdmactl.netlink.message import NETLINK_ISCSI, NETLINK_RDMA, build
from rdmactl.netlink.ports import Channel, ChannelSpec, Lane, NetlinkSocket, Received, Reply
from rdmactl.netlink.sockets import fence_descriptor
from rdmactl.netlink.trace import Tracer

ROUNDS = 5000
WARM_UP = 500
REQUEST = build(0x0801, bytes(144), seq=7)
ANSWER = bytes(280)
EVENT = build(0, bytes(56))


class PacketSocket:
    """A packet socket in the place of a netlink socket."""

    portid = 1

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.fileno = sock.fileno
        self.close = sock.close

    def send(self, datagram: bytes) -> None:
        self._socket.send(datagram)

    def receive(self) -> tuple[bytes, int, int] | None:
        try:
            return self._socket.recv(8192), 0, 0
        except BlockingIOError:
            return None

    def fence(self) -> None:
        fence_descriptor(self._socket.fileno())


class EndlessEvents(PacketSocket):
    """Always has one more event."""

    def __init__(self) -> None:
        super().__init__(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0])
        self._socket.close()
        self._event = os.eventfd(1)
        self.fileno = lambda: self._event

    def receive(self) -> tuple[bytes, int, int] | None:
        os.eventfd_read(self._event)  # a system call for each, as in life
        os.eventfd_write(self._event, 1)
        return EVENT, 0, 0


class Answering:
    """The least a port mapper does."""

    spec = ChannelSpec(NETLINK_RDMA, clients=(2,))

    async def run(self, lane: Lane) -> None:
        self.channel: Channel = lane.open(self.spec, self)
        lane.ready()
        await asyncio.Event().wait()

    def received(self, received: Received, now: float) -> None:
        self.channel.send(received.message.type, ANSWER)

    def replied(self, reply: Reply, now: float) -> None: ...
    def overrun(self, now: float) -> None: ...
    def drained(self, now: float) -> None: ...


class Listening(Answering):
    """Takes events and answers none."""

    spec = ChannelSpec(NETLINK_ISCSI, groups=(1,))

    def received(self, received: Received, now: float) -> None: ...


class Computing(Answering):
    """Never comes back to its loop."""

    async def run(self, lane: Lane) -> None:
        lane.ready()
        while True:
            pass


def kernel(sock: socket.socket, result: int) -> None:
    """The other process: ask, wait, note; then report the microseconds."""
    times = []
    for _ in range(WARM_UP + ROUNDS):
        started = time.perf_counter_ns()
        sock.send(REQUEST)
        sock.recv(8192)
        times.append((time.perf_counter_ns() - started) / 1000)
        time.sleep(0.0001)  # requests come one by one; without it the case "busy" would never idle
    times = sorted(times[WARM_UP:])
    text = f"median {statistics.median(times):7.1f}   p99 {times[int(ROUNDS * 0.99)]:7.1f}   max {times[-1]:8.1f}"
    os.write(result, text.encode())


def measure(name: str, serve: Callable[[socket.socket, int], None]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        kernel(theirs, writing)
        os._exit(0)
    theirs.close()
    os.close(writing)
    serve(ours, child)
    print(f"{name:10} {os.read(reading, 200).decode()}", flush=True)
    os.close(reading)


def floor(sock: socket.socket, child: int) -> None:
    for _ in range(WARM_UP + ROUNDS):
        sock.recv(8192)
        sock.send(ANSWER)
    os.waitpid(child, 0)


def under_dispatcher(
    tracer: Tracer | None = None, other: Callable[[], Answering] | None = None
) -> Callable[[socket.socket, int], None]:
    def serve(sock: socket.socket, child: int) -> None:
        def door(spec: ChannelSpec) -> NetlinkSocket:
            return PacketSocket(sock) if spec.family == NETLINK_RDMA else EndlessEvents()

        async def main() -> None:
            dispatcher = Dispatcher(door, tracer=tracer, stall_s=3600.0)
            dispatcher.add("iwpm", Answering)
            if other is not None:
                dispatcher.add("other", other)
            await dispatcher.start(5.0)
            await asyncio.to_thread(os.waitpid, child, 0)
            await dispatcher.stop(1.0)

        asyncio.run(main())

    return serve


if __name__ == "__main__":
    measure("floor", floor)
    measure("lane", under_dispatcher())
    measure("traced", under_dispatcher(Tracer()))
    measure("busy", under_dispatcher(other=Listening))
    measure("computing", under_dispatcher(other=Computing))
