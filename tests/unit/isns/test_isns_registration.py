# SPDX-License-Identifier: Apache-2.0
"""Being registered and told: notifications, inquiries, and a server that forgets. Numbers are rows of the checklist."""

from __future__ import annotations

from typing import Any

import pytest

from rdmactl.errors import LocalError
from rdmactl.isns.attributes import Attribute, Tag, of_address, of_number, of_text, pack, read_address, read_number
from rdmactl.isns.conversation import read_status
from rdmactl.isns.notices import Changed
from rdmactl.isns.pdu import Flag, Function, Message, encode, parse_datagram
from rdmactl.isns.registration import (
    Connect,
    Disconnect,
    Problem,
    Registered,
    RegistrationConfig,
    RegistrationEngine,
    RegistrationEvent,
    entity_of,
)
from rdmactl.isns.registration_states import TRANSITIONS, RegistrationInput, RegistrationState
from rdmactl.isns.status import Status
from rdmactl.states import advance
from tests.fake.isns_server import Connection, Entity, FakeIsnsServer, answer_of

from .support import INITIATOR, T1, T2

SERVER = "192.0.2.5"
US = "192.0.2.1"
ENTITY = entity_of(INITIATOR)


class Joined:
    """An engine and a server; every connection is made at once, unless the server is away."""

    def __init__(self, server: FakeIsnsServer, **config: Any) -> None:
        self.server = server
        self.away = False
        self.silent = False
        self.now = 0.0
        self.events: list[RegistrationEvent] = []
        self.engine = RegistrationEngine(
            RegistrationConfig(INITIATOR, 5000, **config), {SERVER}, random_bytes=lambda count: bytes([128] * count)
        )
        self.connection: Connection | None = None
        self.engine.start(0.0)
        self.settle()

    def settle(self) -> None:
        """Until nobody has anything to say."""
        while output := self.engine.take_output():
            for item in output:
                if isinstance(item, bytes):
                    reply = b"" if self.silent or self.connection is None else self.connection.receive(item)
                    self.engine.receive(reply, self.now)
                    continue
                self.events.append(item)
                if isinstance(item, Disconnect):
                    self.connection = None
                elif isinstance(item, Connect) and self.away:
                    self.engine.closed(self.now, "192.0.2.5:3205 refused the TCP connection")
                elif isinstance(item, Connect):
                    self.connection = Connection(self.server)
                    self.engine.connected(US, self.now)

    def wait(self, until: float) -> None:
        """Time passes."""
        while (wake_at := self.engine.wake_at()) is not None and wake_at <= until:
            self.now = max(self.now, wake_at)
            self.engine.tick(self.now)
            self.settle()
        self.now = until

    def of(self, kind: type[RegistrationEvent]) -> list[Any]:
        """The events of a kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def notify(
        self, *names: str, told: str = INITIATOR, sender: str = SERVER, time: int = 1, bits: int = 0xC
    ) -> int | None:
        """A notification; the status of the answer to it."""
        changes = [one for name in names for one in (of_number(Tag.SCN_BITMAP, bits), of_text(Tag.ISCSI_NAME, name))]
        return self.tell(
            [of_text(Tag.ISCSI_NAME, told), Attribute(Tag.TIMESTAMP, time.to_bytes(8, "big")), *changes], sender
        )

    def tell(self, attributes: list[Attribute], sender: str = SERVER, function: int = Function.SCN) -> int | None:
        """Any message to our port."""
        return self.send(pack(attributes), sender, function)

    def send(self, payload: bytes, sender: str = SERVER, function: int = Function.SCN) -> int | None:
        reply = self.engine.datagram(encode(Message(function, 9, payload)), sender, self.now)
        if reply is None:
            return None
        answer = parse_datagram(reply)
        assert (answer.function, answer.transaction) == (function | 0x8000, 9)
        return read_status(answer.payload)

    def inquire(self, entity: str = ENTITY, sender: str = SERVER) -> int | None:
        """A status inquiry."""
        portal = of_address(Tag.PORTAL_IP, US), of_number(Tag.PORTAL_PORT, 5000)
        return self.tell(
            [Attribute(Tag.TIMESTAMP, bytes(8)), of_text(Tag.ENTITY_IDENTIFIER, entity), *portal], sender, Function.ESI
        )


def test_everything_is_registered_in_one_message() -> None:
    joined = Joined(FakeIsnsServer())
    (entity,) = joined.server.entities.values()
    said = {tag: Attribute(tag, value) for tag, value in entity.attributes.items()}
    assert read_address(said[Tag.PORTAL_IP]) == US
    assert said[Tag.PORTAL_IP].value[10:12] == b"\xff\xff"
    assert read_number(said[Tag.SCN_PORT]) == read_number(said[Tag.ESI_PORT]) == 5000 | 0x10000
    assert entity.notified
    assert joined.server.requests[0].flags & Flag.REPLACE
    assert [type(event) for event in joined.events] == [Connect, Disconnect, Registered]
    assert joined.engine.state is RegistrationState.REGISTERED
    assert joined.engine.period_s == 120


def test_over_tcp_the_ports_say_so() -> None:
    (entity,) = Joined(FakeIsnsServer(), udp=False).server.entities.values()
    assert read_number(Attribute(Tag.SCN_PORT, entity.attributes[Tag.SCN_PORT])) == 5000


def test_a_server_without_inquiries_gets_a_registration_without_them() -> None:
    joined = Joined(FakeIsnsServer(esi=False))
    (entity,) = joined.server.entities.values()
    assert Tag.ESI_PORT not in entity.attributes
    assert len(joined.of(Registered)) == 1


def test_a_name_that_belongs_to_an_older_entity_is_taken_from_it_once() -> None:
    server = FakeIsnsServer(entities={"host1.example.org:isns": Entity({INITIATOR}, {})})
    assert len(Joined(server).of(Registered)) == 1
    assert list(server.entities) == [ENTITY]
    stubborn = FakeIsnsServer(twist=lambda request, _: encode(answer_of(request, Status.INVALID_REGISTRATION)))
    joined = Joined(stubborn)
    assert [request.function for request in stubborn.requests] == [1, 4, 1]
    (problem,) = joined.of(Problem)
    assert "status 3 (invalid registration)" in problem.message
    assert "every host needs a name of its own" in problem.message


def test_a_server_that_does_not_notify_has_us_all_the_same() -> None:
    joined = Joined(FakeIsnsServer(scn=False))
    (registered,) = joined.of(Registered)
    assert "status 17 (scn registration rejected)" in registered.refusal


def test_half_the_period_is_the_time_to_ask() -> None:
    joined = Joined(FakeIsnsServer(esi=False))
    joined.wait(299.0)
    asked = [request for request in joined.server.requests if request.function == Function.DEV_ATTR_QRY]
    assert len(asked) == 4
    assert len(joined.of(Registered)) == 1
    assert len(joined.of(Connect)) == len(joined.of(Disconnect)) == 5


def test_a_server_that_has_forgotten_us_gets_a_new_registration() -> None:
    joined = Joined(FakeIsnsServer(esi=False))
    joined.server.entities.clear()
    joined.wait(61.0)
    assert len(joined.of(Registered)) == 2
    assert joined.server.entities[ENTITY].notified


def test_a_server_that_was_away_is_found_again_with_growing_pauses() -> None:
    joined = Joined(FakeIsnsServer(esi=False))
    joined.away = True
    joined.wait(3600.0)
    pauses = [problem.pause_s for problem in joined.of(Problem)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(pauses) == pauses[-1] == 60.0
    assert "refused" in joined.of(Problem)[0].message
    joined.server.entities.clear()
    joined.away = False
    joined.wait(3720.0)
    assert len(joined.of(Registered)) == 2


def test_a_silent_server_is_given_up_and_tried_again() -> None:
    joined = Joined(FakeIsnsServer(esi=False))
    joined.silent = True
    joined.wait(80.5)
    (problem,) = joined.of(Problem)
    assert problem.message == "no answer to the question whether we are registered within 20 s"
    joined.silent = False
    joined.wait(90.0)
    assert len(joined.of(Registered)) == 2


def test_the_end_takes_everything_back() -> None:
    joined = Joined(FakeIsnsServer())
    joined.engine.stop(1.0)
    joined.settle()
    assert joined.engine.state is RegistrationState.ENDED
    assert not joined.server.entities
    assert [request.function for request in joined.server.requests[-2:]] == [Function.SCN_DEREG, Function.DEV_DEREG]


def test_the_end_waits_for_nobody_longer_than_two_seconds() -> None:
    joined = Joined(FakeIsnsServer())
    joined.silent = True
    joined.engine.stop(1.0)
    joined.settle()
    joined.wait(3.0)
    assert joined.engine.state is RegistrationState.ENDED
    assert joined.engine.wake_at() is None


def test_an_end_before_any_registration() -> None:
    engine = RegistrationEngine(RegistrationConfig(INITIATOR, 5000), None, random_bytes=bytes)
    engine.stop(0.0)
    assert engine.state is RegistrationState.ENDED


@pytest.mark.parametrize("told", [T1, "iqn.2005-03.org.example:other"])
def test_132_a_notification_for_somebody_else(told: str) -> None:
    joined = Joined(FakeIsnsServer())
    assert joined.notify(T2, told=told) is None
    assert (joined.engine.notices.taken, joined.engine.notices.ignored) == (0, 1)


def test_132_a_notification_from_somewhere_else() -> None:
    joined = Joined(FakeIsnsServer())
    assert joined.notify(T1, sender="192.0.2.66") is None
    assert joined.inquire(sender="192.0.2.66") is None
    assert (joined.engine.notices.taken, joined.engine.notices.ignored) == (0, 2)


def test_133_a_notification_three_times_is_one_change_and_three_answers() -> None:
    joined = Joined(FakeIsnsServer())
    for now in (1.0, 6.0, 11.0):
        joined.wait(now)
        assert joined.notify(T1) == Status.SUCCESSFUL
    joined.wait(30.0)
    assert joined.of(Changed) == [Changed((T1,))]


def test_134_a_thousand_notifications_in_a_second() -> None:
    joined = Joined(FakeIsnsServer())
    for number in range(1000):
        if not number % 50:
            joined.wait(1.0 + number / 1000)
        assert joined.notify(T1, T2, time=number) == Status.SUCCESSFUL
    joined.wait(20.0)
    assert len(joined.of(Changed)) == 1
    for number in range(100):
        joined.wait(20.0 + number / 10)
        joined.notify(T1, time=5000 + number)
    joined.wait(40.0)
    assert len(joined.of(Changed)) <= 1 + 10 / 2 + 1


def test_134_more_targets_than_can_be_asked_for_by_name_are_everything() -> None:
    joined = Joined(FakeIsnsServer())
    for number in range(1000):
        joined.notify(f"{T1}.{number}", time=number)
    joined.wait(5.0)
    assert joined.of(Changed) == [Changed(None)]


@pytest.mark.parametrize(
    "attributes",
    [
        [],
        [of_text(Tag.ISCSI_NAME, INITIATOR)],
        [of_text(Tag.ISCSI_NAME, INITIATOR), of_number(Tag.SCN_BITMAP, 8)],
        [
            of_text(Tag.ISCSI_NAME, INITIATOR),
            of_number(Tag.SCN_BITMAP, 8),
            of_number(Tag.SCN_BITMAP, 8),
            of_text(Tag.ISCSI_NAME, T1),
        ],
        [of_text(Tag.ISCSI_NAME, INITIATOR), of_number(Tag.SCN_BITMAP, 8), of_number(Tag.DD_ID, 1)],
    ],
)
def test_135_a_notification_that_does_not_say_what_has_changed(attributes: list[Attribute]) -> None:
    joined = Joined(FakeIsnsServer())
    assert joined.tell(attributes) == Status.SCN_EVENT_REJECTED
    joined.wait(5.0)
    assert not joined.of(Changed)


def test_135_a_notification_that_is_cut_short() -> None:
    joined = Joined(FakeIsnsServer())
    whole = [of_text(Tag.ISCSI_NAME, INITIATOR), of_number(Tag.SCN_BITMAP, 8), of_text(Tag.ISCSI_NAME, T1)]
    payload = pack(whole)
    for length in range(1, len(payload)):
        assert joined.send(payload[:length]) == Status.SCN_EVENT_REJECTED
    joined.wait(5.0)
    assert not joined.of(Changed)


def test_136_inquiries_that_stop_are_noticed_within_two_intervals() -> None:
    joined = Joined(FakeIsnsServer(esi_interval_s=10, period_s=3600))
    for now in (10.0, 20.0, 30.0):
        joined.wait(now)
        assert joined.inquire() == Status.SUCCESSFUL
    assert not [request for request in joined.server.requests if request.function == Function.DEV_ATTR_QRY]
    joined.server.entities.clear()
    joined.wait(50.0)
    assert ENTITY in joined.server.entities
    assert len(joined.of(Registered)) == 2


def test_a_server_whose_inquiries_never_come_gets_a_registration_without_them() -> None:
    """A firewall stands between: the server would forget us, and we register, for ever."""
    joined = Joined(FakeIsnsServer(esi_interval_s=10, period_s=3600))
    joined.server.entities.clear()
    joined.wait(21.0)
    (entity,) = joined.server.entities.values()
    assert Tag.ESI_PORT not in entity.attributes
    first, second = joined.of(Registered)
    assert not first.refusal
    assert second.refusal == "the server's inquiries do not reach UDP port 5000 of this host; open it for the server"
    joined.wait(1000.0)
    assert len(joined.of(Registered)) == 2
    joined.notify(T1)
    joined.settle()
    assert joined.of(Registered)[-1].refusal == ""


def test_an_inquiry_about_another_entity_is_not_answered() -> None:
    joined = Joined(FakeIsnsServer())
    assert joined.inquire("somebody-else") is None
    assert joined.send(b"\0\0\0\1\0\0\0\4", function=Function.ESI) is None
    assert joined.tell([], function=Function.SCN_REG) is None
    assert joined.engine.notices.ignored == 3


def test_a_datagram_that_is_no_message_is_counted() -> None:
    joined = Joined(FakeIsnsServer())
    message = encode(Message(Function.SCN, 1, pack([of_text(Tag.ISCSI_NAME, INITIATOR)])))
    for data in (b"", b"x", message[:11], message[:-1], b"\0\2" + message[2:], message[:6] + b"\x80\0" + message[8:]):
        assert joined.engine.datagram(data, SERVER, 0.0) is None
    assert joined.engine.notices.ignored == 6


def test_137_a_notification_on_the_connection_of_a_question() -> None:
    answers: list[Message] = []
    notification = Message(
        Function.SCN,
        77,
        pack([of_text(Tag.ISCSI_NAME, INITIATOR), of_number(Tag.SCN_BITMAP, 8), of_text(Tag.ISCSI_NAME, T1)]),
    )
    server = FakeIsnsServer(twist=lambda _, answer: encode(notification) + encode(answer))
    engine = RegistrationEngine(RegistrationConfig(INITIATOR, 5000), {SERVER}, random_bytes=bytes)
    engine.start(0.0)
    engine.take_output()
    engine.connected(US, 0.0)
    (request,) = engine.take_output()
    assert isinstance(request, bytes)
    engine.receive(Connection(server).receive(request), 0.1)
    answers = [parse_datagram(item) for item in engine.take_output() if isinstance(item, bytes)]
    assert [(one.function, one.transaction) for one in answers] == [(0x8008, 77), (Function.SCN_REG, 2)]
    assert engine.state is RegistrationState.SUBSCRIBE


@pytest.mark.parametrize("name", ["iqn.2005-03.a/b", "iqn.2005-03." + "x" * 300, "disk", INITIATOR])
def test_names_nobody_can_ask_for_are_no_changes(name: str) -> None:
    joined = Joined(FakeIsnsServer())
    assert joined.notify(name) == Status.SUCCESSFUL
    joined.wait(5.0)
    assert not joined.of(Changed)


def test_a_malformed_answer_is_a_problem_not_the_end() -> None:
    def twist(request: Message, answer: Message) -> bytes:
        return encode(answer._replace(payload=answer.payload + b"\0")) if request.function == 1 else encode(answer)

    joined = Joined(FakeIsnsServer(twist=twist))
    assert "malformed" in joined.of(Problem)[0].message
    joined.wait(600.0)
    assert len(joined.of(Problem)) > 5


def test_the_table_knows_no_dead_end() -> None:
    for state in set(RegistrationState) - {RegistrationState.ENDED}:
        assert any(before is state and after is not state for (before, _), after in TRANSITIONS.items())
    with pytest.raises(LocalError, match=r"KNOWN cannot happen in .*AWAY"):
        advance(TRANSITIONS, RegistrationState.AWAY, RegistrationInput.KNOWN)
