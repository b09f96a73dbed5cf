# SPDX-License-Identifier: Apache-2.0
"""`iseradm -m discovery` and `-m discoverydb`: discovery records, and discoveries through the daemon. Face ring.

discovery mode starts afresh each time: its record is written over with the defaults. discoverydb mode keeps records and
discovers with what they say. Both bring the node records into agreement with what was found. The setting `preserve`
of rdmactl.toml(5) keeps what there is; iscsiadm resets it.
Not here: the discovery itself (the daemon's work), asking and recording (`discoveries.py`).
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import Exit
from rdmactl.cli.iseradm_portal import ISNS_PORT, PortalOption, read_portal
from rdmactl.errors import RdmactlError
from rdmactl.records import operations
from rdmactl.records.model import discovery_table
from rdmactl.records.operations import Changes, RecordProblem

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdmactl.cli.discoveries import Answer, Answers
    from rdmactl.cli.iseradm_context import Context
    from rdmactl.cli.iseradm_grammar import Arguments
    from rdmactl.records.model import Record

__all__ = ["discovery_mode", "discoverydb_mode"]

_SENDTARGETS = "sendtargets"
_ISNS = "isns"


def discovery_mode(context: Context, arguments: Arguments) -> int:
    """Returns the exit status."""
    _refuse_slp(arguments)
    if arguments.type == "fw":
        return _firmware(context, arguments)
    if arguments.type == _SENDTARGETS:
        portal = _portal(arguments, "<ipaddr>[:<ipport>]")
        return _discover(context, arguments, _fresh_record(context, arguments, _SENDTARGETS, portal))
    if arguments.type == _ISNS:
        portal = _portal(arguments, "<ipaddr>:[<ipport>]")
        record = operations.discovery_record(_ISNS, portal.address, portal.port, context.settings)
        return _discover(context, arguments, record)
    given = _given_portal(arguments)
    if given is not None:
        return _by_record(context, arguments, given)
    if arguments.operation in (None, "show"):
        return _list(context, arguments)
    raise Exit(7, "Invalid operation.")


def discoverydb_mode(context: Context, arguments: Arguments) -> int:
    """Returns the exit status."""
    if arguments.type == "fw" and not arguments.discover:
        raise Exit(7, "Invalid command. Possibly missing --discover argument.")
    if arguments.type is None:
        if _given_portal(arguments) is not None:
            unneeded = "" if arguments.operations else "Portal not needed or "
            raise Exit(7, f"Invalid command. {unneeded}Possibly missing discovery --type.")
        if arguments.operation in (None, "show"):
            return _list(context, arguments)
        raise Exit(7, "Invalid operation. Operation not supported.")
    _refuse_slp(arguments)
    if arguments.type == "fw":
        return _firmware(context, arguments)
    portal = _portal(arguments, "<ipaddr>[:<ipport>]")
    if arguments.discover:
        return _discover(context, arguments, _kept_record(context, arguments, portal))
    return _operate(context, arguments, portal)


def _refuse_slp(arguments: Arguments) -> None:
    """In iscsiadm's words, which it has never made true."""
    if arguments.type == "slp":
        raise Exit(7, "SLP discovery is not fully implemented yet.")


def _firmware(context: Context, arguments: Arguments) -> int:
    from rdmactl.cli.iseradm_fw import discover_firmware

    return discover_firmware(context, arguments)


def _given_portal(arguments: Arguments) -> PortalOption | None:
    if arguments.portal is None:
        return None
    return read_portal(arguments.portal, ISNS_PORT if arguments.type == _ISNS else 3260)


def _portal(arguments: Arguments, form: str) -> PortalOption:
    portal = _given_portal(arguments)
    if portal is None:
        raise Exit(7, f"Please specify portal as {form}")
    return portal


# Discovery records


def _list(context: Context, arguments: Arguments) -> int:
    known = context.store.discoveries()
    if arguments.level:
        return _list_tree(context, known)
    for type in (_SENDTARGETS, _ISNS):
        for kind, address, port in reversed(known):
            if kind == type:
                print(f"{address}:{port} via {type}")
    return 0 if known else 21


