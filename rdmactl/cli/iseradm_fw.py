# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m fw` and `-m discovery -t fw`: the targets the firmware boots from. Face ring.

fw mode prints them, or logs in to them without any record. A discovery makes records. Called as `iscsiadm` it prints
secrets and begins with the last target, as open-iscsi does; under our own name secrets are stars without --show.
Not here: reading the firmware's tables (`rdmactl.initiator.firmware`).
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import RECORD_VERSION, Exit
from rdmactl.initiator.firmware import boot_targets
from rdmactl.records import operations
from rdmactl.records.model import MASK, Secret, node_table
from rdmactl.records.operations import Changes, RecordProblem, Source
from rdmactl.records.store import NodeId

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.initiator.firmware import BootTarget
    from rdmactl.records.model import Record

__all__ = ["discover_firmware", "firmware_mode"]

_TPGT = 1
_IFACE = "default"
_SOURCE = Source("fw")
_FIXED = ("iface.net_ifacename", "iface.hwaddress", "iface.transport_name")
_FOR_BOOT = {
    "node.startup": "onboot",
    "node.session.initial_login_retry_max": "30",
    "node.conn[0].timeo.noop_out_interval": "0",
    "node.conn[0].timeo.noop_out_timeout": "0",
}
"""A root file system waits longer and is not given up."""


def firmware_mode(context: Context, arguments: Arguments) -> int:
    """Print the targets, or log in to all of them; how the logins end does not matter. Returns the exit status."""
    overrides = _overrides(arguments.pairs) if arguments.login else {}
    targets = _targets(context)
    if not arguments.login:
        for target in targets:
            _print(target, reveal=context.exact or arguments.show)
        return 0
    from rdmactl.cli.iseradm_login import log_in, login_of

    for target in targets:
        record = {**_record(context, target), **_FOR_BOOT, **overrides}
        login = login_of(_node(target), record, context.session_counts())
        log_in(context, [login], wait=not arguments.no_wait, last_line=False)
    return 0


def discover_firmware(context: Context, arguments: Arguments) -> int:
    """Make records of the firmware's targets and print them; with -l log in. Returns the exit status."""
    from rdmactl.cli.iseradm_print import print_flat, print_tree

    targets = _targets(context)
    nodes = [_node(target) for target in targets]
    _keep(context, arguments.operations, targets)
    level = arguments.level or 0
    if level == 0:
        print_flat(nodes)
    elif level == 1:
        print_tree(nodes)
    if not arguments.login:
        return 0
    from rdmactl.cli.iseradm_login import log_in, login_of

    counts = context.session_counts()
    logins = []
    for node, target in zip(nodes, targets, strict=True):
        logins.append(login_of(node, context.store.node(node) or _record(context, target), counts))
    return log_in(context, logins, last_line=False)


def _targets(context: Context) -> list[BootTarget]:
    targets = boot_targets(context.sysfs, context.error)
    if not targets:
        raise Exit(21, "Could not get list of targets from firmware. (err 21)")
    return targets[::-1] if context.exact else targets


def _overrides(pairs: list[tuple[str, str]]) -> Record:
    """Settings given on the command line; how the firmware's network is used cannot be one."""
    refused = "Could not merge user params"
    for name, _ in pairs:
        if name in _FIXED:
            raise Exit(7, "Cannot override interface parameters for firmware logins", refused)
    try:
        values, _ = operations.check_pairs(node_table(_IFACE), pairs)
    except RecordProblem as problem:
        raise Exit(7, f"Unknown parameter {problem.key}.", refused) from None
    return values


def _keep(context: Context, wanted: frozenset[str], targets: list[BootTarget]) -> None:
    """Bring the records into agreement with the firmware, as after every discovery."""
    if "nonpersistent" in wanted or wanted == {"show"}:
        return
    changing = wanted & {"new", "update", "delete"} or {"new", "update", "delete"}
    changes = Changes("new" in changing, "update" in changing, "delete" in changing)
    counts, settings, store = context.session_counts(), context.settings, context.store
    from rdmactl.cli.iseradm_node import in_use_text

    kept = []
    with store.transaction():
        for target in targets:
            node = _node(target)
            if changes.overwrite or (changes.add and store.node(node) is None):
                record = operations.new_node(store, node, _iface(context, target), settings, _SOURCE)
                store.write_node(node, {**record, **_chap(target)}, _SOURCE.text)
        if changes.delete:
            kept = operations.delete_stale(store, [_node(t) for t in targets], _SOURCE, lambda n: counts.of(n) > 0)
    for node in kept:
        context.error(in_use_text(node))


def _node(target: BootTarget) -> NodeId:
    return NodeId(target.name, target.address, target.port, _TPGT, _IFACE)


def _iface(context: Context, target: BootTarget) -> Record:
    record = operations.iface_record(context.store, _IFACE)
    assert record is not None
    record["iface.initiatorname"] = target.initiator_name
    record["iface.transport_name"] = target.transport
    return record


def _record(context: Context, target: BootTarget) -> Record:
    """A record that is not stored."""
    record = operations.node_record(_node(target), _iface(context, target), context.settings, _SOURCE)
    return {**record, **_chap(target)}


def _chap(target: BootTarget) -> Record:
    prefix = "node.session.auth"
    return {
        f"{prefix}.authmethod": "CHAP" if target.chap_name else "None",
        f"{prefix}.username": target.chap_name,
        f"{prefix}.password": Secret(target.chap_secret),
        f"{prefix}.username_in": target.chap_name_in,
        f"{prefix}.password_in": Secret(target.chap_secret_in),
    }


def _print(target: BootTarget, *, reveal: bool) -> None:
    """What the firmware has, and how the address comes, always."""
    secret, secret_in = (text if reveal or not text else MASK for text in (target.chap_secret, target.chap_secret_in))
    lines = {
        "iface.initiatorname": target.initiator_name,
        "iface.isid": target.isid,
        "iface.transport_name": target.transport,
        "iface.hwaddress": target.hw_address,
        "iface.bootproto": "DHCP" if target.dhcp else "STATIC",
        "iface.ipaddress": target.ip_address,
        "iface.prefix_len": target.prefix_len or "-1",
        "iface.subnet_mask": target.subnet_mask,
        "iface.gateway": target.gateway,
        "iface.primary_dns": target.primary_dns,
        "iface.secondary_dns": target.secondary_dns,
        "iface.vlan_id": target.vlan,
        "iface.net_ifacename": target.netdev,
        "node.name": target.name,
        "node.conn[0].address": target.address,
        "node.conn[0].port": str(target.port),
        "node.session.auth.username": target.chap_name,
        "node.session.auth.password": secret,
        "node.session.auth.username_in": target.chap_name_in,
        "node.session.auth.password_in": secret_in,
        "node.boot_lun": target.lun,
    }
    print(f"# BEGIN RECORD {RECORD_VERSION}")
    for name, value in lines.items():
        if value:
            print(f"{name} = {value}")
    print("# END RECORD")
