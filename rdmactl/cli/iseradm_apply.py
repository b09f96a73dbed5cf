# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m iface -o apply` and `applyall`: give adapters the network settings of interface records. Face ring.

An adapter is found by the interface's hardware address. Software transports have nothing to configure.
Not here: how settings become parameters (`rdmactl.netlink.iscsi_iface`), how an adapter is asked.
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import Exit
from rdmactl.cli.iseradm_host import is_software
from rdmactl.errors import RdmactlError
from rdmactl.initiator import sysfs
from rdmactl.netlink.iscsi_iface import iface_params
from rdmactl.records import operations
from rdmactl.records.model import is_ipv6_type, plain

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.initiator.sysfs import HostView
    from rdmactl.records.model import Record

__all__ = ["apply", "apply_all", "host_of"]


def apply(context: Context, name: str | None) -> int:
    """One interface; returns the exit status."""
    if name is None:
        raise Exit(7, "Apply requires iface.")
    record = operations.iface_record(context.store, name)
    if record is None:
        raise Exit(7, f"Could not read iface info for {name}.")
    if is_software(str(record["iface.transport_name"])):
        context.error("Nothing to configure.")
    else:
        host = host_of(context, record)
        if host is None:
            raise Exit(23, f"Could not find the host of iface {name}.")
        _configure(context, host, name, record)
    print(f"{name} applied.")
    return 0


def apply_all(context: Context, host_no: int) -> int:
    """Every interface that belongs to a host; returns the exit status."""
    host = sysfs.host(host_no, context.sysfs)
    chosen = []
    if host is not None and not is_software(host.transport):
        for name in context.store.ifaces():
            record = operations.iface_record(context.store, name)
            if record is not None and host_of(context, record) == host:
                chosen.append((name, record))
    if host is None or not chosen:
        context.error("Nothing to configure.")
    else:
        for name, record in chosen:
            _configure(context, host, name, record)
    print(f"Applied settings to ifaces attached to host{host_no}.")
    return 0


def host_of(context: Context, record: Record) -> HostView | None:
    """The host of an adapter that an interface record is about: same transport, same hardware address or device."""
    hw_address, netdev = (plain(record[f"iface.{key}"]).lower() for key in ("hwaddress", "net_ifacename"))
    for host in sysfs.hosts(context.sysfs):
        if host.transport == record["iface.transport_name"] and (
            (hw_address and (host.hw_address or "").lower() == hw_address)
            or (netdev and (host.netdev or "").lower() == netdev)
        ):
            return host
    return None


def _configure(context: Context, host: HostView, name: str, record: Record) -> None:
    ipv6 = is_ipv6_type(name)
    params = iface_params({key: plain(value) for key, value in record.items()}, ipv6=ipv6)
    if not params:
        context.error("Nothing to configure.")
        return
    try:
        with context.adapter(host) as adapter:
            adapter.apply(int(plain(record["iface.iface_num"])), params, ipv6=ipv6)
    except RdmactlError as error:
        error.message = f"Could not apply iface {name}: {error.message}"
        raise
