# SPDX-License-Identifier: Apache-2.0
"""SendTargets discovery: login, the list in parts, logout. Engine ring.

Transport-neutral as the login: PDUs in, PDUs and events out. `DiscoveryEngine` serves iSER connections as it is;
`StreamDiscovery` puts the framing of TCP around it, so that a shell has to move bytes only.

    engine = StreamDiscovery(config, random_bytes=os.urandom)
    engine.start(now)
    ... engine.receive(data, now); engine.tick(now) at engine.wake_at(); engine.closed(now)
    for item in engine.take_output(): ...        # bytes to send, or an event

Exactly one of `DiscoveryDone`, `DiscoveryFailed` and `Redirected` ends a discovery; then close the connection.

Choices: MaxCmdSN is not looked at, because tgt never raises it in a discovery session; StatSN is followed but not
checked, because istgt repeats it; no ping is ever sent, because tgt closes the connection on one; a logout is sent and
awaited shortly, because some targets count sessions. Over iSER, LIO 6.12 may free memory twice when parts are asked for
too fast, so `pause_s` lies between them there. Not here: retries, following redirections (`redirect.py`).
Defined by RFC 7143 sections 4.3 and 11.10, appendix C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.chap import ChallengeBook, ChapCredentials
from rdmactl.iscsi.discovery_states import ENDED, TRANSITIONS, DiscoveryInput, DiscoveryState
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.login import LoginEngine
from rdmactl.iscsi.login_model import LoginConfig, LoginDone, LoginEvent, LoginFailed, Notice, Redirected
from rdmactl.iscsi.negotiation import DISCOVERY_RECEIVE_BYTES, NegotiatedParameters, OperationalSettings
from rdmactl.iscsi.pdu import (
    ALL_ONES,
    NO_LUN,
    Async,
    AsyncEvent,
    LogoutRequest,
    LogoutResponse,
    Message,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    TextRequest,
    TextResponse,
    data_bytes,
    decode,
    next_serial,
)
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.sendtargets import SendTargetsReader, TargetRecord
from rdmactl.iscsi.stream import StreamDecoder, encode
from rdmactl.iscsi.text import build_text
from rdmactl.states import advance

__all__ = [
    "ISER_PAUSE_S",
    "DiscoveryConfig",
    "DiscoveryDone",
    "DiscoveryEngine",
    "DiscoveryEvent",
    "DiscoveryFailed",
    "StreamDiscovery",
]

ISER_PAUSE_S = 0.05  # parts 50 ms apart never hurt LIO in tests, parts back to back did
_MAX_EMPTY_PARTS = {"tcp": 4, "iser": 2}  # LIO over iSER sends empty parts for ever when it has nothing to say
_SEND_TARGETS = build_text([("SendTargets", "All")])


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """One discovery on one connection; times in seconds."""

    initiator_name: str
    """Who we are."""
    portal: Portal
    """Where we are connected: in messages, and as the address of targets that have none."""
    isid: bytes
    """6 bytes, fresh for every discovery (`login.random_isid`)."""
    transport: Literal["tcp", "iser"] = "tcp"
    initiator_alias: str | None = None
    chap: ChapCredentials | None = None
    max_recv_data_segment_bytes: int = DISCOVERY_RECEIVE_BYTES
    """The longest part of the list the target may send; over iSER the buffers must hold it (8192 in the kernel)."""
    header_digest: tuple[str, ...] = ("None",)
    """Offered over TCP, the preferred one first."""
    data_digest: tuple[str, ...] = ("None",)
    """Offered over TCP, the preferred one first."""
    single_transition: bool | None = None
    """As in `LoginConfig`."""
    itt: int | None = 1
    """Task tag; None when the kernel replaces it."""
    login_s: float = 15.0
    """For the whole login; open-iscsi's default."""
    response_s: float = 30.0
    """For each part of the list, to its last byte; open-iscsi's default."""
    total_s: float = 300.0
    """For everything until the list is complete."""
    logout_s: float = 2.0
    """For the answer to the logout, which is a courtesy."""
    pause_s: float | None = None
    """Before the next part is asked for; None: `ISER_PAUSE_S` over iSER, else none."""

    def login(self) -> LoginConfig:
        """The login of this discovery."""
        return LoginConfig(
            initiator_name=self.initiator_name,
            portal=self.portal,
            target_name=None,
            isid=self.isid,
            transport=self.transport,
            initiator_alias=self.initiator_alias,
            itt=self.itt,
            settings=OperationalSettings(
                max_recv_data_segment_bytes=self.max_recv_data_segment_bytes,
                header_digest=self.header_digest,
                data_digest=self.data_digest,
            ),
            chap=self.chap,
            single_transition=self.single_transition,
            deadline_s=self.login_s,
        )


