# SPDX-License-Identifier: Apache-2.0
"""The mapping table: which local address is mapped to which, how often it is used, which ports that takes. Engine ring.

Not here: netlink and UDP messages, timers of exchanges, sockets. `PortClaims` says what is needed of the one who holds
the sockets (`claims.py`).

Each operation costs the same however many mappings there are: every question asked of the table has its own index.
Addresses are compared as the kernel does, by family, address and port; a scope id is kept but does not distinguish.

Who may have which address, decided per family:

    there is already            asked for                    result
    nothing on that port        anything                     new mapping
    other specific addresses    a specific address           new mapping
    the same wildcard           the wildcard, to listen      one more reference: one per device, as iw_cm asks
    the same specific address   it, to connect from          one more reference: one per connection
    the same specific address   it, to listen                refused
    a wildcard                  a specific address, or       refused
                                to connect from the port
    a specific address          the wildcard                 refused

A port is claimed on the wildcard address of the family, so that nobody on this host can have it, whatever the address.

The kernel marks an id as mapped *before* it asks, and sends a REMOVE for each marked id, refused ones included. Nothing
in REMOVE tells the two apart. So refusals are counted per address, and a REMOVE pays those first: a listener never
loses its mapping to the end of one that was refused.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr

__all__ = ["Claim", "Kind", "Mapping", "MappingKey", "MappingState", "MappingTable", "PortClaims", "Refusal", "key_of"]


_tuple = tuple.__new__  # cheaper than a named tuple's own constructor, where it counts


class Claim(NamedTuple):
    """A claimed TCP port: `family` is AF_INET or AF_INET6."""

    family: int
    port: int


class PortClaims(Protocol):
    """Who holds TCP ports against the rest of the host. None of this waits: bind(2) has no far end."""

    def claim(self, family: int, port: int) -> Claim | None:
        """Take `port`, or a free one of the ephemeral range for 0; None if it cannot be had. Ours already: success."""

    def release(self, claim: Claim) -> None:
        """Give a port back. Unknown ones are ignored."""

    def retain(self, held: AbstractSet[Claim]) -> None:
        """Give back every port but these."""


MappingKey = tuple[int, int, bytes]
"""What distinguishes mappings: family, port and address of the local address, without its scope id."""


class Kind(enum.IntEnum):
    """What a local address is used for. The kernel's report after a restart does not say."""

    LISTENER = 0
    CONNECTION = 1
    RESTORED = 2


class MappingState(NamedTuple):
    """All that is to be known of one local address after a change, for a record outside this process.

    `refs` 0: there is no mapping (any more); `refused`: refusals not yet paid by a REMOVE. `port_mapped`: a port is, or
    should be, claimed for it.
    """

    local: SockAddr
    mapped: SockAddr
    kind: Kind
    refs: int
    refused: int
    port_mapped: bool


class Refusal(enum.Enum):
    """Why a mapping could not be made."""

    DUPLICATE = "the address is in use by another mapping"
    NO_PORT = "no port could be claimed"
    WILDCARD = "nobody can connect from a wildcard address, or from its port"


class Mapping:
    """One entry. `claim` is None if no port is needed; `claimed` says whether it is really held.

    `refs` counts the kernel's ids; `touched` is the last time one was added or answered.
    """

    __slots__ = ("claim", "claimed", "created", "key", "kind", "local", "mapped", "refs", "touched")

    def __init__(self, local: SockAddr, mapped: SockAddr, kind: Kind, claim: Claim | None, now: float) -> None:
        self.key: MappingKey = local[:3]
        self.local = local
        self.mapped = mapped
        self.kind = kind
        self.claim = claim
        self.claimed = claim is not None
        self.refs = 1
        self.created = now
        self.touched = now


def key_of(address: SockAddr) -> MappingKey:
    """The key of a local address."""
    return address[:3]


