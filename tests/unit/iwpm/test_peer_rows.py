# SPDX-License-Identifier: Apache-2.0
"""The conversation with peers, one test per row of the conformance list for port mappers (P1 to P17, A1 to A11).

"As rdma-core" means that its iwpmd was seen to do the same; "better than rdma-core" that it is known not to.
"""

from __future__ import annotations

import pytest

from rdmactl.iwpm.events import Door, ToKernel, ToPeer
from rdmactl.iwpm.passive import UNCONFIRMED_PER_SOURCE, UNCONFIRMED_TOTAL
from rdmactl.iwpm.wire import ACCEPT, ACK, REJECT, REQUEST, WireMessage
from rdmactl.netlink.rdma import (
    RDMA_NL_IWPM_HANDLE_ERR,
    RDMA_NL_IWPM_QUERY_MAPPING,
    RDMA_NL_IWPM_REMOTE_INFO,
)
from tests.fake.mapper_bench import Bench, addr

HANDLE = 0x1122334455667788
PEER = "10.7.0.2:33333"


def request(ap: str, cp: str = "10.7.0.2:5001", mapped: str | None = "10.7.0.2:41000", handle: int = HANDLE) -> bytes:
    return WireMessage(REQUEST, handle, addr(cp), addr(ap), None if mapped is None else addr(mapped)).build()


def ack(ap: str, cp: str = "10.7.0.2:5001", handle: int = HANDLE) -> bytes:
    return WireMessage(ACK, handle, addr(cp), addr(ap)).build()


def kinds(bench: Bench) -> list[int]:
    return [message.type for message, _ in bench.peers]


def remote_infos(bench: Bench) -> int:
    return len([answer for answer in bench.kernel if answer.op == RDMA_NL_IWPM_REMOTE_INFO])


def listening(*locals_: str, flags: int = 0) -> Bench:
    """A bench with these listeners; ports are mapped to 40000 and up, in order."""
    bench = Bench.started()
    for local in locals_:
        bench.add(local, flags)
    bench.clear()
    return bench


# Being asked.


def test_p1_specific_listener() -> None:
    """P1, as rdma-core (which lets the order to chance): REMOTE_INFO first, then ACCEPT with everything echoed."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    assert [type(output) for output in bench.order] == [ToKernel, ToPeer]
    info = bench.kernel[0]
    assert [str(info.address(i)) for i in (2, 3, 4, 5)] == [
        "10.7.0.1:7174",
        "10.7.0.2:5001",
        "10.7.0.1:40000",
        "10.7.0.2:41000",
    ]
    assert (info.seq, info.number(6)) == (0, 0)
    assert bench.datagrams == [
        bytes.fromhex("14000000 9c40 1389 1122334455667788 0a070002")
        + bytes(12)
        + addr("10.7.0.1:0").address
        + bytes(12)
    ]
    assert bench.peers[0][1].peer == addr(PEER)


def test_p1_ipv6() -> None:
    bench = listening("[fd00::1]:7174")
    bench.peer_says(request("[fd00::1]:7174", "[fd00::2]:5001", "[fd00::2]:41000"), "[fd00::2]:3333")
    assert bench.peers[0][0] == WireMessage(ACCEPT, HANDLE, addr("[fd00::2]:5001"), addr("[fd00::1]:40000"))


def test_p2_wildcard_listener() -> None:
    """P2, as rdma-core: ACCEPT keeps the address asked for, REMOTE_INFO has the wildcard."""
    bench = listening("0.0.0.0:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    assert bench.peers[0][0].ap == addr("10.7.0.1:40000")
    assert str(bench.kernel[0].address(2)) == "0.0.0.0:7174"
    assert str(bench.kernel[0].address(4)) == "0.0.0.0:40000"


@pytest.mark.parametrize("ap", ["10.7.0.1:7175", "10.7.0.5:7174"])
def test_p3_no_listener(ap: str) -> None:
    """P3, as rdma-core: REJECT, once, as the first 48 bytes of the REQUEST without the mapped port."""
    bench = listening("10.7.0.1:7174")
    data = request(ap)
    bench.peer_says(data, PEER)
    bench.sleep(30)
    assert bench.datagrams == [b"\x34\x00\x00\x00" + data[4:48]]
    assert bench.kernel == []


def test_p3_a_connection_is_no_listener() -> None:
    """Better than rdma-core, which accepts for ports that connect."""
    bench = Bench.started()
    bench.query("10.7.0.1:5001", "10.7.0.9:7174")
    bench.clear()
    bench.peer_says(request("10.7.0.1:5001"), PEER)
    assert kinds(bench) == [REJECT]


def test_p4_accept_is_repeated_until_ack() -> None:
    """P4: after about 1 s, a bounded number of times (rdma-core: 10), and not after the ACK."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    bench.sleep(60)
    assert kinds(bench) == [ACCEPT] * 4
    assert remote_infos(bench) == 1
    assert bench.mapper.exchanges == (0, 0)
    bench.clear()
    bench.peer_says(request("10.7.0.1:7174", handle=5), PEER)
    bench.peer_says(ack("10.7.0.1:40000", handle=5), PEER)
    bench.sleep(60)
    assert kinds(bench) == [ACCEPT]


