# SPDX-License-Identifier: Apache-2.0
"""The door to netlink, against the running kernel, without privilege: two families exist everywhere."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
from typing import ClassVar

import pytest

from rdmactl.errors import KernelError, Unavailable
from rdmactl.netlink import sockets
from rdmactl.netlink.channel import NetlinkChannel
from rdmactl.netlink.message import NETLINK_ISCSI, NETLINK_KOBJECT_UEVENT, NETLINK_RDMA, NETLINK_ROUTE, build, split
from rdmactl.netlink.ports import ChannelSpec, Received, Reply
from rdmactl.netlink.sockets import KernelSocket, fence_descriptor, open_socket
from tests.fake.services import Log

NETLINK_USERSOCK = 2
RTM_NEWLINK, RTM_GETLINK = 16, 18
DUMP = 0x301
DEADLINE_S = 10.0


def multicast(sender: KernelSocket, group: int, datagram: bytes) -> None:
    """To a group from user space; the kernel's own port, always a receiver too, does not exist in this family."""
    with contextlib.suppress(ConnectionRefusedError):
        sender._socket.sendto(datagram, (0, 1 << (group - 1)))


def test_each_socket_has_a_positive_portid_of_its_own() -> None:
    opened = [open_socket(ChannelSpec(NETLINK_ROUTE)) for _ in range(5)]
    portids = [sock.portid for sock in opened]
    assert len(set(portids)) == 5
    assert all(0 < portid <= 0x7FFFFFFF for portid in portids)
    assert all(portid % (1 << 22) == os.getpid() for portid in portids)
    for sock in opened:
        sock.close()


def test_candidates_stay_positive_for_every_process_id() -> None:
    for pid in (1, 4711, (1 << 22) - 1, 1 << 22):
        candidates = list(sockets._portids(pid))
        assert len(set(candidates)) == len(candidates) == 512
        assert min(candidates) > 0
        assert max(candidates) <= 0x7FFFFFFF


def test_the_first_portid_is_the_process_id_where_that_is_free() -> None:
    first = open_socket(ChannelSpec(NETLINK_USERSOCK))
    assert first.portid == os.getpid()
    second = open_socket(ChannelSpec(NETLINK_USERSOCK))
    assert second.portid != first.portid
    first.close()
    second.close()


def test_an_empty_queue_is_none_and_a_cut_message_an_error() -> None:
    sock = open_socket(ChannelSpec(NETLINK_ROUTE, receive_bytes=64))
    assert sock.receive() is None
    sock.send(build(RTM_GETLINK, bytes(16), flags=DUMP, pid=sock.portid))
    with pytest.raises(OSError, match="cut to 64") as caught:
        sock.receive()
    assert caught.value.errno == errno.EMSGSIZE
    sock.close()


def test_sender_and_groups_are_reported() -> None:
    receiver = open_socket(ChannelSpec(NETLINK_USERSOCK, groups=(3,)))
    sender = open_socket(ChannelSpec(NETLINK_USERSOCK))
    sender._socket.sendto(b"to one", (receiver.portid, 0))
    multicast(sender, 3, b"to all")
    assert receiver.receive() == (b"to one", sender.portid, 0)
    assert receiver.receive() == (b"to all", sender.portid, 1 << 2)
    receiver.close()
    sender.close()


def test_losses_are_reported_as_enobufs() -> None:
    receiver = open_socket(ChannelSpec(NETLINK_USERSOCK, groups=(3,), receive_buffer_bytes=4096))
    sender = open_socket(ChannelSpec(NETLINK_USERSOCK))
    for _ in range(100):
        multicast(sender, 3, bytes(100))
    with pytest.raises(OSError, match="buffer") as caught:
        list(iter(receiver.receive, None))
    assert caught.value.errno == errno.ENOBUFS
    receiver.close()
    sender.close()


