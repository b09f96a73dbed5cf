# SPDX-License-Identifier: Apache-2.0
"""Transcripts of rdma-core's iwpmd against Linux 6.12, replayed: what came in comes in, what went out must come out.

Left out of the comparison everywhere: nlmsg_seq and nlmsg_pid (the channel's business), bytes 4 to 15 of IPv4 address
fields in datagrams and everything behind the address in the last address of an answered query (uninitialised memory of
that daemon; ours are zero). Other differences are deliberate, and have their own line in DIFFERENCES or test here.
"""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path as FilePath

import pytest

from rdmactl.iwpm.events import Datagram, Door, KernelReply, Output, Path, ToKernel, ToPeer
from rdmactl.iwpm.mapper import PortMapper
from rdmactl.iwpm.wire import parse
from rdmactl.netlink.message import NLMSG_DONE, NLMSG_ERROR, reply_code, split
from rdmactl.netlink.rdma import RDMA_NL_IWPM_HELLO, RDMA_NL_IWPM_MAPINFO, client_of, iwcm_type, op_of
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake import iwcm_messages as say
from tests.fake.mapper_bench import FakeClaims, handles

DATA = FilePath(__file__).parents[2] / "data" / "iwpm"
Entry = dict[str, str]

FRESH = ("start_no_mappings", "restart_")
"""Transcripts that begin with HELLO; the others find a daemon that serves."""

BEFORE: dict[str, tuple[tuple[str, str, int], ...]] = {
    "abi3_connect_loopback_mapped": (("10.9.0.1:7174", "10.9.0.1:50841", 0),),
    "connect_loopback_ipv4_mapped": (("10.9.0.1:7174", "10.9.0.1:54997", 0),),
    "connect_loopback_ipv4_nomap": (("10.9.0.1:7174", "10.9.0.1:7174", 1),),
    "connect_loopback_ipv6_mapped": (("[fd09::1]:7175", "[fd09::1]:41095", 0),),
    "connect_loopback_ipv6_nomap": (("[fd09::1]:7175", "[fd09::1]:7175", 1),),
    "connect_loopback_wildcard_mapped": (("0.0.0.0:7176", "0.0.0.0:35647", 0),),
    "connect_loopback_wildcard_nomap": (("0.0.0.0:7176", "0.0.0.0:7176", 1),),
    "connect_passive_mapped": (("10.9.0.2:7174", "10.9.0.2:42325", 0),),
    "connect_passive_nomap": (("10.9.0.2:7174", "10.9.0.2:7174", 1),),
    "retransmit_passive_mapped": (("10.9.0.2:7174", "10.9.0.2:42325", 0),),
    "reregister_after_restart_mapped": (("10.9.0.1:7174", "10.9.0.1:54413", 0),),
    "unlisten_mapped": (("10.9.0.2:7174", "10.9.0.2:42325", 0),),
    "disconnect_active_mapped": (("10.9.0.1:51453", "10.9.0.1:37899", 0),),
}
"""What the daemon had mapped before the transcript begins, as the kernel would report it."""

PLAIN = sorted(
    path.stem
    for path in DATA.glob("*.json")
    if not path.stem.startswith(("no_answer", "start_outside", "abi3_start", "abi3_restart", "restart_reclaim"))
)


def load(name: str) -> list[Entry]:
    entries: list[Entry] = json.loads((DATA / f"{name}.json").read_text())
    return entries


def comparable_datagram(data: bytes) -> bytes:
    return parse(data).build()


def comparable_answer(payload: bytes, op: int) -> bytes:
    """A QUERY answer without the garbage behind the mapped remote address (attribute 5, data at 428)."""
    if op != 2:
        return payload
    start = 8 + 3 * 132 + 4
    remote = SockAddr.unpack(payload[start : start + 128])
    assert remote is not None
    return payload[:start] + remote._replace(scope_id=0).pack() + payload[start + 128 :]


