# SPDX-License-Identifier: Apache-2.0
"""Being asked: one exchange per REQUEST of a peer that finds a listener. Engine ring.

Not here: finding the listener's entry (`table.py`). The states are in `states.py` (PASSIVE).

Nothing about a REQUEST is authentic, and each new one costs the kernel memory it never gets back unless the connection
really comes (REMOTE_INFO: no limit, no expiry). So:

* a copy of a REQUEST, however late, does not tell the kernel again;
* of one source address only UNCONFIRMED_PER_SOURCE exchanges may wait for their ACK, and UNCONFIRMED_TOTAL of all; what
  is above is ignored, and the peer, if it is one, asks again in a second. Honest peers confirm within milliseconds;
* ACCEPT is repeated only OFFERS times. The peer repeats its REQUEST anyway, and that is answered each time;
* REJECT is sent once per REQUEST, and leaves no state.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rdmactl.iwpm.events import Outbox, Path
from rdmactl.iwpm.states import PASSIVE, PassiveEvent, PassiveState
from rdmactl.iwpm.stats import Stats
from rdmactl.iwpm.table import Mapping, MappingKey, MappingTable
from rdmactl.iwpm.timers import Timers
from rdmactl.iwpm.wire import WireMessage
from rdmactl.netlink.rdma import RDMA_NL_IWPM_REMOTE_INFO, remote_info
from rdmactl.netlink.sockaddr import AF_INET6, SockAddr
from rdmactl.states import advance

__all__ = ["Offer", "PassiveSide"]

RESEND_S = 1.0
"""Between copies of an ACCEPT; as rdma-core's port mapper does."""

OFFERS = 4
"""ACCEPTs sent unasked, the first included (rdma-core: 10). An unverified source gets no more than that."""

REMEMBER_S = 10.0
"""How long after the last sign of the peer copies are recognised: as long as rdma-core repeats a REQUEST."""

UNCONFIRMED_PER_SOURCE = 64
UNCONFIRMED_TOTAL = 1024
"""See the head of the module. 64 in 10 s from one liar cost the kernel 3 KiB/s."""

REMEMBERED_MAX = 8192
"""Confirmed exchanges kept; the oldest goes first. A thousand connections a second fill that in 8 s."""


class OfferKey(NamedTuple):
    """What an exchange is known by: all that an ACK repeats."""

    handle: int
    cp: SockAddr
    mapped_ap: SockAddr


class Offer:
    """One exchange. `source` is the address that counts against the limit."""

    __slots__ = ("due", "expires", "key", "local", "path", "sent", "source", "state", "wire")

    def __init__(self, key: OfferKey, local: MappingKey, wire: bytes, path: Path, expires: float) -> None:
        self.key = key
        self.local = local
        self.wire = wire
        self.path = path
        self.source = path.peer.address
        self.state = PassiveState.OFFERED
        self.sent = 1
        self.expires = expires
        self.due: float | None = None


