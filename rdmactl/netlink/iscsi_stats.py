# SPDX-License-Identifier: Apache-2.0
"""Counters as the kernel's iSCSI class sends them: of a session, and of an adapter's whole host. Engine ring.

Both structures are fixed counters followed by counters with names of their own, as many as the structure says.
Not here: asking for them (`iscsi.get_stats`, `iscsi_adapter.get_host_stats`).
Defined by include/scsi/iscsi_if.h: struct iscsi_stats, struct iscsi_offload_host_stats, struct iscsi_stats_custom.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["HOST_COUNTERS", "SESSION_COUNTERS", "Statistics", "parse_host_statistics", "parse_statistics"]

SESSION_COUNTERS = (
    "txdata_octets", "rxdata_octets",
    "noptx_pdus", "scsicmd_pdus", "tmfcmd_pdus", "login_pdus", "text_pdus", "dataout_pdus", "logout_pdus", "snack_pdus",
    "noprx_pdus", "scsirsp_pdus", "tmfrsp_pdus", "textrsp_pdus", "datain_pdus", "logoutrsp_pdus", "r2t_pdus",
    "async_pdus", "rjt_pdus",
    "digest_err", "timeout_err",
)  # fmt: skip
"""Names in the order of struct iscsi_stats, which is also the order in which open-iscsi prints them."""

HOST_COUNTERS = (
    "mactx_frames", "mactx_bytes", "mactx_multicast_frames", "mactx_broadcast_frames", "mactx_pause_frames",
    "mactx_control_frames", "mactx_deferral", "mactx_excess_deferral", "mactx_late_collision", "mactx_abort",
    "mactx_single_collision", "mactx_multiple_collision", "mactx_collision", "mactx_frames_dropped",
    "mactx_jumbo_frames", "macrx_frames", "macrx_bytes", "macrx_unknown_control_frames", "macrx_pause_frames",
    "macrx_control_frames", "macrx_dribble", "macrx_frame_length_error", "macrx_jabber",
    "macrx_carrier_sense_error", "macrx_frame_discarded", "macrx_frames_dropped", "mac_crc_error",
    "mac_encoding_error", "macrx_length_error_large", "macrx_length_error_small", "macrx_multicast_frames",
    "macrx_broadcast_frames", "iptx_packets", "iptx_bytes", "iptx_fragments", "iprx_packets", "iprx_bytes",
    "iprx_fragments", "ip_datagram_reassembly", "ip_invalid_address_error", "ip_error_packets", "ip_fragrx_overlap",
    "ip_fragrx_outoforder", "ip_datagram_reassembly_timeout", "ipv6tx_packets", "ipv6tx_bytes", "ipv6tx_fragments",
    "ipv6rx_packets", "ipv6rx_bytes", "ipv6rx_fragments", "ipv6_datagram_reassembly", "ipv6_invalid_address_error",
    "ipv6_error_packets", "ipv6_fragrx_overlap", "ipv6_fragrx_outoforder", "ipv6_datagram_reassembly_timeout",
    "tcptx_segments", "tcptx_bytes", "tcprx_segments", "tcprx_byte", "tcp_duplicate_ack_retx",
    "tcp_retx_timer_expired", "tcprx_duplicate_ack", "tcprx_pure_ackr", "tcptx_delayed_ack", "tcptx_pure_ack",
    "tcprx_segment_error", "tcprx_segment_outoforder", "tcprx_window_probe", "tcprx_window_update",
    "tcptx_window_probe_persist", "ecc_error_correction", "iscsi_pdu_tx", "iscsi_data_bytes_tx", "iscsi_pdu_rx",
    "iscsi_data_bytes_rx", "iscsi_io_completed", "iscsi_unexpected_io_rx", "iscsi_format_error",
    "iscsi_hdr_digest_error", "iscsi_data_digest_error", "iscsi_sequence_error",
)  # fmt: skip
"""Names in the order of struct iscsi_offload_host_stats."""

_SESSION = struct.Struct("=qq20I")  # the last one counts the named ones
_HOST = struct.Struct("=82qI")
_HOST_NAMED_AT = 664
_NAMED = struct.Struct("=64sq")
_NAMED_MAX = 64


class Statistics(NamedTuple):
    """(name, value) in the kernel's order; `named` are the transport's own."""

    fixed: tuple[tuple[str, int], ...]
    named: tuple[tuple[str, int], ...]


def parse_statistics(payload: bytes) -> Statistics | None:
    """struct iscsi_stats; None when it is cut short."""
    return _parse(payload, _SESSION, _SESSION.size, SESSION_COUNTERS)


def parse_host_statistics(payload: bytes) -> Statistics | None:
    """struct iscsi_offload_host_stats; None when it is cut short."""
    return _parse(payload, _HOST, _HOST_NAMED_AT, HOST_COUNTERS)


def _parse(payload: bytes, layout: struct.Struct, named_at: int, names: tuple[str, ...]) -> Statistics | None:
    if len(payload) < named_at:
        return None
    *values, count = layout.unpack_from(payload)
    if count > _NAMED_MAX or len(payload) < named_at + count * _NAMED.size:
        return None
    named = (_NAMED.unpack_from(payload, named_at + index * _NAMED.size) for index in range(count))
    return Statistics(
        tuple(zip(names, values, strict=True)),
        tuple((name.split(b"\0")[0].decode("ascii", "replace"), value) for name, value in named),
    )
