# SPDX-License-Identifier: Apache-2.0
"""From records to what the initiator is asked for: the one place where both vocabularies meet. Shell ring.

It runs in the daemon, on records that came over the control interface: whatever is missing has its built-in default,
whatever is not known is ignored, and values were converted when they were recorded.
Not here: correcting values out of range, which belongs to the login (`rdmactl.initiator`).
"""

from collections.abc import Mapping

from rdmactl.errors import LocalError
from rdmactl.initiator.api import ChapSettings, DiscoveryRequest, LoginRequest, SessionSettings
from rdmactl.iscsi.portal import Portal
from rdmactl.isns.api import IsnsRequest
from rdmactl.records.model import Key, Record, Table, convert, defaults, discovery_table, node_table, plain

__all__ = ["discovery_request", "isns_request", "login_request"]

_PORT_MAX = 65535


class _Reader:
    """A record with its defaults, read by type."""

    def __init__(self, record: Mapping[str, str], table: Table) -> None:
        self._values: Record = defaults(table)
        for name, text in record.items():
            key = table.find(name)
            if key is not None:
                if text != self._values[key.name]:  # most are as they always were
                    self._values[key.name] = _converted(key, name, text)
            elif name.startswith("iface."):
                self._values[name] = text

    def text(self, name: str) -> str:
        return plain(self._values.get(name, ""))

    def number(self, name: str) -> int:
        return int(self.text(name))

    def yes(self, name: str) -> bool:
        return self.text(name) == "Yes"

    def chap(self, prefix: str) -> ChapSettings:
        """CHAP counts when name and password are there; authmethod never decided it in open-iscsi either."""
        return ChapSettings(
            username=self.text(f"{prefix}.username"),
            password=self.text(f"{prefix}.password"),
            username_in=self.text(f"{prefix}.username_in"),
            password_in=self.text(f"{prefix}.password_in"),
            algorithms=tuple(self.text("node.session.auth.chap_algs").split(",")),
        )

    def portal(self, prefix: str) -> Portal:
        address, port = self.text(f"{prefix}address"), self.number(f"{prefix}port")
        if not address or not 0 < port <= _PORT_MAX:
            raise LocalError(f"the record has no usable portal: address {address or 'empty'}, port {port}")
        return Portal(address, port)


def _converted(key: Key, name: str, text: str) -> str:
    try:
        return plain(convert(key, text)[0])
    except ValueError as error:
        raise LocalError(f"the record's {name} cannot be used: {error}") from None


def login_request(record: Mapping[str, str], initiator_name: str) -> LoginRequest:
    """A node record as a login. `initiator_name` is the host's; the interface may have its own."""
    r = _Reader(record, node_table(record.get("iface.iscsi_ifacename", "default")))
    if not r.text("node.name"):
        raise LocalError("the record has no target name")
    return LoginRequest(
        target=r.text("node.name"),
        portal=r.portal("node.conn[0]."),
        tpgt=r.number("node.tpgt"),
        iface_name=r.text("iface.iscsi_ifacename") or "default",
        transport=r.text("iface.transport_name") or "tcp",
        initiator_name=_initiator_name(r, initiator_name),
        settings=_session_settings(r),
        netdev=r.text("iface.net_ifacename"),
        source_address=r.text("iface.ipaddress"),
        hw_address=r.text("iface.hwaddress"),
        sessions_wanted=r.number("node.session.nr_sessions"),
    )


def discovery_request(record: Mapping[str, str], initiator_name: str) -> DiscoveryRequest:
    """A sendtargets record, with the iface.* keys of the interface to use, as a discovery."""
    r = _Reader(record, discovery_table("sendtargets"))
    transport = r.text("iface.transport_name") or "tcp"
    if transport not in ("tcp", "iser"):
        raise LocalError(
            f"discovery over {transport} is not supported", hint="use an interface with transport tcp or iser"
        )
    prefix = "discovery.sendtargets"
    login_timeout_s = float(r.number(f"{prefix}.timeo.login_timeout"))
    reopen_max = max(r.number(f"{prefix}.reopen_max"), 0)
    active_timeout_s = float(r.number(f"{prefix}.timeo.active_timeout"))
    return DiscoveryRequest(
        portal=r.portal(f"{prefix}."),
        initiator_name=_initiator_name(r, initiator_name),
        chap=r.chap(f"{prefix}.auth"),
        login_timeout_s=login_timeout_s,
        active_timeout_s=active_timeout_s,
        total_timeout_s=discovery_total_s(login_timeout_s, active_timeout_s, reopen_max),
        reopen_max=reopen_max,
        max_recv_data_segment_length=r.number(f"{prefix}.iscsi.MaxRecvDataSegmentLength"),
        netdev=r.text("iface.net_ifacename"),
        source_address=r.text("iface.ipaddress"),
        hw_address=r.text("iface.hwaddress"),
        transport=transport,
    )