def _list_tree(context: Context, known: Sequence[tuple[str, str, int]]) -> int:
    """Four sections; a section with nothing in it says so. 21 when that is true of all."""
    from rdmactl.cli.iseradm_print import print_tree

    store = context.store
    anything = False
    for heading, type, source in (
        ("SENDTARGETS", _SENDTARGETS, ""),
        ("iSNS", _ISNS, _ISNS),
        ("STATIC", "", "static"),
        ("FIRMWARE", "", "fw"),
    ):
        print(f"{heading}:")
        addresses = [(address, port) for kind, address, port in reversed(known) if kind == type]
        nodes = store.nodes_of_source(source) if source else []
        for address, port in addresses:
            print(f"DiscoveryAddress: {address},{port}")
            print_tree(store.nodes_of_source(operations.discovery_source(type, address, port).text), group=True)
        print_tree(nodes, group=True)
        if addresses or nodes:
            anything = True
        else:
            print("No targets found.")
    return 0 if anything else 21


def _by_record(context: Context, arguments: Arguments, portal: PortalOption) -> int:
    """discovery mode without a type: the stored sendtargets record of a portal."""
    record = context.store.discovery(_SENDTARGETS, portal.address, portal.port)
    if record is None:
        raise Exit(7, f"Discovery record [{portal.address},{portal.port}] not found!")
    if arguments.discover or arguments.login:
        return _discover(context, arguments, record)
    if arguments.operation in (None, "show"):
        return _show(arguments, _SENDTARGETS, record)
    if arguments.operation == "delete":
        return _delete(context, _SENDTARGETS, portal)
    if arguments.operations & {"new", "update"}:
        raise Exit(7, "Operations new and update for discovery mode is not supported. Use discoverydb mode.")
    raise Exit(7, "Invalid operation.")


def _operate(context: Context, arguments: Arguments, portal: PortalOption) -> int:
    """discoverydb mode without -D: act on the record."""
    type = arguments.type or _SENDTARGETS
    if "new" in arguments.operations:
        settings, store = context.settings, context.store
        with store.transaction():
            operations.new_discovery(store, type, portal.address, portal.port, settings)
        print(f"New discovery record for [{portal.address},{portal.port}] added.")
        return 0
    if arguments.operation == "update" and not arguments.pairs:
        raise Exit(7, "Update requires name and value.")
    if arguments.operation not in (None, "show", "update", "delete"):
        raise Exit(7, "Invalid operation. Operation not supported.")
    record = context.store.discovery(type, portal.address, portal.port)
    if record is None:
        raise Exit(6, f"Discovery record [{portal.address},{portal.port}] not found.")
    if arguments.operation == "update":
        return _update(context, arguments, type, portal)
    if arguments.operation == "delete":
        return _delete(context, type, portal)
    return _show(arguments, type, record)


def _show(arguments: Arguments, type: str, record: Record) -> int:
    from rdmactl.cli.iseradm_print import print_record

    print_record(discovery_table(type), record, reveal=arguments.show)
    return 0


def _update(context: Context, arguments: Arguments, type: str, portal: PortalOption) -> int:
    from rdmactl.cli.iseradm_node import problem_messages

    store = context.store
    try:
        with store.transaction():
            remarks = operations.update_discovery(store, type, portal.address, portal.port, arguments.pairs)
    except RecordProblem as problem:
        raise Exit(7, *problem_messages(problem)) from None
    for remark in remarks:
        context.error(remark)
    return 0


def _delete(context: Context, type: str, portal: PortalOption) -> int:
    store = context.store
    with store.transaction():
        operations.delete_discovery(store, type, portal.address, portal.port)
    return 0


# Discoveries


def _fresh_record(context: Context, arguments: Arguments, type: str, portal: PortalOption) -> Record:
    """The record discovery mode works with: defaults, stored unless nothing is to be; or the one that is preserved."""
    settings, store = context.settings, context.store
    known = store.discovery(type, portal.address, portal.port) if context.preserve else None
    if known is not None:
        return known
    if "nonpersistent" in arguments.operations:
        return operations.discovery_record(type, portal.address, portal.port, settings)
    with store.transaction():
        return operations.new_discovery(store, type, portal.address, portal.port, settings)


def _kept_record(context: Context, arguments: Arguments, portal: PortalOption) -> Record:
    """The record discoverydb mode works with: the stored one, made if it is missing."""
    type = arguments.type or _SENDTARGETS
    record = context.store.discovery(type, portal.address, portal.port)
    return _fresh_record(context, arguments, type, portal) if record is None else record