def test_the_receive_buffer_is_what_was_asked_for_as_far_as_permitted() -> None:
    sock = open_socket(ChannelSpec(NETLINK_ROUTE, receive_buffer_bytes=100_000))
    assert sock._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000  # the kernel doubles it
    sock.close()


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (NETLINK_RDMA, "no RDMA support in the running kernel"),
        (NETLINK_ISCSI, "no iSCSI support in the running kernel"),
        (99, "the running kernel has no netlink family 99"),
    ],
)
def test_a_missing_family_is_explained(monkeypatch: pytest.MonkeyPatch, family: int, text: str) -> None:
    def refuse(*arguments: object) -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(Unavailable, match=text) as caught:
        open_socket(ChannelSpec(family))
    assert caught.value.code == "no-kernel-support"
    assert family == 99 or "modprobe" in str(caught.value)


class _Refusing(socket.socket):
    """Every operation named here fails with its errno."""

    refusals: ClassVar[dict[str, int]] = {}

    def bind(self, address: object) -> None:
        self._refuse("bind")

    def setsockopt(self, *arguments: object) -> None:  # type: ignore[override]
        self._refuse("setsockopt")

    def _refuse(self, name: str) -> None:
        if name in self.refusals:
            raise OSError(self.refusals[name], os.strerror(self.refusals[name]))


@pytest.mark.parametrize(
    ("refusals", "error", "text"),
    [
        ({"setsockopt": errno.EPERM}, Unavailable, "not permitted to join multicast group 1 of NETLINK_ISCSI"),
        ({"setsockopt": errno.EINVAL}, KernelError, "NETLINK_ISCSI: join group 1: Invalid argument"),
        ({"bind": errno.EADDRINUSE}, Unavailable, "every port id"),
        ({"bind": errno.EPERM}, KernelError, "NETLINK_ISCSI: bind: Operation not permitted"),
    ],
)
def test_refusals_are_explained_and_nothing_stays_open(
    monkeypatch: pytest.MonkeyPatch, refusals: dict[str, int], error: type[Exception], text: str
) -> None:
    opened: list[_Refusing] = []

    def create(family: int, type: int, protocol: int) -> _Refusing:
        opened.append(_Refusing(socket.AF_NETLINK, type, NETLINK_ROUTE))
        return opened[-1]

    monkeypatch.setattr(_Refusing, "refusals", refusals)
    monkeypatch.setattr(sockets.socket, "socket", create)
    with pytest.raises(error, match=text):
        open_socket(ChannelSpec(NETLINK_ISCSI, groups=(1,)))
    assert [sock.fileno() for sock in opened] == [-1]


