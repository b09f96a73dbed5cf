# SPDX-License-Identifier: Apache-2.0
"""The conversation with the kernel, one test per row of the conformance list for port mappers (N1 to N43).

"As rdma-core" means that its iwpmd was seen to do the same; "better than rdma-core" that it is known not to.
"""

from __future__ import annotations

import struct

import pytest

from rdmactl.iwpm.events import ToKernel
from rdmactl.iwpm.table import Claim
from rdmactl.iwpm.wire import ACCEPT, REJECT, REQUEST, WireMessage
from rdmactl.netlink.message import attribute, build
from rdmactl.netlink.rdma import (
    RDMA_NL_IWPM_ADD_MAPPING,
    RDMA_NL_IWPM_HANDLE_ERR,
    RDMA_NL_IWPM_HELLO,
    RDMA_NL_IWPM_MAPINFO,
    RDMA_NL_IWPM_MAPINFO_NUM,
    RDMA_NL_IWPM_QUERY_MAPPING,
    RDMA_NL_IWPM_REG_PID,
    RDMA_NL_IWPM_REMOTE_INFO,
    iwcm_type,
)
from tests.fake import iwcm_messages as say
from tests.fake.mapper_bench import Bench, KernelAnswer, addr

V4, V6 = 2, 10
NAME = bytes.fromhex("1800010069576172705 06f72744d617070657255736572 00".replace(" ", ""))


def ops(bench: Bench) -> list[int]:
    return [answer.op for answer in bench.kernel]


def asked_by_peer(bench: Bench, ap: str, cp: str = "10.7.0.2:5001") -> int:
    """What a peer gets that asks for `ap`: the type of the one datagram."""
    before = len(bench.peers)
    handle = bench.seq() + 1000
    bench.peer_says(WireMessage(REQUEST, handle, addr(cp), addr(ap), addr(cp)).build(), "10.7.0.2:3333")
    ((message, _),) = bench.peers[before:]
    return message.type


def code_of(answer: KernelAnswer) -> int:
    assert answer.op == RDMA_NL_IWPM_HANDLE_ERR
    return answer.number(2)


# Start.


def test_n1_ready_only_after_the_report() -> None:
    """N1, better than rdma-core: READY is said when the kernel's mappings are restored."""
    bench = Bench()
    bench.start()
    assert bench.kernel[0].payload == bytes.fromhex("0600010004000000")
    bench.kernel_says(say.hello(1, 4))
    bench.reply(RDMA_NL_IWPM_HELLO)
    assert bench.ready == 0
    bench.kernel_says(say.mapinfo(addr("10.7.0.1:7174"), addr("10.7.0.1:50000"), 0))
    bench.kernel_says(say.mapinfo_num(2, 1))
    assert bench.ready == 0
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert bench.ready == 1
    assert bench.table() == {"10.7.0.1:7174": ("10.7.0.1:50000", 1)}


