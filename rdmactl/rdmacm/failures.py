# SPDX-License-Identifier: Apache-2.0
"""What went wrong on an RDMA connection, as one sentence with a remedy. Engine ring.

Three kinds of numbers come from below: the errno of a call, the status of a connection event, and the status of a
work completion. Each function here turns one kind into an error that names the peer; the raw number stays in the
sentence, for those who search for it. A failure's `code` is one of the constants below.

Not here: when something counts as failed (`connection.py`), login status (`rdmactl.iscsi`).
Reject reasons are enum ib_cm_rej_reason of the kernel's include/rdma/ib_cm.h; on iWARP the status is a negative errno
and there is no reason. Completion states are enum ibv_wc_status of <infiniband/verbs.h>.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from rdmactl.errors import DeadlineExceeded, KernelError, PeerError, RdmactlError, Unavailable
from rdmactl.rdmacm.states import CmEvent

__all__ = [
    "WR_FLUSH_ERR",
    "call_failed",
    "completion_failed",
    "deadline_passed",
    "event_failed",
    "no_device",
    "no_library",
]

WR_FLUSH_ERR = 5
"""IBV_WC_WR_FLUSH_ERR: the consequence of another failure, never a cause."""

_NO_RDMA_PATH = "the interface towards it has no RDMA device: compare `rdmactl dev` with `ip route get`"
_NOT_LISTENING = "enable iSER on that portal, or check the port"


class _Sentence(NamedTuple):
    """`text` continues the peer's name."""

    kind: type[RdmactlError]
    code: str
    text: str
    hint: str | None


_CALLS = {
    errno.ENETUNREACH: _Sentence(PeerError, "no-route", "cannot be reached: no route", "see `ip route get`"),
    errno.EHOSTUNREACH: _Sentence(PeerError, "no-route", "cannot be reached: no route to host", "see `ip route get`"),
    errno.ENODEV: _Sentence(Unavailable, "unavailable", "cannot be reached over RDMA", _NO_RDMA_PATH),
    errno.EADDRNOTAVAIL: _Sentence(
        PeerError, "no-route", "cannot be reached from the given source address", "use an address of this host"
    ),
    errno.ECONNREFUSED: _Sentence(
        PeerError, "refused", "refused the RDMA connection: nothing listens there", _NOT_LISTENING
    ),
    errno.ECONNRESET: _Sentence(
        PeerError, "refused", "ended the RDMA connection while it was being made", "it may be a plain TCP service"
    ),
    errno.ETIMEDOUT: _Sentence(PeerError, "unreachable", "does not answer", "check address, host and firewall"),
}

_NO_LOCKABLE_MEMORY = "raise the limit of locked memory (ulimit -l) to at least 1 MiB"

_REJECTS = {
    1: ("resources", "it has no queue pair left", "free resources on the target"),
    3: ("resources", "it is out of RDMA resources", "free resources on the target"),
    4: ("unreachable", "the exchange timed out there", "try again"),
    5: ("refused", "it does not know this kind of request", "it is not an iSER service"),
    6: ("stale", "it does not know this exchange", "try again"),
    7: ("stale", "it does not know this exchange", "try again"),
    8: ("refused", "nothing listens there for RDMA", _NOT_LISTENING),
    9: ("refused", "it wants another transport", None),
    10: ("stale", "it still holds an old connection of this host", "try again in two seconds"),
    24: ("redirect", "it redirects to another port, which is not followed", None),
    25: ("redirect", "it redirects to another port, which is not followed", None),
    27: ("refused", "it serves fewer RDMA reads at once", None),
    28: (
        "refused",
        "the service itself refused",
        "portal disabled, out of memory, or no way back to this host's address",
    ),
}

_FABRIC_REASONS = frozenset({12, 13, 14, 15, 16, 17, 26, 32})
"""Invalid GID, LID, service level, traffic class, hop limit, packet rate, MTU, flow label."""

_COMPLETIONS = {
    1: "a message from it was larger than the {} bytes of the buffer posted for it",
    2: "a message from it was larger than the {} bytes of the buffer posted for it",
    4: "a buffer of ours was described wrongly",
    WR_FLUSH_ERR: "the connection broke",
    9: "it invalidated memory although that was declined",
    10: "it was refused access to memory",
    11: "it could not take a message: its buffer was too small",
    12: "the path to it is dead: it acknowledges nothing",
    13: "it had no buffer ready",
}


