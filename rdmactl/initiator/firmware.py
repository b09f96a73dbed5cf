# SPDX-License-Identifier: Apache-2.0
"""What the firmware was told to boot from: the tables of iBFT and of adapters, as sysfs shows them. Shell ring.

Not here: printing them, logging in to them (`rdmactl.cli.iseradm_fw`).
Defined by Documentation/ABI/testing/sysfs-ibft: directories initiator, ethernetN and targetN below /sys/firmware/ibft
and /sys/firmware/iscsi_bootN. An entry with flags 0 is not in use; others are, as some firmware sets only one of the
two flags "valid" and "selected". A target names its network card by the card's index, which is not its number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rdmactl.errors import LocalError
from rdmactl.initiator import sysfs
from rdmactl.iscsi.names import name_problem, printable

__all__ = ["SECRETS", "BootTarget", "boot_tables", "boot_targets"]

_TABLE = re.compile(r"ibft$|iscsi_boot(\d+)$")
_ENTRY = re.compile(r"(initiator|acpi_header|ethernet\d+|target\d+)$")
_DHCP_ORIGIN = "3"  # IpPrefixOriginDhcp
_NO_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - how the firmware says "none"
_DEFAULT_PORT = 3260
_PORT_MAX = 65535
_UNDECODED = "\ufffd"


SECRETS = frozenset({"chap-secret", "rev-chap-name-secret"})
"""Attributes that are secrets; the second one is the target's."""

Entries = dict[str, dict[str, str]]
"""Of one table: attributes by entry ("initiator", "ethernet0", "target0")."""


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


def boot_targets(root: str = "/sys", warn: Callable[[str], None] = lambda sentence: None) -> list[BootTarget]:
    """All targets in use, by table and number. One that cannot be used is left out, and `warn` is told why.

    LocalError when the tables are there and may not be read.
    """
    found: list[BootTarget] = []
    for table in sysfs.names(f"{root}/firmware"):
        match = _TABLE.match(table)
        if match:
            found.extend(_table(f"{root}/firmware/{table}", _transport(match[1], root), root, warn))
    return found


def boot_tables(root: str = "/sys") -> dict[str, Entries]:
    """All attributes of all tables as they are, in use or not, secrets included. LocalError as for `boot_targets`."""
    found: dict[str, Entries] = {}
    for table in sysfs.names(f"{root}/firmware"):
        path = f"{root}/firmware/{table}"
        if _TABLE.match(table):
            found[table] = {entry: _attributes(f"{path}/{entry}") for entry in sysfs.names(path) if _ENTRY.match(entry)}
    return found


def _attributes(path: str) -> dict[str, str]:
    _require_root(f"{path}/flags")
    texts = {name: sysfs.read(f"{path}/{name}") for name in sysfs.names(path) if os.path.isfile(f"{path}/{name}")}
    return {name: text for name, text in texts.items() if text is not None}


def _transport(host_no: str | None, root: str) -> str:
    """iBFT means software; an adapter's table is numbered like its host."""
    host = None if host_no is None else sysfs.host(int(host_no), root)
    return host.transport if host is not None else "tcp"


def _table(path: str, transport: str, root: str, warn: Callable[[str], None]) -> Iterator[BootTarget]:
    initiator = _Entry(f"{path}/initiator", warn)
    names = sysfs.names(path)
    cards = {card["index"]: card for card in _entries(path, names, "ethernet", warn)}
    for target in _entries(path, names, "target", warn):
        association = target["nic-assoc"]
        problem = _problem(target, known=not association or association in cards)
        if problem is None:
            yield _target(target, cards.get(association, _Entry("", warn)), initiator, transport, root)
        else:
            warn(f"{target.path} {problem}; left out")


def _problem(target: _Entry, *, known: bool) -> str | None:
    """Why a target cannot be used, as the end of a sentence."""
    name = name_problem(target["target-name"])
    if name is not None:
        return f'has the target name "{printable(target["target-name"])}", which {name}'
    if not target["ip-addr"]:
        return "has no address"
    return None if known else f"is reached by network card {target['nic-assoc']}, which the firmware does not have"


def _target(target: _Entry, card: _Entry, initiator: _Entry, transport: str, root: str) -> BootTarget:
    return BootTarget(
        name=target["target-name"],
        address=target["ip-addr"],
        port=_port(target),
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
        netdev=_netdev(card, root),
    )


def _port(target: _Entry) -> int:
    text = target["port"]
    if text.isascii() and text.isdigit() and 0 < int(text[:6]) <= _PORT_MAX:
        return int(text)
    if text:
        target.warn(f'{target.path} has the port "{printable(text)}"; {_DEFAULT_PORT} is used')
    return _DEFAULT_PORT


def _netdev(card: _Entry, root: str) -> str:
    """The network interface of a card: behind its link, else the one with its hardware address."""
    if not card.path:
        return ""
    linked = sysfs.names(f"{card.path}/device/net")
    if linked:
        return linked[0]
    address = card["mac"].lower()
    for name in sysfs.names(f"{root}/class/net"):
        if address and (sysfs.read(f"{root}/class/net/{name}/address") or "").lower() == address:
            return name
    card.warn(f"{card.path}: no network interface of this host has the address {printable(address) or 'none'}")
    return ""


class _Entry:
    """A directory of attributes. Absent ones are empty, and so are those that no table could have, with a warning."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path = path
        self.warn = warn
        self._known: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = self._read(name) if self.path else ""
        return self._known[name]

    def _read(self, name: str) -> str:
        text = sysfs.read(f"{self.path}/{name}") or ""
        if not text.isprintable() or _UNDECODED in text:
            self.warn(f'{self.path}/{name} is "{printable(text)}", which is no text; it counts as empty')
            return ""
        return text


def _entries(path: str, names: list[str], kind: str, warn: Callable[[str], None]) -> list[_Entry]:
    """Those in use, by number."""
    numbers = sorted(int(name[len(kind) :]) for name in names if re.fullmatch(rf"{kind}\d+", name))
    entries = [_Entry(f"{path}/{kind}{number}", warn) for number in numbers]
    for entry in entries:
        _require_root(f"{entry.path}/flags")
    return [entry for entry in entries if entry["flags"] not in ("", "0")]


def _require_root(path: str) -> None:
    """The kernel shows the files to everybody and their content to root."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except PermissionError:
        text = "what the firmware boots from is for root only"
        raise LocalError(text, hint="run as root", code="access-denied") from None
    except OSError:
        pass  # absent, which means not in use
