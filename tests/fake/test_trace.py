# SPDX-License-Identifier: Apache-2.0
"""The trace: what it keeps, what it hides, recordings and their replay."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from rdmactl.errors import LocalError, StoreError
from rdmactl.netlink import iscsi, rdma
from rdmactl.netlink.describe import describe, redact
from rdmactl.netlink.message import (
    NETLINK_ISCSI,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_RDMA,
    NETLINK_ROUTE,
    NLMSG_DONE,
    Message,
    build,
    split,
)
from rdmactl.netlink.ports import Received
from rdmactl.netlink.replay import Replay
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.netlink.trace import DAEMON_TO_KERNEL, KERNEL_TO_DAEMON, TraceEntry, Tracer, load
from tests.fake.services import IWPM, Driven, FakeRdma, Log

pytestmark = pytest.mark.fake

ADDRESS = SockAddr(2, 7174, b"\x0a\x09\x00\x01", 0)
ADD_MAPPING = rdma.iwcm_type(rdma.RDMA_NL_IWPM_ADD_MAPPING)
SECRET = "donotshowthis"


def add_mapping_request(seq: int) -> bytes:
    attribute = struct.pack("=HHI", 8, 1, 0) + struct.pack("=HH", 132, 2) + ADDRESS.pack()
    return build(ADD_MAPPING, attribute, seq=seq)


def traced(tracer: Tracer) -> None:
    """A kernel request and its answer on a channel with this tracer."""

    def react(received: Received) -> None:
        payload = rdma.add_mapping_reply(received.message.seq, ADDRESS, ADDRESS)
        driven.channel.send(received.message.type, payload)

    driven = Driven(FakeRdma(), Log(react), IWPM, tracer=tracer)
    driven.socket.deliver(add_mapping_request(7))
    driven.channel.turn()


def test_every_message_is_kept_with_its_time_direction_name_and_waiting_time() -> None:
    tracer = Tracer()
    traced(tracer)
    request, answer, done = tracer.entries()
    assert [entry.direction for entry in (request, answer, done)] == [
        KERNEL_TO_DAEMON,
        DAEMON_TO_KERNEL,
        KERNEL_TO_DAEMON,
    ]
    assert request.note == "ADD_MAPPING seq=7 1=0 2=10.9.0.1:7174"
    assert answer.note == "ADD_MAPPING seq=0 1=7 2=10.9.0.1:7174 3=10.9.0.1:7174 4=0"
    assert done.note == "NLMSG_DONE seq=0 code=0"
    assert (request.waited_s, done.waited_s) == (None, None)
    assert answer.waited_s == 0.0  # the clock of the test stands still
    assert request.family == NETLINK_RDMA
    assert request.portid == 1000
    assert request.datagram == add_mapping_request(7)


def test_the_waiting_time_is_from_request_to_answer() -> None:
    tracer = Tracer()
    tracer.received(10.0, NETLINK_RDMA, 5, add_mapping_request(1))
    tracer.received(10.5, NETLINK_RDMA, 5, add_mapping_request(2))
    tracer.sent(11.0, NETLINK_RDMA, 5, build(ADD_MAPPING, rdma.add_mapping_reply(2, ADDRESS, ADDRESS)))
    refusal = build(rdma.iwcm_type(rdma.RDMA_NL_IWPM_HANDLE_ERR), rdma.handle_err(1, 11))
    tracer.sent(12.0, NETLINK_RDMA, 5, refusal)
    assert [entry.waited_s for entry in tracer.entries()] == [None, None, 0.5, 2.0]


def test_the_ring_is_bounded_in_bytes_and_keeps_the_newest() -> None:
    tracer = Tracer(ring_bytes=10_000)
    for number in range(1000):
        tracer.received(float(number), NETLINK_ROUTE, 1, build(16, bytes(number % 100), seq=number))
    entries = tracer.entries()
    assert 10 < len(entries) < 50
    assert split(entries[-1].datagram)[0].seq == 999


def test_requests_that_are_never_answered_do_not_gather() -> None:
    tracer = Tracer()
    for number in range(6000):
        tracer.received(0.0, NETLINK_RDMA, 5, build(ADD_MAPPING, seq=number))
    assert tracer.entries()[-1].waited_s is None


@pytest.mark.parametrize(
    ("family", "message", "inbound", "text"),
    [
        (NETLINK_RDMA, Message(0x0808, 1, 3, 0, rdma.hello(4)), True, "HELLO seq=3 1=4"),
        (NETLINK_RDMA, Message(5 << 10 | 1, 1, 3, 0, b""), True, "client=5 op=1 seq=3 0 bytes"),
        (NETLINK_ISCSI, split(iscsi.start_conn(1, 5))[0], False, "START_CONN u=05 0 bytes"),
        (NETLINK_ISCSI, Message(99, 0, 0, 0, bytes(56)), False, "type 99 u=0 0 bytes"),
        (NETLINK_ISCSI, Message(17, 0, 0, 0, struct.pack("=Ii48x", 103, -22)), True, "START_CONN error=-22 0 bytes"),
        (NETLINK_ISCSI, Message(0, 0, 0, 0, struct.pack("=I52x", 102)), True, "event CONN_ERROR r=0 0 bytes"),
        (NETLINK_ISCSI, Message(0, 0, 0, 0, b"short"), True, "malformed type=0x0 seq=0 5 bytes"),
        (NETLINK_KOBJECT_UEVENT, Message(0, 0, 0, 0, b"add@/devices/x\0ACTION=add\0"), True, "add /devices/x"),
        (NETLINK_KOBJECT_UEVENT, Message(0, 0, 0, 0, b"libudev\0"), True, "no event of the kernel's"),
        (NETLINK_ROUTE, Message(16, 0, 9, 0, b"1234"), True, "NEWLINK seq=9 4 bytes"),
        (77, Message(16, 0, 9, 0, b"1234"), True, "type=0x10 seq=9 4 bytes"),
        (NETLINK_ROUTE, Message(NLMSG_DONE, 2, 9, 0, b""), True, "NLMSG_DONE seq=9 code=None"),
    ],
)
def test_descriptions(family: int, message: Message, inbound: bool, text: str) -> None:
    assert describe(family, message, inbound).text == text


@pytest.mark.parametrize("family", [NETLINK_RDMA, NETLINK_ISCSI, NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT])
def test_descriptions_of_cut_messages_do_not_raise(family: int) -> None:
    whole = split(add_mapping_request(1))[0]
    for type in (ADD_MAPPING, 0, 3, 16, 19):
        for length in range(len(whole.payload)):
            message = whole._replace(type=type, payload=whole.payload[:length])
            assert describe(family, message, True).text
            assert len(redact(family, build(type, message.payload))) == 16 + length


# ---------------------------------------------------------------- secrets


def secret_messages() -> list[bytes]:
    login = f"CHAP_N=user\0CHAP_R=0x{SECRET}\0".encode()
    return [
        iscsi.set_param(1, 5, iscsi.Param.PASSWORD, SECRET),
        iscsi.set_param(1, 5, iscsi.Param.PASSWORD_IN, SECRET),
        iscsi.send_pdu(1, 5, bytes(48), login),
    ]


def test_secrets_are_neither_kept_nor_recorded(tmp_path: Path) -> None:
    tracer = Tracer()
    path = tmp_path / "trace.jsonl"
    tracer.record(str(path))
    for message in secret_messages():
        tracer.sent(0.0, NETLINK_ISCSI, 1, message)
    tracer.stop_recording()
    kept = b"".join(entry.datagram for entry in tracer.entries())
    assert len(kept) == sum(map(len, secret_messages()))
    for text in (kept, path.read_bytes()):
        assert SECRET.encode() not in text
        assert SECRET.encode().hex().encode() not in text
    assert SECRET not in repr(tracer.entries())


def test_a_message_that_cannot_be_redacted_keeps_nothing_but_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(datagram: bytes) -> bytes:
        raise struct.error

    monkeypatch.setattr(iscsi, "redacted", fail)
    for message in secret_messages():
        assert redact(NETLINK_ISCSI, message) == message[:72] + bytes(len(message) - 72)


# ---------------------------------------------------------------- recordings


def test_a_recording_reads_back_as_the_trace(tmp_path: Path) -> None:
    tracer = Tracer()
    path = tmp_path / "trace.jsonl"
    tracer.record(str(path))
    traced(tracer)
    tracer.stop_recording()
    tracer.sent(0.0, NETLINK_RDMA, 1, b"after the end")
    loaded = load(str(path))
    expected = [entry._replace(time_s=round(entry.time_s, 6)) for entry in tracer.entries()[:-1]]
    assert loaded == expected
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    line = json.loads(path.read_text().splitlines()[1])
    assert set(line) == {"time", "dir", "family", "portid", "hex", "note", "waited_us"}


def test_recordings_are_refused_where_they_would_do_harm(tmp_path: Path) -> None:
    path = str(tmp_path / "trace.jsonl")
    tracer = Tracer()
    tracer.record(path)
    with pytest.raises(LocalError):
        tracer.record(str(tmp_path / "other"))
    tracer.stop_recording()
    with pytest.raises(StoreError, match="exists"):
        tracer.record(path)
    with pytest.raises(StoreError):
        tracer.record(str(tmp_path / "no" / "such"))


def test_a_recording_ends_at_its_limit_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    tracer = Tracer()
    tracer.record(str(path), limit_bytes=1000)
    for _ in range(100):
        tracer.sent(0.0, NETLINK_ROUTE, 1, build(16))
    assert tracer.recording_error is not None
    assert 0 < path.stat().st_size <= 1000
    tracer.record(str(tmp_path / "next"))  # a new one can start
    tracer.stop_recording()


def test_a_full_disk_ends_the_recording_and_nothing_else() -> None:
    tracer = Tracer()
    tracer.record_into(open("/dev/full", "w", buffering=1))  # noqa: SIM115
    tracer.sent(0.0, NETLINK_ROUTE, 1, build(16))
    assert tracer.recording_error == "No space left on device"
    tracer.sent(0.0, NETLINK_ROUTE, 1, build(16))
    assert len(tracer.entries()) == 2


@pytest.mark.parametrize("text", ["[1]", "{}", "nonsense", '[{"dir": "kernel->daemon"}]'])
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(StoreError):
        load(str(path))


def test_missing_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        load(str(tmp_path / "missing"))


# ---------------------------------------------------------------- replay


class Mapper(Log):
    """Says HELLO, and maps every address to itself."""

    channel: Any

    def __init__(self) -> None:
        super().__init__(self.answer)

    def answer(self, received: Received) -> None:
        if received.message.type == ADD_MAPPING:
            self.channel.send(ADD_MAPPING, rdma.add_mapping_reply(received.message.seq, ADDRESS, ADDRESS))


def test_a_recording_replays_to_the_same_answers(tmp_path: Path) -> None:
    tracer = Tracer()
    path = tmp_path / "trace.jsonl"
    tracer.record(str(path))
    mapper = Mapper()
    driven = Driven(FakeRdma(), mapper, IWPM, tracer=tracer)
    mapper.channel = driven.channel
    for seq in (1, 2, 3):
        driven.socket.deliver(add_mapping_request(seq))
        driven.channel.turn()
    tracer.stop_recording()

    again = Mapper()
    replay = Replay(load(str(path)))
    again.channel = replay.open(again, IWPM)
    assert replay.run() == replay.expected()
    assert len(replay.expected()) == 3
    assert again.news() == mapper.news()  # each DONE found its request


def test_a_capture_without_portids_and_times_replays(tmp_path: Path) -> None:
    capture = [
        {"dir": "daemon->kernel", "hex": build(0x0808, rdma.hello(4), seq=0, pid=215).hex(), "note": ""},
        {"dir": "kernel->daemon", "hex": build(NLMSG_DONE, bytes(4), flags=2, seq=0, pid=215).hex(), "note": ""},
        {"dir": "udp", "hex": "00", "note": "peer traffic"},
    ]
    path = tmp_path / "capture.json"
    path.write_text(json.dumps(capture))
    log = Log()
    replay = Replay(load(str(path)))
    channel = replay.open(log)
    channel.send(0x0808, rdma.hello(4))
    assert replay.run() == replay.expected()
    assert [reply.code for reply in log.news()] == [0]


def test_a_replay_raises_what_the_handler_raises() -> None:
    def fail(received: Received) -> None:
        raise ZeroDivisionError

    entry = TraceEntry(0.0, KERNEL_TO_DAEMON, NETLINK_RDMA, 5, add_mapping_request(1), "")
    replay = Replay([entry])
    with pytest.raises(LocalError, match="open"):
        replay.run()
    replay.open(Log(fail))
    with pytest.raises(ZeroDivisionError):
        replay.run()


def test_an_empty_recording_cannot_be_replayed() -> None:
    with pytest.raises(LocalError):
        Replay([])