@pytest.mark.parametrize("version", [3, 4])
def test_n2_the_kernels_version_is_used(version: int) -> None:
    """N2, as rdma-core: MAPINFO names the version; with 3 an ADD without FLAGS is valid and FLAGS are ignored."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, version))
    assert bench.kernel[-1].payload == NAME + struct.pack("=HHH2x", 6, 2, version)
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    bench.clear()
    answer = bench.add("10.7.0.1:8000", flags=None)
    if version == 4:
        assert code_of(answer) == 10
    else:
        assert answer.address(3).port == 40000
        assert bench.add("10.7.0.1:8001", flags=1).address(3).port == 40001


def test_n3_a_kernel_that_is_too_new() -> None:
    """N3, as rdma-core: HANDLE_ERR 17 and no MAPINFO."""
    bench = Bench()
    bench.start()
    bench.clear()
    bench.kernel_says(say.hello(9, 5))
    (answer,) = bench.kernel
    assert (code_of(answer), answer.seq) == (17, 9)


def test_n4_hello_refused_is_offered_again() -> None:
    """N4, better than rdma-core: version 3 is tried, and HELLO repeated until it succeeds."""
    bench = Bench()
    bench.start()
    bench.reply(RDMA_NL_IWPM_HELLO, -22)
    assert bench.kernel[-1].payload == NAME + struct.pack("=HHH2x", 6, 2, 3)
    bench.reply(RDMA_NL_IWPM_MAPINFO, -22)
    assert bench.ready == 1
    assert "iw_cm" in bench.notices[-1]
    bench.clear()
    bench.sleep(10)
    assert ops(bench) == [RDMA_NL_IWPM_HELLO]
    bench.kernel_says(say.hello(1, 4))
    bench.reply(RDMA_NL_IWPM_HELLO)
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert bench.mapper.link.version == 4
    bench.clear()
    bench.sleep(100)
    assert ops(bench) == []


def test_n4_reg_pid_makes_hello_be_offered_again() -> None:
    """N4: a kernel that asks who is there has iw_cm by now; it is greeted first and answered with what it says."""
    bench = Bench()
    bench.start()
    bench.reply(RDMA_NL_IWPM_HELLO, -22)
    bench.reply(RDMA_NL_IWPM_MAPINFO, -22)
    bench.clear()
    bench.kernel_says(say.reg_pid(5, "eth1", "siw0"))
    assert ops(bench) == [RDMA_NL_IWPM_HELLO]
    bench.kernel_says(say.hello(6, 4))
    bench.reply(RDMA_NL_IWPM_HELLO)
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert ops(bench) == [RDMA_NL_IWPM_HELLO, RDMA_NL_IWPM_MAPINFO, RDMA_NL_IWPM_REG_PID]
    assert bench.kernel[-1].number(4) == 4


def test_n4_an_old_kernel_gets_version_3() -> None:
    """N4: where HELLO stays refused, REG_PID is answered with version 3 at once."""
    bench = Bench()
    bench.start()
    bench.reply(RDMA_NL_IWPM_HELLO, -22)
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    bench.clear()
    bench.kernel_says(say.reg_pid(5, "eth1", "siw0"))
    bench.reply(RDMA_NL_IWPM_HELLO, -22)
    assert ops(bench) == [RDMA_NL_IWPM_HELLO, RDMA_NL_IWPM_REG_PID]
    assert bench.kernel[-1].number(4) == 3
    assert len([op for op in ops(bench) if op == RDMA_NL_IWPM_REG_PID]) == 1


@pytest.mark.parametrize("code", [-16, -105])
def test_n5_a_busy_kernel_is_asked_again(code: int) -> None:
    """N5, better than rdma-core: HELLO and MAPINFO are sent again, the version stays."""
    bench = Bench()
    bench.start()
    bench.reply(RDMA_NL_IWPM_HELLO, code)
    bench.sleep(0.1)
    assert ops(bench) == [RDMA_NL_IWPM_HELLO] * 2
    bench.kernel_says(say.hello(1, 4))
    bench.reply(RDMA_NL_IWPM_MAPINFO, code)
    bench.sleep(0.1)
    assert ops(bench) == [RDMA_NL_IWPM_HELLO] * 2 + [RDMA_NL_IWPM_MAPINFO] * 2
    assert bench.mapper.link.version == 4


def test_n5_an_answer_is_repeated_only_if_it_was_not_processed() -> None:
    """N5: EBUSY means not processed. ENOBUFS means postponed: a second answer could crash the kernel."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -16)
    bench.sleep(0.1)
    assert ops(bench) == [RDMA_NL_IWPM_ADD_MAPPING] * 2
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -105)
    bench.sleep(1)
    assert ops(bench) == [RDMA_NL_IWPM_ADD_MAPPING] * 2


def test_n5_an_answer_is_not_repeated_when_it_would_be_late() -> None:
    """N5: the kernel is asked for its mappings instead."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.now += 9.5
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -16)
    bench.sleep(0.1)
    assert ops(bench) == [RDMA_NL_IWPM_ADD_MAPPING, RDMA_NL_IWPM_MAPINFO]


def test_n5_an_answer_of_unknown_age_is_not_repeated() -> None:
    """It might come after the kernel has given up."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    payload = next(item.payload for item in bench.order if isinstance(item, ToKernel))
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -16, payload)
    bench.sleep(0.1)
    assert ops(bench).count(RDMA_NL_IWPM_ADD_MAPPING) == 1


