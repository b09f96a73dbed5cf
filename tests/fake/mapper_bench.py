# SPDX-License-Identifier: Apache-2.0
"""A bench for the port mapper's engine: claims in memory, a clock by hand, and short words for what happens."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from itertools import count

from rdmactl.iwpm.events import (
    Datagram,
    Door,
    KernelReply,
    Notice,
    Output,
    Overrun,
    Path,
    Ready,
    Stalled,
    ToKernel,
    ToPeer,
    Unreachable,
)
from rdmactl.iwpm.mapper import PortMapper
from rdmactl.iwpm.table import Claim
from rdmactl.iwpm.wire import IWPM_PORT, WireMessage, parse
from rdmactl.netlink.message import attributes, split
from rdmactl.netlink.rdma import RDMA_NL_IWPM_HELLO, RDMA_NL_IWPM_MAPINFO, op_of
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake import iwcm_messages as say

__all__ = ["Bench", "FakeClaims", "KernelAnswer", "addr", "handles"]

FIRST_PORT = 40000


def addr(text: str) -> SockAddr:
    return SockAddr.parse(text)


class FakeClaims:
    """Ports in memory. `taken` are somebody else's; `next_ports` are handed out before the counter; `full` refuses."""

    def __init__(self) -> None:
        self.held: set[Claim] = set()
        self.taken: set[Claim] = set()
        self.next_ports: list[int] = []
        self.full = False
        self._ports = count(FIRST_PORT)

    def claim(self, family: int, port: int) -> Claim | None:
        if port == 0:
            if self.full:
                return None
            port = self.next_ports.pop(0) if self.next_ports else next(self._ports)
        elif Claim(family, port) in self.taken:
            return None
        self.held.add(Claim(family, port))
        return Claim(family, port)

    def release(self, claim: Claim) -> None:
        self.held.discard(claim)

    def retain(self, held: AbstractSet[Claim]) -> None:
        self.held &= held


def handles(*given: int) -> Callable[[int], bytes]:
    """random_bytes that gives these handles first, then 1, 2, 3..."""
    queue = list(given)
    rest = count(1)

    def random_bytes(size: int) -> bytes:
        return (queue.pop(0) if queue else next(rest)).to_bytes(size, "big")

    return random_bytes


class KernelAnswer:
    """A message to the kernel, taken apart."""

    def __init__(self, output: ToKernel) -> None:
        self.op = op_of(output.type)
        self.payload = output.payload
        self.attributes = dict(attributes(output.payload))

    @property
    def seq(self) -> int:
        return int.from_bytes(self.attributes[1], "little")

    def number(self, type: int) -> int:
        return int.from_bytes(self.attributes[type], "little")

    def address(self, type: int) -> SockAddr:
        address = SockAddr.unpack(self.attributes[type])
        assert address is not None
        return address


