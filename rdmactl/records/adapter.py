# SPDX-License-Identifier: Apache-2.0
"""Keys of what an adapter with its own iSCSI stack keeps: lines of its CHAP table, and flash nodes. Engine ring.

These are no records of ours: the adapter stores them, and they are read and written through the kernel. Names and order
are open-iscsi's; each flash node key has its attribute in sysfs and its parameter number.
Not here: the requests (`rdmactl.netlink.iscsi_adapter`), reading sysfs (`rdmactl.initiator.adapter`).
Defined by drivers/scsi/scsi_transport_iscsi.c (attributes of iscsi_flashnode) and enum iscsi_flashnode_param.
"""

from __future__ import annotations

import ipaddress
import struct

from rdmactl.netlink.iscsi_adapter import ChapEntry
from rdmactl.records.model import Key, Record, Secret, Table, plain
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHAP_IN", "CHAP_OUT", "FLASHNODE", "FlashKey", "chap_entry", "chap_record", "flash_key", "flash_value"]

_INDEX = Key("host.auth.tbl_idx", "uint16", "0")
CHAP_OUT = Table((_INDEX, Key("host.auth.username"), Key("host.auth.password", secret=True)))
CHAP_IN = Table((_INDEX, Key("host.auth.username_in"), Key("host.auth.password_in", secret=True)))
"""A line of the table is for proving ourselves (out) or for the target's proof (in)."""


class FlashKey(NamedTuple):
    """A key of a flash node: `number` is its parameter, `kind` how its text becomes bytes."""

    name: str
    number: int
    kind: str
    attribute: str


def _keys(prefix: str, words: str) -> list[FlashKey]:
    """Words "NAME:NUMBER:KIND" or, where the attribute has another name than the key, "NAME:NUMBER:KIND:ATTRIBUTE"."""
    keys = []
    for word in words.split():
        name, number, kind, *attribute = word.split(":")
        keys.append(FlashKey(f"{prefix}.{name}", int(number), kind, attribute[0] if attribute else name))
    return keys


_SESSION = _keys(
    "flashnode.session",
    "auto_snd_tgt_disable:2:u8 discovery_session:3:u8 portal_type:1:text entry_enable:4:u8 immediate_data:7:u8"
    " initial_r2t:8:u8 data_seq_in_order:9:u8 data_pdu_in_order:10:u8 chap_auth_en:11:u8:chap_auth"
    " discovery_logout_en:13:u8:discovery_logout bidi_chap_en:14:u8:bidi_chap discovery_auth_optional:15:u8 erl:16:u8"
    " first_burst_len:25:u32 def_time2wait:26:u16 def_time2retain:27:u16 max_outstanding_r2t:28:u16 isid:30:text"
    " tsid:31:u16 max_burst_len:33:u32 def_taskmgmt_tmo:34:u16 targetalias:36:text targetname:43:text tpgt:44:u16"
    " discovery_parent_idx:46:u16 discovery_parent_type:47:text chap_in_idx:50:u16 chap_out_idx:51:u16 username:52:text"
    " username_in:53:text password:54:secret password_in:55:secret is_boot_target:58:u8",
)
_CONNECTION = _keys(
    "flashnode.conn[0]",
    "is_fw_assigned_ipv6:0:u8 header_digest:5:u8 data_digest:6:u8 snack_req:12:u8 tcp_timestamp_stat:17:u8"
    " tcp_nagle_disable:18:u8 tcp_wsf_disable:19:u8 tcp_timer_scale:20:u8 tcp_timestamp_enable:21:u8"
    " fragment_disable:22:u8 max_recv_dlength:23:u32 max_xmit_dlength:24:u32 keepalive_tmo:29:u16 port:32:u16"
    " ipaddress:35:address redirect_ipaddr:37:address max_segment_size:38:u32 local_port:39:u16 ipv4_tos:40:u8"
    " ipv6_traffic_class:41:u8 ipv6_flow_label:42:u16 link_local_ipv6:45:address tcp_xmit_wsf:48:u8 tcp_recv_wsf:49:u8"
    " statsn:56:u32 exp_statsn:57:u32",
)

FLASHNODE = (*_SESSION, *_CONNECTION)
"""All keys, in print order: 33 of the session, 26 of its connection."""

_LAYOUTS = {"u8": "=B", "u16": "=H", "u32": "=I"}


def flash_key(name: str) -> FlashKey | None:
    """The key of this name."""
    return next((key for key in FLASHNODE if key.name == name), None)


def flash_value(key: FlashKey, text: str) -> bytes:
    """The bytes a text becomes. ValueError when it is none of the key's."""
    if key.kind == "address":
        return ipaddress.ip_address(text).packed
    layout = _LAYOUTS.get(key.kind)
    if layout is None:
        return text.encode() + b"\0"
    try:
        return struct.pack(layout, int(text))
    except struct.error as error:
        raise ValueError(str(error)) from None


def chap_record(entry: ChapEntry) -> tuple[Table, Record]:
    """A line of the CHAP table as it is printed."""
    end = "_in" if entry.incoming else ""
    record: Record = {
        "host.auth.tbl_idx": str(entry.number),
        f"host.auth.username{end}": entry.username,
        f"host.auth.password{end}": Secret(entry.password),
    }
    return (CHAP_IN if entry.incoming else CHAP_OUT), record


def chap_entry(number: int, values: Mapping[str, str | Secret], old: ChapEntry | None = None) -> ChapEntry:
    """A line of the CHAP table from "host.auth.*" values, over what it was."""
    incoming = "host.auth.username_in" in values or "host.auth.password_in" in values
    if not values and old is not None:
        incoming = old.incoming
    end = "_in" if incoming else ""
    username = plain(values.get(f"host.auth.username{end}", old.username if old else ""))
    password = plain(values.get(f"host.auth.password{end}", old.password if old else ""))
    return ChapEntry(number, incoming, username, password)