class Replay:
    """An engine driven by a transcript."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries = load(name)
        claims = FakeClaims()
        # Ports come in the order in which the daemon announced them; a refused claim ends them.
        claims.next_ports = self._mapped_ports()
        text = " ".join(entry["note"] for entry in self.entries if entry["note"].startswith("sent to"))
        asked = re.findall(r"REQUEST .*? assoc=0x([0-9a-f]+)", text)
        self.claims = claims
        self.mapper = PortMapper(claims, handles(*dict.fromkeys(int(handle, 16) for handle in asked)))
        self.now = 100.0
        self.outputs: list[Output] = []
        self.sent: dict[int, tuple[int, bytes]] = {}
        self.version = 3 if name.startswith("abi3") else 4
        self.mapper.start(self.now)
        self.outputs += self.mapper.take_output()
        if not name.startswith(FRESH):
            self._bring_up()

    def _mapped_ports(self) -> list[int]:
        found = []
        for entry in self.entries:
            if "FLAGS=1" in entry["note"] or "_nomap" in self.name:
                return []
            reply = re.search(r"ADD_MAPPING reply .*MAPPED=\S+:(\d+) ", entry["note"])
            request = re.search(r"sent to .*REQUEST .*mapped_cp=\S+?:(\d+) \(", entry["note"])
            for match in (reply, request):
                if match and int(match[1]) not in found:
                    found.append(int(match[1]))
        return found

    def _bring_up(self) -> None:
        seq = count(1)
        self.kernel(say.hello(next(seq), self.version))
        records = BEFORE.get(self.name, ())
        for local, mapped, flags in records:
            shown = None if self.version == 3 else flags
            self.kernel(say.mapinfo(SockAddr.parse(local), SockAddr.parse(mapped), shown))
        if records:
            self.kernel(say.mapinfo_num(next(seq), len(records)))
        self.mapper.receive(KernelReply(RDMA_NL_IWPM_MAPINFO, b"", 0), self.now)
        self.now += 60
        self.outputs.clear()
        self.mapper.take_output()

    def kernel(self, datagram: bytes) -> None:
        for message in split(datagram):
            code = reply_code(message)
            if message.type in (NLMSG_DONE, NLMSG_ERROR):
                if code is not None and message.seq in self.sent:
                    op, payload = self.sent[message.seq]
                    self.mapper.receive(KernelReply(op, payload, code), self.now)
            else:
                self.mapper.receive(message, self.now)
        self.outputs += self.mapper.take_output()

    def udp_in(self, data: bytes, note: str) -> None:
        source = re.match(r"received from (\S+): ", note)
        assert source
        message = parse(data)
        door = Door.CLIENT if message.type in (1, 3) else Door.SERVER
        self.mapper.receive(Datagram(data, Path(door, SockAddr.parse(source[1]))), self.now)
        self.outputs += self.mapper.take_output()

    def _next(self, kind: type) -> Output:
        """The next output of a kind. REMOTE_INFO and ACCEPT come in either order from rdma-core's two threads."""
        for index, output in enumerate(self.outputs):
            if isinstance(output, kind):
                return self.outputs.pop(index)
        # Nothing yet: then it is a retransmission.
        wake = self.mapper.wake_at()
        assert wake is not None
        assert wake < self.now + 2
        self.now = wake
        self.mapper.tick(wake)
        self.outputs += self.mapper.take_output()
        return self._next(kind)

    def to_kernel(self, recorded: bytes) -> None:
        (message,) = split(recorded)
        if client_of(message.type) != 2:
            return  # kernels with a client of its own for each driver ended with 4.5
        output = self._next(ToKernel)
        assert isinstance(output, ToKernel)
        assert output.type == message.type
        op = op_of(message.type)
        assert comparable_answer(output.payload, op) == comparable_answer(message.payload, op)
        self.sent[message.seq] = (op, output.payload)

    def to_peer(self, recorded: bytes, note: str) -> None:
        output = self._next(ToPeer)
        assert isinstance(output, ToPeer)
        assert output.data == comparable_datagram(recorded)
        assert note.startswith(f"sent to {output.path.peer}: ")

    def step(self, entry: Entry) -> None:
        data, note = bytes.fromhex(entry["hex"]), entry["note"]
        if entry["dir"] == "kernel->daemon":
            self.kernel(data)
        elif entry["dir"] == "daemon->kernel":
            self.to_kernel(data)
        elif note.startswith("received"):
            self.udp_in(data, note)
        else:
            self.to_peer(data, note)

    def left(self) -> list[Output]:
        return [output for output in self.outputs if isinstance(output, ToKernel | ToPeer)]


