# SPDX-License-Identifier: Apache-2.0
"""An adapter with its own iSCSI stack, asked through the kernel: CHAP table, flash nodes, settings, ping. Shell ring.

Synchronous, with a socket of its own that is in the event group, because that is where the kernel sends most of these
answers, and where it would loop for want of a listener. No daemon is needed.
Not here: software transports, which have none of this; the keys (`rdmactl.records.adapter`).
Defined by include/scsi/iscsi_if.h; sysfs, /sys/bus/iscsi_flashnode.
"""

from __future__ import annotations

import errno
import os
import select
import time
from typing import TYPE_CHECKING, NamedTuple

from rdmactl.errors import DeadlineExceeded, KernelError, Unavailable
from rdmactl.initiator import sysfs
from rdmactl.netlink import iscsi, iscsi_adapter, message
from rdmactl.netlink.iscsi import ISCSI_NL_GRP_ISCSID, NETLINK_ISCSI, Uevent
from rdmactl.netlink.iscsi_stats import Statistics, parse_host_statistics
from rdmactl.netlink.ports import ChannelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self, TypeVar

    from rdmactl.netlink.iscsi_adapter import ChapEntry, IfaceParam
    from rdmactl.netlink.message import Message
    from rdmactl.netlink.ports import NetlinkSocket, SocketDoor

    T = TypeVar("T")

__all__ = ["Adapter", "FlashNode", "flashnode", "flashnodes"]

_SPEC = ChannelSpec(NETLINK_ISCSI, groups=(ISCSI_NL_GRP_ISCSID,), receive_buffer_bytes=1 << 20, receive_bytes=128 << 10)
_ANSWER_S = 30.0
_CHAP_PAGE = 64  # lines asked for at a time: 33 KiB
_CHAP_MAX = 1024  # lines of a table believed


class FlashNode(NamedTuple):
    """A target an adapter logs in to by itself. `values`: attributes as sysfs has them, by name."""

    host_no: int
    number: int
    session: dict[str, str]
    connection: dict[str, str]


