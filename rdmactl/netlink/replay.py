# SPDX-License-Identifier: Apache-2.0
"""Plays a recording back against a channel handler: the kernel's side as it was, ours as it is now. Shell ring.

Not here: recording (`trace.py`), a kernel that reacts (tests/fake). A replay only repeats: what the kernel said
comes in the recorded order and at the recorded time, whatever is answered.

    replay = Replay(load("report.jsonl"))
    channel = replay.open(handler)              # where a service would call lane.open
    assert replay.run() == replay.expected()    # did we say what was said then?
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from rdmactl.errors import LocalError
from rdmactl.netlink.channel import NetlinkChannel
from rdmactl.netlink.message import NETLINK_KOBJECT_UEVENT, split
from rdmactl.netlink.ports import ChannelHandler, ChannelSpec
from rdmactl.netlink.trace import DAEMON_TO_KERNEL, KERNEL_TO_DAEMON, TraceEntry

__all__ = ["Replay"]

_SOME_PORTID = 1


class _ReplaySocket:
    """The kernel's recorded half of a conversation."""

    def __init__(self, portid: int) -> None:
        self.portid = portid
        self.sent: list[bytes] = []
        self.inbox: deque[bytes] = deque()

    def fileno(self) -> int:
        return -1

    def send(self, datagram: bytes) -> None:
        self.sent.append(datagram)

    def receive(self) -> tuple[bytes, int, int] | None:
        return (self.inbox.popleft(), 0, 0) if self.inbox else None

    def fence(self) -> None:
        self.close()

    def close(self) -> None:
        self.inbox.clear()


class Replay:
    """One socket of a recording: the one with `portid`, or the first that occurs."""

    def __init__(self, entries: Sequence[TraceEntry], portid: int | None = None) -> None:
        if not entries:
            raise LocalError("the recording is empty")
        recorded = entries[0].portid if portid is None else portid
        self._entries = [entry for entry in entries if entry.portid == recorded]
        self._family = self._entries[0].family if self._entries else entries[0].family
        self._socket = _ReplaySocket(recorded or self._spoken_portid())
        self._channel: NetlinkChannel | None = None
        self._soon: deque[Callable[[], None]] = deque()
        self._now = self._entries[0].time_s if self._entries else 0.0
        self._failure: Exception | None = None

    def open(self, handler: ChannelHandler, spec: ChannelSpec | None = None) -> NetlinkChannel:
        """The channel the handler sends through. What it sends from here on counts."""
        self._channel = NetlinkChannel(
            self._socket,
            spec or ChannelSpec(self._family),
            handler,
            clock=lambda: self._now,
            schedule=self._soon.append,
            failed=self._failed,
        )
        return self._channel

    def run(self) -> list[bytes]:
        """Feed everything the kernel said; returns all datagrams sent. Raises what the handler raises."""
        if self._channel is None:
            raise LocalError("open the replay before running it")
        for entry in self._entries:
            if entry.direction != KERNEL_TO_DAEMON:
                continue
            self._now = entry.time_s
            self._socket.inbox.append(entry.datagram)
            self._turn(self._channel)
        return self._socket.sent

    def expected(self) -> list[bytes]:
        """What was sent in the recording."""
        return [entry.datagram for entry in self._entries if entry.direction == DAEMON_TO_KERNEL]

    def _turn(self, channel: NetlinkChannel) -> None:
        self._soon.append(channel.turn)
        while self._soon:
            self._soon.popleft()()
        if self._failure is not None:
            raise self._failure

    def _failed(self, error: Exception) -> None:
        self._failure = error

    def _spoken_portid(self) -> int:
        """For captures that do not note the portid: what our side wrote into its messages."""
        if self._family != NETLINK_KOBJECT_UEVENT:
            for entry in self._entries:
                for message in split(entry.datagram) if entry.direction == DAEMON_TO_KERNEL else ():
                    if message.pid:
                        return message.pid
        return _SOME_PORTID
