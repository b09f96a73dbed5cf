# SPDX-License-Identifier: Apache-2.0
"""An adapter with its own iSCSI stack, in memory: CHAP table, flash nodes, network settings, ping, counters.

No such hardware is at hand: what this model knows is what include/scsi/iscsi_if.h and the class of Linux 6.12 say, and
how its one driver with all of this (qla4xxx) answers. It is the other end of `rdmactl.netlink.iscsi_adapter`.
"""

from __future__ import annotations

import errno
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rdmactl.netlink.iscsi import Uevent
from rdmactl.netlink.message import align4
from tests.fake.iscsi_sysfs import FakeSysfs
from tests.fake.scsi_transport_iscsi import FakeIscsiClass, Refused

TRANSPORT = "qla4xxx"
HANDLE = 18446744072639906944
HOST_NO = 3
HW_ADDRESS = "00:0e:1e:04:8b:2e"

_CHAP_REC = struct.Struct("=H2xi256s256sB3x")


class FakeAdapterClass(FakeIscsiClass):
    """The class, with an adapter as host 3."""

    def __init__(self, directory: Path) -> None:
        super().__init__(FakeSysfs(directory))
        self.directory = directory
        self.handles[TRANSPORT] = HANDLE
        self.sysfs.add_transport(TRANSPORT, HANDLE, 0x8F)
        self._add_host()
        self.chap: dict[int, tuple[bool, str, str]] = {}
        self.flash: dict[int, dict[int, bytes]] = {}
        self.logged_in: set[int] = set()
        self.cuts_answers = False
        self.settings: list[tuple[int, int, int, int, bytes]] = []  # interface, family, kind, number, value
        self.ping_status: dict[int, int] = {}  # by turn, from 1
        self.pings: list[tuple[int, int, bytes]] = []  # interface, size, sockaddr

    def _add_host(self) -> None:
        device = self.sysfs.host_device(HOST_NO)
        for kind, attributes in (
            ("scsi_host", {"proc_name": TRANSPORT, "state": "running"}),
            ("iscsi_host", {"hwaddress": HW_ADDRESS, "ipaddress": "192.0.2.30", "netdev": "(null)"}),
        ):
            self.sysfs.write(device / kind / f"host{HOST_NO}", attributes)
            self.sysfs.link(kind, f"host{HOST_NO}", device / kind / f"host{HOST_NO}")

    def add_flashnode(self, number: int, session: dict[str, str], connection: dict[str, str]) -> None:
        self.flash[number] = {}
        devices = self.directory / "bus/iscsi_flashnode/devices"
        self.sysfs.write(devices / f"flashnode_sess-{HOST_NO}:{number}", session)
        self.sysfs.write(devices / f"flashnode_conn-{HOST_NO}:{number}:0", connection)

    # ---------------------------------------------------------------- requests

    def _host(self, u: bytes) -> None:
        if struct.unpack_from("=I", u)[0] != HOST_NO:
            raise Refused(-errno.ENODEV)

    def _get_chap(self, transport: str, u: bytes, payload: bytes) -> None:
        self._host(u)
        entries, first = struct.unpack_from("=IH", u, 4)
        page = sorted(number for number in self.chap if number >= first)[:entries]
        answer = b""
        for number in page:
            incoming, username, password = self.chap[number]
            answer += _CHAP_REC.pack(number, incoming, username.encode(), password.encode(), len(password))
        if self.cuts_answers:
            answer = answer[:-1]
        self._answer_all(Uevent.GET_CHAP, struct.pack("=IIH", HOST_NO, len(page), first), answer)

    def _set_chap(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self._host(u)
        values = dict(_attributes(payload))
        password = values[3].rstrip(b"\0")
        assert values[4] == bytes((len(password),))
        number = struct.unpack("=H", values[0])[0]
        self.chap[number] = (values[1] == b"\x01", values[2].rstrip(b"\0").decode(), password.decode())
        return b""

    def _delete_chap(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self._host(u)
        number = struct.unpack_from("=H", u, 4)[0]
        if number not in self.chap:
            raise Refused(-errno.EINVAL)
        del self.chap[number]
        return b""

    def _new_flashnode(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self._host(u)
        assert payload in (b"ipv4\0", b"ipv6\0")
        number = max(self.flash, default=-1) + 1
        self.add_flashnode(number, {"portal_type": payload[:-1].decode(), "targetname": "(null)"}, {"port": "3260"})
        return struct.pack("=I", number)

    def _flashnode(self, u: bytes) -> int:
        self._host(u)
        number: int = struct.unpack_from("=I", u, 4)[0]
        if number not in self.flash:
            raise Refused(-errno.ENODEV)
        return number

    def _set_flashnode(self, transport: str, u: bytes, payload: bytes) -> bytes:
        number = self._flashnode(u)
        values = dict(_attributes(payload))
        assert struct.unpack_from("=I", u, 8)[0] == len(values)
        self.flash[number].update(values)
        return b""

    def _del_flashnode(self, transport: str, u: bytes, payload: bytes) -> bytes:
        number = self._flashnode(u)
        del self.flash[number]
        devices = self.directory / "bus/iscsi_flashnode/devices"
        shutil.rmtree(devices / f"flashnode_sess-{HOST_NO}:{number}")
        shutil.rmtree(devices / f"flashnode_conn-{HOST_NO}:{number}:0")
        return b""

    def _login_flashnode(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self.logged_in.add(self._flashnode(u))
        return b""

    def _logout_flashnode(self, transport: str, u: bytes, payload: bytes) -> bytes:
        number = self._flashnode(u)
        if number not in self.logged_in:
            raise Refused(-errno.ESRCH)
        self.logged_in.discard(number)
        return b""

    def _get_host_stats(self, transport: str, u: bytes, payload: bytes) -> None:
        self._host(u)
        statistics = struct.pack("=82qI4x", *range(100, 182), 1) + struct.pack("=64sq", b"firmware_resets", 2)
        self._answer_all(Uevent.GET_HOST_STATS, struct.pack("=I", HOST_NO), statistics)

    def _set_iface_params(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self._host(u)
        at = 0
        while at < len(payload):
            length, number = struct.unpack_from("=HH", payload, at)
            iface, size, param, family, kind = struct.unpack_from("=IIHBB", payload, at + 4)
            assert (number, size) == (param, length - 16)
            self.settings.append((iface, family, kind, number, payload[at + 16 : at + length]))
            at += align4(length)
        assert struct.unpack_from("=I", u, 4)[0] == len(self.settings)
        return b""

    def _ping(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self._host(u)
        iface, _, size, pid = struct.unpack_from("=IIII", u, 4)
        self.pings.append((iface, size, payload))
        status = self.ping_status.get(len(self.pings), 0)
        self._event(Uevent.PING_COMP, struct.pack("=IIII", HOST_NO, 0, pid + 1, 0))  # somebody else's
        self._event(Uevent.PING_COMP, struct.pack("=IIII", HOST_NO, status, pid, 0))
        return b""

    _HANDLERS: ClassVar[dict[int, Callable[..., bytes | None]]] = {
        **FakeIscsiClass._HANDLERS,
        Uevent.GET_CHAP: _get_chap,
        Uevent.SET_CHAP: _set_chap,
        Uevent.DELETE_CHAP: _delete_chap,
        Uevent.NEW_FLASHNODE: _new_flashnode,
        Uevent.SET_FLASHNODE_PARAMS: _set_flashnode,
        Uevent.DEL_FLASHNODE: _del_flashnode,
        Uevent.LOGIN_FLASHNODE: _login_flashnode,
        Uevent.LOGOUT_FLASHNODE: _logout_flashnode,
        Uevent.GET_HOST_STATS: _get_host_stats,
        Uevent.SET_IFACE_PARAMS: _set_iface_params,
        Uevent.PING: _ping,
    }


def _attributes(payload: bytes) -> list[tuple[int, bytes]]:
    """(number, value) of each attribute of SET_CHAP and SET_FLASHNODE_PARAMS."""
    found, at = [], 0
    while at < len(payload):
        length, number = struct.unpack_from("=HH", payload, at)
        size, param = struct.unpack_from("=IH", payload, at + 4)
        assert (number, size) == (param, length - 10)
        found.append((number, payload[at + 10 : at + length]))
        at += align4(length)
    return found