class Adapter:
    """One host of an adapter; a context manager. KernelError, DeadlineExceeded, Unavailable."""

    def __init__(self, handle: int, host_no: int, door: SocketDoor) -> None:
        self._handle = handle
        self._host_no = host_no
        self._socket: NetlinkSocket = door(_SPEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def chap(self) -> list[ChapEntry]:
        """The CHAP table, in the order of its lines."""
        found: list[ChapEntry] = []
        first = 0
        while len(found) < _CHAP_MAX:
            request = iscsi_adapter.get_chap(self._handle, self._host_no, _CHAP_PAGE, first)
            page = self._from_group(request, Uevent.GET_CHAP, iscsi_adapter.parse_chap)
            if not page:
                break
            found.extend(page)
            first = page[-1].number + 1
        return found

    def set_chap(self, entry: ChapEntry) -> None:
        """Write a line of the CHAP table."""
        self._ask(iscsi_adapter.set_chap(self._handle, self._host_no, entry))

    def delete_chap(self, number: int) -> None:
        """Clear a line of the CHAP table."""
        self._ask(iscsi_adapter.delete_chap(self._handle, self._host_no, number))

    def new_flashnode(self, family: str) -> int:
        """Make a flash node for "ipv4" or "ipv6"; its index."""
        return self._ask(iscsi_adapter.new_flashnode(self._handle, self._host_no, family)).sid

    def set_flashnode(self, index: int, params: Iterable[tuple[int, bytes]]) -> None:
        """Change a flash node."""
        self._ask(iscsi_adapter.set_flashnode(self._handle, self._host_no, index, params))

    def flashnode(self, request: Uevent, index: int) -> None:
        """DEL_FLASHNODE, LOGIN_FLASHNODE or LOGOUT_FLASHNODE."""
        self._ask(iscsi_adapter.flashnode_request(request, self._handle, self._host_no, index))

    def statistics(self) -> Statistics:
        """Counters of the host."""
        request = iscsi_adapter.get_host_stats(self._handle, self._host_no)
        return self._from_group(request, Uevent.GET_HOST_STATS, lambda _, payload: parse_host_statistics(payload))

    def apply(self, iface_num: int, params: Iterable[IfaceParam], *, ipv6: bool) -> None:
        """Give an interface of the adapter its settings."""
        self._ask(iscsi_adapter.set_iface_params(self._handle, self._host_no, iface_num, ipv6=ipv6, params=params))

    def ping(self, iface_num: int, size_bytes: int, sockaddr: bytes, *, ipv6: bool) -> int:
        """One ping; 0, or an iscsi_ping_status_code."""
        number = os.getpid()
        self._socket.send(
            iscsi_adapter.ping(self._handle, self._host_no, iface_num, number, size_bytes, sockaddr, ipv6=ipv6)
        )

        def outcome(received: Message) -> int | None:
            """The event, which may come before the request is answered; a refusal ends the wait."""
            _check(_reply(received, Uevent.PING))
            return iscsi_adapter.ping_status(received, self._host_no, number)

        return self._wait(outcome)

    def _ask(self, request: bytes) -> iscsi.Reply:
        """A request that is answered to us."""
        self._socket.send(request)
        kind = message.split(request)[0].type
        reply = self._wait(lambda received: _reply(received, kind))
        _check(reply)
        return reply

    def _from_group(self, request: bytes, kind: Uevent, parse: Callable[[bytes, bytes], T | None]) -> T:
        """A request that is answered to the event group; only a refusal comes to us."""
        self._socket.send(request)

        def answer(received: Message) -> tuple[bytes, bytes] | None:
            _check(_reply(received, kind))
            return iscsi_adapter.answer_of(received, kind, self._host_no)

        u, payload = self._wait(answer)
        parsed = parse(u, payload)
        if parsed is None:
            raise KernelError(kind.name, errno.EPROTO, f"host {self._host_no}: the answer to {kind.name} is cut short")
        return parsed

    def _wait(self, wanted: Callable[[Message], T | None]) -> T:
        """The first message that is wanted; all others are somebody else's events."""
        end = time.monotonic() + _ANSWER_S
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        while (left_s := end - time.monotonic()) > 0:
            item = self._socket.receive()
            if item is None:
                poll.poll(left_s * 1000)
                continue
            for received in message.split(item[0]):
                found = wanted(received)
                if found is not None:
                    return found
        raise DeadlineExceeded(f"host {self._host_no}: the adapter did not answer within {_ANSWER_S:g} s")


def flashnodes(host_no: int, root: str = "/sys") -> list[FlashNode]:
    """The flash nodes of a host, by index."""
    prefix = f"flashnode_sess-{host_no}:"
    names = [name for name in sysfs.names(f"{root}/bus/iscsi_flashnode/devices") if name.startswith(prefix)]
    indices = sorted(int(name.removeprefix(prefix)) for name in names if name.removeprefix(prefix).isdigit())
    found = (flashnode(host_no, index, root) for index in indices)
    return [node for node in found if node is not None]


def flashnode(host_no: int, index: int, root: str = "/sys") -> FlashNode | None:
    """One flash node, or None."""
    devices = f"{root}/bus/iscsi_flashnode/devices"
    session = _attributes(f"{devices}/flashnode_sess-{host_no}:{index}")
    connection = _attributes(f"{devices}/flashnode_conn-{host_no}:{index}:0")
    return FlashNode(host_no, index, session, connection) if session else None


def _attributes(directory: str) -> dict[str, str]:
    values = {name: sysfs.read(f"{directory}/{name}") for name in sysfs.names(directory)}
    return {name: value for name, value in values.items() if value is not None}


def _reply(received: Message, kind: int) -> iscsi.Reply | None:
    if received.type != kind:
        return None
    return iscsi.parse_reply(message.build(received.type, received.payload, flags=0))


def _check(reply: iscsi.Reply | None) -> None:
    """An error for a refusal."""
    if reply is None or reply.code >= 0:
        return
    if reply.code == -errno.EPERM:
        raise Unavailable("not permitted to command adapters", hint="run as root", code="not-permitted")
    name = Uevent(reply.type).name
    raise KernelError(name, -reply.code, f"the adapter refused {name}: {os.strerror(-reply.code)}")
