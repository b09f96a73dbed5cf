# SPDX-License-Identifier: Apache-2.0
"""`rdmactl discovery run`: ask an address for its targets and record them, keeping what was changed by hand. Face ring.

The same work as `iseradm -m discoverydb -D`, with one difference: records that are there stay as they are, unless
--reset is given. The settings of the question (CHAP, time-outs) are those of the discovery record.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdmactl.cli.discoveries import Answers, ask, keep, source_of
from rdmactl.cli.errors import error_text
from rdmactl.cli.iseradm_context import Context
from rdmactl.cli.iseradm_portal import ISNS_PORT
from rdmactl.cli.iseradm_print import print_flat
from rdmactl.cli.output import print_json
from rdmactl.errors import LocalError, RdmactlError
from rdmactl.iscsi.portal import DEFAULT_PORT, Portal
from rdmactl.iscsi.portal_option import parse_option
from rdmactl.records import operations
from rdmactl.records.operations import Changes

if TYPE_CHECKING:
    from typing import Any

    from rdmactl.cli.discoveries import Answer
    from rdmactl.records.model import Record

__all__ = ["parser", "run"]

SCHEMA = "rdmactl.discovery.run"

_FIELDS = ("target", "address", "port", "tpgt")


def parser() -> argparse.ArgumentParser:
    """The words of this command."""
    words = argparse.ArgumentParser(
        prog="rdmactl discovery run", description="Ask a discovery address for its targets, and record them."
    )
    words.add_argument("portal", metavar="ADDRESS[:PORT]", help="an IPv6 address in brackets if a port follows")
    words.add_argument("--isns", action="store_true", help="an iSNS server is there (port 3205)")
    words.add_argument(
        "-I", "--interface", action="append", default=[], metavar="IFACE", help="ask through this one; may be repeated"
    )
    words.add_argument("--reset", action="store_true", help="put the records of what is found back to the defaults")
    words.add_argument("--dry-run", action="store_true", help="record nothing")
    words.add_argument("-j", "--json", action="store_true", help="print JSON")
    return words


def run(words: list[str]) -> int:
    """Finding nothing is no error, and changes nothing. Standard error names what was left out, and why."""
    given = parser().parse_args(words)
    type, port = ("isns", ISNS_PORT) if given.isns else ("sendtargets", DEFAULT_PORT)
    context = Context("rdmactl")
    try:
        record = _record(context, type, _portal(given.portal, port), store=not given.dry_run)
        answers = _ask_all(context, record, given.interface)
        if not given.dry_run and any(answer.portals for answer in answers.of_ifaces):
            changes = Changes(add=True, overwrite=given.reset, delete=True)
            for node in keep(context, answers, source_of(context, record), changes, preserve=not given.reset):
                context.error(f"{node.target} at {node.address}:{node.port} is gone, its record stays: it is in use")
    finally:
        context.close()
    if given.json:
        print_json(SCHEMA, {"whole": answers.whole, "found": [_json(answer) for answer in answers.of_ifaces]})
    else:
        for answer in answers.of_ifaces:
            print_flat(answer.nodes)
    return 0


def _portal(text: str, default_port: int) -> Portal:
    """LocalError for a text that is none."""
    portal = Portal.parse(text)
    option = parse_option(text, default_port)
    return portal if option is None else portal._replace(port=option.port)


def _record(context: Context, type: str, portal: Portal, *, store: bool) -> Record:
    """The discovery record of a portal; made now if there is none."""
    known = context.store.discovery(type, *portal)
    if known is not None:
        return known
    if not store:
        return operations.discovery_record(type, *portal, context.settings)
    with context.store.transaction():
        return operations.new_discovery(context.store, type, *portal, context.settings)


def _ask_all(context: Context, record: Record, names: list[str]) -> Answers:
    """What each interface finds; one that fails is reported as long as another one is answered. RdmactlError."""
    found, failures = [], []
    for name in names or operations.discovery_ifaces(context.store):
        iface = operations.iface_record(context.store, name)
        if iface is None:
            raise LocalError(f"there is no interface {name}", hint="iseradm -m iface lists them")
        try:
            found.append(ask(context, record, iface))
        except RdmactlError as error:
            failures.append(error)
    if not found:
        raise failures[-1]
    for sentence in (*map(error_text, failures), *(warning for answer in found for warning in answer.warnings)):
        context.error(sentence)
    return Answers(found, whole=not failures and not any(answer.skipped for answer in found))


def _json(answer: Answer) -> dict[str, Any]:
    return {
        "interface": answer.iface["iface.iscsi_ifacename"],
        "skipped": answer.skipped,
        "portals": [dict(zip(_FIELDS, portal, strict=True)) for portal in answer.portals],
    }
