# SPDX-License-Identifier: Apache-2.0
"""What iscsiadm prints while a discovery fails, made from what the daemon reports at its end. Face ring.

iscsiadm writes a line for each attempt, as it goes; scripts look for them. The daemon reports once, with the cause
(`IscsiFailure.code`), and the record tells how many attempts there were.
Not here: the last line, and what the program says under its own name.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdmactl.errors import RdmactlError
    from rdmactl.records.model import Record

__all__ = ["discovery_lines", "isns_lines"]

_AUTH_FAILED = 24

_ATTEMPT = {
    "refused": ("cannot make connection to {address}: Connection refused",),
    "rdma": ("Connection to discovery portal {address} failed: encountered connection failure",),
    "silent": ("connect to {address} timed out",),
    "unanswered": ("Login I/O error, failed to receive a PDU", "retrying discovery login to {address}"),
    "closed": (
        "Connection to Discovery Address {address} closed",
        "Login I/O error, failed to receive a PDU",
        "retrying discovery login to {address}",
    ),
}
"""Lines of one attempt, by cause."""

_DISCONNECTED = "socket disconnect, killing socket"
_NO_REPLY = "Warning: Timed out while waiting for reply"
_ISNS_FAILED = "iSNS discovery failed: Internal error"


def discovery_lines(error: RdmactlError, record: Record) -> Sequence[str]:
    """The lines in front of "Could not perform SendTargets discovery"."""
    address = str(record["discovery.sendtargets.address"])
    if error.code in _ATTEMPT:
        again = max(int(str(record["discovery.sendtargets.reopen_max"])), 0)
        lines = [line.format(address=address) for line in _ATTEMPT[error.code]]
        return [*lines * (again + 1), f"connection login retries (reopen_max) {again} exceeded"]
    if error.code == "unresolved":
        reason = error.message.rpartition(": ")[2]
        unknown = f"cannot resolve host name {address}"
        return [f"Cannot resolve host {address}. getaddrinfo error: [{reason}]", unknown, unknown]
    if getattr(error, "err", None) == _AUTH_FAILED:
        return [
            "Login failed to authenticate with target ",
            f"discovery login to {address} rejected: initiator failed authorization",
        ]
    from rdmactl.cli.errors import error_text

    return [error_text(error)]


def isns_lines(error: RdmactlError) -> tuple[Sequence[str], str]:
    """The lines in front of "Could not perform iSNS discovery": those of its library, then the program's."""
    if error.code in ("refused", "closed"):
        return (_DISCONNECTED, _NO_REPLY), _ISNS_FAILED
    if error.code in ("silent", "unanswered"):
        return (_NO_REPLY,), _ISNS_FAILED
    from rdmactl.cli.errors import error_text

    return (), f"iSNS discovery failed: {error_text(error)}"