class Bench:
    """A PortMapper with its surroundings; `started` brings it to normal service."""

    def __init__(self, *given_handles: int, claims: FakeClaims | None = None) -> None:
        self.claims = claims or FakeClaims()
        self.mapper = PortMapper(self.claims, handles(*given_handles))
        self.now = 100.0
        self.kernel: list[KernelAnswer] = []
        self.peers: list[tuple[WireMessage, Path]] = []
        self.datagrams: list[bytes] = []
        self.notices: list[str] = []
        self.ready = 0
        self.order: list[Output] = []
        self._seq = count(1)

    @classmethod
    def started(cls, *given_handles: int, claims: FakeClaims | None = None) -> Bench:
        bench = cls(*given_handles, claims=claims)
        bench.start()
        bench.kernel_says(say.hello(next(bench._seq), 4))
        bench.reply(RDMA_NL_IWPM_HELLO)
        bench.reply(RDMA_NL_IWPM_MAPINFO)
        bench.kernel_says(say.reg_pid(next(bench._seq), "eth1", "siw0"))
        assert bench.ready == 1
        bench.clear()
        return bench

    def start(self) -> None:
        self.mapper.start(self.now)
        self._collect()

    def clear(self) -> None:
        self.kernel.clear()
        self.peers.clear()
        self.datagrams.clear()
        self.notices.clear()
        self.order.clear()

    def seq(self) -> int:
        return next(self._seq)

    def _collect(self) -> None:
        for output in self.mapper.take_output():
            self.order.append(output)
            if isinstance(output, ToKernel):
                self.kernel.append(KernelAnswer(output))
            elif isinstance(output, ToPeer):
                self.peers.append((parse(output.data), output.path))
                self.datagrams.append(output.data)
            elif isinstance(output, Notice):
                self.notices.append(output.text)
            elif isinstance(output, Ready):
                self.ready += 1

    def kernel_says(self, datagram: bytes) -> None:
        for message in split(datagram):
            self.mapper.receive(message, self.now)
        self._collect()

    def reply(self, op: int, code: int = 0, payload: bytes | None = None) -> None:
        """The kernel's result for the newest message with this operation; with `payload` given, of unknown age."""
        asked_at = None
        if payload is None:
            sent = [item for item in self.order if isinstance(item, ToKernel) and op_of(item.type) == op]
            payload, asked_at = (sent[-1].payload, sent[-1].asked_at) if sent else (b"", None)
        self.mapper.receive(KernelReply(op, payload, code, asked_at), self.now)
        self._collect()

    def overrun(self) -> None:
        self.mapper.receive(Overrun(), self.now)
        self._collect()

    def stalled(self, gap_s: float) -> None:
        self.now += gap_s
        self.mapper.receive(Stalled(gap_s), self.now)
        self._collect()

    def peer_says(
        self, data: bytes, source: str, *, door: Door = Door.SERVER, local: bytes = b"", ifindex: int = 0
    ) -> None:
        self.mapper.receive(Datagram(data, Path(door, addr(source), local, ifindex)), self.now)
        self._collect()

    def answered(self, message: WireMessage, source: str | None = None) -> None:
        """An answer of a peer's port mapper reaches our client socket."""
        self.peer_says(message.build(), source or str(message.ap.with_port(IWPM_PORT)), door=Door.CLIENT)

    def unreachable(self, quoted: bytes, peer: str) -> None:
        self.mapper.receive(Unreachable(quoted, addr(peer)), self.now)
        self._collect()

    def sleep(self, seconds: float) -> None:
        """Let time pass as a good event loop would: tick exactly when asked to."""
        end = self.now + seconds
        while (wake := self.mapper.wake_at()) is not None and wake <= end:
            self.now = max(self.now, wake)
            self.mapper.tick(self.now)
            self._collect()
        self.now = end

    # Short forms.

    def add(self, local: str, flags: int | None = 0) -> KernelAnswer:
        """The kernel asks to map a listener; its one answer."""
        return self.ask(say.add_mapping(self.seq(), addr(local), flags))

    def ask(self, datagram: bytes) -> KernelAnswer:
        before = len(self.kernel)
        self.kernel_says(datagram)
        (answer,) = self.kernel[before:]
        return answer

    def query(self, local: str, remote: str, flags: int | None = 0) -> int:
        seq = self.seq()
        self.kernel_says(say.query_mapping(seq, addr(local), addr(remote), flags))
        return seq

    def remove(self, local: str) -> None:
        self.kernel_says(say.remove_mapping(self.seq(), addr(local)))

    def report(self, *records: tuple[str, str, int], complete: bool = True) -> None:
        """The kernel's report, as the answer to the MAPINFO request that is outstanding."""
        for local, mapped, flags in records:
            self.kernel_says(say.mapinfo(addr(local), addr(mapped), flags))
        if records and complete:
            self.kernel_says(say.mapinfo_num(self.seq(), len(records)))
        self.reply(RDMA_NL_IWPM_MAPINFO, 0 if complete else -12)

    def table(self) -> dict[str, tuple[str, int]]:
        return {str(item.local): (str(item.mapped), item.refs) for item in self.mapper.table}