@dataclass(frozen=True, slots=True)
class DiscoveryDone:
    """The complete list. `skipped` entries were left out, for the reasons among `warnings`."""

    targets: tuple[TargetRecord, ...]
    skipped: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiscoveryFailed:
    """No list, or not all of it. `status` is the login's; `retry`: trying again after `retry_after_s` could help.

    `code`: see `IscsiFailure`.
    """

    err: IscsiErr
    message: str
    hint: str | None = None
    status: int | None = None
    retry: bool = False
    retry_after_s: float = 0.0
    code: str = IscsiFailure.code


DiscoveryEvent = DiscoveryDone | DiscoveryFailed | Redirected | Notice


class DiscoveryEngine:
    """One discovery on one connection."""

    def __init__(
        self,
        config: DiscoveryConfig,
        *,
        random_bytes: Callable[[int], bytes],
        challenges: ChallengeBook | None = None,
    ) -> None:
        self._config = config
        self._login = LoginEngine(config.login(), random_bytes=random_bytes, challenges=challenges)
        self._reader = SendTargetsReader(config.portal)
        iser = config.transport == "iser"
        self._pause_s = (ISER_PAUSE_S if iser else 0.0) if config.pause_s is None else config.pause_s
        self._state = DiscoveryState.START
        self._output: list[Pdu | DiscoveryEvent] = []
        self._cmdsn = config.login().cmdsn
        self._exp_statsn = 0
        self._ttt = ALL_ONES
        self._lun = NO_LUN
        self._empty_parts = 0
        self._wake_at: float | None = None  # end of the current wait
        self._total_deadline = 0.0
        self.results: NegotiatedParameters | None = None  # of the login, once it is done
        self.partial: tuple[int, int] | None = None  # (bytes there, wanted) of an unfinished PDU; the framing sets it

    @property
    def state(self) -> DiscoveryState:
        """For logs."""
        return self._state

    def start(self, now: float) -> None:
        """Begin; the first request is in the output."""
        self._total_deadline = now + self._config.total_s
        self._state = advance(TRANSITIONS, self._state, DiscoveryInput.BEGIN)
        self._output.append(self._login.start(now))
        self._from_login(now)

    def receive(self, header: bytes, data: bytes, now: float) -> None:
        """Take one PDU of the target; ignored once the discovery ended."""
        self.tick(now)
        if self._state in ENDED:
            return
        try:
            if self._state is DiscoveryState.LOGIN:
                self._login.receive(header, data, now)
                self._from_login(now)
            else:
                self._received(decode(header), data[: data_bytes(header)], now)
        except PeerError as error:
            self.broken(error)

    def broken(self, error: PeerError) -> None:
        """The target broke the protocol, here or in the framing below."""
        retry = error.code == "iscsi-digest"
        self._fail(IscsiErr.PDU_TIMEOUT, error.message + self._so_far(), error.hint, retry=retry)

    def lost(self, what: str = "connection closed") -> None:
        """The connection ended; `what` says how."""
        inside = f" inside a PDU ({self.partial[0]} of {self.partial[1]} bytes)" if self.partial else ""
        if self._state is DiscoveryState.LOGIN:
            self._login.lost(what + inside)
            self._from_login(0.0)
        elif self._state not in ENDED:
            text = f"{what}{inside} while waiting for {self._state.value}{self._so_far()}"
            self._fail(IscsiErr.PDU_TIMEOUT, text, retry=True)

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        if self._state is DiscoveryState.LOGOUT:
            if self._wake_at is not None and now >= self._wake_at:
                self._finish()
        elif self._state not in ENDED and now >= self._total_deadline:
            what = f"the discovery did not end within {self._config.total_s:g} s"
            self._fail(IscsiErr.PDU_TIMEOUT, what + self._partial() + self._so_far(), retry=True)
        elif self._state is DiscoveryState.LOGIN:
            self._login.tick(now)
            self._from_login(now, self._partial())
        elif self._wake_at is not None and now >= self._wake_at:
            self._waited(now)

    def wake_at(self) -> float | None:
        """When `tick` is to be called."""
        if self._state in ENDED or self._state is DiscoveryState.START:
            return None
        wake = self._login.wake_at() if self._state is DiscoveryState.LOGIN else self._wake_at
        if self._state is DiscoveryState.LOGOUT:
            return wake
        return self._total_deadline if wake is None else min(wake, self._total_deadline)

    def take_output(self) -> list[Pdu | DiscoveryEvent]:
        """PDUs to send and events, in order."""
        output, self._output = self._output, []
        return output

    # Login.

    def _from_login(self, now: float, suffix: str = "") -> None:
        for item in self._login.take_output():
            if isinstance(item, Pdu):
                self._output.append(item)
            else:
                self._login_event(item, now, suffix)

    def _login_event(self, event: LoginEvent, now: float, suffix: str) -> None:
        match event:
            case LoginDone():
                self.results = event.results
                self._exp_statsn = next_serial(event.statsn)
                self._state = advance(TRANSITIONS, self._state, DiscoveryInput.LOGGED_IN)
                self._ask(_SEND_TARGETS, now)
            case LoginFailed():
                self._state = advance(TRANSITIONS, self._state, DiscoveryInput.FAILURE)
                message = event.message + suffix
                self._output.append(
                    DiscoveryFailed(event.err, message, event.hint, event.status, event.retry, code=event.code)
                )
            case Redirected():
                self._state = advance(TRANSITIONS, self._state, DiscoveryInput.REDIRECT)
                self._output.append(event)
            case Notice():
                self._output.append(event)

    # List.

    def _ask(self, text: bytes, now: float) -> None:
        request = TextRequest(
            itt=self._config.itt or 0,
            ttt=self._ttt,
            cmdsn=self._cmdsn,
            exp_statsn=self._exp_statsn,
            lun=self._lun,
        )
        self._cmdsn = next_serial(self._cmdsn)
        self._output.append(request.pdu(text))
        self._wake_at = now + self._config.response_s

    def _waited(self, now: float) -> None:
        if self._state is DiscoveryState.PAUSE:
            self._state = advance(TRANSITIONS, self._state, DiscoveryInput.RESUME)
            self._ask(b"", now)
            return
        what = f"no response to SendTargets within {self._config.response_s:g} s"
        self._fail(IscsiErr.PDU_TIMEOUT, what + self._partial() + self._so_far(), retry=True)

    def _received(self, message: Message, data: bytes, now: float) -> None:
        match message:
            case NopIn():
                self._on_nop(message)
            case Async():
                self._exp_statsn = next_serial(message.statsn)
                self._on_async(message)
            case LogoutResponse() | Reject() if self._state is DiscoveryState.LOGOUT:
                self._finish()
            case Reject():
                raise PeerError(f"the target rejects SendTargets: {message.words}", code="iscsi-reject")
            case TextResponse() if self._state is DiscoveryState.TEXT:
                self._exp_statsn = next_serial(message.statsn)
                self._on_part(message, data, now)
            case _ if self._state is DiscoveryState.LOGOUT:
                pass  # the list is complete; what a confused target sends now is of no interest
            case _:
                name = type(message).__name__
                raise PeerError(f"unexpected {name} while waiting for {self._state.value}", code="iscsi-protocol")

    def _on_part(self, response: TextResponse, data: bytes, now: float) -> None:
        if self._config.itt is not None and response.itt != self._config.itt:
            raise PeerError(f"a text response with the foreign task tag {response.itt:#x}", code="iscsi-protocol")
        if response.more and (response.final or response.ttt == ALL_ONES):
            raise PeerError("a text response says that it goes on and that it ends", code="iscsi-protocol")
        self._reader.receive(data)
        if response.final or response.ttt == ALL_ONES:
            self._state = advance(TRANSITIONS, self._state, DiscoveryInput.LIST_ENDED)
            self._log_out(now)
            return
        self._empty_parts = 0 if data else self._empty_parts + 1
        if self._empty_parts >= _MAX_EMPTY_PARTS[self._config.transport]:
            raise PeerError(f"{self._empty_parts} parts of the list without data", code="iscsi-protocol")
        self._ttt, self._lun = response.ttt, response.lun
        self._state = advance(TRANSITIONS, self._state, DiscoveryInput.PART)
        self._wake_at = now + self._pause_s
        if not self._pause_s:
            self._waited(now)

    def _on_nop(self, nop: NopIn) -> None:
        if nop.ttt == ALL_ONES:
            return  # news of the command window only
        answer = NopOut(ALL_ONES, nop.ttt, self._cmdsn, self._exp_statsn, nop.lun)
        self._output.append(answer.pdu())

    def _on_async(self, message: Async) -> None:
        if message.event not in (AsyncEvent.CONNECTION_DROP, AsyncEvent.SESSION_DROP):
            return  # a logout is on its way anyway; the rest concerns no discovery session
        text = f"the target drops the connection{self._so_far()}"
        self._fail(IscsiErr.PDU_TIMEOUT, text, retry=True, retry_after_s=float(message.parameter2))

    # Ends.

    def _log_out(self, now: float) -> None:
        request = LogoutRequest(self._config.itt or 0, cmdsn=self._cmdsn, exp_statsn=self._exp_statsn)
        self._output.append(request.pdu())
        self._wake_at = now + self._config.logout_s

    def _finish(self) -> None:
        self._state = advance(TRANSITIONS, self._state, DiscoveryInput.LOGGED_OUT)
        self._output.append(DiscoveryDone(*self._reader.finish()))

    def _fail(
        self, err: IscsiErr, text: str, hint: str | None = None, *, retry: bool = False, retry_after_s: float = 0.0
    ) -> None:
        if self._state is DiscoveryState.LOGOUT:
            self._finish()
        elif self._state not in ENDED:
            self._state = advance(TRANSITIONS, self._state, DiscoveryInput.FAILURE)
            message = f"portal {self._config.portal}: {text}"
            self._output.append(DiscoveryFailed(err, message, hint, None, retry, retry_after_s))

    def _partial(self) -> str:
        return f"; partial PDU ({self.partial[0]} of {self.partial[1]} bytes)" if self.partial else ""

    def _so_far(self) -> str:
        return f"; incomplete list ({self._reader.records} records)" if self._reader.records else ""


