# SPDX-License-Identifier: Apache-2.0
"""NETLINK_KOBJECT_UEVENT: the kernel tells of devices that come, change and go. Engine ring.

Not here: sockets, and what to do about a device. The family does not use netlink's framing: a datagram is
"ACTION@DEVPATH", a zero byte, then KEY=value strings, each ended by a zero byte. A channel delivers it as a Message of
type 0 whose payload is the whole datagram.
Defined by lib/kobject_uevent.c. Group 1 is the kernel's; group 2 belongs to udev, in another format.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GROUP_KERNEL", "Uevent", "parse"]

GROUP_KERNEL = 1


class Uevent(NamedTuple):
    """`action` is add, remove, change, move, online, offline, bind or unbind; `devpath` the path below /sys."""

    action: str
    devpath: str
    properties: dict[str, str]

    @property
    def subsystem(self) -> str:
        """Such as "infiniband", "net", "iscsi_session", "block"; empty if the kernel gave none."""
        return self.properties.get("SUBSYSTEM", "")


def parse(datagram: bytes) -> Uevent | None:
    """None if this is no event of the kernel's."""
    head, _, rest = datagram.partition(b"\0")
    action, at, devpath = head.decode("utf-8", "surrogateescape").partition("@")
    if not action or not at or not devpath.startswith("/"):
        return None
    pairs = (text.partition("=") for text in rest.decode("utf-8", "surrogateescape").split("\0"))
    return Uevent(action, devpath, {key: value for key, equals, value in pairs if key and equals})
