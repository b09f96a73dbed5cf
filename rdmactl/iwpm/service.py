# SPDX-License-Identifier: Apache-2.0
"""The port mapper as a service under the dispatcher: gives the engine its sockets, its clock and its voice. Shell ring.

Not here: any decision about mappings (`mapper.py` and what it joins). One instance lives for one `run`; what must live
longer, claimed ports and the table that goes with them, belongs to the `ClaimKeeper` handed in.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from rdmactl.errors import KernelError, LocalError, RdmactlError
from rdmactl.iwpm.addresses import AddressWatch, RdmaAddresses
from rdmactl.iwpm.claims import ClaimKeeper
from rdmactl.iwpm.conf import MapperConfig
from rdmactl.iwpm.events import (
    Datagram,
    Input,
    KernelReply,
    Level,
    Notice,
    Overrun,
    Stalled,
    ToKernel,
    ToPeer,
    Unreachable,
)
from rdmactl.iwpm.limits import PeerLimits
from rdmactl.iwpm.mapper import PortMapper
from rdmactl.iwpm.selftest import Check, Result, claim_check, peer_check, unmapped_listeners, unmapped_text
from rdmactl.iwpm.settings import MapperSettings
from rdmactl.iwpm.states import LinkState
from rdmactl.iwpm.stats import ANSWER_TIME_BOUNDS_S
from rdmactl.iwpm.udp import UdpDoors
from rdmactl.iwpm.view import Snapshot, dump_lines
from rdmactl.iwpm.wire import IWPM_PORT
from rdmactl.netlink.nldev import CmId
from rdmactl.netlink.ports import Channel, ChannelSpec, Lane, Received, Reply
from rdmactl.netlink.rdma import NETLINK_RDMA, RDMA_NL_GROUP_IWPM, RDMA_NL_IWCM, op_of
from rdmactl.netlink.sockaddr import address_text
from rdmactl.rdmacm.devices import read_iwarp_ids

__all__ = ["PortMapperService", "PortMapperStatus", "in_initial_netns"]

_log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""How often the loop shows that it runs, so that a pause can be told from a quiet hour."""

STALL_S = 5.0
"""A pause this long means that requests may have been given up: half of what the kernel waits."""

ADDRESSES_S = 3.0
"""How long READY waits for the kernel to say which addresses are to be served; it answers in milliseconds."""

RELEASE_S = 0.05
"""Until whoever keeps sockets for us (`vault.py`) hears of released ones; several are then one datagram."""

RELEASE_BATCH = 16
"""So many released ports do not wait for that: nobody waits for a release, but somebody might for the next answer."""

READ_S = 6.0
"""For the kernel's list of devices and connection manager ids: milliseconds, usually."""

UNMAPPED_FIRST_S = 3.0
UNMAPPED_S = 60.0
"""How often that list is looked at: soon after the start and after a change, then once a minute."""
UNMAPPED_SHARE = 100
"""With so many ids that a look takes long, only this fraction of the time is spent on it."""

REPEAT_S = 60.0
"""A fault that goes on is logged this often at most; the counters have all of it."""

_NOT_PROCESSED = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR})

_WATCHED = {
    "peer_malformed": "datagrams that are no port mapper messages, dropped",
    "peer_dropped": "datagrams dropped by the kernel: no port mapper messages, or too many at once",
    "peer_denied": "datagrams dropped of peers that are not allowed, or sent too many",
    "peer_limited": "requests of peers ignored, because too many others are open and unconfirmed",
    "foreign": "netlink messages ignored that did not come from the kernel",
    "overruns": "times messages from the kernel were lost; its mappings are asked for. See nl_sock_rbuf_size, iwpmd(8)",
    "kernel_malformed": "messages from the kernel not understood",
    "kernel_refused": "answers refused by the kernel; whoever waited for them goes on unmapped",
    "too_late": "requests of the kernel left unanswered, because the answer would have come too late",
}
"""Counters whose rise is worth a line."""


class PortMapperStatus(NamedTuple):
    """How the port mapper is doing.

    `answer_times` pairs an upper bound in seconds with the number of answers that took at most that (and more than the
    bound before it); the last bound is None, for the rest.
    """

    state: str
    registered: bool
    abi_version: int
    mappings: int
    claims: int
    queries_open: int
    offers_open: int
    counters: dict[str, int]
    answer_times: list[tuple[float | None, int]]
    unmapped: tuple[str, ...] = ()
    """Listeners on iWARP devices that the kernel runs without a mapping; as of the last look."""


