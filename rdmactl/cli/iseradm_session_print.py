# SPDX-License-Identifier: Apache-2.0
"""Sessions and hosts as iscsiadm prints them. Face ring.

Levels add up: 1 portals, interface and states; 2 time-outs, CHAP and negotiated parameters; 3 SCSI devices. In a list
of hosts the session blocks stand one tab deeper, and time-outs and CHAP are left out.
Not here: reading sysfs (`rdmactl.initiator.sysfs`).
"""

from __future__ import annotations

from rdmactl.cli.iseradm_print import bracketed, portal_text
from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rdmactl.initiator.sysfs import HostView, InterfaceView, SessionView

__all__ = ["Parts", "print_host", "print_hosts_flat", "print_sessions_flat", "print_sessions_tree", "print_versions"]

_EMPTY = "<empty>"
_MASK = "********"


class Parts(NamedTuple):
    """What a tree of sessions shows, and how deep it stands."""

    timeouts: bool = False
    chap: bool = False
    negotiated: bool = False
    devices: bool = False
    host_line: bool = True
    reveal: bool = False
    indent: str = ""


def print_sessions_flat(sessions: Iterable[SessionView]) -> None:
    """One line each: transport, sid, configured portal, target."""
    for session in sessions:
        print(f"{session.transport}: [{session.sid}] {_persistent(session)} {session.target} {_made_by(session)}")


def print_versions(transport_class: str | None, version: str) -> None:
    """The two lines in front of the most detailed level."""
    print(f"iSCSI Transport Class version {transport_class or _EMPTY}")
    print(f"version {version}")


def print_sessions_tree(sessions: Iterable[SessionView], parts: Parts) -> None:
    """Target and portal lines are not repeated for sessions that follow each other with the same ones."""
    before: SessionView | None = None
    for session in sessions:
        if before is None or before.target != session.target:
            print(f"{parts.indent}Target: {session.target} {_made_by(session)}")
            before = None
        if before is None or before.persistent != session.persistent:
            current = session.current
            shown = portal_text(current.address, current.port, session.tpgt) if current else _EMPTY
            print(f"{parts.indent}\tCurrent Portal: {shown}")
            print(f"{parts.indent}\tPersistent Portal: {_persistent(session)}")
        else:
            print()
        _print_block(session, parts)
        before = session


def print_hosts_flat(hosts: Iterable[HostView]) -> None:
    """One line each; an address without dot is in brackets."""
    for host in hosts:
        address = bracketed(host.ip_address) if host.ip_address else _EMPTY
        print(
            f"{host.transport}: [{host.host_no}] {address},[{host.hw_address or _EMPTY}],{host.netdev or _EMPTY}"
            f" {host.initiator_name or _EMPTY}"
        )


def print_host(host: HostView) -> None:
    """The lines of a host itself."""
    print(f"Host Number: {host.host_no}")
    print(f"\tState: {host.state or _EMPTY}")
    print(f"\tTransport: {host.transport}")
    print(f"\tInitiatorname: {host.initiator_name or _EMPTY}")
    print(f"\tIPaddress: {bracketed(host.ip_address) if host.ip_address else _EMPTY}")
    print(f"\tHWaddress: {host.hw_address or _EMPTY}")
    print(f"\tNetdev: {host.netdev or _EMPTY}")


def print_heading(text: str, indent: str, rule_length: int | None = None) -> None:
    """A heading between rules, as long as itself unless iscsiadm has it otherwise."""
    rule = "*" * (rule_length or len(text))
    for line in (rule, text, rule):
        print(f"{indent}{line}")


def _made_by(session: SessionView) -> str:
    return "(flash)" if session.flash else "(non-flash)"


def _persistent(session: SessionView) -> str:
    portal = session.persistent
    return portal_text(portal.address, portal.port, session.tpgt) if portal else _EMPTY


