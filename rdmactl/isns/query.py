# SPDX-License-Identifier: Apache-2.0
"""The targets an iSNS server shows to an initiator: one query, or many small ones. Engine ring.

    engine = QueryEngine(config)
    engine.connected(now)                     # again after each Reconnect
    ... engine.receive(data, now); engine.tick(now) at engine.wake_at(); engine.closed(now)
    while engine.work(now): ...               # a long list is read a little at a time
    for item in engine.take_output(): ...     # bytes to send, or an event

Exactly one of `QueryDone` and `QueryFailed` ends a query; then close the connection.

isnsd cannot answer with more than 8 kB, some 44 targets; it says "internal error", and others say "busy" or close the
connection. Then the names are asked for one by one (DevGetNext), and the portals of each, several at a time. A server
may want a registration first: name and type only, taken back at the end.
Not here: sockets, registrations that stay (`registration.py`). Defined by RFC 4171 section 5.6.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rdmactl.errors import PeerError
from rdmactl.iscsi.errors import IscsiErr
from rdmactl.iscsi.names import printable
from rdmactl.isns.attributes import Attribute, Tag, read_text, unpack
from rdmactl.isns.conversation import Answer, Conversation
from rdmactl.isns.pdu import MAX_MESSAGE_BYTES, SMALL_MESSAGE_BYTES
from rdmactl.isns.query_states import ENDED, TRANSITIONS, QueryInput, QueryState
from rdmactl.isns.requests import (
    Request,
    deregister_node,
    next_node,
    query_target,
    query_targets,
    register_node,
)
from rdmactl.isns.status import Status, refusal
from rdmactl.isns.targets import TargetList, TargetReader
from rdmactl.states import advance

__all__ = ["QueryConfig", "QueryDone", "QueryEngine", "QueryEvent", "QueryFailed", "Reconnect"]

MAX_STEPS = 100_000
"""Names asked for one by one: beyond it a server repeats itself."""
_MAX_NAME_BYTES = 1024  # of one that is sent back to ask for the next: bad names are walked over, too
_END = object()
_AT_ONCE = 16  # queries for portals without answer: each answer fits into a server's buffer
_UNREGISTERED = (Status.SOURCE_UNKNOWN, Status.SOURCE_ABSENT, Status.SOURCE_UNAUTHORIZED)
_TOO_LARGE = (Status.UNKNOWN_ERROR, Status.INTERNAL_ERROR, Status.BUSY)
_BACK = {
    QueryState.LIST: QueryInput.BACK_TO_LIST,
    QueryState.WALK: QueryInput.BACK_TO_WALK,
    QueryState.PORTALS: QueryInput.BACK_TO_PORTALS,
}


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """One query; times in seconds."""

    initiator_name: str
    names: tuple[str, ...] = ()
    """The targets wanted; empty: all."""
    answer_s: float = 20.0
    """For each answer, to its last byte."""
    total_s: float = 60.0
    """For everything."""
    leave_s: float = 2.0
    """For the answer to the deregistration, which is a courtesy."""


@dataclass(frozen=True, slots=True)
class QueryDone:
    """The complete list."""

    found: TargetList


@dataclass(frozen=True, slots=True)
class QueryFailed:
    """No list, or not all of it."""

    err: IscsiErr
    message: str
    hint: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The server has closed the connection on a large answer: a new one, please."""


QueryEvent = QueryDone | QueryFailed | Reconnect