@pytest.mark.parametrize("name", PLAIN)
def test_replay(name: str) -> None:
    replay = Replay(name)
    for entry in replay.entries:
        if name == "claim_fails_handle_err_mapped" and not replay.claims.next_ports:
            replay.claims.full = True
        replay.step(entry)
    assert replay.left() == []


def test_replay_no_answer() -> None:
    """Differs: nine REQUESTs, then the kernel gets its reject after 8.5 s; rdma-core sends ten and says nothing."""
    for name in ("no_answer_active_mapped", "no_answer_active_nomap"):
        replay = Replay(name)
        query, *requests, remove = replay.entries
        assert len(requests) == 10
        replay.step(query)
        started = replay.now
        for entry in requests[:9]:
            replay.step(entry)
        assert replay.now == started + 8
        answer = replay._next(ToKernel)
        assert isinstance(answer, ToKernel)
        assert answer.type == iwcm_type(2)
        assert answer.payload.endswith(bytes.fromhex("06000600" + "10000000"))
        assert replay.now == started + 8.5
        replay.step(remove)
        assert replay.left() == []


def test_replay_outside_the_initial_netns() -> None:
    """Differs: one MAPINFO request, not two rounds to clients 2 and 3; and HELLO is offered again later."""
    replay = Replay("start_no_mappings")
    hello = replay._next(ToKernel)
    replay.mapper.receive(KernelReply(RDMA_NL_IWPM_HELLO, b"", -22), replay.now)
    replay.outputs += replay.mapper.take_output()
    recorded = bytes.fromhex(load("start_outside_init_netns")[2]["hex"])
    assert replay._next(ToKernel) == ToKernel(iwcm_type(6), recorded[16:], None)
    replay.mapper.receive(KernelReply(RDMA_NL_IWPM_MAPINFO, b"", -22), replay.now)
    assert not [o for o in replay.mapper.take_output() if isinstance(o, ToKernel)]
    wake = replay.mapper.wake_at()
    assert wake == replay.now + 10
    replay.mapper.tick(wake)
    assert replay.mapper.take_output() == [hello]


def test_replay_abi3_start_and_restart() -> None:
    """Differs: version 4 is offered; one MAPINFO request, to client 2, so no second round; ACK never too high."""
    for name, ack in (("abi3_start", None), ("abi3_restart_resync_mapped", 1)):
        replay = Replay("start_no_mappings")
        offer = replay._next(ToKernel)
        assert isinstance(offer, ToKernel)
        assert offer.payload == bytes.fromhex("0600010004000000")
        entries = load(name)
        replay.step(entries[1])
        replay.step(entries[2])
        if ack is not None:
            for entry in entries[5:7]:
                replay.step(entry)
            replay.to_kernel(bytes.fromhex(entries[7]["hex"]))
        replay.mapper.receive(KernelReply(RDMA_NL_IWPM_MAPINFO, b"", 0), replay.now)
        assert replay.left() == []
        assert len(replay.mapper.table) == (0 if ack is None else 1)


def test_replay_reclaim_fails() -> None:
    """Differs: all three records are kept and confirmed, and claimed when the ports are free again.

    rdma-core sends HANDLE_ERR 11 with sequence number 0, drops the rest of the datagram, and confirms none.
    """
    replay = Replay("restart_reclaim_fails_mapped")
    taken = {(family, port) for family in (2, 10) for port in range(30000, 60000)}
    replay.claims.taken = taken  # type: ignore[assignment]
    entries = replay.entries
    for entry in entries[:5]:
        replay.step(entry)
    replay.step(entries[6])
    output = replay._next(ToKernel)
    assert isinstance(output, ToKernel)
    assert output.payload.hex() == bytes.fromhex(entries[7]["hex"])[16:-4].hex() + "03000000"
    replay.step(entries[8])
    assert [mapping.claimed for mapping in replay.mapper.table] == [False] * 3
    replay.claims.taken = set()
    replay.mapper.tick(replay.now + 10)
    assert [mapping.claimed for mapping in replay.mapper.table] == [True] * 3
