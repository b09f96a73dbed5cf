# SPDX-License-Identifier: Apache-2.0
"""The one door to netlink sockets: open, bind, join, send, receive, fence. Shell ring.

Not here: what messages mean, who gets them (`channel.py`, `requests.py`), and pairing answers with questions.
Behaviour: netlink(7), net/netlink/af_netlink.c; for NETLINK_RDMA also drivers/infiniband/core/{netlink,iwpm_util}.c.

Why every socket gets an explicit portid. The kernel stores `nlmsg_pid` of a port mapper's message as the mapper's
address, tests it with `pid > 0`, and never compares it with the sender's real portid. A zero makes the kernel talk to
itself under a mutex (the sending thread never comes back); the portids autobind invents after a collision are negative
and are never called. So: positive, ours, known before the first byte is sent, for every family alike.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from rdmactl.errors import KernelError, RdmactlError, Unavailable
from rdmactl.netlink.message import NETLINK_ISCSI, NETLINK_KOBJECT_UEVENT, NETLINK_RDMA, NETLINK_ROUTE
from rdmactl.netlink.ports import ChannelSpec

__all__ = [
    "KernelSocket",
    "fence_descriptor",
    "open_socket",
]

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33

# A process id has at most 22 bits (PID_MAX_LIMIT, 64-bit), which leaves 9 of the 31 positive ones to tell sockets
# of one process and family apart. libnl divides the number the same way.
_PORTID_STEP = 1 << 22
_PORTID_TRIES = 512

_NAMES = {
    NETLINK_ROUTE: "NETLINK_ROUTE",
    NETLINK_ISCSI: "NETLINK_ISCSI",
    NETLINK_KOBJECT_UEVENT: "NETLINK_KOBJECT_UEVENT",
    NETLINK_RDMA: "NETLINK_RDMA",
}
_MISSING = {
    NETLINK_RDMA: ("no RDMA support in the running kernel", "load it with: modprobe ib_core"),
    NETLINK_ISCSI: ("no iSCSI support in the running kernel", "load it with: modprobe scsi_transport_iscsi"),
}


class KernelSocket:
    """A bound, non-blocking netlink socket (`ports.NetlinkSocket`)."""

    __slots__ = ("_receive_bytes", "_socket", "portid")

    def __init__(self, sock: socket.socket, portid: int, receive_bytes: int) -> None:
        self._socket = sock
        self.portid = portid
        # The kernel charges NETLINK_RDMA answers by the length passed to recv.
        self._receive_bytes = receive_bytes

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, datagram: bytes) -> None:
        """Send to the kernel (portid 0). For most families the kernel's handler runs inside this call."""
        self._socket.sendto(datagram, (0, 0))

    def receive(self) -> tuple[bytes, int, int] | None:
        """The next datagram with its sender's portid and groups, or None; ENOBUFS and EMSGSIZE tell of a loss."""
        try:
            datagram, (sender, groups) = self._socket.recvfrom(self._receive_bytes, socket.MSG_TRUNC)
        except BlockingIOError:
            return None
        if len(datagram) > self._receive_bytes:
            raise OSError(errno.EMSGSIZE, f"a message of {len(datagram)} bytes was cut to {self._receive_bytes}")
        return datagram, sender, groups

    def fence(self) -> None:
        fence_descriptor(self._socket.fileno())

    def close(self) -> None:
        self._socket.close()


def fence_descriptor(descriptor: int) -> None:
    """Take what is open under `descriptor` away from a thread that may still use it.

    Closing would free the number for the next open, and the other thread could then write into that. /dev/null takes
    its place instead, atomically: the old socket is released (and leaves every epoll set), the number stays taken.
    """
    if descriptor < 0:
        return
    placeholder = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(placeholder, descriptor, inheritable=False)
    finally:
        os.close(placeholder)


def open_socket(spec: ChannelSpec) -> KernelSocket:
    """Open, bind, size and join as `spec` says.

    Unavailable when the family or a privilege is missing, KernelError for anything else the kernel refuses.
    """
    sock = _create(spec.family)
    try:
        sock.setblocking(False)
        portid = _bind(sock, spec.family)
        if spec.receive_buffer_bytes is not None:
            _size(sock, spec.receive_buffer_bytes)
        for group in spec.groups:
            _join(sock, spec.family, group)
        return KernelSocket(sock, portid, spec.receive_bytes)
    except BaseException:
        sock.close()
        raise


def _create(family: int) -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    except OSError as error:
        name = _name(family)
        if error.errno == errno.EPROTONOSUPPORT:
            message, hint = _MISSING.get(family, (f"the running kernel has no {name}", None))
            raise Unavailable(message, hint=hint, code="no-kernel-support") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Unavailable(f"{name}: out of file descriptors", hint="raise LimitNOFILE=") from error
        raise _refused("socket", family, error) from error


def _bind(sock: socket.socket, family: int) -> int:
    for portid in _portids(os.getpid()):
        try:
            sock.bind((portid, 0))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refused("bind", family, error) from error
        else:
            return portid
    raise Unavailable(f"{_name(family)}: every port id of this process is taken", code="no-portid")


def _portids(pid: int) -> Iterator[int]:
    """Candidates, all within 1…0x7fffffff: the process id as is (what people expect to see), then with high bits."""
    low = pid & (_PORTID_STEP - 1) or 1
    for high in range(_PORTID_TRIES):
        yield low + high * _PORTID_STEP


def _size(sock: socket.socket, size_bytes: int) -> None:
    """Ask for a receive buffer beyond net.core.rmem_max, and without the privilege for as much as is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size_bytes)
    except PermissionError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


def _join(sock: socket.socket, family: int, group: int) -> None:
    try:
        sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except PermissionError as error:
        raise Unavailable(
            f"not permitted to join multicast group {group} of {_name(family)}",
            hint="run as root or with CAP_NET_ADMIN",
            code="not-permitted",
        ) from error
    except OSError as error:
        raise _refused(f"join group {group}", family, error) from error


def _refused(operation: str, family: int, error: OSError) -> RdmactlError:
    number = error.errno or errno.EIO
    return KernelError(operation, number, f"{_name(family)}: {operation}: {os.strerror(number)}")


def _name(family: int) -> str:
    return _NAMES.get(family, f"netlink family {family}")