def test_n6_another_messages_error_changes_no_version() -> None:
    """N6, better than rdma-core, which takes any error with sequence number 0 for a refused HELLO."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -22)
    assert bench.mapper.link.version == 4
    assert ops(bench) == [RDMA_NL_IWPM_ADD_MAPPING]


# Registration.


def test_n7_every_device_is_answered() -> None:
    """N7, as rdma-core: the reply names the request's sequence number and device, our library, the agreed version."""
    bench = Bench.started()
    first = bench.ask(say.reg_pid(22, "eth1", "siw0", echo=7))
    second = bench.ask(say.reg_pid(23, "eth2", "irdma1"))
    for answer, seq, device in ((first, 22, b"siw0\0"), (second, 23, b"irdma1\0")):
        assert answer.op == RDMA_NL_IWPM_REG_PID
        assert (answer.seq, answer.attributes[2], answer.number(4), answer.number(5)) == (seq, device, 4, 0)
        assert answer.attributes[3] == b"iWarpPortMapperUser\0"


def test_n8_names_without_an_end() -> None:
    """N8: an unterminated name is refused with 10; a shorter field is good."""
    bench = Bench.started()
    good = {2: b"eth1\0", 3: b"siw0\0", 4: b"iWarpPortMapperUser\0"}
    for broken in (2, 3, 4):
        values = good | {broken: b"x" * 16}
        payload = say.u32(1, 0) + b"".join(attribute(type_, value) for type_, value in values.items())
        assert code_of(bench.ask(build(iwcm_type(0), payload, seq=30 + broken))) == 10
    payload = say.u32(1, 0) + b"".join(attribute(type_, value) for type_, value in good.items())
    assert bench.ask(build(iwcm_type(0), payload, seq=40)).attributes[2] == b"siw0\0"


# ADD_MAPPING.


def test_n9_a_port_is_claimed() -> None:
    """N9, as rdma-core (that the claim is on the wildcard and does not listen: test_claims)."""
    bench = Bench.started()
    answer = bench.add("10.7.0.1:8000")
    assert (answer.address(2), answer.address(3), answer.number(4)) == (
        addr("10.7.0.1:8000"),
        addr("10.7.0.1:40000"),
        0,
    )
    assert bench.claims.held == {Claim(V4, 40000)}


def test_n10_no_port_map() -> None:
    """N10, as rdma-core."""
    bench = Bench.started()
    assert bench.add("10.7.0.1:7174", flags=1).address(3) == addr("10.7.0.1:7174")
    assert bench.claims.held == set()


def test_n11_duplicates_are_refused() -> None:
    """N11, as rdma-core."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    assert code_of(bench.add("10.7.0.1:8000")) == 12
    assert code_of(bench.add("0.0.0.0:8000")) == 12


def test_n11_the_end_of_a_refused_one_leaves_the_first() -> None:
    """Better than rdma-core: the kernel sends a REMOVE for refused ids too."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.add("10.7.0.1:8000")
    bench.remove("10.7.0.1:8000")
    assert bench.table() == {"10.7.0.1:8000": ("10.7.0.1:40000", 1)}
    bench.remove("10.7.0.1:8000")
    assert bench.table() == {}
    assert bench.claims.held == set()


def test_n12_other_addresses_get_their_own_ports() -> None:
    """N12, as rdma-core."""
    bench = Bench.started()
    ports = {bench.add(local).address(3).port for local in ("10.7.0.1:8000", "10.7.0.5:8000", "[fd00::9]:8000")}
    assert len(ports) == 3
    assert bench.claims.held == {Claim(V4, 40000), Claim(V4, 40001), Claim(V6, 40002)}


def test_n13_one_reference_per_device() -> None:
    """N13, as rdma-core: a wildcard is asked for once per device, and given up once per device."""
    bench = Bench.started()
    first, second = bench.add("0.0.0.0:8000"), bench.add("0.0.0.0:8000")
    assert first.payload[8:] == second.payload[8:]
    bench.remove("0.0.0.0:8000")
    assert asked_by_peer(bench, "10.7.0.1:8000") == ACCEPT
    bench.remove("0.0.0.0:8000")
    assert asked_by_peer(bench, "10.7.0.1:8000") == REJECT


def test_n14_both_wildcards() -> None:
    """N14, better than rdma-core: 0.0.0.0 and :: are two listeners (isert opens both)."""
    bench = Bench.started()
    assert bench.add("0.0.0.0:8000").address(3) == addr("0.0.0.0:40000")
    assert bench.add("[::]:8000").address(3) == addr("[::]:40001")