def test_p5_a_copy_before_the_ack() -> None:
    """P5, better than rdma-core: the same ACCEPT at once, and nothing new for the kernel."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    assert len(bench.datagrams) == 2
    assert bench.datagrams[0] == bench.datagrams[1]
    assert remote_infos(bench) == 1


def test_p6_a_copy_after_the_ack() -> None:
    """P6, better than rdma-core, which leaves a second entry in the kernel for ever."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    bench.peer_says(ack("10.7.0.1:40000"), PEER)
    bench.sleep(5)
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    assert kinds(bench) == [ACCEPT, ACCEPT]
    assert remote_infos(bench) == 1


@pytest.mark.parametrize("handle", [HANDLE, 0])
def test_p7_equal_handles(handle: int) -> None:
    """P7, better than rdma-core: equal handles of two hosts, and handle 0, are exchanges of their own."""
    bench = listening("10.7.0.1:7174")
    for host in ("10.7.0.2", "10.7.0.3"):
        bench.peer_says(request("10.7.0.1:7174", f"{host}:5001", f"{host}:41000", handle), f"{host}:3333")
    assert kinds(bench) == [ACCEPT, ACCEPT]
    assert remote_infos(bench) == 2
    bench.peer_says(ack("10.7.0.1:40000", "10.7.0.2:5001", handle), "10.7.0.2:3333")
    bench.clear()
    bench.sleep(1.5)
    assert [str(path.peer) for _, path in bench.peers] == ["10.7.0.3:3333"]


def test_p8_the_old_short_request() -> None:
    """P8, better than rdma-core, which reads stale memory: 48 bytes carry the mapped address as the address."""
    bench = listening("10.7.0.1:7174")
    data = request("10.7.0.1:7174", mapped=None)
    assert len(data) == 48
    bench.peer_says(data, PEER)
    assert kinds(bench) == [ACCEPT]
    assert bench.kernel[0].address(3) == bench.kernel[0].address(5) == addr("10.7.0.2:5001")