class PassiveSide:
    """All exchanges with peers that want to connect to us."""

    def __init__(self, table: MappingTable, outbox: Outbox, stats: Stats) -> None:
        self._table = table
        self._outbox = outbox
        self._stats = stats
        self._offers: dict[OfferKey, Offer] = {}
        self._confirmed: OrderedDict[OfferKey, Offer] = OrderedDict()
        self._by_local: dict[MappingKey, set[OfferKey]] = {}
        self._unconfirmed: dict[bytes, int] = {}
        self._timers: Timers[Offer] = Timers()

    def __len__(self) -> int:
        return len(self._offers)

    def requested(self, message: WireMessage, path: Path, now: float) -> None:
        """A REQUEST has come: REMOTE_INFO to the kernel, then ACCEPT to the peer; or REJECT."""
        self._stats.peer_requests += 1
        mapping = self._table.find_listener(message.ap)
        if mapping is None:
            self._stats.peer_rejects += 1
            self._outbox.peer(message.reject().build(), path)
            return
        mapped_ap = message.ap.with_port(mapping.mapped.port)
        if not mapping.local.is_wildcard:
            mapped_ap = mapping.mapped._replace(scope_id=0)
        answer = message.accept(mapped_ap).build()
        key = OfferKey(message.handle, message.cp, mapped_ap)
        known = self._offers.get(key)
        if known is not None:
            known.state = advance(PASSIVE, known.state, PassiveEvent.REQUEST)
            self._stats.retransmissions += 1
            self._outbox.peer(answer, path)
        elif self._has_room(path.peer.address):
            self._tell_kernel(mapping, message, path)
            self._outbox.peer(answer, path)
            self._remember(Offer(key, mapping.key, answer, path, now + REMEMBER_S), now)
        else:
            self._stats.peer_limited += 1

    def confirmed(self, message: WireMessage, now: float) -> None:
        """An ACK has come."""
        offer = self._offers.get(OfferKey(message.handle, message.cp, message.ap))
        if offer is None:
            self._stats.peer_unsolicited += 1
            return
        first = offer.state is PassiveState.OFFERED
        offer.state = advance(PASSIVE, offer.state, PassiveEvent.ACK)
        if first:
            self._release_source(offer)
            offer.expires = now + REMEMBER_S
            self._timers.set(offer, offer.expires)
            self._confirmed[offer.key] = offer
            if len(self._confirmed) > REMEMBERED_MAX:
                self._close(next(iter(self._confirmed.values())), PassiveEvent.TIME_UP)

    def forget(self, local: MappingKey) -> None:
        """The listener has ended: stop offering it."""
        for key in list(self._by_local.get(local, ())):
            self._close(self._offers[key], PassiveEvent.REMOVE)

    def tick(self, now: float) -> None:
        """Send again, forget."""
        for offer in self._timers.pop_due(now):
            if now >= offer.expires:
                self._close(offer, PassiveEvent.TIME_UP)
                continue
            self._stats.retransmissions += 1
            offer.sent += 1
            self._outbox.peer(offer.wire, offer.path)
            self._timers.set(offer, offer.expires if offer.sent >= OFFERS else now + RESEND_S)

    def wake_at(self) -> float | None:
        """When `tick` has something to do."""
        return self._timers.next_due()

    def _has_room(self, source: bytes) -> bool:
        unconfirmed = len(self._offers) - len(self._confirmed)
        return unconfirmed < UNCONFIRMED_TOTAL and self._unconfirmed.get(source, 0) < UNCONFIRMED_PER_SOURCE

    def _tell_kernel(self, mapping: Mapping, message: WireMessage, path: Path) -> None:
        """REMOTE_INFO in the form the kernel will look for when the connection comes."""
        remote, mapped_remote = message.cp, message.mapped_cp or message.cp
        if mapping.local.family == AF_INET6:
            # An IPv6 socket reports an IPv4 peer as ::ffff:a.b.c.d.
            remote, mapped_remote = remote.as_v4_mapped(), mapped_remote.as_v4_mapped()
        scope_id = path.ifindex or path.peer.scope_id
        if remote.is_link_local:
            remote = remote._replace(scope_id=scope_id)
        if mapped_remote.is_link_local:
            mapped_remote = mapped_remote._replace(scope_id=scope_id)
        payload = remote_info(mapping.local, remote, mapping.mapped, mapped_remote)
        self._stats.peer_accepts += 1
        self._outbox.kernel(RDMA_NL_IWPM_REMOTE_INFO, payload)

    def _remember(self, offer: Offer, now: float) -> None:
        self._offers[offer.key] = offer
        self._by_local.setdefault(offer.local, set()).add(offer.key)
        self._unconfirmed[offer.source] = self._unconfirmed.get(offer.source, 0) + 1
        self._timers.set(offer, now + RESEND_S)

    def _release_source(self, offer: Offer) -> None:
        left = self._unconfirmed[offer.source] - 1
        if left:
            self._unconfirmed[offer.source] = left
        else:
            del self._unconfirmed[offer.source]

    def _close(self, offer: Offer, event: PassiveEvent) -> None:
        if offer.state is PassiveState.OFFERED:
            self._release_source(offer)
        offer.state = advance(PASSIVE, offer.state, event)
        offer.due = None
        self._confirmed.pop(offer.key, None)
        del self._offers[offer.key]
        keys = self._by_local[offer.local]
        keys.discard(offer.key)
        if not keys:
            del self._by_local[offer.local]