def test_n15_no_registration_needed() -> None:
    """N15, better than rdma-core: after a restart the kernel may still believe us registered."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert bench.add("10.7.0.1:8000").op == RDMA_NL_IWPM_ADD_MAPPING


def test_n15_requests_before_the_report_wait_for_it() -> None:
    """Else a second port would be claimed for what is already mapped."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    bench.kernel_says(say.add_mapping(5, addr("0.0.0.0:8000"), 0))
    bench.clear()
    bench.report(("0.0.0.0:8000", "0.0.0.0:50000", 0))
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO_NUM, RDMA_NL_IWPM_ADD_MAPPING]
    assert bench.kernel[-1].address(3) == addr("0.0.0.0:50000")
    assert bench.table() == {"0.0.0.0:8000": ("0.0.0.0:50000", 2)}


def test_n15_what_waits_too_long_is_not_answered() -> None:
    """A kernel that never answers MAPINFO does not get late answers when it comes to itself."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    bench.kernel_says(say.add_mapping(5, addr("0.0.0.0:8000"), 0))
    bench.sleep(30)
    bench.clear()
    bench.kernel_says(say.hello(1, 4))
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert RDMA_NL_IWPM_ADD_MAPPING not in ops(bench)
    assert bench.mapper.stats.too_late == 1


def malformed_add(kind: str) -> bytes:
    good = addr("10.7.0.1:8000").pack()
    payloads = {
        "no FLAGS": say.u32(1, 0) + attribute(2, good),
        "short address": say.u32(1, 0) + attribute(2, good[:28]) + say.u32(3, 0),
        "no ADDR": say.u32(1, 0) + say.u32(3, 0),
        "no SEQ": attribute(2, good) + say.u32(3, 0),
        "short SEQ": attribute(1, b"\0\0") + attribute(2, good) + say.u32(3, 0),
        "short FLAGS": say.u32(1, 0) + attribute(2, good) + attribute(3, b"\0\0"),
        "family 1": say.u32(1, 0) + attribute(2, b"\1\0" + good[2:]) + say.u32(3, 0),
        "family 99": say.u32(1, 0) + attribute(2, b"\x63\0" + good[2:]) + say.u32(3, 0),
        "empty": b"",
    }
    return build(iwcm_type(RDMA_NL_IWPM_ADD_MAPPING), payloads[kind], seq=77)


@pytest.mark.parametrize(
    "kind", ["no FLAGS", "short address", "no ADDR", "no SEQ", "short SEQ", "short FLAGS", "empty"]
)
def test_n16_malformed_requests_are_refused(kind: str) -> None:
    """N16, as rdma-core: HANDLE_ERR 10 with the request's sequence number."""
    bench = Bench.started()
    answer = bench.ask(malformed_add(kind))
    assert (code_of(answer), answer.seq) == (10, 77)


def test_n17_longer_addresses_are_cut() -> None:
    """N17, as rdma-core: 140 bytes instead of 128."""
    bench = Bench.started()
    payload = say.u32(1, 0) + attribute(2, addr("10.7.0.1:8000").pack() + b"\xee" * 12) + say.u32(3, 1)
    assert bench.ask(build(iwcm_type(1), payload, seq=5)).address(3) == addr("10.7.0.1:8000")


@pytest.mark.parametrize("kind", ["family 1", "family 99"])
def test_n18_unknown_families_are_refused(kind: str) -> None:
    """N18, better than rdma-core: nothing is opened for them."""
    bench = Bench.started()
    assert code_of(bench.ask(malformed_add(kind))) == 10
    assert bench.claims.held == set()


def test_n19_no_port_free() -> None:
    """N19: HANDLE_ERR 11, and nothing is left behind (the socket: test_claims)."""
    bench = Bench.started()
    bench.claims.full = True
    assert code_of(bench.add("10.7.0.1:8000")) == 11
    assert bench.table() == {}
    bench.remove("10.7.0.1:8000")
    bench.claims.full = False
    assert bench.add("10.7.0.1:8000").address(3).port == 40000