@pytest.mark.parametrize("length", [0, 1, 47, 49, 63, 65, 1500])
def test_p9_wrong_lengths(length: int) -> None:
    """P9, better than rdma-core, which takes longer ones; counted, not logged one by one."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(request("10.7.0.1:7174").ljust(1500, b"\0")[:length], PEER)
    assert bench.order == []
    assert bench.mapper.stats.peer_malformed == 1


@pytest.mark.parametrize("ip_version", [0, 5, 15])
def test_p9_wrong_ip_versions(ip_version: int) -> None:
    bench = listening("10.7.0.1:7174")
    bench.peer_says(bytes([ip_version]) + request("10.7.0.1:7174")[1:], PEER)
    assert bench.order == []
    assert bench.mapper.stats.peer_malformed == 1


@pytest.mark.parametrize("version", [1, 2, 3])
def test_p10_version_bits_and_pmtime_are_echoed(version: int) -> None:
    """P10, as rdma-core."""
    bench = listening("10.7.0.1:7174")
    data = request("10.7.0.1:7174")
    bench.peer_says(bytes([version << 6 | data[0], 77]) + data[2:], PEER)
    assert bench.datagrams[0][:2] == bytes([version << 6 | 0x14, 77])


def test_p11_garbage_behind_ipv4_addresses() -> None:
    """P11, as rdma-core; but the garbage is not sent back."""
    bench = listening("10.7.0.1:7174")
    data = bytearray(request("10.7.0.1:7174"))
    for field in (16, 32, 48):
        data[field + 4 : field + 16] = b"\xee" * 12
    bench.peer_says(bytes(data), PEER)
    assert kinds(bench) == [ACCEPT]
    assert b"\xee" not in bench.datagrams[0]


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (request("10.7.0.1:7174"), "[fd00::2]:3333"),
        (request("[fd00::1]:7174", "[fd00::2]:1", "[fd00::2]:1"), PEER),
    ],
)
def test_p12_the_wrong_socket(data: bytes, source: str) -> None:
    """P12, better than rdma-core: IPv4 on the IPv6 socket and vice versa are dropped."""
    bench = listening("10.7.0.1:7174", "[fd00::1]:7174")
    bench.peer_says(data, source)
    assert bench.order == []


def test_p13_ipv4_for_an_ipv6_wildcard() -> None:
    """P13: accepted as by rdma-core; REMOTE_INFO names the peer as an IPv6 socket will see it."""
    bench = listening("[::]:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    assert bench.peers[0][0].ap == addr("10.7.0.1:40000")
    assert str(bench.kernel[0].address(3)) == "[::ffff:10.7.0.2]:5001"
    assert str(bench.kernel[0].address(5)) == "[::ffff:10.7.0.2]:41000"
    assert str(bench.kernel[0].address(4)) == "[::]:40000"


def test_p13_the_same_family_is_preferred() -> None:
    bench = listening("[::]:7174", "0.0.0.0:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    assert bench.peers[0][0].ap == addr("10.7.0.1:40001")


def test_p14_link_local() -> None:
    """P14, better than rdma-core: the scope is that of the interface the REQUEST came in on."""
    bench = listening("[fe80::1%3]:7174")
    data = request("[fe80::1]:7174", "[fe80::2]:5001", "[fe80::2]:41000")
    bench.peer_says(data, "[fe80::2%3]:3333", local=addr("[fe80::1]:0").address, ifindex=3)
    info = bench.kernel[0]
    assert str(info.address(3)) == "[fe80::2%3]:5001"
    assert str(info.address(5)) == "[fe80::2%3]:41000"
    assert str(info.address(2)) == "[fe80::1%3]:7174"


def test_p15_a_flood_of_one_source() -> None:
    """P15, better than rdma-core: what it costs the kernel is bounded, and others are served."""
    bench = listening("10.7.0.1:7174")
    for handle in range(10_000):
        bench.peer_says(request("10.7.0.1:7174", handle=handle), PEER)
    assert remote_infos(bench) == UNCONFIRMED_PER_SOURCE
    assert bench.mapper.exchanges == (0, UNCONFIRMED_PER_SOURCE)
    bench.clear()
    bench.peer_says(request("10.7.0.1:7174", "10.7.0.3:1", "10.7.0.3:2"), "10.7.0.3:3333")
    assert kinds(bench) == [ACCEPT]
    bench.sleep(60)
    assert bench.mapper.exchanges == (0, 0)


def test_p15_a_flood_of_many_sources() -> None:
    bench = listening("10.7.0.1:7174")
    for host in range(1, UNCONFIRMED_TOTAL + 100):
        bench.peer_says(request("10.7.0.1:7174", handle=host), f"10.{host >> 8}.{host & 255}.1:3333")
    assert remote_infos(bench) == UNCONFIRMED_TOTAL


def test_p15_peers_that_confirm_are_not_limited() -> None:
    """A thousand connections of one host, as after a fail-over."""
    bench = listening("10.7.0.1:7174")
    for handle in range(1000):
        bench.peer_says(request("10.7.0.1:7174", handle=handle), PEER)
        bench.peer_says(ack("10.7.0.1:40000", handle=handle), PEER)
    assert remote_infos(bench) == 1000
    bench.sleep(60)
    assert bench.mapper.exchanges == (0, 0)


@pytest.mark.parametrize("type_", [ACCEPT, ACK, REJECT])
def test_p16_unsolicited(type_: int) -> None:
    """P16, better than rdma-core: silence."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(WireMessage(type_, HANDLE, addr("10.7.0.2:1"), addr("10.7.0.1:40000")).build(), PEER)
    assert bench.order == []
    assert bench.mapper.stats.peer_unsolicited == 1


