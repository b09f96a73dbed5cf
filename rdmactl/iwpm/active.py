# SPDX-License-Identifier: Apache-2.0
"""Asking peers: one exchange per QUERY_MAPPING of the kernel. Engine ring.

Not here: the table, and how the answer gets to the kernel (`mapper.py`). The states are in `states.py` (ACTIVE).

A peer is known by the 64-bit handle it echoes, which is random so that nobody else can answer, and by the addresses it
must repeat; not by the address its datagram comes from, since peers with several interfaces answer from any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rdmactl.iwpm.events import Door, Outbox, Path
from rdmactl.iwpm.states import ACTIVE, ActiveEvent, ActiveState
from rdmactl.iwpm.stats import Stats
from rdmactl.iwpm.table import MappingKey, key_of
from rdmactl.iwpm.timers import Timers
from rdmactl.iwpm.wire import IWPM_PORT, REQUEST, WireMessage
from rdmactl.netlink.rdma import QueryMapping
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.states import advance

__all__ = ["ActiveSide", "Outcome", "Query"]

RESEND_S = 1.0
"""Between copies of a REQUEST; as rdma-core's port mapper does."""

GIVE_UP_S = 8.5
"""When a silent peer counts as absent. The kernel waits 10 s and must have its answer after 9 s at the latest."""

REMEMBER_S = 10.0
"""How long ACCEPT may come again: as long as rdma-core's port mapper repeats it."""

HANDLE_BYTES = 8


class Query:
    """One exchange. `seq` and `asked_at` are those of the kernel's request; `mapped_local` is what it is mapped to."""

    __slots__ = ("asked_at", "due", "handle", "mapped_local", "path", "request", "seq", "state", "wire")

    def __init__(
        self, seq: int, request: QueryMapping, mapped_local: SockAddr, handle: int, peer_port: int, asked_at: float
    ) -> None:
        self.seq = seq
        self.request = request
        self.mapped_local = mapped_local
        self.handle = handle
        self.asked_at = asked_at
        self.state = ActiveState.ASKING
        self.due: float | None = None
        self.path = Path(Door.CLIENT, request.remote.with_port(peer_port))
        self.wire = WireMessage(
            REQUEST, handle, request.local._replace(scope_id=0), request.remote._replace(scope_id=0), mapped_local
        ).build()


class Outcome(NamedTuple):
    """What to tell the kernel about a query: the peer's mapped address, or None for a reject."""

    query: Query
    mapped_remote: SockAddr | None


class ActiveSide:
    """All open queries. `on_outcome` is called once for each query the kernel still waits for, before ACK is sent."""

    def __init__(
        self,
        outbox: Outbox,
        stats: Stats,
        random_bytes: Callable[[int], bytes],
        on_outcome: Callable[[Outcome, float], None],
        peer_port: int = IWPM_PORT,
    ) -> None:
        self._outbox = outbox
        self._stats = stats
        self._random_bytes = random_bytes
        self._on_outcome = on_outcome
        self._peer_port = peer_port
        self._queries: dict[int, Query] = {}
        self._by_local: dict[MappingKey, set[int]] = {}
        self._timers: Timers[Query] = Timers()

    def __len__(self) -> int:
        return len(self._queries)

    def ask(self, seq: int, request: QueryMapping, mapped_local: SockAddr, asked_at: float, now: float) -> None:
        """Send a REQUEST, and see it through."""
        query = Query(seq, request, mapped_local, self._new_handle(), self._peer_port, asked_at)
        self._queries[query.handle] = query
        self._by_local.setdefault(key_of(request.local), set()).add(query.handle)
        self._stats.queries_sent += 1
        self._outbox.peer(query.wire, query.path)
        self._timers.set(query, now + RESEND_S)

    def accepted(self, message: WireMessage, path: Path, now: float) -> None:
        """An ACCEPT has come: tell the kernel, then the peer that it can stop."""
        query = self._find(message)
        if query is None:
            return
        first = query.state is ActiveState.ASKING
        self._advance(query, ActiveEvent.ACCEPT)
        if first:
            remote = query.request.remote
            self._on_outcome(Outcome(query, message.ap._replace(scope_id=remote.scope_id)), now)
        else:
            self._stats.retransmissions += 1
        self._timers.set(query, now + REMEMBER_S)
        self._outbox.peer(message.ack().build(), path)

    def rejected(self, message: WireMessage, now: float) -> None:
        """A REJECT has come."""
        query = self._find(message)
        if query is None:
            return
        if self._advance(query, ActiveEvent.REJECT):
            self._stats.query_rejects += 1
            self._on_outcome(Outcome(query, None), now)

    def unreachable(self, quoted: WireMessage | None, peer: SockAddr, now: float) -> None:
        """A REQUEST cannot arrive. Without the quoted message all open queries to `peer` are meant."""
        if quoted is not None:
            found = self._queries.get(quoted.handle)
            queries = [found] if found is not None else []
        else:
            queries = list(self._queries.values())
        for query in queries:
            if query.path.peer[:3] == peer[:3] and self._advance(query, ActiveEvent.UNREACHABLE):
                self._stats.query_unreachable += 1
                self._on_outcome(Outcome(query, None), now)

    def forget(self, local: SockAddr) -> None:
        """The mapping of `local` has ended: nobody waits for its queries any more."""
        if local[:3] not in self._by_local:
            return
        for handle in list(self._by_local[local[:3]]):
            self._advance(self._queries[handle], ActiveEvent.REMOVE)

    def tick(self, now: float) -> None:
        """Send again, give up, forget."""
        for query in self._timers.pop_due(now):
            if query.state is ActiveState.ASKING and now - query.asked_at < GIVE_UP_S:
                self._stats.retransmissions += 1
                self._outbox.peer(query.wire, query.path)
                self._timers.set(query, min(now + RESEND_S, query.asked_at + GIVE_UP_S))
            elif query.state is ActiveState.ASKING:
                self._advance(query, ActiveEvent.TIME_UP)
                self._stats.query_timeouts += 1
                self._on_outcome(Outcome(query, None), now)
            else:
                self._advance(query, ActiveEvent.TIME_UP)

    def wake_at(self) -> float | None:
        """When `tick` has something to do."""
        return self._timers.next_due()

    def _new_handle(self) -> int:
        """Random, not 0 (rdma-core cannot match that), not in use."""
        while True:
            handle = int.from_bytes(self._random_bytes(HANDLE_BYTES), "big")
            if handle and handle not in self._queries:
                return handle

    def _find(self, message: WireMessage) -> Query | None:
        """The query an answer belongs to; counted if there is none."""
        query = self._queries.get(message.handle)
        if query is not None:
            local, remote = query.request.local, query.request.remote
            if message.cp[:3] == local[:3] and (message.ap.address == remote.address or message.ap.is_wildcard):
                return query
        self._stats.peer_unsolicited += 1
        return None

    def _advance(self, query: Query, event: ActiveEvent) -> bool:
        """Take the transition; whether the query was closed by it."""
        query.state = advance(ACTIVE, query.state, event)
        if query.state is not ActiveState.CLOSED:
            return False
        query.due = None
        del self._queries[query.handle]
        key = key_of(query.request.local)
        handles = self._by_local[key]
        handles.discard(query.handle)
        if not handles:
            del self._by_local[key]
        return True
