# SPDX-License-Identifier: Apache-2.0
"""A channel, driven by hand against a fake socket: pairing, bounds, losses, order."""

from __future__ import annotations

import errno

import pytest

from rdmactl.errors import KernelError, LocalError
from rdmactl.netlink import channel as channel_module
from rdmactl.netlink.message import (
    HEADER,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_ROUTE,
    NLM_F_MULTI,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Message,
    build,
)
from rdmactl.netlink.ports import ChannelSpec, Received, Reply
from tests.fake.kernel import FakeKernel, FakeSocket
from tests.fake.services import IWPM, Driven, FakeRdma, Log

pytestmark = pytest.mark.fake

HELLO = 0x0808
ADD_MAPPING = 0x0801


class Silent(FakeKernel):
    """Takes everything, says nothing by itself."""

    family = NETLINK_ROUTE

    def handle(self, sender: FakeSocket, message: Message) -> None:
        pass


class Refusing(FakeRdma):
    """No listener in the kernel, as in a foreign network namespace."""

    def handle(self, sender: FakeSocket, message: Message) -> None:
        raise OSError(errno.ECONNREFUSED, "refused")


def _code(code: int) -> bytes:
    return code.to_bytes(4, "little", signed=True)


# ---------------------------------------------------------------- sending and pairing


def test_send_speaks_with_the_sockets_own_portid() -> None:
    kernel = FakeRdma()
    driven = Driven(kernel, Log(), IWPM)
    driven.channel.send(HELLO, b"abcd")
    assert kernel.sent == [(driven.socket.portid, Message(HELLO, 1, 0, driven.socket.portid, b"abcd"))]


def test_the_answer_comes_after_send_has_returned_and_names_its_request() -> None:
    log = Log()
    driven = Driven(FakeRdma(), log, IWPM)
    seq = driven.channel.send(HELLO, b"abcd")
    assert log.events == []  # never from inside send
    driven.run_soon()
    assert log.news() == [Reply(Message(HELLO, 1, seq, driven.socket.portid, b"abcd"), 0)]
    assert driven.counters.replies == driven.counters.sent == 1


def test_answers_are_moved_out_of_the_kernels_queue_by_each_send() -> None:
    # 300 DONEs need more than the default receive buffer of the fake holds, and none is lost.
    log = Log()
    driven = Driven(FakeRdma(), log, IWPM)
    for _ in range(300):
        driven.channel.send(HELLO, b"")
    driven.run_soon()
    assert [event.request.seq for event in log.news()] == list(range(300))
    assert driven.counters.overruns == 0


def test_sending_from_a_handler_does_not_reenter_it() -> None:
    depth = 0

    def react(received: Received) -> None:
        nonlocal depth
        depth += 1
        assert depth == 1
        driven.channel.send(ADD_MAPPING, received.message.payload)
        depth -= 1

    log = Log(react)
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    for payload in (b"one.", b"two."):
        driven.socket.deliver(kernel.request(ADD_MAPPING, payload))
    driven.channel.turn()
    kinds = [type(event).__name__ for event in log.news()]
    assert sorted(kinds) == ["Received", "Received", "Reply", "Reply"]
    assert [message.payload for _, message in kernel.sent] == [b"one.", b"two."]
    assert driven.soon == []  # all of it in one turn


def test_kernel_requests_with_a_seq_of_ours_are_news_not_answers() -> None:
    log = Log()
    kernel = Silent()
    driven = Driven(kernel, log, ChannelSpec(NETLINK_ROUTE))
    seq = driven.channel.send(30, b"")
    driven.socket.deliver(kernel.request(40, b"news", seq=seq))  # portid 0: from the kernel's own counter
    driven.channel.turn()
    assert log.news() == [Received(Message(40, 1, seq, 0, b"news"), 0, 0)]


def test_the_parts_of_a_dump_are_delivered_with_its_end() -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    seq = driven.channel.send(18, b"", flags=0x301)
    own = driven.socket.portid
    parts = [build(16, bytes([number]) * 4, flags=NLM_F_MULTI, seq=seq, pid=own) for number in range(3)]
    driven.socket.deliver(parts[0] + parts[1])
    driven.socket.deliver(parts[2] + build(NLMSG_DONE, _code(0), flags=NLM_F_MULTI, seq=seq, pid=own))
    driven.channel.turn()
    (reply,) = log.news()
    assert [message.payload for message in reply.messages] == [b"\0" * 4, b"\1" * 4, b"\2" * 4]
    assert reply.code == 0