def test_p17_the_listener_ends_before_the_ack() -> None:
    """P17, better than rdma-core: ACCEPT stops."""
    bench = listening("10.7.0.1:7174")
    bench.peer_says(request("10.7.0.1:7174"), PEER)
    bench.remove("10.7.0.1:7174")
    bench.clear()
    bench.peer_says(ack("10.7.0.1:40000"), PEER)
    bench.sleep(30)
    assert bench.order == []


# Asking.


def asking(remote: str = "10.7.0.2:7174", local: str = "10.7.0.1:5001", flags: int = 0) -> tuple[Bench, int]:
    bench = Bench.started(HANDLE)
    seq = bench.query(local, remote, flags)
    return bench, seq


def accept(
    ap: str = "10.7.0.2:50000", cp: str = "10.7.0.1:5001", handle: int = HANDLE, type_: int = ACCEPT
) -> WireMessage:
    return WireMessage(type_, handle, addr(cp), addr(ap))


def test_a1_accept() -> None:
    """A1: the kernel's answer first, zeros behind every address (better than rdma-core), then ACK to the sender."""
    bench, seq = asking()
    bench.clear()
    bench.answered(accept(), "10.7.0.77:3935")
    (answer,) = bench.kernel
    assert (answer.op, answer.seq, answer.number(6)) == (RDMA_NL_IWPM_QUERY_MAPPING, seq, 0)
    assert [str(answer.address(i)) for i in (2, 3, 4, 5)] == [
        "10.7.0.1:5001",
        "10.7.0.2:7174",
        "10.7.0.1:40000",
        "10.7.0.2:50000",
    ]
    assert all(not any(answer.attributes[i][8:]) for i in (2, 3, 4, 5))
    ((message, path),) = bench.peers
    assert message == accept(type_=ACK)
    assert path.peer == addr("10.7.0.77:3935")
    assert [type(output) for output in bench.order] == [ToKernel, ToPeer]


def test_a2_a_second_accept() -> None:
    """A2, as rdma-core: ACK again, and no second answer to the kernel, ever."""
    bench, _ = asking()
    bench.answered(accept())
    bench.sleep(9)
    bench.answered(accept())
    bench.sleep(9)
    bench.answered(accept())
    assert kinds(bench) == [REQUEST, ACK, ACK, ACK]
    assert len(bench.kernel) == 1
    bench.sleep(11)
    bench.answered(accept())
    assert kinds(bench)[4:] == []
    assert len(bench.kernel) == 1