def test_n20_unknown_and_repeated_attributes() -> None:
    """N20, as rdma-core: unknown ones are ignored, the last of equal ones counts."""
    bench = Bench.started()
    first, last = addr("10.7.0.1:8000").pack(), addr("10.7.0.1:8001").pack()
    payload = say.u32(1, 0) + attribute(2, first) + attribute(9, b"?") + say.u32(3, 1) + attribute(2, last)
    assert bench.ask(build(iwcm_type(1), payload, seq=5)).address(2) == addr("10.7.0.1:8001")


def test_n21_broken_lengths() -> None:
    """N21, as rdma-core: what is behind a wrong length is lost, nothing else happens."""
    bench = Bench.started()
    good = say.add_mapping(5, addr("10.7.0.1:8000"), 1)
    too_long = struct.pack("=I", 9999) + good[4:]
    too_short = struct.pack("=I", 15) + good[4:]
    bench.kernel_says(good + too_long)
    bench.kernel_says(say.add_mapping(6, addr("10.7.0.1:8001"), 1) + too_short + good)
    assert [answer.seq for answer in bench.kernel] == [5, 6]
    bad_attribute = build(iwcm_type(1), say.u32(1, 0) + struct.pack("=HH", 3, 2) + bytes(128), seq=7)
    assert code_of(bench.ask(bad_attribute)) == 10


def test_n22_two_requests_in_one_datagram() -> None:
    """N22, better than rdma-core: a bad one does not take the next one with it."""
    bench = Bench.started()
    bench.kernel_says(malformed_add("no ADDR") + say.add_mapping(78, addr("10.7.0.1:8000"), 1))
    assert [(answer.op, answer.seq) for answer in bench.kernel] == [
        (RDMA_NL_IWPM_HANDLE_ERR, 77),
        (RDMA_NL_IWPM_ADD_MAPPING, 78),
    ]


@pytest.mark.parametrize("op", [20, RDMA_NL_IWPM_REMOTE_INFO, RDMA_NL_IWPM_HANDLE_ERR])
def test_n23_unknown_operations(op: int) -> None:
    """N23, as rdma-core: ignored."""
    bench = Bench.started()
    bench.kernel_says(build(iwcm_type(op), b"", seq=5))
    assert bench.kernel == []
    assert bench.mapper.stats.kernel_malformed == 1


def test_n24_results_are_looked_at() -> None:
    """N24, better than rdma-core. REMOTE_INFO is reported as failed (-22) even when it succeeded."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    asked_by_peer(bench, "10.7.0.1:8000")
    bench.reply(RDMA_NL_IWPM_REMOTE_INFO, -22)
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, 0)
    assert bench.mapper.stats.kernel_refused == 0
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -22)
    assert bench.mapper.stats.kernel_refused == 1


def test_n25_a_refused_answer_keeps_the_mapping() -> None:
    """N25, better than rdma-core: counted, and logged from there; the REMOVE still comes."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.reply(RDMA_NL_IWPM_ADD_MAPPING, -22)
    assert bench.mapper.stats.kernel_refused == 1
    assert len(bench.mapper.table) == 1
    bench.remove("10.7.0.1:8000")
    assert len(bench.mapper.table) == 0


def test_n26_remove() -> None:
    """N26, as rdma-core: silence, and the port is free again; without ADDR HANDLE_ERR 10."""
    bench = Bench.started()
    bench.remove("10.7.0.9:1")
    bench.add("10.7.0.1:8000")
    bench.clear()
    bench.remove("10.7.0.1:8000")
    assert bench.kernel == []
    assert bench.claims.held == set()
    assert code_of(bench.ask(build(iwcm_type(3), say.u32(1, 0), seq=9))) == 10


# QUERY_MAPPING.


def test_n27_a_query_asks_the_peer_at_once() -> None:
    """N27, as rdma-core."""
    bench = Bench.started(0x1122334455667788)
    bench.query("10.7.0.1:5001", "10.7.0.2:7174")
    ((message, path),) = bench.peers
    assert path.peer == addr("10.7.0.2:3935")
    assert message == WireMessage(
        REQUEST, 0x1122334455667788, addr("10.7.0.1:5001"), addr("10.7.0.2:7174"), addr("10.7.0.1:40000")
    )
    assert bench.kernel == []


def test_n28_a_wildcard_cannot_connect() -> None:
    """N28, as rdma-core: 11, also for a port on which a wildcard listens."""
    bench = Bench.started()
    bench.query("0.0.0.0:8000", "10.7.0.2:7174")
    assert code_of(bench.kernel[-1]) == 11
    bench.add("0.0.0.0:8000", flags=1)
    bench.query("10.7.0.1:8000", "10.7.0.2:7174")
    assert code_of(bench.kernel[-1]) == 11
    assert bench.peers == []


