# SPDX-License-Identifier: Apache-2.0
"""Being registered with an iSNS server, for as long as its notifications are wanted. Engine ring.

    engine = RegistrationEngine(config, senders, random_bytes=os.urandom)
    engine.start(now)
    ... engine.connected(address, now) after Connect; engine.receive(data, now); engine.closed(now, what)
    ... engine.notified(message, sender, now) -> answer; engine.tick(now) at engine.wake_at()
    for item in engine.take_output(): ...     # bytes to send, or an event

A registration ends by itself: after its period, when an inquiry is not answered, when the server restarts without its
database. None of that is told to us, so we ask: at half the period, and when inquiries stop. A connection is made for
each exchange and closed behind it. Nobody repeats notifications that were missed meanwhile: `Registered` therefore
means that everything has to be asked for again. Where a firewall keeps the server's inquiries from us, it would forget
us again and again: then we register without them, and say that notifications cannot be counted on.
Not here: sockets, what notifications say (`notices.py`). Defined by RFC 4171 sections 5.6.5.1, 5.6.5.5 and 2.2.4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from rdmactl.errors import PeerError
from rdmactl.isns.attributes import Attribute, Tag, read_number, unpack
from rdmactl.isns.conversation import Answer, Conversation
from rdmactl.isns.notices import Changed, Notices
from rdmactl.isns.pdu import Message, encode, parse_datagram
from rdmactl.isns.registration_states import ASKING, TRANSITIONS, RegistrationInput, RegistrationState
from rdmactl.isns.requests import (
    Registration,
    Request,
    deregister_entity,
    deregister_node,
    deregister_notifications,
    query_entity,
    register,
    register_notifications,
)
from rdmactl.isns.status import Status, refusal
from rdmactl.states import advance

__all__ = ["Connect", "Disconnect", "Problem", "Registered", "RegistrationConfig", "RegistrationEngine", "entity_of"]

_UNKNOWN_PERIOD_S = 600.0  # where a server does not say; Microsoft's has 15 minutes
_SHORTEST_PERIOD_S = 2.0
_INQUIRIES_MISSED = 2  # a server gives up after three
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_S, _I = RegistrationState, RegistrationInput


@dataclass(frozen=True, slots=True)
class RegistrationConfig:
    """Who registers, and where notifications reach it; times in seconds."""

    initiator_name: str
    port: int
    udp: bool = True
    esi_interval_s: int = 60
    """Wanted; the server decides. 0: no inquiries."""
    answer_s: float = 20.0
    """For connecting, and for each answer to its last byte."""
    leave_s: float = 2.0
    """For the deregistration, which is a courtesy."""
    settle_s: float = 1.0
    """As in `Notices`."""
    quiet_s: float = 2.0
    """As in `Notices`."""


@dataclass(frozen=True, slots=True)
class Connect:
    """A connection to the server, please."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The connection is not needed any more."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The server has us. `refusal`: why it will not notify us, empty when it will."""

    refusal: str


@dataclass(frozen=True, slots=True)
class Problem:
    """We are not registered, or do not know; another attempt comes in `pause_s`."""

    message: str
    pause_s: float


RegistrationEvent = Connect | Disconnect | Registered | Problem | Changed


def entity_of(initiator_name: str) -> str:
    """Our entity: the same after every restart, and no other host's, as the name is not."""
    return f"rdmactl:{initiator_name}"


