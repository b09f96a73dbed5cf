# SPDX-License-Identifier: Apache-2.0
"""The login of an initiator as a state machine: normal and discovery sessions, TCP and iSER, CHAP, redirections.

Engine ring. Transport-neutral: PDUs are a 48-byte header and a data segment. A TCP shell frames them (`stream.py`),
an iSER connection puts its own header in front (`iser.py`), the kernel driver hands them to the kernel, which replaces
task tag and CmdSN.

    engine = LoginEngine(config, random_bytes=os.urandom)
    send(engine.start(now))
    ... engine.receive(header, data, now); for item in engine.take_output(): ...

Output is `Pdu` to send, or one of the events below; exactly one of `LoginDone`, `Redirected` and `LoginFailed` ends a
login. One request is outstanding at any time.

What others get wrong and this does not: the status is looked at before stages and keys (targets fail with T=1); a text
is read only when all its parts are there; every wait and every loop is bounded, in rounds, bytes and time; unknown keys
are answered, not fatal; an address in a successful answer is ignored.

The kernel's iSER prepares its receive buffers for the full feature phase whenever it sees NSG=3 in a request, whatever
T says. A second such request would post them twice, so over iSER the operational keys go with T=0, and one empty
request asks for the transition at the end (`LoginConfig.single_transition`).

Not here: the table of states (`login_states.py`), the wording of refusals (`login_status.py`), retries.
Defined by RFC 7143 sections 6.3, 11.12, 11.13, 12.1.3 and RFC 7145 section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.chap import ChallengeBook, ChapCredentials, ChapDialogue
from rdmactl.iscsi.errors import IscsiErr
from rdmactl.iscsi.login_model import (
    LoginConfig,
    LoginDone,
    LoginEvent,
    LoginFailed,
    Notice,
    Redirected,
    random_isid,
)
from rdmactl.iscsi.login_states import ENDED, TRANSITIONS, LoginInput, LoginState
from rdmactl.iscsi.login_status import LoginFacts, Verdict, explain_loss, explain_status
from rdmactl.iscsi.names import printable
from rdmactl.iscsi.negotiation import Negotiation
from rdmactl.iscsi.pdu import (
    FULL_FEATURE,
    OPERATIONAL,
    SECURITY,
    LoginRequest,
    LoginResponse,
    Pdu,
    Reject,
    data_bytes,
    decode,
    next_serial,
)
from rdmactl.iscsi.portal import UNKNOWN_TPGT, parse_target_address
from rdmactl.iscsi.text import REJECT, TextCollector, build_text, chunks, parse_text
from rdmactl.states import advance

__all__ = [
    "MAX_LOGIN_DATA_BYTES",
    "MAX_ROUNDS",
    "LoginConfig",
    "LoginDone",
    "LoginEngine",
    "LoginEvent",
    "LoginFailed",
    "Notice",
    "Redirected",
    "random_isid",
]

MAX_LOGIN_DATA_BYTES = 8192  # of a login PDU, whatever is being negotiated
MAX_ROUNDS = 32  # requests per stage; real logins need at most four, LIO gives up after seven
_CHAP_KEYS = frozenset(("AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"))
_TARGET_KEYS = frozenset(("TargetAlias", "TargetPortalGroupTag"))
_PERMANENT = 0x0102
_REDIRECTIONS = (0x0101, _PERMANENT)


class LoginEngine:
    """One login on one connection. Share `challenges` among all logins of a process."""

    def __init__(
        self,
        config: LoginConfig,
        *,
        random_bytes: Callable[[int], bytes],
        challenges: ChallengeBook | None = None,
    ) -> None:
        self._config = config
        iser = config.transport == "iser"
        self._single = iser if config.single_transition is None else config.single_transition
        self._negotiation = Negotiation(config.settings, discovery=config.discovery, iser=iser)
        book = ChallengeBook() if challenges is None else challenges
        self._chap = None if config.chap is None else ChapDialogue(config.chap, random_bytes, book)
        self._state = LoginState.START
        self._output: list[Pdu | LoginEvent] = []
        self._collector = TextCollector()
        self._unsent: list[bytes] = []  # parts of our text that follow the one under way
        self._csg = OPERATIONAL if config.chap is None else SECURITY
        self._asked_nsg: int | None = None  # the stage our last text asked for
        self._keys: tuple[str, ...] = ()  # of our last text
        self._rounds = 0
        self._answered = False
        self._exp_statsn = config.exp_statsn
        self._deadline: float | None = None

    @property
    def state(self) -> LoginState:
        """For logs."""
        return self._state

    def start(self, now: float = 0.0) -> Pdu:
        """The first request; `now` begins the deadline."""
        if self._config.deadline_s is not None:
            self._deadline = now + self._config.deadline_s
        credentials = self._config.chap
        if credentials is None:
            self._advance(LoginInput.BEGIN_OPERATIONAL)
            self._send_operational([*self._identity(), *self._negotiation.offers()])
        else:
            self._output.extend(Notice(text) for text in credentials.notices())
            self._advance(LoginInput.BEGIN_SECURITY)
            may_skip = "None" in credentials.methods  # T=1 lets a target without authentication go on at once
            pairs = [*self._identity(), ("AuthMethod", credentials.methods)]
            self._send(pairs, OPERATIONAL if may_skip else None)
        request = self._output.pop()
        assert isinstance(request, Pdu)
        return request

    def receive(self, header: bytes, data: bytes, now: float) -> None:
        """Take one PDU of the target."""
        if self._state is LoginState.START or self._state in ENDED:
            raise LocalError(f"a login PDU in state {self._state.name}", code="internal")
        self.tick(now)
        if self._state in ENDED:
            return
        try:
            self._received(header, data)
        except PeerError as error:
            message = f"{self._facts.subject}: {error.message}"
            self._end(Verdict(IscsiErr.FATAL_LOGIN, message, error.hint, retry=False, code=error.code))

    def lost(self, what: str = "connection closed") -> None:
        """The connection ended; `what` says how. Later than the end of the login it means nothing here."""
        if self._state not in ENDED and self._state is not LoginState.START:
            self._end(explain_loss(self._state, what, self._facts))

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        if self._deadline is None or now < self._deadline or self._state in ENDED:
            return
        message = f"{self._facts.subject}: no login response within {self._config.deadline_s:g} s"
        self._end(Verdict(self._facts.transient, f"{message}; sent last: {self._state.value}", None, retry=True))

    def wake_at(self) -> float | None:
        """When `tick` is to be called."""
        return None if self._state in ENDED else self._deadline

    def take_output(self) -> list[Pdu | LoginEvent]:
        """PDUs to send and events, in order."""
        output, self._output = self._output, []
        return output

    # Receiving.

    def _received(self, header: bytes, data: bytes) -> None:
        response = decode(header)
        if isinstance(response, Reject):
            raise PeerError(f"the target rejects the login request: {response.words}", code="iscsi-reject")
        if not isinstance(response, LoginResponse):
            raise PeerError(f"unexpected opcode {header[0]:#04x} instead of a login response", code="iscsi-protocol")
        if data_bytes(header) > len(data):
            raise PeerError(f"a login response is cut short ({len(data)} bytes of data)", code="iscsi-protocol")
        data = data[: data_bytes(header)]
        if response.status >> 8:  # before anything else: failures come with any stage and any T
            self._refused(response.status, data)
            return
        self._check(response)
        self._answered = True
        self._exp_statsn = next_serial(response.statsn)
        self._count_round()
        if self._unsent:
            self._send_next_part(response, data)
        elif response.more:
            self._collector.add(data)
            self._advance(LoginInput.PART)
            self._emit(b"", transit=False, more=False, nsg=0)
        else:
            self._collector.add(data)
            self._respond(response, parse_text(self._collector.take()))

    def _respond(self, response: LoginResponse, pairs: list[tuple[str, str]]) -> None:
        match self._state:
            case LoginState.SECURITY:
                self._on_method(response, self._security_keys(pairs))
            case LoginState.CHAP_OFFER:
                self._on_challenge(response, self._security_keys(pairs))
            case LoginState.CHAP_RESPONSE:
                self._on_verdict(response, self._security_keys(pairs))
            case LoginState.AUTHENTICATED:
                self._security_keys(pairs)
                self._leave_security(response)
            case _:
                self._on_operational(response, pairs)

    def _check(self, response: LoginResponse) -> None:
        """Everything a successful response must fulfil before its keys count."""
        expected = self._config
        problem = None
        if response.version_active != 0:
            problem = f"protocol version {response.version_active} was chosen, 0 was offered"
        elif expected.itt is not None and response.itt != expected.itt:
            problem = f"task tag {response.itt:#x} in a login response, {expected.itt:#x} was sent"
        elif response.isid != expected.isid:
            problem = f"ISID {response.isid.hex()} in a login response, {expected.isid.hex()} was sent"
        elif response.csg != self._csg:
            problem = f"stage {response.csg} in a login response, the login is in stage {self._csg}"
        elif response.transit and response.more:
            problem = "T and C are both set in a login response"
        elif response.transit and response.nsg <= response.csg:
            problem = f"the target goes from stage {response.csg} to {response.nsg}"
        elif response.transit and response.nsg != self._asked_nsg:
            asked = "none" if self._asked_nsg is None else self._asked_nsg
            problem = f"the target goes to stage {response.nsg}, asked for was {asked}"
        if problem is not None:
            raise PeerError(problem, code="iscsi-protocol")

    def _count_round(self) -> None:
        self._rounds += 1
        if self._rounds >= MAX_ROUNDS:
            raise PeerError(
                f"no progress after {self._rounds} rounds of login stage {self._csg}", code="iscsi-protocol"
            )

    def _refused(self, status: int, data: bytes) -> None:
        if status in _REDIRECTIONS:
            self._redirected(status, data)
        else:
            self._end(explain_status(status, self._facts), status)

    def _redirected(self, status: int, data: bytes) -> None:
        address = dict(parse_text(data)).get("TargetAddress")
        if address is None:
            raise PeerError("the target redirects without saying where to", code="iscsi-redirect")
        try:
            where = parse_target_address(address)
        except PeerError as error:
            raise PeerError(f"the target redirects to nowhere: {error.message}", code="iscsi-redirect") from None
        self._advance(LoginInput.REDIRECT)
        self._output.append(Redirected(where.portal, status == _PERMANENT, where.tpgt))

    # Security stage.

    def _security_keys(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The CHAP keys; the others are the target's own or none of this stage."""
        ours = []
        for pair in pairs:
            if pair[0] in _CHAP_KEYS:
                ours.append(pair)
            elif pair[0] in _TARGET_KEYS:
                self._negotiation.receive([pair])
            else:
                self._notice(f"key {pair[0]} in the security stage is ignored")
        return ours

    def _on_method(self, response: LoginResponse, pairs: list[tuple[str, str]]) -> None:
        chap, credentials = self._dialogue()
        method = dict(pairs).get("AuthMethod")
        if method is None:
            raise PeerError("AuthMethod is missing in the target's answer", code="iscsi-chap")
        if method not in credentials.methods.split(","):
            refuses = method in ("None", REJECT)
            text = "the target refuses authentication: " if refuses else ""
            raise PeerError(
                f'{text}AuthMethod="{printable(method)}" was answered, offered was "{credentials.methods}"',
                hint="CHAP is demanded here, but the target is not set up for it" if refuses else None,
                code="iscsi-chap",
            )
        if method == "None":
            self._notice("the target wants no authentication; CHAP was offered, but did not take place")
            self._leave_security(response)
            return
        self._no_transition_yet(response)
        self._advance(LoginInput.CHAP_CHOSEN)
        self._send(chap.offer(), None)

    def _on_challenge(self, response: LoginResponse, pairs: list[tuple[str, str]]) -> None:
        chap, _ = self._dialogue()
        self._no_transition_yet(response)
        answer = chap.respond(pairs)
        if chap.weak_challenge:
            self._notice("the CHAP challenge is very short")
        self._advance(LoginInput.CHALLENGED)
        self._send(answer, OPERATIONAL)

    def _on_verdict(self, response: LoginResponse, pairs: list[tuple[str, str]]) -> None:
        chap, credentials = self._dialogue()
        if credentials.mutual:
            chap.verify(pairs)
        self._leave_security(response)

    def _leave_security(self, response: LoginResponse) -> None:
        if not response.transit:
            self._advance(LoginInput.CONFIRMED)
            self._send([], OPERATIONAL)
            return
        self._advance(LoginInput.STAGE_ENDED)
        self._csg = OPERATIONAL
        self._rounds = 0
        self._send_operational(self._negotiation.offers())

    def _no_transition_yet(self, response: LoginResponse) -> None:
        if response.transit:
            raise PeerError("the target ends the security stage before authentication is complete", code="iscsi-chap")

    def _dialogue(self) -> tuple[ChapDialogue, ChapCredentials]:
        assert self._chap is not None  # the security stage is entered with credentials only
        assert self._config.chap is not None
        return self._chap, self._config.chap

    # Operational stage.

    def _on_operational(self, response: LoginResponse, pairs: list[tuple[str, str]]) -> None:
        replies = self._negotiation.receive(pairs)
        if any(name == "TargetAddress" for name, _ in pairs):
            self._notice("a TargetAddress in a successful login response is ignored")
        if response.transit:
            if replies:
                self._notice(f"keys in the final login response are ignored: {', '.join(name for name, _ in replies)}")
            self._complete(response)
            return
        if self._single and self._asked_nsg is not None and not self._unsent:
            raise PeerError("the target does not enter the full feature phase when asked to", code="iscsi-protocol")
        self._advance(LoginInput.KEYS)
        self._send_operational(replies)

    def _send_operational(self, pairs: list[tuple[str, str]]) -> None:
        """Ask for the full feature phase with every text, or, in the cautious way, with the last, empty one."""
        wait = self._single and bool(pairs)
        self._send(pairs, None if wait else FULL_FEATURE)

    def _complete(self, response: LoginResponse) -> None:
        if response.tsih == 0:
            if not self._config.discovery:
                raise PeerError("the target opens a session without a TSIH", code="iscsi-protocol")
            self._notice("the target opens a discovery session without a TSIH")
        results = self._negotiation.result()
        tpgt = UNKNOWN_TPGT if self._negotiation.tpgt is None else self._negotiation.tpgt
        self._advance(LoginInput.COMPLETED)
        self._output.append(
            LoginDone(results, response.tsih, response.statsn, tpgt, response.exp_cmdsn, response.max_cmdsn)
        )

    # Sending.

    def _identity(self) -> list[tuple[str, str]]:
        config = self._config
        pairs = [("InitiatorName", config.initiator_name)]
        if config.initiator_alias:
            pairs.append(("InitiatorAlias", config.initiator_alias))
        if config.target_name is not None:
            pairs.append(("TargetName", config.target_name))
        pairs.append(("SessionType", "Discovery" if config.discovery else "Normal"))
        return pairs

    def _send(self, pairs: list[tuple[str, str]], nsg: int | None) -> None:
        """Send a text that asks for stage `nsg` (None: asks for none), in parts when it is long."""
        parts = chunks(build_text(pairs), MAX_LOGIN_DATA_BYTES)
        self._keys = tuple(name for name, _ in pairs)
        self._asked_nsg = nsg
        self._unsent = parts[1:]
        self._emit_part(parts[0])

    def _send_next_part(self, response: LoginResponse, data: bytes) -> None:
        if data or response.transit or response.more:
            raise PeerError("the target answers before our text is complete", code="iscsi-protocol")
        self._advance(LoginInput.PART)
        self._emit_part(self._unsent.pop(0))

    def _emit_part(self, part: bytes) -> None:
        last = not self._unsent
        transit = last and self._asked_nsg is not None
        self._emit(part, transit=transit, more=not last, nsg=self._asked_nsg or 0 if transit else 0)

    def _emit(self, data: bytes, *, transit: bool, more: bool, nsg: int) -> None:
        config = self._config
        request = LoginRequest(
            isid=config.isid,
            itt=config.itt or 0,
            csg=self._csg,
            nsg=nsg,
            transit=transit,
            more=more,
            tsih=config.tsih,
            cmdsn=config.cmdsn,
            exp_statsn=self._exp_statsn,
        )
        self._output.append(request.pdu(data))

    # Ends.

    @property
    def _facts(self) -> LoginFacts:
        config = self._config
        return LoginFacts(
            config.initiator_name,
            config.target_name,
            config.portal,
            None if config.chap is None else config.chap.username,
            None if self._chap is None else self._chap.algorithm,
            self._keys,
            not self._answered,
        )

    def _advance(self, event: LoginInput) -> None:
        self._state = advance(TRANSITIONS, self._state, event)

    def _notice(self, text: str) -> None:
        self._output.append(Notice(f"{self._facts.subject}: {text}"))

    def _end(self, verdict: Verdict, status: int | None = None) -> None:
        self._advance(LoginInput.FAILURE)
        err, message, hint, retry, code = verdict
        self._output.append(LoginFailed(err, message, hint, status, retry, code))