def test_n29_mixed_families() -> None:
    """N29, better than rdma-core: refused at once, not after 10 s."""
    bench = Bench.started()
    bench.query("10.7.0.1:8000", "[fd00::2]:7174")
    assert code_of(bench.kernel[-1]) == 10
    payload = say.u32(1, 0) + attribute(2, addr("10.7.0.1:8000").pack()) + attribute(3, bytes(128)) + say.u32(4, 0)
    assert code_of(bench.ask(build(iwcm_type(2), payload, seq=9))) == 10
    assert bench.table() == {}


def test_n30_two_queries_share_an_address() -> None:
    """N30, as rdma-core: one mapping with two references."""
    bench = Bench.started()
    bench.query("10.7.0.1:5001", "10.7.0.2:7174")
    bench.query("10.7.0.1:5001", "10.7.0.3:7174")
    assert [str(path.peer) for _, path in bench.peers] == ["10.7.0.2:3935", "10.7.0.3:3935"]
    assert {message.mapped_cp for message, _ in bench.peers} == {addr("10.7.0.1:40000")}
    bench.remove("10.7.0.1:5001")
    assert bench.table() == {"10.7.0.1:5001": ("10.7.0.1:40000", 1)}
    bench.remove("10.7.0.1:5001")
    assert bench.claims.held == set()


# The kernel's report.


def checking(*records: tuple[str, str, int]) -> Bench:
    """A bench whose first report had these records."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    bench.report(*records)
    bench.clear()
    return bench


def test_n31_ports_are_claimed_again() -> None:
    """N31, as rdma-core."""
    bench = checking(("10.7.0.1:7174", "10.7.0.1:54919", 0))
    assert bench.claims.held == {Claim(V4, 54919)}
    assert asked_by_peer(bench, "10.7.0.1:7174") == ACCEPT


def test_n31_a_mapping_to_itself_claims_nothing() -> None:
    """Differs from rdma-core, which takes the application's own TCP port away from it."""
    bench = checking(("10.7.0.1:7174", "10.7.0.1:7174", 0), ("10.7.0.1:7175", "10.7.0.1:7175", 1))
    assert bench.claims.held == set()
    assert len(bench.mapper.table) == 2


def test_n31_no_new_mapping_is_mapped_to_itself() -> None:
    """Else the next restart would take it for one that nobody has mapped."""
    bench = Bench.started()
    bench.claims.next_ports = [8000, 8001]
    assert bench.add("10.7.0.1:8000").address(3).port == 8001
    assert bench.claims.held == {Claim(V4, 8001)}


def test_n32_a_port_taken_meanwhile() -> None:
    """N32, better than rdma-core: the entry stays, since the adapter uses the port; claimed as soon as it is free."""
    bench = Bench()
    bench.claims.taken.add(Claim(V4, 54919))
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    bench.report(("10.7.0.1:7174", "10.7.0.1:54919", 0))
    assert bench.notices[-2].endswith("trying again: 54919 (for 10.7.0.1:7174)")
    assert asked_by_peer(bench, "10.7.0.1:7174") == ACCEPT
    assert bench.peers[-1][0].ap == addr("10.7.0.1:54919")
    bench.sleep(20)
    assert bench.claims.held == set()
    bench.claims.taken.clear()
    bench.sleep(10)
    assert bench.claims.held == {Claim(V4, 54919)}


def test_n33_a_conflict_does_not_end_the_datagram() -> None:
    """N33, better than rdma-core: good, conflicting, good: both good ones are kept."""
    bench = checking(
        ("10.7.0.1:7174", "10.7.0.1:50001", 0),
        ("0.0.0.0:7174", "0.0.0.0:7174", 0),
        ("10.7.0.1:7175", "10.7.0.1:50002", 0),
    )
    assert bench.table() == {"10.7.0.1:7174": ("10.7.0.1:50001", 1), "10.7.0.1:7175": ("10.7.0.1:50002", 1)}