class MappingTable:
    """All mappings of this host, with the ports claimed for them."""

    def __init__(self, claims: PortClaims) -> None:
        self._claims = claims
        self._mappings: dict[MappingKey, Mapping] = {}  # in order of creation
        # By family and local port: all that have it, and there a wildcard is alone.
        self._by_port: dict[tuple[int, int], dict[MappingKey, Mapping]] = {}
        self._claim_users: dict[Claim, int] = {}
        self._unclaimed: dict[MappingKey, Mapping] = {}
        self._refused: dict[MappingKey, int] = {}
        self.changed: dict[MappingKey, SockAddr] = {}
        """What `take_changes` will tell of."""

    def inherit(self, claims: PortClaims) -> MappingTable:
        """A table with the same entries for the next instance: the kernel's report may not tell all of them."""
        heir = MappingTable(claims)
        for mapping in list(self._mappings.values()):
            heir._index(mapping)
            if mapping.claim is not None:
                heir._claim_users[mapping.claim] = heir._claim_users.get(mapping.claim, 0) + 1
        heir._unclaimed = dict(self._unclaimed)
        heir._refused = dict(self._refused)
        heir.changed = dict(self.changed)
        return heir

    def load(self, states: Iterable[MappingState], now: float) -> None:
        """Enter what an earlier process has recorded of its table; what contradicts an earlier entry is left out."""
        for state in states:
            key = key_of(state.local)
            if state.refused:
                self._refused[key] = state.refused
            if state.refs and key not in self._mappings and not self._in_the_way(state.local):
                claim = Claim(state.local.family, state.mapped.port) if state.port_mapped else None
                mapping = Mapping(state.local, state.mapped, state.kind, claim, now)
                mapping.touched = float("-inf")  # the kernel has had time to enter what was answered before
                self._enter(mapping, state.refs)

    def states(self) -> list[MappingState]:
        """The whole table, as `load` takes it."""
        found = [self._state(key, mapping.local) for key, mapping in self._mappings.items()]
        refused = [key for key in self._refused if key not in self._mappings]
        return found + [self._state(key, SockAddr(*key)) for key in refused]

    def take_changes(self) -> list[MappingState]:
        """What has become of each address that has changed since the last call."""
        changed, self.changed = self.changed, {}
        return [self._state(key, local) for key, local in changed.items()]

    def _state(self, key: MappingKey, local: SockAddr) -> MappingState:
        mapping = self._mappings.get(key)
        refused = self._refused.get(key, 0) if self._refused else 0
        if mapping is None:
            state = (local, local, Kind.RESTORED, 0, refused, False)
        else:
            state = (local, mapping.mapped, mapping.kind, mapping.refs, refused, mapping.claim is not None)
        return _tuple(MappingState, state)

    def __len__(self) -> int:
        return len(self._mappings)

    def __iter__(self) -> Iterator[Mapping]:
        """All mappings, oldest first."""
        return iter(self._mappings.values())

    def get(self, local: SockAddr) -> Mapping | None:
        """The mapping of exactly this local address."""
        return self._mappings.get(key_of(local))

    def refused(self, local: SockAddr) -> int:
        """How many refusals for this address have not been paid by a REMOVE yet."""
        return self._refused.get(key_of(local), 0)

    @property
    def claims_held(self) -> frozenset[Claim]:
        """The ports that mappings want claimed."""
        return frozenset(self._claim_users)

    @property
    def has_unclaimed(self) -> bool:
        """Whether a port known to the kernel could not be claimed yet."""
        return bool(self._unclaimed)

    def add_listener(self, local: SockAddr, map_port: bool, now: float) -> Mapping | Refusal:
        """Map a listening address; one more reference if it is a wildcard that is there already."""
        if local[:2] in self._by_port:
            existing = self._mappings.get(local[:3])
            if existing is not None and local.is_wildcard:
                return self._reference(existing, now)
            if existing is not None or self._in_the_way(local):
                return self.refuse(local, Refusal.DUPLICATE)
        return self._create(local, map_port, Kind.LISTENER, now)

    def add_connection(self, local: SockAddr, map_port: bool, now: float) -> Mapping | Refusal:
        """Map a connecting address; one more reference if there is such a mapping already."""
        if local.is_wildcard or self._wildcard(local) is not None:
            return self.refuse(local, Refusal.WILDCARD)
        existing = self._mappings.get(key_of(local))
        if existing is not None:
            return self._reference(existing, now)
        return self._create(local, map_port, Kind.CONNECTION, now)

    def refuse(self, local: SockAddr, reason: Refusal) -> Refusal:
        """Note that the kernel will send a REMOVE for an id that has no mapping."""
        key = key_of(local)
        self._refused[key] = self._refused.get(key, 0) + 1
        self.changed[key] = local
        return reason

    def remove(self, local: SockAddr) -> Mapping | None:
        """One of the kernel's ids for this address has ended; the mapping if that was the last one.

        Addresses never heard of are normal and ignored: iw_cm also tells of mappings it made while nobody ran.
        """
        key = key_of(local)
        if key in self._refused:
            self._pay_refusal(key, local)
            return None
        mapping = self._mappings.get(key)
        if mapping is None:
            return None
        mapping.refs -= 1
        if mapping.refs:
            self.changed[key] = mapping.local
            return None
        self.drop(mapping)
        return mapping

    def _pay_refusal(self, key: MappingKey, local: SockAddr) -> None:
        self.changed[key] = local
        left = self._refused.pop(key) - 1
        if left:
            self._refused[key] = left

    def drop(self, mapping: Mapping) -> None:
        """Forget a mapping and give its port back."""
        key = mapping.key
        self.changed[key] = mapping.local
        del self._mappings[key]
        if self._unclaimed:
            self._unclaimed.pop(key, None)
        on_port = self._by_port[key[:2]]
        if len(on_port) == 1:
            del self._by_port[key[:2]]
        else:
            del on_port[key]
        if mapping.claim is not None:
            self._unuse(mapping.claim)

    def restore(self, local: SockAddr, mapped: SockAddr, refs: int, now: float) -> Mapping | None:
        """Enter a mapping from the kernel's report, port included; None if another one is in the way.

        A port that cannot be had does not undo the mapping: the adapter uses it whether we hold it or not. A mapping to
        itself needs no port, with or without NO_PORT_MAP: then nobody mapped it, and the application may well have
        bound, or be about to bind, the same number for plain TCP.
        """
        if self._in_the_way(local):
            return None
        claim = None if mapped.port == local.port else Claim(local.family, mapped.port)
        mapping = Mapping(local, mapped, Kind.RESTORED, claim, now)
        self._enter(mapping, refs)
        self.changed[mapping.key] = local
        return mapping

    def _enter(self, mapping: Mapping, refs: int) -> None:
        mapping.refs = refs
        if mapping.claim is not None and not self._use(mapping.claim):
            mapping.claimed = False
            self._unclaimed[mapping.key] = mapping
        self._index(mapping)

    def set_references(self, mapping: Mapping, refs: int) -> None:
        """What the kernel's report says about the number of ids."""
        if mapping.refs != refs:
            mapping.refs = refs
            self.changed[mapping.key] = mapping.local

    def set_refused(self, refused: dict[MappingKey, int]) -> None:
        """Replace the counts of refusals by what the kernel's report implies."""
        for key in self._refused.keys() | refused.keys():
            if self._refused.get(key) != refused.get(key):
                self.changed[key] = SockAddr(*key)
        self._refused = refused

    def retry_claims(self, limit: int) -> list[Mapping]:
        """Try again to claim ports that were taken, at most `limit` of them; the mappings that got theirs."""
        got = []
        for key in list(self._unclaimed)[:limit]:
            mapping = self._unclaimed.pop(key)
            if mapping.claim is not None and self._claims.claim(*mapping.claim) is not None:
                mapping.claimed = True
                got.append(mapping)
            else:
                self._unclaimed[key] = mapping  # to the end of the queue
        return got

    def give_back_others(self) -> None:
        """Release every claim no mapping wants: what an earlier instance has left."""
        self._claims.retain(self._claim_users.keys())

    def find_listener(self, address: SockAddr) -> Mapping | None:
        """Whom a peer means that wants to connect to `address`: that address, else the wildcard of its port.

        An IPv4 address also finds a listener on [::], since those without IPV6_V6ONLY accept it. Connections are not
        to be found: nobody can connect to them.
        """
        found = self._mappings.get(key_of(address)) or self._wildcard(address)
        if found is None and address.is_wildcard:
            found = next(iter(self._by_port.get(address[:2], {}).values()), None)
        if found is None and address.family == AF_INET:
            found = self._wildcard(address._replace(family=AF_INET6))
        return None if found is None or found.kind is Kind.CONNECTION else found

    def _wildcard(self, address: SockAddr) -> Mapping | None:
        """The mapping of the wildcard address with this family and port."""
        for mapping in self._by_port.get(address[:2], {}).values():
            return mapping if mapping.local.is_wildcard else None
        return None

    def _in_the_way(self, local: SockAddr) -> bool:
        return local[:2] in self._by_port and (local.is_wildcard or self._wildcard(local) is not None)

    def _reference(self, mapping: Mapping, now: float) -> Mapping:
        mapping.refs += 1
        mapping.touched = now
        self.changed[mapping.key] = mapping.local
        return mapping

    def _create(self, local: SockAddr, map_port: bool, kind: Kind, now: float) -> Mapping | Refusal:
        claim = None
        mapped = local
        if map_port:
            claim = self._claims.claim(local.family, 0)
            if claim is not None and claim.port == local.port:
                claim = self._another(claim)
            if claim is None:
                return self.refuse(local, Refusal.NO_PORT)
            self._claim_users[claim] = self._claim_users.get(claim, 0) + 1
            mapped = local.with_port(claim.port)
        mapping = Mapping(local, mapped, kind, claim, now)
        self._index(mapping)
        self.changed[mapping.key] = local
        return mapping

    def _another(self, claim: Claim) -> Claim | None:
        """A port other than the local one: after a restart, mapped to itself means not mapped (see `restore`)."""
        other = self._claims.claim(claim.family, 0)
        self._claims.release(claim)
        return other

    def _index(self, mapping: Mapping) -> None:
        key = mapping.key
        self._mappings[key] = mapping
        on_port = self._by_port.get(key[:2])
        if on_port is None:
            self._by_port[key[:2]] = {key: mapping}
        else:
            on_port[key] = mapping

    def _use(self, claim: Claim) -> bool:
        """Count a user of a claim, and take the port; whether that succeeded."""
        self._claim_users[claim] = self._claim_users.get(claim, 0) + 1
        return self._claims.claim(*claim) is not None

    def _unuse(self, claim: Claim) -> None:
        users = self._claim_users.pop(claim) - 1
        if users:
            self._claim_users[claim] = users
        else:
            self._claims.release(claim)