class RegistrationEngine:
    """One initiator's registration with one server."""

    def __init__(
        self,
        config: RegistrationConfig,
        senders: Collection[str] | None,
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._config = config
        self._entity = entity_of(config.initiator_name)
        self.notices = Notices(
            config.initiator_name, self._entity, senders, settle_s=config.settle_s, quiet_s=config.quiet_s
        )
        self._random_bytes = random_bytes
        self._state = _S.AWAY
        self._output: list[bytes | RegistrationEvent] = []
        self._conversation: Conversation | None = None  # of the connection, if there is one
        self._unanswered = 0
        self._address = ""  # ours, as the server sees it
        self._with_esi = config.esi_interval_s > 0
        self._dropped = False
        self._out_of_reach = False  # the server forgot us and its inquiries never came
        self._refusal = ""
        self._registered_at = 0.0
        self._esi_s = 0.0  # interval the server has granted
        self._pause_s = _FIRST_PAUSE_S
        self._wake: float | None = None  # end of the pause, of the wait for an answer, or of half the period
        self._known_at = 0.0  # when the server last said that it has us
        self.period_s = 0.0
        """Of the registration; 0: the server has not said."""

    @property
    def state(self) -> RegistrationState:
        """For logs and status."""
        return self._state

    def start(self, now: float) -> None:
        """Begin."""
        self._wake = now
        self.tick(now)

    def stop(self, now: float) -> None:
        """End: deregister if there is something to take back. ENDED is reached within `leave_s`."""
        if self._state in (_S.LEAVE, _S.ENDED):
            return
        self._advance(_I.STOP, now)

    def connected(self, address: str, now: float) -> None:
        """The connection is there; `address` is ours on it."""
        self._address = address
        self._conversation = Conversation()
        self._ask(now)

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes of the connection as they came."""
        if self._conversation is None:
            return
        try:
            for item in self._conversation.receive(data):
                if isinstance(item, Message):
                    self._told(item, now)
                elif self._state in ASKING:
                    self._answered(item, now)
        except PeerError as error:
            self._failed(str(error), now)

    def closed(self, now: float, what: str = "the server closed the connection") -> None:
        """The connection ended, or could not be made; `what` says how."""
        self._conversation = None
        self._failed(f"{what} before {self._state.value} was answered", now)

    def notified(self, message: Message, sender: str, now: float) -> bytes | None:
        """Take a message that came to our port; the bytes of the answer, if there is to be one."""
        reply = self.notices.receive(message, sender, now)
        if reply is None:
            return None
        if self._out_of_reach and self._state is _S.REGISTERED:
            self._out_of_reach = False
            self._output.append(Registered(self._refusal))
        return encode(reply)

    def datagram(self, data: bytes, sender: str, now: float) -> bytes | None:
        """The same for a datagram; what is no message is counted."""
        try:
            message = parse_datagram(data)
        except PeerError:
            self.notices.ignored += 1
            return None
        return self.notified(message, sender, now)

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        changed = self.notices.take(now)
        if changed is not None and self._state is not _S.ENDED:
            self._output.append(changed)
        if self._state is _S.AWAY and self._wake is not None and now >= self._wake:
            self._advance(_I.TIME, now)
        elif self._state is _S.REGISTERED and any(time is not None and now >= time for time in self._checks()):
            self._advance(_I.DUE, now)
        elif self._state in ASKING and self._wake is not None and now >= self._wake:
            self._late(now)

    def wake_at(self) -> float | None:
        """When `tick` is to be called."""
        if self._state is _S.ENDED:
            return None
        times = [self.notices.wake_at(), *(self._checks() if self._state is _S.REGISTERED else (self._wake,))]
        return min((time for time in times if time is not None), default=None)

    def take_output(self) -> list[bytes | RegistrationEvent]:
        """Bytes to send and events, in order."""
        output, self._output = self._output, []
        return output

    # What the states do.

    def _advance(self, event: RegistrationInput, now: float) -> None:
        self._state = advance(TRANSITIONS, self._state, event)
        self._wake = None
        if self._state in ASKING:
            limit_s = self._config.leave_s if self._state is _S.LEAVE else self._config.answer_s
            self._wake = now + limit_s
            if self._conversation is None:
                self._output.append(Connect())
            else:
                self._conversation.forget()
                self._ask(now)
        elif self._conversation is not None:
            self._conversation = None
            self._output.append(Disconnect())

    def _ask(self, now: float) -> None:
        config, name = self._config, self._config.initiator_name
        esi_s = config.esi_interval_s if self._with_esi else 0
        match self._state:
            case _S.REGISTER:
                self._send(register(Registration(self._entity, name, self._address, config.port, config.udp, esi_s)))
            case _S.DROP:
                self._send(deregister_node(name))
            case _S.SUBSCRIBE:
                self._send(register_notifications(name))
            case _S.CHECK:
                self._send(query_entity(name, self._entity))
            case _S.LEAVE:
                self._send(deregister_notifications(name), deregister_entity(name, self._entity))

    def _send(self, *requests: Request) -> None:
        assert self._conversation is not None
        self._unanswered = len(requests)
        for request in requests:
            self._output.append(self._conversation.request(request)[1])

    def _answered(self, answer: Answer, now: float) -> None:
        self._unanswered -= 1
        match self._state:
            case _S.REGISTER:
                self._registered(answer, now)
            case _S.DROP:
                self._dropped = True
                self._advance(_I.DROPPED, now)
            case _S.SUBSCRIBE:
                self._subscribed(answer, now)
            case _S.CHECK:
                self._checked(answer, now)
            case _S.LEAVE if not self._unanswered:
                self._advance(_I.LEFT, now)

    def _registered(self, answer: Answer, now: float) -> None:
        if answer.status == Status.ESI_NOT_AVAILABLE and self._with_esi:
            self._with_esi = False
            self._advance(_I.WITHOUT_ESI, now)
        elif answer.status == Status.INVALID_REGISTRATION and not self._dropped:
            self._advance(_I.TAKEN, now)
        elif answer.status != Status.SUCCESSFUL:
            raise refusal(answer.status, self._state.value)
        else:
            granted = {attribute.tag: attribute for attribute in unpack(answer.payload, answer.start)}
            self.period_s = _seconds(granted.get(Tag.REGISTRATION_PERIOD))
            self._esi_s = _seconds(granted.get(Tag.ESI_INTERVAL)) if self._with_esi else 0.0
            self._advance(_I.ACCEPTED, now)

    def _subscribed(self, answer: Answer, now: float) -> None:
        refused = answer.status != Status.SUCCESSFUL
        self._refusal = refusal(answer.status, self._state.value).message if refused else ""
        self._advance(_I.ACCEPTED, now)
        self._settle(now)
        self._registered_at = now
        self._output.append(Registered(self._refusal or (self._unheard() if self._out_of_reach else "")))

    def _checked(self, answer: Answer, now: float) -> None:
        if answer.status == Status.SUCCESSFUL and _has_objects(answer):
            self._advance(_I.KNOWN, now)
            self._settle(now)
            return
        if self._esi_s and self.notices.inquired_at < self._registered_at:
            self._with_esi, self._out_of_reach = False, True
        self._advance(_I.FORGOTTEN, now)

    def _settle(self, now: float) -> None:
        """Registered, for half a period."""
        period_s = max(self.period_s or _UNKNOWN_PERIOD_S, _SHORTEST_PERIOD_S)
        self._wake = now + period_s / 2
        self._known_at = now
        self._pause_s = _FIRST_PAUSE_S
        self._dropped = False

    def _unheard(self) -> str:
        kind = "UDP" if self._config.udp else "TCP"
        return (
            f"the server's inquiries do not reach {kind} port {self._config.port} of this host; open it for the server"
        )

    # Notifications.

    def _told(self, message: Message, now: float) -> None:
        """The server uses our connection to tell us something."""
        reply = self.notices.receive(message, None, now)
        if reply is not None:
            self._output.append(encode(reply))

    def _checks(self) -> tuple[float | None, float | None]:
        """When to ask whether we are still registered: at half the period, and when promised inquiries have stopped."""
        heard_at = max(self._known_at, self.notices.inquired_at)
        return self._wake, heard_at + _INQUIRIES_MISSED * self._esi_s if self._esi_s else None

    # Failures.

    def _late(self, now: float) -> None:
        partial = None if self._conversation is None else self._conversation.partial()
        inside = f" ({partial[0]} of {partial[1]} bytes of a message)" if partial else ""
        self._failed(f"no answer to {self._state.value} within {self._config.answer_s:g} s{inside}", now)

    def _failed(self, message: str, now: float) -> None:
        if self._state is _S.LEAVE:
            self._advance(_I.LEFT, now)
        elif self._state in ASKING:
            self._advance(_I.FAILURE, now)
            jitter = 0.75 + self._random_bytes(1)[0] / 512  # 0.75 to 1.25: hosts must not come back in step
            pause_s = self._pause_s * jitter
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._wake = now + pause_s
            self._with_esi = self._config.esi_interval_s > 0
            self._dropped = self._out_of_reach = False
            self._output.append(Problem(message, pause_s))


def _seconds(attribute: Attribute | None) -> float:
    return 0.0 if attribute is None or not attribute.value else float(read_number(attribute))


def _has_objects(answer: Answer) -> bool:
    """Whether anything stands behind the delimiter."""
    behind = False
    for attribute in unpack(answer.payload, answer.start):
        if behind:
            return True
        behind = attribute.tag == Tag.DELIMITER
    return False