def test_a_multicast_caused_by_our_own_request_is_news() -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE, groups=(1,)))
    seq = driven.channel.send(16, b"")
    driven.socket.deliver(build(16, b"link", seq=seq, pid=driven.socket.portid), groups=1)
    driven.channel.turn()
    assert log.news() == [Received(Message(16, 1, seq, driven.socket.portid, b"link"), 0, 1)]


def test_success_is_not_reported_to_who_only_wants_to_hear_of_failure() -> None:
    log = Log()
    driven = Driven(FakeRdma(), log, IWPM)
    for _ in range(2 * channel_module.OUTSTANDING_LIMIT):
        driven.channel.send(ADD_MAPPING, b"", only_failure=True)
    driven.run_soon()
    assert log.news() == []
    assert driven.counters.replies == driven.counters.sent == 2 * channel_module.OUTSTANDING_LIMIT
    assert driven.counters.unanswered == driven.counters.unmatched == 0


def test_success_behind_other_messages_is_not_reported_either() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    driven.socket.deliver(kernel.request(ADD_MAPPING, b"news"))
    driven.channel.send(ADD_MAPPING, b"", only_failure=True)
    driven.run_soon()
    assert [event.message.payload for event in log.news()] == [b"news"]
    assert driven.counters.replies == 1


def test_a_success_claimed_by_another_process_is_foreign() -> None:
    driven = Driven(Silent(), Log(), ChannelSpec(NETLINK_ROUTE))
    done = build(NLMSG_DONE, _code(0), flags=NLM_F_MULTI, seq=0, pid=driven.socket.portid)
    driven.socket.deliver(done, sender=4711)
    driven.channel.send(30, b"", only_failure=True)
    driven.run_soon()
    assert (driven.counters.foreign, driven.counters.replies) == (1, 0)


def test_failure_is_reported_with_the_senders_context() -> None:
    class Busy(FakeRdma):
        def handle(self, sender: FakeSocket, message: Message) -> None:
            self.error(sender, message, -errno.EBUSY)

    log = Log()
    driven = Driven(Busy(), log, IWPM)
    driven.channel.send(ADD_MAPPING, b"", only_failure=True, context=7.5)
    driven.run_soon()
    (reply,) = log.news()
    assert (reply.request.type, reply.code, reply.context) == (ADD_MAPPING, -errno.EBUSY, 7.5)


def test_a_loss_met_by_who_only_wants_failures_is_reported() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM._replace(receive_buffer_bytes=1000))
    while driven.socket.deliver(kernel.request(ADD_MAPPING, b"news")):
        pass
    driven.channel.send(ADD_MAPPING, b"", only_failure=True)
    driven.run_soon()
    assert "overrun" in log.events


@pytest.mark.parametrize("code", [-errno.EBUSY, -errno.ENOBUFS, -errno.EINVAL, 0])
def test_error_codes_are_delivered_for_the_engine_to_judge(code: int) -> None:
    class Postponing(FakeRdma):
        def handle(self, sender: FakeSocket, message: Message) -> None:
            self.error(sender, message, code)

    log = Log()
    driven = Driven(Postponing(), log, IWPM)
    driven.channel.send(ADD_MAPPING, b"")
    driven.run_soon()
    (reply,) = log.news()
    assert (reply.request.type, reply.code) == (ADD_MAPPING, code)


def test_a_bare_done_is_success() -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    seq = driven.channel.send(18, b"")
    driven.socket.deliver(build(NLMSG_DONE, b"", seq=seq, pid=driven.socket.portid))
    driven.channel.turn()
    assert log.news()[0].code == 0


def test_each_send_is_answered_at_most_once() -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    seq = driven.channel.send(18, b"")
    for _ in range(3):
        driven.socket.deliver(build(NLMSG_DONE, _code(0), seq=seq, pid=driven.socket.portid))
    driven.channel.turn()
    assert len(log.news()) == 1
    assert driven.counters.unmatched == 2


@pytest.mark.parametrize("type", [NLMSG_DONE, NLMSG_ERROR])
def test_an_answer_with_an_unknown_seq_is_counted_and_dropped(type: int) -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    driven.socket.deliver(build(type, _code(0), seq=77, pid=driven.socket.portid))
    driven.socket.deliver(build(20, b"part", seq=77, pid=driven.socket.portid))
    driven.channel.turn()
    assert log.news() == []
    assert driven.counters.unmatched == 2


def test_an_answer_to_somebody_elses_portid_is_not_ours() -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    seq = driven.channel.send(18, b"")
    driven.socket.deliver(build(NLMSG_DONE, _code(0), seq=seq, pid=driven.socket.portid + 1))
    driven.channel.turn()
    assert log.news() == []
    assert driven.counters.unmatched == 1


