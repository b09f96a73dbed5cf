# SPDX-License-Identifier: Apache-2.0
"""The section [iwpm] of rdmactl.toml: who may reach the port mapper over UDP, and how often. Engine ring.

Not here: reading files (`rdmactl.settings`), `iwpmd.conf` (`conf.py`). Must change together with man/rdmactl.toml.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from rdmactl.errors import LocalError

__all__ = ["FIELDS", "LISTEN", "MapperSettings", "parse"]

LISTEN = ("auto", "rdma", "any")

FIELDS: dict[str, tuple[type, str]] = {
    "listen": (
        str,
        "On which addresses UDP port 3935 is served. rdma: only those of network interfaces that belong to an RDMA"
        " device, and of bonds, bridges and VLANs of such. any: all of the host. auto, the default: as rdma, but all"
        " while an iWARP device has its interface in another network namespace, where its addresses cannot be seen.",
    ),
    "peers": (
        list,
        "Addresses and networks peers may have, such as 10.9.0.0/24; datagrams of others are dropped. Empty, the"
        " default, allows all.",
    ),
    "peer_rate": (
        int,
        "Datagrams a second taken from one peer; it may send twice as many in a burst. What is beyond is dropped, and"
        " peers send again. The default, 5000, is more than two busy hosts exchange.",
    ),
}
"""Each key, its type, and what it means."""


@dataclass(frozen=True, slots=True)
class MapperSettings:
    """What the section says; see FIELDS."""

    listen: str = "auto"
    peers: tuple[IPv4Network | IPv6Network, ...] = ()
    peer_rate: int = 5000


def parse(known: dict[str, Any]) -> MapperSettings:
    """From keys of the right types. LocalError names the value that cannot be used."""
    defaults = MapperSettings()
    listen = known.get("listen", defaults.listen)
    if listen not in LISTEN:
        raise LocalError(f"listen in [iwpm] of rdmactl.toml is {listen!r}", hint=f"one of {', '.join(LISTEN)}")
    peer_rate = known.get("peer_rate", defaults.peer_rate)
    if not 1 <= peer_rate <= 1_000_000:
        raise LocalError(f"peer_rate in [iwpm] of rdmactl.toml is {peer_rate}", hint="from 1 to 1000000")
    return MapperSettings(listen, tuple(map(_network, known.get("peers", []))), peer_rate)


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        if not isinstance(value, str):
            raise ValueError
        return ip_network(value, strict=False)
    except ValueError:
        raise LocalError(
            f"peers in [iwpm] of rdmactl.toml has {value!r}, which is no address and no network",
            hint='write peers = ["10.9.0.0/24", "fd09::/64"]',
        ) from None