def isns_request(record: Mapping[str, str], initiator_name: str) -> IsnsRequest:
    """An isns record, with the iface.* keys of the interface to use: its name is what the server judges by."""
    r = _Reader(record, discovery_table("isns"))
    return IsnsRequest(server=r.portal("discovery.sendtargets."), initiator_name=_initiator_name(r, initiator_name))


def discovery_total_s(login_timeout_s: float, active_timeout_s: float, reopen_max: int) -> float:
    """How long a discovery may take: every attempt its login time-out and a pause of a second, and one answer."""
    return (reopen_max + 1) * (login_timeout_s + 1.0) + active_timeout_s


def _initiator_name(r: _Reader, host_name: str) -> str:
    name = r.text("iface.initiatorname") or host_name
    if not name:
        raise LocalError(
            "this host has no initiator name", hint="restart the daemon, which makes /etc/iscsi/initiatorname.iscsi"
        )
    return name


def _session_settings(r: _Reader) -> SessionSettings:
    session, conn, iscsi = "node.session", "node.conn[0]", "node.session.iscsi"
    return SessionSettings(
        chap=r.chap(f"{session}.auth"),
        initial_cmdsn=r.number(f"{session}.initial_cmdsn"),
        cmds_max=r.number(f"{session}.cmds_max"),
        queue_depth=r.number(f"{session}.queue_depth"),
        scan=r.text(f"{session}.scan"),
        login_timeout_s=float(r.number(f"{conn}.timeo.login_timeout")),
        initial_login_retry_max=r.number(f"{session}.initial_login_retry_max"),
        logout_timeout_s=float(r.number(f"{conn}.timeo.logout_timeout")),
        reopen_max=r.number(f"{session}.reopen_max"),
        replacement_timeout_s=r.number(f"{session}.timeo.replacement_timeout"),
        noop_out_interval_s=r.number(f"{conn}.timeo.noop_out_interval"),
        noop_out_timeout_s=r.number(f"{conn}.timeo.noop_out_timeout"),
        abort_timeout_s=r.number(f"{session}.err_timeo.abort_timeout"),
        lu_reset_timeout_s=r.number(f"{session}.err_timeo.lu_reset_timeout"),
        tgt_reset_timeout_s=r.number(f"{session}.err_timeo.tgt_reset_timeout"),
        fast_abort=r.yes(f"{iscsi}.FastAbort"),
        initial_r2t=r.yes(f"{iscsi}.InitialR2T"),
        immediate_data=r.yes(f"{iscsi}.ImmediateData"),
        first_burst_length=r.number(f"{iscsi}.FirstBurstLength"),
        max_burst_length=r.number(f"{iscsi}.MaxBurstLength"),
        max_outstanding_r2t=r.number(f"{iscsi}.MaxOutstandingR2T"),
        default_time2wait_s=r.number(f"{iscsi}.DefaultTime2Wait"),
        default_time2retain_s=r.number(f"{iscsi}.DefaultTime2Retain"),
        error_recovery_level=r.number(f"{iscsi}.ERL"),
        max_recv_data_segment_length=r.number(f"{conn}.iscsi.MaxRecvDataSegmentLength"),
        max_xmit_data_segment_length=r.number(f"{conn}.iscsi.MaxXmitDataSegmentLength"),
        header_digest=r.text(f"{conn}.iscsi.HeaderDigest"),
        data_digest=r.text(f"{conn}.iscsi.DataDigest"),
        tcp_window_size=r.number(f"{conn}.tcp.window_size"),
        type_of_service=r.number(f"{conn}.tcp.type_of_service"),
    )