def test_given_sequence_numbers_are_used_and_not_while_outstanding() -> None:
    driven = Driven(Silent(), Log(), ChannelSpec(NETLINK_ROUTE))
    assert driven.channel.send(18, b"", seq=0) == 0
    assert driven.channel.send(18, b"") == 1  # 0 is taken
    with pytest.raises(LocalError, match="sequence number 1"):
        driven.channel.send(18, b"", seq=1)


def test_the_table_of_outstanding_sends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "OUTSTANDING_LIMIT", 4)
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    seqs = [driven.channel.send(18, b"") for _ in range(6)]
    assert driven.counters.unanswered == 2
    for seq in seqs:
        driven.socket.deliver(build(NLMSG_DONE, _code(0), seq=seq, pid=driven.socket.portid))
    driven.channel.turn()
    assert [reply.request.seq for reply in log.news()] == seqs[2:]


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "ANSWER_LIMIT", 3)
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    seq = driven.channel.send(18, b"")
    for _ in range(5):
        driven.socket.deliver(build(16, b"part", seq=seq, pid=driven.socket.portid))
    driven.channel.turn()
    assert [reply.code for reply in log.news()] == [-errno.EMSGSIZE]
    assert (driven.counters.overruns, driven.counters.unmatched) == (1, 1)


def test_a_refused_send_is_a_kernel_error_and_leaves_nothing_outstanding() -> None:
    driven = Driven(Refusing(), Log(), IWPM)
    for _ in range(2):
        with pytest.raises(KernelError) as caught:
            driven.channel.send(HELLO, b"", seq=3)
        assert caught.value.errno == errno.ECONNREFUSED


# ---------------------------------------------------------------- what is dropped, and said to be


def test_messages_from_other_processes_are_foreign() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    driven.socket.deliver(kernel.request(ADD_MAPPING, b"evil"), sender=4711)
    driven.channel.turn()
    assert log.news() == []
    assert driven.counters.foreign == 1


def test_other_clients_of_the_family_are_foreign() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    driven.socket.deliver(kernel.request(5 << 10, b""))
    driven.channel.turn()
    assert log.news() == []
    assert driven.counters.foreign == 1


def test_without_a_list_of_clients_every_client_is_delivered() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, ChannelSpec(IWPM.family))
    driven.socket.deliver(kernel.request(5 << 10, b""))
    driven.channel.turn()
    assert len(log.news()) == 1


@pytest.mark.parametrize("length", range(HEADER.size + 1, 2 * HEADER.size))
def test_bytes_behind_the_last_message_are_counted(length: int) -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    whole = kernel.request(ADD_MAPPING, b"") + kernel.request(ADD_MAPPING, b"")
    driven.socket.deliver(whole[:length])
    driven.channel.turn()
    assert len(log.news()) == 1
    assert driven.counters.malformed == 1


def test_noops_are_skipped() -> None:
    log = Log()
    driven = Driven(Silent(), log, ChannelSpec(NETLINK_ROUTE))
    driven.socket.deliver(build(NLMSG_NOOP))
    driven.channel.turn()
    assert log.news() == []


def test_device_events_come_whole() -> None:
    class Uevents(FakeKernel):
        family = NETLINK_KOBJECT_UEVENT

    log = Log()
    kernel = Uevents()
    driven = Driven(kernel, log, ChannelSpec(NETLINK_KOBJECT_UEVENT, groups=(1,)))
    text = b"add@/devices/virtual/net/x\0ACTION=add\0"
    kernel.multicast(1, text)
    driven.channel.turn()
    assert log.news() == [Received(Message(0, 0, 0, 0, text), 0, 1)]


# ---------------------------------------------------------------- batches


def test_drained_ends_each_batch() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    for _ in range(3):
        driven.socket.deliver(kernel.request(ADD_MAPPING))
    driven.channel.turn()
    assert [event == "drained" for event in log.events] == [False, False, False, True]


def test_a_turn_is_bounded_and_leaves_the_rest_for_the_next() -> None:
    log = Log()
    kernel = FakeRdma()
    spec = ChannelSpec(IWPM.family, receive_buffer_bytes=1 << 24)
    driven = Driven(kernel, log, spec)
    for _ in range(channel_module.QUOTA + 1):
        driven.socket.deliver(kernel.request(ADD_MAPPING))
    driven.channel.turn()
    assert len(log.news()) == channel_module.QUOTA
    driven.channel.turn()
    assert len(log.news()) == channel_module.QUOTA + 1