class QueryEngine:
    """One query, on one connection or two."""

    def __init__(self, config: QueryConfig) -> None:
        self._config = config
        self._state = QueryState.START
        self._conversation = Conversation()
        self._reader = TargetReader()
        self._output: list[bytes | QueryEvent] = []
        self._walked_by: dict[bytes, None] = {}  # names as the server has them, in its order, good or bad
        self._unasked = list(reversed(dict.fromkeys(config.names)))  # whose portals are not known, the next one last
        self._asking: dict[int, str] = {}  # name by transaction
        self._reading: Iterator[None] | None = None  # of a list that has come
        self._registered = False
        self._resume = QueryState.START  # what to go back to when registered
        self._answer_by = 0.0
        self._total_by: float | None = None

    @property
    def state(self) -> QueryState:
        """For logs."""
        return self._state

    def connected(self, now: float) -> None:
        """A connection is there: ask."""
        self._conversation = Conversation()
        if self._total_by is None:
            self._total_by = now + self._config.total_s
        if self._state is QueryState.START:
            wanted = QueryInput.SOME_WANTED if self._unasked else QueryInput.ALL_WANTED
            self._state = advance(TRANSITIONS, self._state, wanted)
        self._ask(now)

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes as they came; ignored once the query ended."""
        self.tick(now)
        if self._state in ENDED:
            return
        self._read_on(now)
        try:
            for item in self._conversation.receive(data):
                if isinstance(item, Answer) and self._state not in ENDED:
                    self._answered(item, now)
        except PeerError as error:
            self._broken(error)

    def work(self, now: float) -> bool:
        """Read on in a list that has come; whether there is more of it."""
        if self._reading is None:
            return False
        try:
            if next(self._reading, _END) is _END:
                self._reading = None
                self._complete(now)
        except PeerError as error:
            self._reading = None
            self._broken(error)
        return self._reading is not None

    def closed(self, now: float, what: str = "the server closed the connection") -> None:
        """The connection ended; `what` says how."""
        self._read_on(now)
        partial = self._conversation.partial()
        if self._state is QueryState.LEAVE:
            self._finish()
        elif self._state is QueryState.LIST and partial is None:
            self._state = advance(TRANSITIONS, self._state, QueryInput.TOO_LARGE)
            self._answer_by = now + self._config.answer_s
            self._output.append(Reconnect())
        elif self._state not in ENDED:
            inside = f" inside a message ({partial[0]} of {partial[1]} bytes)" if partial else ""
            self._fail(f"{what}{inside} before {self._state.value} was answered", code="closed")

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        wake_at = self.wake_at()
        if wake_at is None or now < wake_at:
            return
        self._read_on(now)
        if self._state is QueryState.LEAVE:
            self._finish()
        if self._state in ENDED:
            return
        partial = self._conversation.partial()
        inside = f" ({partial[0]} of {partial[1]} bytes of a message)" if partial else ""
        late = self._total_by is not None and now >= self._total_by
        limit_s = self._config.total_s if late else self._config.answer_s
        self._fail(f"no answer to {self._state.value} within {limit_s:g} s{inside}", code="unanswered")

    def wake_at(self) -> float | None:
        """When `tick` is to be called."""
        if self._state in ENDED or self._total_by is None:
            return None
        return min(self._answer_by, self._total_by)

    def take_output(self) -> list[bytes | QueryEvent]:
        """Bytes to send and events, in order."""
        output, self._output = self._output, []
        return output

    # Asking.

    def _ask(self, now: float) -> None:
        """What the state wants to know."""
        source = self._config.initiator_name
        whole = self._state is QueryState.LIST
        self._conversation.expect(MAX_MESSAGE_BYTES if whole else SMALL_MESSAGE_BYTES)
        match self._state:
            case QueryState.LIST:
                self._send(query_targets(source), now)
            case QueryState.WALK:
                self._send(next_node(source, next(reversed(self._walked_by), b"")), now)
            case QueryState.PORTALS:
                self._ask_for_portals(now)
            case QueryState.REGISTER:
                self._send(register_node(source), now)

    def _ask_for_portals(self, now: float) -> None:
        while self._unasked and len(self._asking) < _AT_ONCE:
            name = self._unasked.pop()
            self._asking[self._send(query_target(self._config.initiator_name, name), now)] = name
        if not self._asking:
            self._complete(now)

    def _send(self, request: Request, now: float) -> int:
        transaction, data = self._conversation.request(request)
        self._output.append(data)
        self._answer_by = now + self._config.answer_s
        return transaction

    # Answers.

    def _answered(self, answer: Answer, now: float) -> None:
        self._answer_by = now + self._config.answer_s
        if answer.status in _UNREGISTERED and not self._registered and self._state in _BACK:
            self._register_first(answer, now)
            return
        match self._state:
            case QueryState.LIST:
                self._listed(answer, now)
            case QueryState.WALK:
                self._walked(answer, now)
            case QueryState.PORTALS:
                self._told(answer, now)
            case QueryState.REGISTER:
                self._registered_now(answer, now)
            case QueryState.LEAVE:
                self._finish()

    def _register_first(self, answer: Answer, now: float) -> None:
        self._unasked += reversed(self._asking.values())  # all of them will be refused
        self._asking.clear()
        self._resume = self._state
        self._state = advance(TRANSITIONS, self._state, QueryInput.UNREGISTERED)
        self._conversation.forget()
        self._ask(now)

    def _registered_now(self, answer: Answer, now: float) -> None:
        if answer.status != Status.SUCCESSFUL:
            raise refusal(answer.status, self._state.value)
        self._registered = True
        self._state = advance(TRANSITIONS, self._state, _BACK[self._resume])
        self._ask(now)

    def _listed(self, answer: Answer, now: float) -> None:
        if answer.status in _TOO_LARGE:
            self._state = advance(TRANSITIONS, self._state, QueryInput.TOO_LARGE)
            self._ask(now)
            return
        if answer.status != Status.SUCCESSFUL:
            raise refusal(answer.status, self._state.value)
        self._reading = self._reader.read(answer)
        self.work(now)

    def _read_on(self, now: float) -> None:
        """To the end, where nobody has time to spare for `work`."""
        while self.work(now):
            pass

    def _walked(self, answer: Answer, now: float) -> None:
        if answer.status == Status.NO_SUCH_ENTRY:
            self._state = advance(TRANSITIONS, self._state, QueryInput.WALKED)
            self._unasked.reverse()
            self._ask_for_portals(now)
            return
        if answer.status != Status.SUCCESSFUL:
            raise refusal(answer.status, self._state.value)
        name = _name_of(answer)
        if name.value in self._walked_by:
            shown = printable(read_text(name))
            raise PeerError(f'the server lists target "{shown}" again and again', code="isns-loop")
        if len(self._walked_by) >= MAX_STEPS:
            raise PeerError(f"the server lists more than {MAX_STEPS} targets", code="isns-limit")
        self._walked_by[name.value] = None
        known = self._reader.known(read_text(name))
        if known is not None:
            self._unasked.append(known)
        self._ask(now)

    def _told(self, answer: Answer, now: float) -> None:
        del self._asking[answer.transaction]
        if answer.status == Status.SUCCESSFUL:
            self._reader.receive(answer)
        elif answer.status != Status.NO_SUCH_ENTRY:  # it is gone since
            raise refusal(answer.status, self._state.value)
        self._ask_for_portals(now)

    # Ends.

    def _complete(self, now: float) -> None:
        if not self._registered:
            self._finish()
            return
        self._state = advance(TRANSITIONS, self._state, QueryInput.COMPLETE)
        self._send(deregister_node(self._config.initiator_name), now)
        self._answer_by = now + self._config.leave_s

    def _finish(self) -> None:
        self._state = advance(TRANSITIONS, self._state, QueryInput.END)
        self._output.append(QueryDone(self._reader.finish()))

    def _broken(self, error: PeerError) -> None:
        if self._state is QueryState.LEAVE:
            self._finish()
        else:
            self._fail(error.message, error.hint)

    def _fail(self, message: str, hint: str | None = None, code: str | None = None) -> None:
        registering = self._state is QueryState.REGISTER
        self._state = advance(TRANSITIONS, self._state, QueryInput.FAILURE)
        err = IscsiErr.ISNS_REG_FAILED if registering else IscsiErr.ISNS_QUERY
        so_far = f"; {self._reader.records} targets were read, the list is not complete" if self._reader.records else ""
        self._output.append(QueryFailed(err, message + so_far, hint, code))


def _name_of(answer: Answer) -> Attribute:
    """The name DevGetNext has come to, from the key attributes of its answer."""
    for attribute in unpack(answer.payload, answer.start):
        if attribute.tag == Tag.ISCSI_NAME and 0 < len(attribute.value) <= _MAX_NAME_BYTES:
            return attribute
        if attribute.tag == Tag.DELIMITER:
            break
    raise PeerError("malformed answer: the next target has no name, or an endless one", code="isns-malformed")