def _discover(context: Context, arguments: Arguments, record: Record) -> int:
    """Ask the daemon through each interface, bring the records into agreement, print, and log in if wanted."""
    from rdmactl.cli.discoveries import keep, source_of

    answers = _answers(context, record, _ifaces(context, arguments.ifaces))
    if not any(answer.portals for answer in answers.of_ifaces):
        raise Exit(21, "No portals found")
    source = source_of(context, record)
    wanted = arguments.operations
    if "nonpersistent" not in wanted and wanted != {"show"}:
        from rdmactl.cli.iseradm_node import in_use_text

        preserve = context.preserve and not wanted
        changing = wanted & {"new", "update", "delete"} or {"new", "update", "delete"}
        changes = Changes("new" in changing, "update" in changing and not preserve, "delete" in changing)
        for node in keep(context, answers, source, changes, preserve=preserve):
            context.error(in_use_text(node))
    _print(answers.of_ifaces, arguments.level or 0)
    return _log_in(context, answers.of_ifaces, source) if arguments.login else 0


def _ifaces(context: Context, names: Sequence[str]) -> list[Record]:
    chosen = []
    for name in names or operations.discovery_ifaces(context.store):
        record = operations.iface_record(context.store, name)
        if record is None:
            context.error(
                f"Could not read iface info for {name}. Make sure an iface config with the file name"
                f" and iface.iscsi_ifacename {name} is in /etc/iscsi/ifaces."
            )
        else:
            chosen.append(record)
    if not chosen:
        raise Exit(21)
    return chosen


def _answers(context: Context, record: Record, ifaces: Sequence[Record]) -> Answers:
    """What each interface finds. One that fails is only reported, as long as another one finds something.

    iscsiadm gives up with the first one that fails, whatever others have found, and so does this program by that name.
    """
    from rdmactl.cli.discoveries import Answers, ask

    found: list[Answer] = []
    failures: list[Exit] = []
    for iface in ifaces:
        try:
            answer = ask(context, record, iface)
        except RdmactlError as error:
            failure = _failed(context, error, record)
            if context.exact:
                raise failure from None
            failures.append(failure)
        else:
            found.append(answer)
            for warning in answer.warnings:
                context.error(warning)
    if failures and not any(answer.portals for answer in found):
        for failure in failures[:-1]:
            context.report(failure)
        raise failures[-1]
    for failure in failures:
        context.report(failure)
    return Answers(found, whole=not failures and not any(answer.skipped for answer in found))


def _failed(context: Context, error: RdmactlError, record: Record) -> Exit:
    """The failure of a discovery: one sentence, or iscsiadm's lines."""
    from rdmactl.cli.errors import err_text, error_text, iscsiadm_status
    from rdmactl.cli.iseradm_words import discovery_lines, isns_lines

    status = iscsiadm_status(error)
    isns = record["discovery.type"] == _ISNS
    kind = "iSNS" if isns else "SendTargets"
    result = f"Could not perform {kind} discovery: {err_text(status)}"
    if not context.exact:
        return Exit(status, f"Could not perform {kind} discovery: {error_text(error)}")
    if error.code == "daemon-not-running":
        from rdmactl.cli.iseradm_login import DAEMON_DOWN

        return Exit(status, *DAEMON_DOWN, *DAEMON_DOWN, "Cannot perform discovery. Initiatorname required.", result)
    if isns:
        bare, line = isns_lines(error)
        return Exit(status, line, result, before=bare)
    return Exit(status, *discovery_lines(error, record), result)


def _print(answers: Sequence[Answer], level: int) -> None:
    """Flat, or a tree for each interface; deeper levels print nothing."""
    from rdmactl.cli.iseradm_print import print_flat, print_tree

    for answer in answers:
        if level == 0:
            print_flat(answer.nodes)
        elif level == 1:
            print_tree(answer.nodes)


def _log_in(context: Context, answers: Sequence[Answer], source: operations.Source) -> int:
    """Log in to everything found, by its record, or by a fresh one where none was kept."""
    from rdmactl.cli.iseradm_login import log_in, login_of

    counts = context.session_counts()
    logins = []
    for answer in answers:
        for node in answer.nodes:
            record = context.store.node(node)
            if record is None:
                record = operations.node_record(node, answer.iface, context.settings, source)
            logins.append(login_of(node, record, counts))
    return log_in(context, logins, last_line=False)
