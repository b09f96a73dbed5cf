# SPDX-License-Identifier: Apache-2.0
"""The port mapper: the kernel's requests and the peers' datagrams in, answers out. Engine ring.

This module only distributes and joins; the work is in `link` (standing with the kernel), `table` (mappings), `report`
(agreement with the kernel's table), `active` and `passive` (peers). Not here: sockets, clocks, logging (`service.py`).

Four verbs: `receive` something, `tick` when `wake_at` has come, `take_output` after each of them and carry it out in
order. Every answer to ADD_MAPPING is there when `receive` returns: the kernel may be holding rdma_cm's global lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from rdmactl.errors import KernelError, PeerError
from rdmactl.iwpm.active import ActiveSide, Outcome
from rdmactl.iwpm.events import (
    Datagram,
    Input,
    KernelReply,
    Outbox,
    Output,
    Overrun,
    Path,
    Stalled,
    Unreachable,
)
from rdmactl.iwpm.link import ANSWER_LIMIT_S, KernelLink, Report
from rdmactl.iwpm.passive import PassiveSide
from rdmactl.iwpm.report import reconcile
from rdmactl.iwpm.stats import Stats
from rdmactl.iwpm.table import MappingState, MappingTable, PortClaims, Refusal
from rdmactl.iwpm.timers import earliest
from rdmactl.iwpm.wire import ACCEPT, ACK, IWPM_PORT, REQUEST, WireMessage, parse
from rdmactl.netlink.message import NLMSG_MIN_TYPE, Message
from rdmactl.netlink.rdma import (
    IWPM_FLAGS_NO_PORT_MAP,
    RDMA_NL_IWPM_ADD_MAPPING,
    RDMA_NL_IWPM_HELLO,
    RDMA_NL_IWPM_MAPINFO,
    RDMA_NL_IWPM_MAPINFO_NUM,
    RDMA_NL_IWPM_QUERY_MAPPING,
    RDMA_NL_IWPM_REG_PID,
    RDMA_NL_IWPM_REMOVE_MAPPING,
    IwpmErr,
    add_mapping_reply,
    iwcm_type,
    parse_add_mapping,
    parse_hello,
    parse_mapinfo,
    parse_mapinfo_num,
    parse_query_mapping,
    parse_reg_pid,
    parse_remove_mapping,
    query_mapping_reply,
)

__all__ = ["PortMapper"]

CLAIM_RETRY_S = 5.0
"""Between attempts to claim a port somebody else has taken."""

CLAIM_RETRIES_AT_ONCE = 64
"""Attempts per tick: a few hundred microseconds, so that requests do not wait for them."""

SHOWN = 5
"""Names in one log line."""

TOO_OLD_S = ANSWER_LIMIT_S - 1.0
"""After a stall this long, requests from the queue may be too old to be answered."""

_REG_PID = iwcm_type(RDMA_NL_IWPM_REG_PID)
_REFUSAL_CODES = {
    Refusal.DUPLICATE: IwpmErr.DUPLICATE_MAPPING,
    Refusal.NO_PORT: IwpmErr.CREATE_MAPPING,
    Refusal.WILDCARD: IwpmErr.CREATE_MAPPING,
}


class PortMapper:
    """The engine. `claims` holds the ports; `random_bytes(n)` gives handles; `table` is that of an earlier instance."""

    def __init__(
        self,
        claims: PortClaims,
        random_bytes: Callable[[int], bytes],
        table: MappingTable | None = None,
        *,
        peer_port: int = IWPM_PORT,
    ) -> None:
        self.stats = Stats()
        self.table = MappingTable(claims) if table is None else table
        self._outbox = Outbox()
        self.take_output: Callable[[], list[Output]] = self._outbox.take
        """What is to be done, in order."""
        self.link = KernelLink(self._outbox, self.stats, self._reported)
        self._active = ActiveSide(self._outbox, self.stats, random_bytes, self._answered_by_peer, peer_port)
        self._passive = PassiveSide(self.table, self._outbox, self.stats)
        self._held: deque[tuple[Message, float]] = deque()
        self._fenced = False
        self._remembers = table is not None
        self._retry_claims_at: float | None = None
        self._requests = {
            iwcm_type(RDMA_NL_IWPM_ADD_MAPPING): self._add_mapping,
            iwcm_type(RDMA_NL_IWPM_QUERY_MAPPING): self._query_mapping,
            iwcm_type(RDMA_NL_IWPM_REMOVE_MAPPING): self._remove_mapping,
        }
        self._reports = {
            iwcm_type(RDMA_NL_IWPM_HELLO): self._hello,
            iwcm_type(RDMA_NL_IWPM_MAPINFO): self._mapinfo,
            iwcm_type(RDMA_NL_IWPM_MAPINFO_NUM): self._mapinfo_num,
        }

    @property
    def exchanges(self) -> tuple[int, int]:
        """How many exchanges with peers are open or remembered: as the asking and as the asked side."""
        return len(self._active), len(self._passive)

    def remember(self, states: Sequence[MappingState], now: float) -> None:
        """Begin with what an earlier process has recorded; the kernel's report, which comes next, overrules it."""
        self._remembers = True
        self.table.load(states, now)
        if self.table.has_unclaimed:
            self._retry_claims_at = now + CLAIM_RETRY_S
        self._outbox.info(f"{len(self.table)} mappings of an earlier process, {len(self.table.claims_held)} ports")

    def start(self, now: float) -> None:
        """Greet the kernel."""
        self.link.start(now)

    def receive(self, event: Input, now: float) -> None:
        """Something has happened."""
        if isinstance(event, Message):
            serve = self._requests.get(event.type)
            if serve is None:
                self._other_message(event, now)
            elif self.link.holding or self._fenced:
                self._hold(event, now)
            else:
                try:
                    serve(event, now, now)
                except KernelError as error:
                    self._not_understood(event, error, now, now)
        elif isinstance(event, KernelReply):
            self._kernel_reply(event, now)
        elif isinstance(event, Datagram):
            self._datagram(event, now)
        elif isinstance(event, Unreachable):
            self._unreachable(event, now)
        elif isinstance(event, Overrun):
            self.stats.overruns += 1
            self.link.lost(now)
        else:
            self._stalled(event, now)

    def tick(self, now: float) -> None:
        """The time asked for has come."""
        self.link.tick(now)
        self._release_held(now)
        self._active.tick(now)
        self._passive.tick(now)
        if self._retry_claims_at is not None and self._retry_claims_at <= now:
            self._retry_claims(now)

    def wake_at(self) -> float | None:
        """When `tick` is to be called, at the latest."""
        return earliest(self.link.wake_at(), self._active.wake_at(), self._passive.wake_at(), self._retry_claims_at)

    # From the kernel.

    def _other_message(self, message: Message, now: float) -> None:
        """Not a request for a mapping."""
        if message.type == _REG_PID:
            self.link.probe(now)
            if self.link.holding or self._fenced:
                self._hold(message, now)
            else:
                self._serve(self._reg_pid, message, now, now)
            return
        try:
            report = self._reports.get(message.type)
            if report is not None:
                report(message, now)
            elif message.type >= NLMSG_MIN_TYPE:
                self.stats.kernel_malformed += 1
        except KernelError as error:
            self._malformed(error)
        self._release_held(now)

    def _hold(self, message: Message, now: float) -> None:
        """A request that cannot be served now; or, after a stall that is over, can."""
        if self._fenced:
            if not self.link.settled:
                self.stats.too_late += 1
                return
            self._fenced = False
        self._held.append((message, now))
        self._release_held(now)

    def _serve(
        self, serve: Callable[[Message, float, float], None], message: Message, asked_at: float, now: float
    ) -> None:
        try:
            serve(message, asked_at, now)
        except KernelError as error:
            self._not_understood(message, error, asked_at, now)

    def _not_understood(self, request: Message, error: KernelError, asked_at: float, now: float) -> None:
        self._malformed(error)
        self.link.refuse(request.seq, IwpmErr.INVALID_NLMSG, asked_at, now)

    def _release_held(self, now: float) -> None:
        """Serve what had to wait, if it need not any longer; forget what has waited too long."""
        while self._held and now - self._held[0][1] > ANSWER_LIMIT_S:
            self._held.popleft()
            self.stats.too_late += 1
        while self._held and not self.link.holding:
            message, asked_at = self._held.popleft()
            self._serve(self._requests.get(message.type, self._reg_pid), message, asked_at, now)

    def _malformed(self, error: KernelError) -> None:
        self.stats.kernel_malformed += 1
        if self.stats.kernel_malformed == 1:
            self._outbox.warning(f"a message from the kernel was not understood: {error.message}")

    def _reg_pid(self, message: Message, asked_at: float, now: float) -> None:
        self.stats.requests += 1
        self.link.register(message.seq, parse_reg_pid(message.payload), asked_at, now)

    def _add_mapping(self, message: Message, asked_at: float, now: float) -> None:
        self.stats.requests += 1
        local, flags = parse_add_mapping(message.payload, self.link.version)
        mapping = self.table.add_listener(local, not flags & IWPM_FLAGS_NO_PORT_MAP, now)
        if isinstance(mapping, Refusal):
            self._refuse(message.seq, mapping, asked_at, now)
            return
        payload = add_mapping_reply(message.seq, local, mapping.mapped)
        self.link.answer(RDMA_NL_IWPM_ADD_MAPPING, message.seq, payload, asked_at, now)

    def _query_mapping(self, message: Message, asked_at: float, now: float) -> None:
        self.stats.requests += 1
        request = parse_query_mapping(message.payload, self.link.version)
        local, remote, flags = request
        if local.family != remote.family:
            self.table.refuse(local, Refusal.DUPLICATE)
            raise KernelError("RDMA_NL_IWPM_QUERY_MAPPING", 0, f"{local} cannot connect to {remote}")
        mapping = self.table.add_connection(local, not flags & IWPM_FLAGS_NO_PORT_MAP, now)
        if isinstance(mapping, Refusal):
            self._refuse(message.seq, mapping, asked_at, now)
            return
        self._active.ask(message.seq, request, mapping.mapped, asked_at, now)

    def _refuse(self, seq: int, refusal: Refusal, asked_at: float, now: float) -> None:
        if refusal is Refusal.NO_PORT:
            self.stats.claim_failures += 1
        self.link.refuse(seq, _REFUSAL_CODES[refusal], asked_at, now)

    def _remove_mapping(self, message: Message, asked_at: float, now: float) -> None:
        self.stats.removes += 1
        local = parse_remove_mapping(message.payload)
        mapping = self.table.remove(local)
        if mapping is not None:
            self._active.forget(local)
            self._passive.forget(mapping.key)

    def _hello(self, message: Message, now: float) -> None:
        self.link.greeted(parse_hello(message.payload), message.seq, now)

    def _mapinfo(self, message: Message, now: float) -> None:
        self.link.record(parse_mapinfo(message.payload, self.link.version))

    def _mapinfo_num(self, message: Message, now: float) -> None:
        self.link.counted(message.seq, parse_mapinfo_num(message.payload))

    def _kernel_reply(self, event: KernelReply, now: float) -> None:
        self.link.replied(event, now)
        self._release_held(now)

    def _stalled(self, event: Stalled, now: float) -> None:
        """We slept. Requests that waited meanwhile may have been given up by the kernel: see what it has.

        The report's end is queued behind all of them. Until it comes, requests are dropped if they may be too old.
        """
        self.stats.stalls += 1
        self._outbox.warning(f"did not run for {event.gap_s:.1f} s: checking the kernel's mappings")
        self._fenced |= event.gap_s >= TOO_OLD_S
        self.link.check(now)

    def _reported(self, report: Report, now: float) -> int:
        """Called by the link with a report of the kernel's mappings."""
        result = reconcile(self.table, report.records, report.complete, now)
        for mapping in result.dropped:
            self._active.forget(mapping.local)
            self._passive.forget(mapping.key)
        taken = [mapping for mapping in result.restored if mapping.claim is not None and not mapping.claimed]
        self.stats.claim_failures += len(taken)
        if result.conflicts:
            self._outbox.warning(
                "the kernel has mappings that contradict others, not kept: "
                + _some([str(record.local) for record in result.conflicts])
            )
        if taken:
            self._outbox.warning(
                "ports in use by the adapter are taken by other programs, trying again: "
                + _some([f"{mapping.mapped.port} (for {mapping.local})" for mapping in taken])
            )
        if report.complete or self._remembers:
            self.table.give_back_others()
        if result.restored or result.dropped:
            self._outbox.info(
                f"{len(self.table)} mappings: {len(result.restored)} restored from the kernel's report, "
                f"{len(result.dropped)} ended unnoticed"
            )
        if self.table.has_unclaimed and self._retry_claims_at is None:
            self._retry_claims_at = now + CLAIM_RETRY_S
        return result.doubtful

    def _retry_claims(self, now: float) -> None:
        for mapping in self.table.retry_claims(CLAIM_RETRIES_AT_ONCE):
            self._outbox.info(f"claimed port {mapping.mapped.port} again, in use for {mapping.local}")
        self._retry_claims_at = now + CLAIM_RETRY_S if self.table.has_unclaimed else None

    # From peers.

    def _datagram(self, event: Datagram, now: float) -> None:
        data, path = event
        try:
            message = parse(data)
        except PeerError:
            self.stats.peer_malformed += 1
            return
        if message.cp.family != path.peer.family:
            self.stats.peer_malformed += 1
        else:
            self._wire_message(message, path, now)

    def _wire_message(self, message: WireMessage, path: Path, now: float) -> None:
        if message.type == REQUEST:
            self._passive.requested(message, path, now)
        elif message.type == ACCEPT:
            self._active.accepted(message, path, now)
        elif message.type == ACK:
            self._passive.confirmed(message, now)
        else:
            self._active.rejected(message, now)

    def _unreachable(self, event: Unreachable, now: float) -> None:
        try:
            quoted = parse(event.quoted)
        except PeerError:
            quoted = None
        if quoted is None or quoted.type == REQUEST:
            self._active.unreachable(quoted, event.peer, now)

    def _answered_by_peer(self, outcome: Outcome, now: float) -> None:
        """Called by the active side with the outcome of a query the kernel waits for."""
        query, mapped_remote = outcome
        local, remote, _ = query.request
        mapping = self.table.get(local)
        if mapping is not None:
            mapping.touched = now
        err = 0 if mapped_remote is not None else IwpmErr.REMOTE_QUERY_REJECT
        payload = query_mapping_reply(query.seq, local, remote, query.mapped_local, mapped_remote or remote, err)
        self.link.answer(RDMA_NL_IWPM_QUERY_MAPPING, query.seq, payload, query.asked_at, now)


def _some(names: list[str]) -> str:
    """A list that fits on a line."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