def test_n33_a_refused_duplicate_in_the_report() -> None:
    """The id that was refused is in the report too, unmapped; its REMOVE must not end the other's mapping."""
    bench = checking(("10.7.0.1:7174", "10.7.0.1:7174", 0), ("10.7.0.1:7174", "10.7.0.1:50001", 0))
    assert bench.table() == {"10.7.0.1:7174": ("10.7.0.1:50001", 1)}
    bench.remove("10.7.0.1:7174")
    assert len(bench.mapper.table) == 1
    bench.remove("10.7.0.1:7174")
    assert len(bench.mapper.table) == 0


def test_n34_equal_records_are_references() -> None:
    """N34, better than rdma-core."""
    bench = checking(("0.0.0.0:7174", "0.0.0.0:50001", 0), ("0.0.0.0:7174", "0.0.0.0:50001", 0))
    assert bench.table() == {"0.0.0.0:7174": ("0.0.0.0:50001", 2)}


def test_n35_a_second_report_changes_nothing() -> None:
    """N35, better than rdma-core: references stay, and as many records are confirmed as were sent."""
    records = [("0.0.0.0:7174", "0.0.0.0:50001", 0)] * 2 + [("10.7.0.1:7175", "10.7.0.1:50002", 0)]
    bench = checking(*records)
    before = bench.table()
    bench.sleep(60)
    bench.overrun()
    bench.report(*records)
    assert bench.table() == before
    answer = bench.kernel[-1]
    assert (answer.op, answer.number(2), answer.number(3)) == (RDMA_NL_IWPM_MAPINFO_NUM, 3, 3)


def test_n36_what_has_ended_unnoticed() -> None:
    """N36, better than rdma-core: dropped once the report is known to be complete."""
    bench = checking(("10.7.0.1:7174", "10.7.0.1:50001", 0), ("10.7.0.1:7175", "10.7.0.1:50002", 0))
    bench.sleep(60)
    bench.overrun()
    bench.report(("10.7.0.1:7174", "10.7.0.1:50001", 0))
    assert bench.table() == {"10.7.0.1:7174": ("10.7.0.1:50001", 1)}
    assert bench.claims.held == {Claim(V4, 50001)}


def test_n36_what_was_answered_a_moment_ago_stays() -> None:
    """The kernel enters a mapping after it has our answer; the report may be from before. A later one decides."""
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.overrun()
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert len(bench.mapper.table) == 1
    bench.clear()
    bench.sleep(12)
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO]
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert len(bench.mapper.table) == 0


def test_n36_a_partial_report_drops_nothing() -> None:
    bench = checking(("10.7.0.1:7174", "10.7.0.1:50001", 0), ("10.7.0.1:7175", "10.7.0.1:50002", 0))
    bench.sleep(60)
    bench.overrun()
    bench.kernel_says(say.mapinfo(addr("10.7.0.1:7174"), addr("10.7.0.1:50001"), 0))
    bench.reply(RDMA_NL_IWPM_MAPINFO, -11)
    assert len(bench.mapper.table) == 2
    bench.clear()
    bench.sleep(1)
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO]


@pytest.mark.parametrize("count", [227, 228])
def test_n37_the_kernels_limit(count: int) -> None:
    """N37: up to 227 mappings are reported with their number; of more, 228, an error and no number."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    records = [(f"10.7.0.1:{7000 + i}", f"10.7.0.1:{50000 + i}", 0) for i in range(count)]
    bench.report(*records, complete=count == 227)
    assert len(bench.mapper.table) == len(bench.claims.held) == count
    assert bench.ready == 1
    assert any("more than fit" in text for text in bench.notices) == (count == 228)
    bench.clear()
    bench.sleep(60)
    assert ops(bench) == []


def test_n38_overrun() -> None:
    """N38, better than rdma-core: lost messages are answered by asking for a report, and only one at a time."""
    bench = Bench.started()
    bench.overrun()
    bench.overrun()
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO]
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    bench.sleep(1)
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO] * 2


def test_n38_a_buffer_too_small_for_the_report_does_not_make_us_ask_without_end() -> None:
    bench = Bench.started()
    for _ in range(1000):
        bench.overrun()
        bench.reply(RDMA_NL_IWPM_MAPINFO)
        bench.sleep(0.005)
    assert 5 <= ops(bench).count(RDMA_NL_IWPM_MAPINFO) <= 11  # in five seconds
    assert bench.mapper.stats.overruns == 1000


def test_n39_a_datagram_of_a_large_page() -> None:
    """N39, better than rdma-core: 26 records, 7504 bytes with the empty DONE behind them (recv length: service)."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    datagram = b"".join(
        say.mapinfo(addr(f"10.7.0.1:{7000 + i}"), addr(f"10.7.0.1:{50000 + i}"), 0) for i in range(26)
    ) + build(3, b"", flags=2)
    assert len(datagram) == 7504
    bench.kernel_says(datagram)
    bench.kernel_says(say.mapinfo_num(2, 26))
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert len(bench.mapper.table) == 26


