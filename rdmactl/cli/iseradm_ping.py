# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m iface -C ping`: have an adapter ping an address through one of its interfaces. Face ring.

Only adapters can; for the others there is ping(8). Not here: how the adapter is asked (`rdmactl.initiator.adapter`).
"""

from __future__ import annotations

import socket
import time

from rdmactl.cli.errors import err_text, iscsiadm_status
from rdmactl.cli.iseradm_apply import host_of
from rdmactl.cli.iseradm_context import Exit
from rdmactl.cli.iseradm_host import is_software
from rdmactl.errors import RdmactlError
from rdmactl.netlink.iscsi_adapter import PING_FAILURES
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.records import operations
from rdmactl.records.model import plain

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.adapter import Adapter

__all__ = ["ping"]

_NOT_SUPPORTED = 27
_FAILED = 1


def ping(context: Context, arguments: Arguments, name: str | None) -> int:
    """Returns the exit status: of the last ping that failed, or 0."""
    _check(arguments, name)
    assert name is not None
    record = operations.iface_record(context.store, name)
    if record is None:
        raise Exit(7, f"Could not read iface info for {name}.")
    transport = str(record["iface.transport_name"])
    if is_software(transport):
        print(f"Ping 1 failed: {err_text(_NOT_SUPPORTED)}")
        raise Exit(_NOT_SUPPORTED, *([] if context.exact else [f"transport {transport} cannot ping; use ping(8)"]))
    address = _address(arguments.portal or "")
    host = host_of(context, record)
    if host is None:
        raise Exit(7, "Can't find host_no.")
    with context.adapter(host) as adapter:
        return _pings(context, adapter, arguments, int(plain(record["iface.iface_num"])), address)


def _check(arguments: Arguments, name: str | None) -> None:
    if name is None:
        raise Exit(7, "Ping requires iface.")
    if arguments.portal is None:
        raise Exit(7, "Ping requires destination ipaddress.")
    if arguments.packet_bytes <= 0:
        raise Exit(7, f"Invalid packet size: {arguments.packet_bytes}.")
    if arguments.count <= 0:
        raise Exit(7, f"Invalid number of packets to transmit: {arguments.count}.")
    if arguments.interval < 0:
        raise Exit(7, f"Invalid timing interval: {arguments.interval}.")


def _address(text: str) -> SockAddr:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return SockAddr(family, 0, socket.inet_pton(family, text))
        except OSError:
            continue
    raise Exit(7, "Invalid IP address.")


def _pings(context: Context, adapter: Adapter, arguments: Arguments, iface_num: int, address: SockAddr) -> int:
    """An adapter that refuses altogether ends it; a ping without answer does not."""
    status = 0
    ipv6 = address.family == socket.AF_INET6
    for turn in range(1, arguments.count + 1):
        try:
            failed = adapter.ping(iface_num, arguments.packet_bytes, address.pack(), ipv6=ipv6)
        except RdmactlError as error:
            status = iscsiadm_status(error)
            print(f"Ping {turn} failed: {err_text(status)}")
            if not context.exact:
                context.error(error.message)
            return status
        if failed:
            status = _FAILED
            print(f"Ping {turn} failed: {PING_FAILURES.get(failed, err_text(_FAILED))}", flush=True)
        else:
            print(f"Ping {turn} completed", flush=True)
        if turn < arguments.count:
            time.sleep(arguments.interval)
    return status