def no_library() -> Unavailable:
    """The compiled module, or a library under it, cannot be loaded."""
    return Unavailable(
        "librdmacm or libibverbs cannot be loaded", hint="install librdmacm1, libibverbs1 and ibverbs-providers"
    )


def no_device(number: int) -> RdmactlError:
    """rdma_create_event_channel failed with errno `number`."""
    if number in (errno.ENODEV, errno.ENOENT, errno.ENXIO):
        return Unavailable(
            "this host has no usable RDMA device",
            hint="load the device's driver and rdma_ucm; `rdmactl dev` lists devices",
        )
    return KernelError(
        "rdma_create_event_channel",
        number,
        f"cannot open the RDMA connection manager: {_name(number)}",
        hint="check the permissions of /dev/infiniband/rdma_cm",
    )


def _name(number: int) -> str:
    return f"{errno.errorcode.get(number, 'errno')} ({number})"


def call_failed(peer: str, operation: str, number: int) -> RdmactlError:
    """`operation` (the C function's name) about `peer` failed with errno `number` (positive)."""
    if number == errno.ENOMEM and operation == "ibv_reg_mr":
        return KernelError(operation, number, f"not enough memory to talk to {peer}", hint=_NO_LOCKABLE_MEMORY)
    sentence = _CALLS.get(number)
    if sentence is None:
        return KernelError(operation, number, f"{operation} for {peer} failed: {_name(number)}")
    return sentence.kind(f"{peer} {sentence.text} ({operation}: {number})", hint=sentence.hint, code=sentence.code)


def event_failed(peer: str, event: CmEvent, status: int) -> RdmactlError:
    """The kernel ended or refused the connection with `event`; `status` as in the event: 0, -errno or a reason."""
    if event is CmEvent.REJECTED and status > 0:
        return _rejected(peer, status)
    if event is CmEvent.ADDR_ERROR and status == -errno.ETIMEDOUT:
        return PeerError(
            f"{peer} does not answer ARP or neighbour discovery", hint="check address and cabling", code="unreachable"
        )
    if event is CmEvent.ROUTE_ERROR and status == -errno.ETIMEDOUT:
        return PeerError(
            f"there is no path record for {peer}", hint="check that a subnet manager runs", code="no-route"
        )
    if event is CmEvent.UNREACHABLE:
        return PeerError(
            f"{peer} does not answer the RDMA connection request ({-status})",
            hint="host down, filtered (RoCE uses UDP port 4791), or the portal is TCP only",
            code="unreachable",
        )
    if event is CmEvent.DEVICE_REMOVAL:
        return Unavailable(f"the RDMA device used for {peer} was removed")
    if event is CmEvent.ADDR_CHANGE:
        return PeerError(f"the local address used for {peer} moved to another interface", hint="connect again")
    if event is CmEvent.DISCONNECTED:
        return PeerError(f"{peer} closed the RDMA connection", code="disconnected")
    if -status in _CALLS:
        return call_failed(peer, event.name, -status)
    return PeerError(f"the RDMA connection to {peer} failed ({event.name}: {status})")


def _rejected(peer: str, reason: int) -> PeerError:
    code, text, hint = _REJECTS.get(reason, ("refused", f"reason {reason}", None))
    if reason in _FABRIC_REASONS:
        text, hint = "it objects to a parameter of the path", "check the fabric's configuration (MTU, GIDs, VLAN)"
    return PeerError(f"{peer} refused the RDMA connection: {text} (reject reason {reason})", hint=hint, code=code)


def completion_failed(peer: str, status: int, receive_bytes: int) -> PeerError:
    """A work request of the connection to `peer`, with buffers of `receive_bytes`, completed with a `status` not 0."""
    text = _COMPLETIONS.get(status, "a work request failed").format(receive_bytes)
    return PeerError(f"the RDMA connection to {peer} broke: {text} (completion status {status})", code="disconnected")


def deadline_passed(peer: str, stage: str, seconds: float) -> DeadlineExceeded:
    """`peer` did not let us past `stage` ("address", "route", "connect", ...) within `seconds`."""
    hint = {
        "connect": "host down, filtered (RoCE uses UDP port 4791), or the portal is TCP only",
        "login": "it may not be an iSER target, or another initiator's unfinished login holds the portal",
    }.get(stage)
    return DeadlineExceeded(f"{peer} did not answer within {seconds:g} s (stage: {stage})", hint=hint)
