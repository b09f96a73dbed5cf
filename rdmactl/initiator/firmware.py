# SPDX-License-Identifier: Apache-2.0
"""What the firmware was told to boot from: the tables of iBFT and of adapters, as sysfs shows them. Shell ring.

Not here: printing them, logging in to them (`rdmactl.cli.iseradm_fw`).
Defined by Documentation/ABI/testing/sysfs-ibft: directories initiator, ethernetN and targetN below /sys/firmware/ibft
and /sys/firmware/iscsi_bootN. An entry with flags 0 is not in use.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rdmactl.initiator import sysfs

__all__ = ["BootTarget", "boot_targets"]

_TABLE = re.compile(r"ibft$|iscsi_boot(\d+)$")
_DHCP_ORIGIN = "3"  # IpPrefixOriginDhcp
_NO_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - how the firmware says "none"
_DEFAULT_PORT = 3260


class BootTarget(NamedTuple):
    """A target of the firmware, with the interface it is reached by. Empty where the firmware has no value."""

    name: str
    address: str
    port: int
    lun: str
    chap_name: str
    chap_secret: str
    chap_name_in: str
    chap_secret_in: str
    initiator_name: str
    isid: str
    transport: str
    hw_address: str
    dhcp: bool
    ip_address: str
    prefix_len: str
    subnet_mask: str
    gateway: str
    primary_dns: str
    secondary_dns: str
    vlan: str
    netdev: str

    def __repr__(self) -> str:
        return f"BootTarget({self.name!r}, {self.address!r}, {self.port}, secrets hidden)"


def boot_targets(root: str = "/sys") -> list[BootTarget]:
    """All targets in use, of the last table and the last entry first, which is open-iscsi's order."""
    found = []
    for table in reversed(sysfs.names(f"{root}/firmware")):
        match = _TABLE.match(table)
        if match:
            found.extend(_table(f"{root}/firmware/{table}", _transport(match[1], root)))
    return found


def _transport(host_no: str | None, root: str) -> str:
    """iBFT means software; an adapter's table is numbered like its host."""
    host = None if host_no is None else sysfs.host(int(host_no), root)
    return host.transport if host is not None else "tcp"


def _table(path: str, transport: str) -> list[BootTarget]:
    initiator = _Entry(f"{path}/initiator")
    names = sysfs.names(path)
    cards = {card["index"]: card for card in _entries(path, names, "ethernet")}
    found = []
    for target in reversed(_entries(path, names, "target")):
        card = cards.get(target["nic-assoc"], _Entry(""))
        found.append(_target(target, card, initiator, transport))
    return found


def _target(target: _Entry, card: _Entry, initiator: _Entry, transport: str) -> BootTarget:
    return BootTarget(
        name=target["target-name"],
        address=target["ip-addr"],
        port=int(target["port"]) if target["port"].isdigit() else _DEFAULT_PORT,
        lun=target["lun"],
        chap_name=target["chap-name"],
        chap_secret=target["chap-secret"],
        chap_name_in=target["rev-chap-name"],
        chap_secret_in=target["rev-chap-name-secret"],
        initiator_name=initiator["initiator-name"],
        isid=initiator["isid"],
        transport=transport,
        hw_address=card["mac"],
        dhcp=card["origin"] == _DHCP_ORIGIN or card["dhcp"] not in _NO_ADDRESS,
        ip_address=card["ip-addr"],
        prefix_len=card["prefix-len"],
        subnet_mask=card["subnet-mask"],
        gateway=card["gateway"],
        primary_dns=card["primary-dns"],
        secondary_dns=card["secondary-dns"],
        vlan=card["vlan"],
        netdev=next(iter(sysfs.names(f"{card.path}/device/net")), "") if card.path else "",
    )


class _Entry:
    """A directory of attributes; absent ones are empty."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __getitem__(self, name: str) -> str:
        return (sysfs.read(f"{self.path}/{name}") or "") if self.path else ""


def _entries(path: str, names: list[str], kind: str) -> list[_Entry]:
    """Those in use, by number."""
    numbers = sorted(int(name[len(kind) :]) for name in names if re.fullmatch(rf"{kind}\d+", name))
    entries = [_Entry(f"{path}/{kind}{number}") for number in numbers]
    return [entry for entry in entries if entry["flags"] not in ("", "0")]