class PortMapperService:
    """Implements `ports.Service`. `claims` is the process's keeper of ports; `udp_port` is for tests.

    Without `settings` UDP is served on all addresses.

    Its life ends with Unavailable when the UDP port is taken.
    """

    def __init__(
        self,
        config: MapperConfig | None = None,
        claims: ClaimKeeper | None = None,
        *,
        settings: MapperSettings | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        udp_port: int = IWPM_PORT,
    ) -> None:
        self._config = MapperConfig() if config is None else config
        self._keeper = ClaimKeeper() if claims is None else claims
        self._lease = lease = self._keeper.lease()
        earlier = self._keeper.table
        recorded = self._keeper.recorded() if earlier is None else []
        self._mapper = PortMapper(
            lease, random_bytes, None if earlier is None else earlier.inherit(lease), peer_port=udp_port
        )
        if recorded:
            self._mapper.remember(recorded, time.monotonic())
        # Now, not when it runs: should this instance fail before, the next one inherits what was recorded.
        self._keeper.table = self._mapper.table
        self._settings = MapperSettings(listen="any") if settings is None else settings
        self._limits = PeerLimits(self._settings.peers, self._settings.peer_rate)
        self._udp = UdpDoors(self._from_peer, port=udp_port, admit=self._admit, watch=self._watch_socket)
        self._addresses: AddressWatch | None = None
        self._addresses_due: float | None = None  # until when READY waits for the addresses
        self._kernel_agrees = False
        self._lane: Lane | None = None
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._release_timer: asyncio.TimerHandle | None = None
        self._alive_at = 0.0
        self._watch = _Watch()
        self._unmapped: list[CmId] = []
        self._looking: asyncio.Task[None] | None = None

    # The service.

    async def run(self, lane: Lane) -> None:
        """Serve until cancelled."""
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._alive_at = lane.now()
        self._udp.open(everywhere=self._settings.listen == "any")
        try:
            self._channel = lane.open(self._channel_spec(), self)
            self._follow_addresses(lane)
            self._lease.rewrite(self._mapper.table)
            self._lease.prepare()
            self._mapper.start(lane.now())
            self._carry_out()
            self._looking = asyncio.create_task(self._look_for_unmapped())
            await self._beat(lane)
        finally:
            if self._looking is not None:
                self._looking.cancel()
            self._udp.close()
            if self._addresses is not None:
                self._addresses.close()
            for timer in (self._timer, self._release_timer):
                if timer is not None:
                    timer.cancel()
            self._lease.give_back_spares()
            if self._channel is not None:
                self._channel.close()

    def _channel_spec(self) -> ChannelSpec:
        return ChannelSpec(
            NETLINK_RDMA,
            groups=(RDMA_NL_GROUP_IWPM,),
            clients=(RDMA_NL_IWCM,),
            receive_buffer_bytes=self._config.receive_buffer_bytes,
        )

    async def _beat(self, lane: Lane) -> None:
        while True:
            self._set_timer()
            await asyncio.sleep(HEARTBEAT_S)
            now = lane.now()
            self._notice_stall(now)
            self._finish()
            self._lease.tidy(self._mapper.table)
            self._look_after_peers(now)
            self._watch.look(self._counters(), now)

    # The doors to the peers.

    def _follow_addresses(self, lane: Lane) -> None:
        if self._settings.listen != "any" and self._loop is not None:
            self._addresses_due = lane.now() + ADDRESSES_S
            self._addresses = AddressWatch(self._addresses_known, self._loop.call_later)
            self._addresses.open(lane)

    def _addresses_known(self, found: RdmaAddresses) -> None:
        """Called when it is known which addresses to serve, and whenever that has changed."""
        if found.hidden and self._settings.listen == "auto":
            _log.info("serving peers on all addresses: those of device %s cannot be seen", ", ".join(found.hidden))
            self._udp.listen_on(None)
        else:
            texts = sorted(address_text(address.address) for address in found.addresses)
            _log.info("serving peers on %s", ", ".join(texts) or "no address yet: no iWARP device has one")
            self._udp.listen_on(found.addresses)
        self._addresses_due = None
        self._tell_ready()

    def _tell_ready(self) -> None:
        if self._kernel_agrees and self._addresses_due is None and self._lane is not None:
            self._kernel_agrees = False
            self._lane.ready()

    def _look_after_peers(self, now: float) -> None:
        """Once a second."""
        self._mapper.stats.peer_dropped = self._udp.dropped
        if self._addresses is not None:
            self._addresses.tick(now)
            if self._addresses_due is not None and now > self._addresses_due:
                _log.warning("the kernel does not say which addresses its RDMA devices have")
                self._addresses_due = None
                self._tell_ready()

    def _admit(self, source: str) -> bool:
        if self._limits.admit(source, self._now()):
            return True
        self._mapper.stats.peer_denied += 1
        return False

    def _watch_socket(self, sock: socket.socket, readable: Callable[[], None] | None) -> None:
        if self._loop is None:
            return
        if readable is None:
            self._loop.remove_reader(sock)
        else:
            self._loop.add_reader(sock, readable)

    # What others ask, in this lane.

    async def snapshot(self) -> Snapshot:
        """All mappings; to make them readable is the caller's work, because the kernel may be waiting for this loop."""
        return Snapshot(list(self._mapper.table), self._now())

    async def dump(self) -> list[str]:
        """The lines of SIGUSR1."""
        return dump_lines(self._mapper.table)

    async def status(self) -> PortMapperStatus:
        """How it is doing."""
        mapper = self._mapper
        queries, offers = mapper.exchanges
        bounds: tuple[float | None, ...] = (*ANSWER_TIME_BOUNDS_S, None)
        return PortMapperStatus(
            state=mapper.link.state.value,
            registered=mapper.link.registered,
            abi_version=mapper.link.version,
            mappings=len(mapper.table),
            claims=self._keeper.held,
            queries_open=queries,
            offers_open=offers,
            counters=self._counters(),
            answer_times=list(zip(bounds, mapper.stats.answer_times.counts, strict=True)),
            unmapped=tuple(f"{item.local} on {item.device} ({item.owner})" for item in self._unmapped),
        )

    async def selftest(self) -> list[Check]:
        """Look whether all is there that is needed; disturbs nothing."""
        checks = [self._kernel_check(), claim_check()]
        checks += await asyncio.gather(*(peer_check(address, address.port) for address in self._udp.listening))
        if not self._udp.listening:
            checks.append(Check("udp", Result.WARNING, "no address is served: no iWARP device has one"))
        return checks + await self._device_checks()

    def _kernel_check(self) -> Check:
        link = self._mapper.link
        if link.state not in (LinkState.SERVING, LinkState.CHECKING):
            return Check("kernel", Result.FAILED, f"iw_cm does not take this port mapper: {link.state.value}")
        if not link.registered:
            text = f"greeted, ABI version {link.version}; iw_cm registers a port mapper when a device first needs it"
            return Check("kernel", Result.OK, text)
        return Check("kernel", Result.OK, f"registered, ABI version {link.version}")

    async def _device_checks(self) -> list[Check]:
        """Which iWARP devices there are, and whether their listeners are mapped."""
        if self._lane is None:
            raise LocalError("the port mapper has not been started")
        try:
            devices, ids = await self._lane.blocking(read_iwarp_ids, deadline_s=READ_S)
        except RdmactlError as error:
            return [Check("devices", Result.WARNING, error.message)]
        if not devices:
            return [Check("devices", Result.WARNING, "there is no iWARP device: nothing to map")]
        checks = [Check("devices", Result.OK, ", ".join(devices))]
        self._unmapped = unmapped_listeners(self._mapper.table, ids)
        if not self._unmapped:
            return [*checks, Check("listeners", Result.OK, f"{sum(item.listens for item in ids)}, all mapped")]
        return [*checks, Check("listeners", Result.WARNING, unmapped_text(self._unmapped))]

    async def _look_for_unmapped(self) -> None:
        """A listener made while nobody was registered stays unmapped, and nothing else would say so.

        It may also mean that the kernel has given us up without a word, as it does when a REMOVE does not fit into our
        socket. Asking for its mappings tells it of us again, and us what we have missed.
        """
        told: list[CmId] = []
        while True:
            await asyncio.sleep(UNMAPPED_FIRST_S)
            before, started_s = self._unmapped, self._now()
            await self._device_checks()
            took_s = self._now() - started_s
            # Seen twice: one that is being made is in the kernel's list before it is in our table.
            lasting = [item for item in self._unmapped if item in before]
            if lasting and lasting != told:
                _log.warning("%s", unmapped_text(lasting))
                self._mapper.link.check(self._now())
                self._finish()
            told = lasting
            if before == self._unmapped:
                await asyncio.sleep(max(UNMAPPED_S, took_s * UNMAPPED_SHARE))

    def _counters(self) -> dict[str, int]:
        stats = self._mapper.stats
        if self._channel is not None:
            stats.foreign = self._channel.counters.foreign  # the channel keeps them away from the engine
        return stats.counters()

    # From the channel (`ports.ChannelHandler`).

    def received(self, received: Received, now: float) -> None:
        """A message of the kernel."""
        if now - self._alive_at > STALL_S:
            self._notice_stall(now)
        self._mapper.receive(received[0], now)
        self._carry_out()
        self._lease.refill()

    def replied(self, reply: Reply, now: float) -> None:
        """The kernel's result for something sent."""
        request = reply.request
        asked_at = reply.context if isinstance(reply.context, float) else None
        self._mapper.receive(KernelReply(op_of(request.type), request.payload, reply.code, asked_at), now)
        self._carry_out()

    def overrun(self, now: float) -> None:
        """Messages of the kernel were lost."""
        self._feed(Overrun(), now)

    def drained(self, now: float) -> None:
        """The end of a batch."""
        self._lease.refill()
        if self._lease.unfinished > RELEASE_BATCH:
            self._lease.flush()
        elif self._lease.unfinished and self._release_timer is None and self._loop is not None:
            self._release_timer = self._loop.call_later(RELEASE_S, self._release)
        self._finish()

    def _release(self) -> None:
        self._release_timer = None
        self._lease.flush()

    # From the peers.

    def _from_peer(self, event: Datagram | Unreachable) -> None:
        now = self._now()
        if now - self._alive_at > STALL_S:
            self._notice_stall(now)
        malformed = self._mapper.stats.peer_malformed
        self._feed(event, now)
        if isinstance(event, Datagram) and self._mapper.stats.peer_malformed > malformed:
            self._watch.last_source = str(event.path.peer)

    # Inside.

    def _now(self) -> float:
        if self._lane is None:
            raise LocalError("the port mapper has not been started")
        return self._lane.now()

    def _feed(self, event: Input, now: float) -> None:
        self._mapper.receive(event, now)
        self._finish()

    def _finish(self) -> None:
        """What is to be done for any event, or batch of them; changes nobody is told of (REMOVE) are recorded last."""
        self._carry_out()
        if self._mapper.table.changed:
            self._lease.record(self._mapper.table)
        self._set_timer()

    def _notice_stall(self, now: float) -> None:
        """Called by all that shows that this process runs."""
        gap_s = now - self._alive_at
        self._alive_at = now
        if gap_s > STALL_S:
            self._mapper.receive(Stalled(gap_s), now)

    def _carry_out(self) -> None:
        """Do what the engine wants done, in its order; what fails at once is told to it, and may bring more."""
        take_output, table = self._mapper.take_output, self._mapper.table
        while outputs := take_output():
            if table.changed:
                self._lease.record(table)  # before anybody is told of it
            for output in outputs:
                if isinstance(output, ToKernel):
                    self._send_to_kernel(output)
                elif isinstance(output, ToPeer):
                    self._udp.send(output.data, output.path)
                elif isinstance(output, Notice):
                    _log.log(logging.WARNING if output.level is Level.WARNING else logging.INFO, "%s", output.text)
                else:
                    self._kernel_agrees = True
                    self._tell_ready()

    def _send_to_kernel(self, output: ToKernel) -> None:
        channel, lane = self._channel, self._lane
        if channel is None or lane is None:
            raise LocalError("the port mapper has not been started")
        type_, payload, asked_at = output
        try:
            channel.send(type_, payload, only_failure=asked_at is not None, context=asked_at)
        except KernelError as error:
            code = errno.EBUSY if error.errno in _NOT_PROCESSED else error.errno
            self._mapper.receive(KernelReply(op_of(type_), payload, -code, asked_at), lane.now())
            return
        if asked_at is not None:
            self._mapper.stats.answer_times.add(lane.now() - asked_at)

    def _set_timer(self) -> None:
        """Have `_tick` called when the engine wants it."""
        wake_at = self._mapper.wake_at()
        if self._loop is None or wake_at is None:
            return
        if self._timer is not None:
            if self._timer.when() <= wake_at and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(wake_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._now()
        if now - self._alive_at > STALL_S:
            self._notice_stall(now)
        self._mapper.tick(now)
        self._finish()


class _Watch:
    """Logs that a counter has risen: the first time within a second, then at most once in REPEAT_S."""

    def __init__(self) -> None:
        self.last_source = ""
        self._seen = dict.fromkeys(_WATCHED, 0)
        self._silent_until = dict.fromkeys(_WATCHED, 0.0)

    def look(self, counters: dict[str, int], now: float) -> None:
        for name, text in _WATCHED.items():
            risen = counters[name] - self._seen[name]
            if risen and now >= self._silent_until[name]:
                source = f"; last from {self.last_source}" if name == "peer_malformed" and self.last_source else ""
                _log.warning("%d %s%s", risen, text, source)
                self._seen[name] = counters[name]
                self._silent_until[name] = now + REPEAT_S


def in_initial_netns() -> bool | None:
    """Whether this process is in the initial network namespace; None if that cannot be told.

    The kernel's port mapper client answers nobody else. Process 1 of the host is taken to be in it, and looking at it
    needs root.
    """
    try:
        own, first = os.stat("/proc/self/ns/net"), os.stat("/proc/1/ns/net")
    except OSError:
        return None
    return (own.st_dev, own.st_ino) == (first.st_dev, first.st_ino)
