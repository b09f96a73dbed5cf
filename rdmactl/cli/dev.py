# SPDX-License-Identifier: Apache-2.0
"""`rdmactl dev [NAME]`: the RDMA devices of this host. Face ring.

With a name, or -v, also the limits of the verbs, when python3-pyverbs is there; that opens the device for the life of
this program. `--iwarp` answers udev's question (daemons/udev): does this device need a port mapper? Not here: reading
the devices (`rdmactl.rdmacm.devices`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.output import error_json, print_json
from rdmactl.errors import LocalError, RdmactlError, Unavailable
from rdmactl.rdmacm.devices import read_devices

if TYPE_CHECKING:
    from typing import Any

    from rdmactl.rdmacm.devices import DeviceView, PortView

__all__ = ["parser", "run", "text"]

SCHEMA = "rdmactl.dev"
IWARP = "iWARP"

_UNSET_GUID = "0000:0000:0000:0000"


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(prog="rdmactl dev", description="List the RDMA devices of this host.")
    words.add_argument("name", nargs="?", metavar="NAME", help="only this device, with the limits of its verbs")
    words.add_argument("-v", "--verbose", action="store_true", help="with the limits of the verbs (needs pyverbs)")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    words.add_argument("--iwarp", action="store_true", help="print nothing; status 0 if it is an iWARP device, else 1")
    return words


def run(words: list[str]) -> int:
    """Do it; 0, or an error when there is no device."""
    given = parser().parse_args(words)
    try:
        devices = _devices(given.name)
    except RdmactlError as error:
        if given.json:
            print_json(SCHEMA, {"devices": [], "error": error_json(error)})
        raise
    if given.iwarp:
        return 0 if any(_is_iwarp(device) for device in devices) else 1
    limits = {device.name: _limits(device) for device in devices} if given.name or given.verbose else {}
    if given.json:
        print_json(SCHEMA, {"devices": [_json(device, limits.get(device.name)) for device in devices], "error": None})
    else:
        print("\n".join(line for device in devices for line in text(device, limits.get(device.name))))
    return 0


def text(device: DeviceView, limits: dict[str, int] | None) -> list[str]:
    """A device for people."""
    facts = [device.transport or "unknown transport", device.node_type]
    if device.firmware:
        facts.append(f"firmware {device.firmware}")
    if device.node_guid != _UNSET_GUID:
        facts.append(f"node GUID {device.node_guid}")
    lines = [f"{device.name}: {', '.join(facts)}"]
    for port in device.ports:
        lines.append(f"  port {port.number}: {', '.join(_port_facts(port))}")
        lines += [f"    GID {gid.number}: {gid.gid} {gid.type} {gid.netdev}".rstrip() for gid in port.gids]
    lines += [f"  {name}: {value}" for name, value in (limits or {}).items()]
    return lines


def _devices(name: str | None) -> list[DeviceView]:
    devices = read_devices()
    if not devices:
        raise Unavailable(
            "this host has no RDMA device",
            hint="load its driver, or make a software one: rdma link add rxe0 type rxe netdev NETDEV",
            code="no-rdma-device",
        )
    chosen = [device for device in devices if name in (None, device.name)]
    if not chosen:
        known = ", ".join(device.name for device in devices)
        raise LocalError(f"there is no RDMA device {name}", hint=f"there are: {known}", code="not-found")
    return chosen


def _is_iwarp(device: DeviceView) -> bool:
    """By what the kernel says of the device and its ports, not by the driver's name."""
    return IWARP in (device.transport, *(port.transport for port in device.ports))


def _limits(device: DeviceView) -> dict[str, int] | None:
    from rdmactl.rdmacm.verbs_limits import read_limits

    return read_limits(device.name, [port.number for port in device.ports])


def _port_facts(port: PortView) -> list[str]:
    facts = [port.state, port.physical_state, port.link_layer]
    facts.append(f"netdev {port.netdev}" if port.netdev else "no netdev here")
    if port.rate:
        facts.append(port.rate)
    if port.lid is not None:
        facts.append(f"LID {port.lid}")
    return [fact for fact in facts if fact]


def _json(device: DeviceView, limits: dict[str, int] | None) -> dict[str, Any]:
    ports = [port._asdict() | {"gids": [gid._asdict() for gid in port.gids]} for port in device.ports]
    return device._asdict() | {"ports": ports, "limits": limits}