def _print_block(session: SessionView, parts: Parts) -> None:
    from rdmactl.initiator import sysfs

    indent = f"{parts.indent}\t\t"
    host = sysfs.host(session.host_no, session.root)
    _print_interface(session.interface(host), session, indent)
    if parts.timeouts:
        _print_timeouts(session, indent)
    if parts.chap:
        _print_chap(session, indent, reveal=parts.reveal)
    if parts.negotiated:
        _print_negotiated(session, indent)
    if parts.devices:
        _print_devices(session, indent, host, host_line=parts.host_line)


def _print_interface(interface: InterfaceView, session: SessionView, indent: str) -> None:
    print_heading("Interface:", indent)
    lines = {
        "Iface Name": interface.name or _EMPTY,
        "Iface Transport": interface.transport,
        "Iface Initiatorname": interface.initiator_name or _EMPTY,
        "Iface IPaddress": bracketed(interface.ip_address or "default"),
        "Iface HWaddress": interface.hw_address or "default",
        "Iface Netdev": interface.netdev or "default",
        "SID": session.sid,
        "iSCSI Connection State": session.connection_text,
        "iSCSI Session State": session.state or "Unknown",
        "Internal iscsid Session State": session.internal_text,
    }
    _print_lines(lines, indent)


def _print_timeouts(session: SessionView, indent: str) -> None:
    timeouts = session.timeouts()
    print_heading("Timeouts:", indent)
    lines = {
        "Recovery Timeout": timeouts.recovery_s,
        "Target Reset Timeout": timeouts.target_reset_s,
        "LUN Reset Timeout": timeouts.lun_reset_s,
        "Abort Timeout": timeouts.abort_s,
    }
    _print_lines(lines, indent)


def _print_chap(session: SessionView, indent: str, *, reveal: bool) -> None:
    """Stars stand for passwords whether set or not; revealed, iscsiadm calls both of them "password"."""
    chap = session.chap(secrets=reveal)
    print_heading("CHAP:", indent)
    print(f"{indent}username: {chap.username or _EMPTY}")
    print(f"{indent}password: {(chap.password or _EMPTY) if reveal else _MASK}")
    print(f"{indent}username_in: {chap.username_in or _EMPTY}")
    print(f"{indent}password: {chap.password_in or _EMPTY}" if reveal else f"{indent}password_in: {_MASK}")


def _print_negotiated(session: SessionView, indent: str) -> None:
    values = session.negotiated()
    print_heading("Negotiated iSCSI params:", indent)
    lines = {
        "HeaderDigest": _choice(values.header_digest, "CRC32C", "None"),
        "DataDigest": _choice(values.data_digest, "CRC32C", "None"),
        "MaxRecvDataSegmentLength": values.max_recv_dlength,
        "MaxXmitDataSegmentLength": values.max_xmit_dlength,
        "FirstBurstLength": values.first_burst_length,
        "MaxBurstLength": values.max_burst_length,
        "ImmediateData": _choice(values.immediate_data, "Yes", "No"),
        "InitialR2T": _choice(values.initial_r2t, "Yes", "No"),
        "MaxOutstandingR2T": values.max_outstanding_r2t,
    }
    _print_lines({name: value for name, value in lines.items() if value is not None}, indent)


def _print_devices(session: SessionView, indent: str, host: HostView | None, *, host_line: bool) -> None:
    print_heading("Attached SCSI devices:", indent, rule_length=24)
    if host_line:
        print(f"{indent}Host Number: {session.host_no}\tState: {(host and host.state) or _EMPTY}")
    for lun in session.luns():
        print(f"{indent}scsi{lun.host_no} Channel {lun.channel:02d} Id {lun.target_id} Lun: {lun.lun}")
        if lun.block_device is not None:
            print(f"{indent}\tAttached scsi disk {lun.block_device}\t\tState: {lun.state}")


def _choice(value: bool | None, yes: str, no: str) -> str | None:
    return None if value is None else yes if value else no


def _print_lines(lines: Mapping[str, object], indent: str) -> None:
    for name, value in lines.items():
        print(f"{indent}{name}: {_EMPTY if value is None else value}")
