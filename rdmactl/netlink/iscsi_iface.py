# SPDX-License-Identifier: Apache-2.0
"""Which key of an interface record is which parameter of an adapter, and how its text becomes bytes. Engine ring.

What a record leaves empty, or 0, is not sent: the adapter keeps what it has.
Not here: the request (`iscsi_adapter.set_iface_params`). Defined by include/scsi/iscsi_if.h: enum iscsi_net_param, enum
iscsi_iface_param, and the values ISCSI_xxx_ENABLE and _DISABLE next to them.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING

from rdmactl.errors import LocalError
from rdmactl.netlink.iscsi_adapter import IfaceParam

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["iface_params"]

NETWORK, ISCSI = 2, 5  # enum iscsi_param_type
_VLAN_TAG = 16
_VLAN_ID_MAX, _VLAN_PRIORITY_MAX = 4095, 7


def _number(layout: str) -> Callable[[str], bytes]:
    return lambda text: struct.pack(f"={layout}", int(text))


def _switch(text: str) -> bytes:
    return b"\x02" if text == "enable" else b"\x01"


def _automatic(text: str) -> bytes:
    return b"\x01" if "auto" in text else b"\x02"


def _address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def _boot_protocol(text: str) -> bytes:
    return b"\x02" if text == "dhcp" else b"\x01"


def _ipv6_configuration(text: str) -> bytes:
    return {"nd": b"\x02", "dhcpv6": b"\x03"}.get(text, b"\x01")


def _string(text: str) -> bytes:
    return text.encode() + b"\0"


_U8, _U16, _U32 = _number("B"), _number("H"), _number("I")

_Table = dict[str, tuple[int, int, "Callable[[str], bytes]"]]

_BOTH: _Table = {
    "state": (12, NETWORK, _switch),
    "vlan_state": (15, NETWORK, _switch),
    "mtu": (19, NETWORK, _U16),
    "port": (20, NETWORK, _U16),
    "delayed_ack": (24, NETWORK, _switch),
    "tcp_nagle": (25, NETWORK, _switch),
    "tcp_wsf_state": (26, NETWORK, _switch),
    "tcp_wsf": (27, NETWORK, _U8),
    "tcp_timer_scale": (28, NETWORK, _U8),
    "tcp_timestamp": (29, NETWORK, _switch),
    "redirect": (55, NETWORK, _switch),
    "def_task_mgmt_timeout": (0, ISCSI, _U16),
    "header_digest": (1, ISCSI, _switch),
    "data_digest": (2, ISCSI, _switch),
    "immediate_data": (3, ISCSI, _switch),
    "initial_r2t": (4, ISCSI, _switch),
    "data_seq_inorder": (5, ISCSI, _switch),
    "data_pdu_inorder": (6, ISCSI, _switch),
    "erl": (7, ISCSI, _U8),
    "max_receive_data_len": (8, ISCSI, _U32),
    "first_burst_len": (9, ISCSI, _U32),
    "max_outstanding_r2t": (10, ISCSI, _U16),
    "max_burst_len": (11, ISCSI, _U32),
    "chap_auth": (12, ISCSI, _switch),
    "bidi_chap": (13, ISCSI, _switch),
    "discovery_auth": (14, ISCSI, _switch),
    "discovery_logout": (15, ISCSI, _switch),
    "strict_login_compliance": (16, ISCSI, _switch),
    "initiatorname": (17, ISCSI, _string),
}
_IPV4: _Table = {
    "ipaddress": (1, NETWORK, _address),
    "subnet_mask": (2, NETWORK, _address),
    "gateway": (3, NETWORK, _address),
    "bootproto": (4, NETWORK, _boot_protocol),
    "dhcp_dns": (31, NETWORK, _switch),
    "dhcp_slp_da": (32, NETWORK, _switch),
    "tos_state": (33, NETWORK, _switch),
    "tos": (34, NETWORK, _U8),
    "gratuitous_arp": (35, NETWORK, _switch),
    "dhcp_alt_client_id_state": (36, NETWORK, _switch),
    "dhcp_alt_client_id": (37, NETWORK, _string),
    "dhcp_req_vendor_id_state": (38, NETWORK, _switch),
    "dhcp_vendor_id_state": (39, NETWORK, _switch),
    "dhcp_vendor_id": (40, NETWORK, _string),
    "dhcp_learn_iqn": (41, NETWORK, _switch),
    "fragmentation": (42, NETWORK, _switch),
    "incoming_forwarding": (43, NETWORK, _switch),
    "ttl": (44, NETWORK, _U8),
}
_IPV6: _Table = {
    "ipv6_linklocal": (6, NETWORK, _address),
    "ipaddress": (7, NETWORK, _address),
    "ipv6_router": (8, NETWORK, _address),
    "ipv6_autocfg": (9, NETWORK, _ipv6_configuration),
    "linklocal_autocfg": (10, NETWORK, _automatic),
    "router_autocfg": (11, NETWORK, _automatic),
    "gratuitous_neighbor_adv": (45, NETWORK, _switch),
    "mld": (46, NETWORK, _switch),
    "flow_label": (47, NETWORK, _U32),
    "traffic_class": (48, NETWORK, _U8),
    "hop_limit": (49, NETWORK, _U8),
    "nd_reachable_tmo": (50, NETWORK, _U32),
    "nd_rexmit_time": (51, NETWORK, _U32),
    "nd_stale_tmo": (52, NETWORK, _U32),
    "dup_addr_detect_cnt": (53, NETWORK, _U8),
    "router_adv_link_mtu": (54, NETWORK, _U32),
}


def iface_params(record: Mapping[str, str], *, ipv6: bool) -> list[IfaceParam]:
    """The parameters an interface record sets ("iface.mtu", ...), in the order of their numbers.

    LocalError names the key whose text cannot be sent, such as an address of the other family.
    """
    found = []
    for name, (number, kind, pack) in {**_BOTH, **(_IPV6 if ipv6 else _IPV4)}.items():
        text = record.get(f"iface.{name}", "")
        if text not in ("", "0"):
            found.append(IfaceParam(number, kind, _packed(name, text, pack, ipv6=ipv6)))
    tag = _vlan_tag(record)
    if tag:
        found.append(IfaceParam(_VLAN_TAG, NETWORK, struct.pack("=H", tag)))
    return sorted(found, key=lambda param: (param.kind, param.number))


def _packed(name: str, text: str, pack: Callable[[str], bytes], *, ipv6: bool) -> bytes:
    try:
        value = pack(text)
    except (ValueError, struct.error):
        raise LocalError(f"iface.{name} cannot be {text}") from None
    if pack is _address and len(value) != (16 if ipv6 else 4):
        family = "an IPv6" if ipv6 else "an IPv4"
        raise LocalError(f"iface.{name} must be {family} address, not {text}")
    return value


def _vlan_tag(record: Mapping[str, str]) -> int:
    """Priority in the upper three bits, the VLAN's number in the lower twelve; 0 when either is out of range."""
    number, priority = int(record.get("iface.vlan_id") or 0), int(record.get("iface.vlan_priority") or 0)
    if number > _VLAN_ID_MAX or priority > _VLAN_PRIORITY_MAX:
        return 0
    return priority << 13 | number