def test_n41_iw_cm_reloaded() -> None:
    """N41, as rdma-core: the next REG_PID is answered with version 4. Then the old table is found to be void."""
    bench = checking(("10.7.0.1:7174", "10.7.0.1:50001", 0))
    bench.ask(say.reg_pid(1, "eth1", "siw0"))
    bench.sleep(60)
    assert bench.ask(say.reg_pid(1, "eth1", "siw0")).number(4) == 4
    bench.sleep(2)
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    assert bench.table() == {}


def test_n42_a_foreign_hello() -> None:
    """N42, better than rdma-core: answering regains the kernel, a warning tells, a report follows.

    Not at once: asking for a report resets the registration, and the thread that waits for it would go on unmapped.
    """
    bench = Bench.started()
    bench.sleep(60)
    assert bench.ask(say.reg_pid(5, "eth1", "siw0")).op == RDMA_NL_IWPM_REG_PID
    assert "another process" in bench.notices[-1]
    bench.clear()
    bench.sleep(2)
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO]
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    bench.clear()
    assert bench.ask(say.reg_pid(6, "eth1", "siw0")).op == RDMA_NL_IWPM_REG_PID
    bench.sleep(5)
    assert ops(bench) == [RDMA_NL_IWPM_REG_PID]


def test_n42_many_first_users_are_no_foreign_hello() -> None:
    """Each thread that finds us unregistered asks for itself."""
    bench = Bench()
    bench.start()
    bench.kernel_says(say.hello(1, 4))
    bench.reply(RDMA_NL_IWPM_MAPINFO)
    for seq in range(5):
        bench.kernel_says(say.reg_pid(seq, "eth1", "siw0"))
    bench.clear()
    bench.sleep(10)
    assert ops(bench) == []


# N40 is in tests/fake/test_iwpm.py, N43 in tests/unit/netlink/test_sockets.py: both are the socket's business.


# A pause of our own.


def test_stall_what_may_be_too_old_is_dropped() -> None:
    """After 20 s without running, requests in the queue have been given up; an answer could crash the kernel."""
    bench = Bench.started()
    bench.add("10.7.0.1:7000")
    bench.clear()
    bench.stalled(20)
    bench.kernel_says(say.add_mapping(5, addr("10.7.0.1:8000"), 0))
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO]
    bench.report(("10.7.0.1:7000", "10.7.0.1:40000", 0), ("10.7.0.1:8000", "10.7.0.1:8000", 0))
    assert bench.table() == {"10.7.0.1:7000": ("10.7.0.1:40000", 1), "10.7.0.1:8000": ("10.7.0.1:8000", 1)}
    assert bench.add("10.7.0.1:9000").op == RDMA_NL_IWPM_ADD_MAPPING


def test_stall_of_a_few_seconds_is_checked_but_answered() -> None:
    bench = Bench.started()
    bench.stalled(6)
    bench.kernel_says(say.add_mapping(5, addr("10.7.0.1:8000"), 0))
    assert ops(bench) == [RDMA_NL_IWPM_MAPINFO, RDMA_NL_IWPM_ADD_MAPPING]


def test_stall_an_open_query_is_not_answered_late() -> None:
    bench = Bench.started(7)
    bench.query("10.7.0.1:5001", "10.7.0.2:7174")
    bench.stalled(20)
    bench.answered(WireMessage(ACCEPT, 7, addr("10.7.0.1:5001"), addr("10.7.0.2:50000")))
    assert RDMA_NL_IWPM_QUERY_MAPPING not in ops(bench)
    bench.sleep(20)
    assert RDMA_NL_IWPM_QUERY_MAPPING not in ops(bench)
    assert bench.mapper.stats.too_late == 1