def test_a3_reject() -> None:
    """A3, as rdma-core: 16, with the remote address as its own mapping; nothing to the peer, nothing after that."""
    bench, seq = asking()
    bench.answered(accept("10.7.0.2:7174", type_=REJECT))
    (answer,) = bench.kernel
    assert (answer.op, answer.seq, answer.number(6)) == (RDMA_NL_IWPM_QUERY_MAPPING, seq, 16)
    assert answer.address(5) == addr("10.7.0.2:7174")
    bench.answered(accept())
    bench.sleep(30)
    assert len(bench.kernel) == 1
    assert kinds(bench) == [REQUEST]


def test_a3_reject_after_accept() -> None:
    bench, _ = asking()
    bench.answered(accept())
    bench.answered(accept("10.7.0.2:7174", type_=REJECT))
    assert len(bench.kernel) == 1


def test_a4_silence() -> None:
    """A4, better than rdma-core, which leaves the kernel to its 10 s: nine REQUESTs, then a reject after 8.5 s."""
    bench, seq = asking()
    bench.sleep(8.4)
    assert kinds(bench) == [REQUEST] * 9
    assert len(set(bench.datagrams)) == 1
    assert bench.kernel == []
    bench.sleep(0.1)
    (answer,) = bench.kernel
    assert (answer.seq, answer.number(6)) == (seq, 16)
    bench.sleep(60)
    assert kinds(bench) == [REQUEST] * 9
    assert len(bench.kernel) == 1


def test_a5_icmp_unreachable() -> None:
    """A5, better than rdma-core: rejected at once. Only the query that was quoted, if enough of it was."""
    bench = Bench.started()
    first = bench.query("10.7.0.1:5001", "10.7.0.2:7174")
    bench.query("10.7.0.1:5002", "10.7.0.2:7174")
    bench.unreachable(bench.datagrams[0], "10.7.0.2:3935")
    (answer,) = bench.kernel
    assert (answer.seq, answer.number(6)) == (first, 16)
    bench.unreachable(bench.datagrams[0][:8], "10.7.0.3:3935")
    assert len(bench.kernel) == 1
    bench.unreachable(bench.datagrams[0][:8], "10.7.0.2:3935")
    assert len(bench.kernel) == 2


def test_a5_a_late_error_changes_nothing() -> None:
    bench, _ = asking()
    request_bytes = bench.datagrams[0]
    bench.answered(accept())
    bench.unreachable(request_bytes, "10.7.0.2:3935")
    bench.unreachable(b"", "10.7.0.2:3935")
    assert len(bench.kernel) == 1


@pytest.mark.parametrize(
    "message",
    [
        accept(handle=HANDLE + 1),
        accept(cp="10.7.0.1:5002"),
        accept(cp="10.7.0.9:5001"),
        accept(ap="10.7.0.3:50000"),
        accept(ap="10.7.0.3:50000", type_=REJECT),
    ],
)
def test_a6_answers_that_do_not_match(message: WireMessage) -> None:
    """A6: handle and port as rdma-core; here the address too. The sender's is not checked: it may have several."""
    bench, _ = asking()
    bench.answered(message, "10.7.0.2:3935")
    assert bench.kernel == []
    assert kinds(bench) == [REQUEST]


def test_a7_a_wildcard_accepts() -> None:
    """A7, as rdma-core: the kernel puts the remote address in its place."""
    bench, _ = asking()
    bench.answered(accept("0.0.0.0:50000"), "10.7.0.2:3935")
    assert bench.kernel[0].address(5) == addr("0.0.0.0:50000")


def test_a8_remove_while_asking() -> None:
    """A8, better than rdma-core: REQUESTs stop, and a late ACCEPT is for nobody."""
    bench, _ = asking()
    bench.sleep(2.5)
    bench.remove("10.7.0.1:5001")
    bench.clear()
    bench.answered(accept())
    bench.sleep(30)
    assert bench.order == []
    assert bench.mapper.exchanges == (0, 0)