def test_without_the_privilege_the_buffer_is_as_large_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Unprivileged(socket.socket):
        def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
            asked.append(option)
            if option == 33:
                raise PermissionError(errno.EPERM, "no")

    sock = Unprivileged(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    sockets._size(sock, 1 << 23)
    sock.close()
    assert asked == [33, socket.SO_RCVBUF]


# ---------------------------------------------------------------- fencing


def test_a_fenced_socket_is_gone_and_its_number_stays_taken() -> None:
    sock = open_socket(ChannelSpec(NETLINK_ROUTE))
    with selectors.EpollSelector() as selector:
        selector.register(sock.fileno(), selectors.EVENT_READ)
        descriptor = sock.fileno()
        sock.send(build(RTM_GETLINK, bytes(16), flags=DUMP, pid=sock.portid))
        assert selector.select(0)
        sock.fence()
        assert selector.select(0) == []
        with pytest.raises(OSError, match="socket"):
            sock.send(b"late")
        with pytest.raises(OSError, match="socket"):
            sock.receive()
        assert sock.fileno() == descriptor
        assert os.readlink(f"/proc/self/fd/{descriptor}") == os.devnull
        successor = open_socket(ChannelSpec(NETLINK_ROUTE))
        assert successor.portid == sock.portid  # given back
        assert successor.fileno() != descriptor
    successor.close()
    sock.close()
    assert not os.path.exists(f"/proc/self/fd/{descriptor}")


def test_fencing_what_is_closed_does_nothing() -> None:
    sock = open_socket(ChannelSpec(NETLINK_ROUTE))
    sock.close()
    sock.fence()
    fence_descriptor(-1)


def test_n43_a_portid_in_use_is_replaced_and_nlmsg_pid_follows() -> None:
    """N43, better than rdma-core: positive, and told to the kernel, which answers to what the header says."""
    spec = ChannelSpec(NETLINK_ROUTE)
    with contextlib.closing(open_socket(spec)) as first, contextlib.closing(open_socket(spec)) as second:
        assert first.portid != second.portid
        assert 0 < second.portid <= 0x7FFFFFFF
        log = Log()
        channel = NetlinkChannel(
            second, spec, log, clock=lambda: 0.0, schedule=lambda turn: None, failed=lambda error: None
        )
        channel.send(RTM_GETLINK, bytes(16), flags=DUMP)
        channel.turn()
        (reply,) = log.news()
        assert reply.request.pid == second.portid
        assert {message.pid for message in reply.messages} == {second.portid}


# ---------------------------------------------------------------- a channel on the real kernel


def dump_links(receive_bytes: int = 32768) -> Log:
    log = Log()
    spec = ChannelSpec(NETLINK_ROUTE, receive_bytes=receive_bytes)
    failures: list[Exception] = []
    soon: list[object] = []
    channel = NetlinkChannel(
        open_socket(spec), spec, log, clock=lambda: 0.0, schedule=soon.append, failed=failures.append
    )
    channel.send(RTM_GETLINK, bytes(16), flags=DUMP)
    with selectors.DefaultSelector() as selector:
        selector.register(channel.fileno(), selectors.EVENT_READ)
        channel.turn()
        while not log.news() and selector.select(DEADLINE_S):
            channel.turn()
    channel.close()
    assert failures == []
    return log


def test_a_dump_of_links_is_one_reply() -> None:
    (reply,) = dump_links().news()
    assert isinstance(reply, Reply)
    assert reply.code == 0
    assert reply.messages
    assert {message.type for message in reply.messages} == {RTM_NEWLINK}
    names = b"".join(message.payload for message in reply.messages)
    assert b"lo\0" in names


def test_a_dump_that_does_not_fit_is_a_loss() -> None:
    assert "overrun" in dump_links(receive_bytes=64).events


def test_messages_of_another_process_do_not_reach_the_handler() -> None:
    log = Log()
    spec = ChannelSpec(NETLINK_USERSOCK)
    channel = NetlinkChannel(
        open_socket(spec), spec, log, clock=lambda: 0.0, schedule=lambda f: None, failed=lambda error: None
    )
    stranger = open_socket(ChannelSpec(NETLINK_USERSOCK))
    stranger._socket.sendto(build(0x0801, b"evil"), (channel.portid, 0))
    channel.turn()
    assert log.news() == []
    assert channel.counters.foreign == 1
    stranger.close()
    channel.close()


@pytest.mark.parametrize("family", [NETLINK_KOBJECT_UEVENT])
def test_device_events_can_be_subscribed(family: int) -> None:
    sock = open_socket(ChannelSpec(family, groups=(1,)))
    assert sock.receive() is None or isinstance(sock.receive(), tuple)
    sock.close()


def test_split_of_a_real_dump_accounts_for_every_byte() -> None:
    sock = open_socket(ChannelSpec(NETLINK_ROUTE, receive_bytes=32768))
    sock.send(build(RTM_GETLINK, bytes(16), flags=DUMP, pid=sock.portid))
    item = sock.receive()
    assert item is not None
    datagram, sender, groups = item
    assert (sender, groups) == (0, 0)
    assert sum(16 + len(message.payload) + (-len(message.payload) & 3) for message in split(datagram)) == len(datagram)
    sock.close()
    assert isinstance(Received(split(datagram)[0], sender, groups), tuple)