class StreamDiscovery:
    """A discovery over TCP: bytes in, bytes and events out."""

    def __init__(
        self,
        config: DiscoveryConfig,
        *,
        random_bytes: Callable[[int], bytes],
        challenges: ChallengeBook | None = None,
    ) -> None:
        if config.transport != "tcp":
            raise LocalError("a discovery over iSER has messages, not a stream", code="internal")
        self._engine = DiscoveryEngine(config, random_bytes=random_bytes, challenges=challenges)
        self._decoder = StreamDecoder(config.max_recv_data_segment_bytes)
        self._output: list[bytes | DiscoveryEvent] = []

    def start(self, now: float) -> None:
        """The connection is there; begin."""
        self._engine.start(now)
        self._drain()

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes as they came; ignored once the discovery ended."""
        if self._engine.state in ENDED:
            return
        try:
            for pdu in self._decoder.receive(data):
                self._engine.receive(pdu.header, pdu.data, now)
                self._drain()
        except PeerError as error:
            self._engine.broken(error)
        self._engine.partial = self._decoder.partial()
        self._engine.tick(now)
        self._drain()

    def closed(self, what: str = "connection closed") -> None:
        """The connection ended or failed; `what` says how."""
        self._engine.lost(what)
        self._drain()

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        self._engine.tick(now)
        self._drain()

    def wake_at(self) -> float | None:
        """When `tick` is to be called."""
        return self._engine.wake_at()

    def take_output(self) -> list[bytes | DiscoveryEvent]:
        """Bytes to send and events, in order."""
        output, self._output = self._output, []
        return output

    def _drain(self) -> None:
        """Frame what the engine has to say; digests begin behind the login, in both directions at once."""
        if self._engine.results is not None:
            self._decoder.header_digest = self._engine.results.header_digest
            self._decoder.data_digest = self._engine.results.data_digest
        for item in self._engine.take_output():
            if isinstance(item, Pdu):
                self._output.append(self._frame(item))
            else:
                self._output.append(item)

    def _frame(self, pdu: Pdu) -> bytes:
        decoder = self._decoder
        return encode(pdu, header_digest=decoder.header_digest, data_digest=decoder.data_digest)