def test_a8_remove_of_one_of_two() -> None:
    """The address is still in use by another connection: what is open goes on."""
    bench = Bench.started(1, 2)
    bench.query("10.7.0.1:5001", "10.7.0.2:7174")
    bench.query("10.7.0.1:5001", "10.7.0.3:7174")
    bench.remove("10.7.0.1:5001")
    bench.answered(accept("10.7.0.3:50000", handle=2))
    assert len(bench.kernel) == 1


def test_a9_link_local() -> None:
    """A9, better than rdma-core, whose answer has a random scope: the kernel's own is kept everywhere."""
    bench, _ = asking("[fe80::2%3]:7174", "[fe80::1%3]:5001")
    (message, path) = bench.peers[0]
    assert str(path.peer) == "[fe80::2%3]:3935"
    assert message.cp.scope_id == 0
    bench.answered(accept("[fe80::2]:50000", "[fe80::1]:5001"), "[fe80::2%3]:3935")
    answer = bench.kernel[0]
    assert [str(answer.address(i)) for i in (2, 3, 4, 5)] == [
        "[fe80::1%3]:5001",
        "[fe80::2%3]:7174",
        "[fe80::1%3]:40000",
        "[fe80::2%3]:50000",
    ]


def test_a10_what_a_request_contains() -> None:
    """A10: the mapped address is the local one with NO_PORT_MAP; unused bytes are zero, handles random."""
    bench = Bench.started(0, 7, 7, 9)
    bench.query("10.7.0.1:5001", "10.7.0.2:7174", flags=1)
    bench.query("10.7.0.1:5002", "10.7.0.2:7174", flags=1)
    assert bench.datagrams[0] == bytes.fromhex(
        "0400 1389 1c06 1389 0000000000000007"
        "0a070001 000000000000000000000000"
        "0a070002 000000000000000000000000"
        "0a070001 000000000000000000000000"
    )
    assert bench.peers[1][0].handle == 9  # 0 cannot be matched by rdma-core, 7 is in use


def test_a11_the_remote_address_is_ours() -> None:
    """A11, as rdma-core: through the socket; the kernel has REMOTE_INFO before its answer."""
    bench = Bench.started(HANDLE)
    bench.add("10.7.0.1:7174")
    bench.query("10.7.0.1:5001", "10.7.0.1:7174")
    bench.clear()
    bench.peer_says(
        WireMessage(REQUEST, HANDLE, addr("10.7.0.1:5001"), addr("10.7.0.1:7174"), addr("10.7.0.1:40001")).build(),
        "10.7.0.1:45454",
    )
    bench.answered(bench.peers[-1][0], "10.7.0.1:3935")
    bench.peer_says(bench.datagrams[-1], "10.7.0.1:45454")
    assert [answer.op for answer in bench.kernel] == [RDMA_NL_IWPM_REMOTE_INFO, RDMA_NL_IWPM_QUERY_MAPPING]
    assert bench.kernel[-1].address(5) == addr("10.7.0.1:40000")
    bench.clear()
    bench.sleep(60)
    assert bench.order == []


def test_answers_are_taken_on_either_socket() -> None:
    """As rdma-core: an ACCEPT sent to port 3935 is good, and so is a REQUEST sent to the other socket."""
    bench, _ = asking()
    bench.peer_says(accept().build(), "10.7.0.2:3935", door=Door.SERVER)
    assert len(bench.kernel) == 1
    bench.add("10.7.0.1:7174")
    bench.clear()
    bench.peer_says(request("10.7.0.1:7174"), PEER, door=Door.CLIENT)
    assert bench.peers[0][1].door is Door.CLIENT


def test_no_answer_is_ever_handle_err_0() -> None:
    """A code of 0 would count as success with garbage addresses."""
    bench = Bench.started()
    bench.query("0.0.0.0:8000", "10.7.0.2:7174")
    assert bench.kernel[0].op == RDMA_NL_IWPM_HANDLE_ERR
    assert bench.kernel[0].number(2) != 0