def test_one_socket_is_read_no_further_than_needed() -> None:
    # Each receive is a system call on the way of an answer: one for the request, one for the DONE, one that says empty.
    kernel = FakeRdma()
    driven = Driven(kernel, Log(lambda received: driven.channel.send(ADD_MAPPING, b"")), IWPM)
    calls = 0
    receive = driven.socket.receive

    def counted() -> tuple[bytes, int, int] | None:
        nonlocal calls
        calls += 1
        return receive()

    driven.socket.receive = counted  # type: ignore[method-assign]
    driven.socket.deliver(kernel.request(ADD_MAPPING))
    driven.channel.turn()
    assert calls == 3


# ---------------------------------------------------------------- losses


def test_an_overrun_is_reported_after_the_queue_has_been_drained() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, ChannelSpec(IWPM.family, groups=(2,), receive_buffer_bytes=4000))
    delivered = sum(kernel.multicast(2, kernel.request(ADD_MAPPING)) for _ in range(20))
    assert 0 < delivered < 20
    driven.channel.turn()
    assert [type(event).__name__ for event in log.events] == ["Received"] * delivered + ["str", "str"]
    assert log.events[-2:] == ["overrun", "drained"]
    assert driven.counters.overruns == 1


def test_a_loss_met_while_sending_is_reported_too() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, ChannelSpec(IWPM.family, groups=(2,), receive_buffer_bytes=4000))
    for _ in range(20):
        kernel.multicast(2, kernel.request(ADD_MAPPING))
    driven.channel.send(HELLO, b"")  # its DONE is lost with the rest
    driven.run_soon()
    assert log.events[-2:] == ["overrun", "drained"]
    assert not any(isinstance(event, Reply) for event in log.events)
    assert (driven.counters.overruns, driven.counters.unanswered) == (1, 1)


def test_a_cut_datagram_is_a_loss() -> None:
    log = Log()
    kernel = FakeRdma()
    driven = Driven(kernel, log, ChannelSpec(IWPM.family, receive_bytes=64))
    driven.socket.deliver(kernel.request(ADD_MAPPING, bytes(100)))
    driven.channel.turn()
    assert log.news() == ["overrun"]


def test_a_loss_is_reported_even_if_the_queue_never_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "LOSS_DATAGRAMS_LIMIT", 100)
    kernel = FakeRdma()
    log = Log(lambda received: driven.socket.deliver(kernel.request(ADD_MAPPING)))
    driven = Driven(kernel, log, ChannelSpec(IWPM.family, groups=(2,), receive_buffer_bytes=4000))
    for _ in range(20):
        kernel.multicast(2, kernel.request(ADD_MAPPING))
    for _ in range(4):
        driven.channel.turn()
    assert "overrun" in log.events


# ---------------------------------------------------------------- failing and ending


def test_what_a_handler_raises_goes_to_the_owner() -> None:
    def react(received: Received) -> None:
        raise ZeroDivisionError

    kernel = FakeRdma()
    driven = Driven(kernel, Log(react), IWPM)
    driven.socket.deliver(kernel.request(ADD_MAPPING))
    driven.channel.turn()
    assert [type(failure) for failure in driven.failures] == [ZeroDivisionError]


def test_close_in_the_middle_of_a_datagram_ends_delivery() -> None:
    log = Log(lambda received: driven.channel.close())
    kernel = FakeRdma()
    driven = Driven(kernel, log, IWPM)
    driven.socket.deliver(kernel.request(ADD_MAPPING) + kernel.request(ADD_MAPPING))
    driven.socket.deliver(kernel.request(ADD_MAPPING))
    driven.channel.turn()
    driven.channel.turn()
    assert len(log.news()) == 1
    assert kernel.sockets == []
    driven.channel.close()  # again is harmless
    with pytest.raises(LocalError, match="closed"):
        driven.channel.send(HELLO, b"")


def test_a_fenced_channel_reaches_the_kernel_no_more() -> None:
    kernel = FakeRdma()
    driven = Driven(kernel, Log(), IWPM)
    descriptor = driven.channel.fileno()
    driven.channel.fence()
    with pytest.raises(LocalError, match="closed"):
        driven.channel.send(HELLO, b"")
    with pytest.raises(OSError, match="socket"):
        driven.socket.send(build(HELLO))
    assert kernel.sent == []
    assert driven.channel.fileno() == descriptor  # still taken
    driven.channel.dispose()
    assert driven.channel.fileno() == -1
