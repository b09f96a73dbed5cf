# SPDX-License-Identifier: Apache-2.0
"""A small iSCSI target as an engine: PDUs in, PDUs out. No socket, no clock.

It does what the initiator's engines need from a real one: logins with and without CHAP, keys negotiated or proposed,
redirections, refusals, SendTargets in parts, pings, logout. What no honest target does goes into `FakeTarget.twist`, a
function that sees every answer last. `StreamTarget` puts the framing of TCP around it, for tests with sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rdmactl.iscsi.chap import Secret, chap_response, encode_binary, parse_binary
from rdmactl.iscsi.keys import KEYS, Kind, Value, combine, format_value, read_value
from rdmactl.iscsi.pdu import (
    ALL_ONES,
    FULL_FEATURE,
    OPERATIONAL,
    SECURITY,
    Async,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    TextRequest,
    TextResponse,
    decode,
)
from rdmactl.iscsi.stream import StreamDecoder, encode
from rdmactl.iscsi.text import build_text, chunks, parse_text

Twist = Callable[[Pdu, list[Pdu]], list[Pdu]]


@dataclass
class TargetChap:
    """Accounts of a target; the outgoing one is for mutual CHAP."""

    username: str = "inuser"
    secret: str = "insecret12345"
    out_username: str | None = None
    out_secret: str = "outsecret12345"
    algorithms: tuple[int, ...] = (5,)
    challenge: bytes = bytes(range(50))


@dataclass
class TargetScript:
    """What the target is like. The defaults are an open target with one disk."""

    targets: dict[str, list[str]] = field(
        default_factory=lambda: {"iqn.2005-03.org.example:t1": ["127.0.0.1:3260,1"]},
    )
    chap: TargetChap | None = None
    status: int | None = None  # refuse every login with it
    redirect: tuple[int, str] | None = None  # status and TargetAddress
    limits: dict[str, Value] = field(default_factory=lambda: {"MaxBurstLength": 262144, "FirstBurstLength": 65536})
    proposals: dict[str, str] = field(default_factory=dict)  # sent once in the operational stage, with T=0
    part_bytes: int | None = None  # of a list of targets; None: what the initiator declared
    login_part_bytes: int = 8192  # shorter texts in login responses use the C bit
    ping: bool = False  # a NOP-In ping before each text answer
    ask_logout: bool = False  # an asynchronous message before each text answer
    confirm_first: bool = False  # end the security stage one round later than needed
    raw_list: bytes | None = None  # instead of `targets`


class FakeTarget:
    """One connection to a target."""

    def __init__(self, script: TargetScript | None = None, twist: Twist | None = None) -> None:
        self.script = script or TargetScript()
        self.twist = twist
        self.closed = False  # the target ended the connection
        self.identity: dict[str, str] = {}
        self.seen: list[LoginRequest] = []
        self.full_feature = False
        self.header_digest = self.data_digest = False
        self._statsn = 0
        self._text = b""
        self._login_parts: list[tuple[bytes, LoginResponse]] = []
        self._authenticated = False
        self._proposed = False
        self._algorithm = 5
        self._list_parts: list[bytes] = []
        self._part_limit = 8192

    def receive(self, pdu: Pdu) -> list[Pdu]:
        """Take one PDU of the initiator; gives the answers."""
        answers = self._answers(pdu)
        return answers if self.twist is None else self.twist(pdu, answers)

    def _answers(self, pdu: Pdu) -> list[Pdu]:
        message = decode(pdu.header)
        match message:
            case LoginRequest():
                return [self._on_login(message, pdu.data)]
            case TextRequest():
                return self._on_text(message, pdu.data)
            case NopOut() if message.itt == ALL_ONES:
                return []
            case NopOut():
                return [NopIn(message.itt, ALL_ONES, self._next_statsn()).pdu(pdu.data)]
            case LogoutRequest():
                self.closed = True
                return [LogoutResponse(message.itt, 0, self._next_statsn(), time2wait_s=2).pdu()]
            case _:
                return [Reject(0x05, self._next_statsn()).pdu(pdu.header)]

    # Login.

    def _on_login(self, request: LoginRequest, data: bytes) -> Pdu:
        self.seen.append(request)
        if self._login_parts:
            return self._next_login_part(request)
        self._text += data
        if request.more:
            return self._respond(request, []).pdu()
        pairs = dict(parse_text(self._text))
        self._text = b""
        names = ("InitiatorName", "InitiatorAlias", "TargetName", "SessionType")
        self.identity.update({name: pairs.pop(name) for name in names if name in pairs})
        refusal = self._refusal()
        if refusal is not None:
            return self._refuse(request, *refusal)
        return self._on_security(request, pairs) if request.csg == SECURITY else self._on_keys(request, pairs)

    def _refusal(self) -> tuple[int, bytes] | None:
        script = self.script
        if script.redirect is not None:
            return script.redirect[0], build_text([("TargetAddress", script.redirect[1])])
        if script.status is not None:
            return script.status, b""
        wanted = self.identity.get("TargetName")
        if self.identity.get("SessionType") != "Discovery" and wanted not in script.targets:
            return 0x0203, b""
        return None

    def _on_security(self, request: LoginRequest, pairs: dict[str, str]) -> Pdu:
        chap = self.script.chap
        if "AuthMethod" in pairs:
            if chap is not None:
                return self._text_response(request, [("AuthMethod", "CHAP")], transit=False)
            method = "None" if "None" in pairs["AuthMethod"].split(",") else "Reject"
            return self._text_response(request, [("AuthMethod", method)])
        if chap is None or not pairs:
            return self._text_response(request, [])
        if "CHAP_A" in pairs:
            choice = next((n for n in map(int, pairs["CHAP_A"].split(",")) if n in chap.algorithms), None)
            if choice is None:
                return self._text_response(request, [("CHAP_A", "Reject")], transit=False)
            self._algorithm = choice
            challenge = [("CHAP_A", str(choice)), ("CHAP_I", "7"), ("CHAP_C", encode_binary(chap.challenge))]
            return self._text_response(request, challenge, transit=False)
        return self._on_response(request, pairs, chap)

    def _on_response(self, request: LoginRequest, pairs: dict[str, str], chap: TargetChap) -> Pdu:
        expected = chap_response(self._algorithm, 7, Secret(chap.secret), chap.challenge)
        if pairs.get("CHAP_N") != chap.username or parse_binary(pairs["CHAP_R"]) != expected:
            return self._refuse(request, 0x0201)
        self._authenticated = True
        answer = []
        if "CHAP_C" in pairs:
            if chap.out_username is None:
                return self._refuse(request, 0x0201)
            challenge, identifier = parse_binary(pairs["CHAP_C"]), int(pairs["CHAP_I"])
            response = chap_response(self._algorithm, identifier, Secret(chap.out_secret), challenge)
            answer = [("CHAP_N", chap.out_username), ("CHAP_R", encode_binary(response))]
        return self._text_response(request, answer, transit=not self.script.confirm_first)

    def _on_keys(self, request: LoginRequest, pairs: dict[str, str]) -> Pdu:
        if self.script.chap is not None and not self._authenticated:
            return self._refuse(request, 0x0201)
        answer = []
        if not self._proposed:
            answer = [("TargetPortalGroupTag", "1"), *self._answer_keys(pairs)]
            answer += list(self.script.proposals.items())
        waits = bool(self.script.proposals) and not self._proposed
        self._proposed = True
        return self._text_response(request, answer, transit=not waits)

    def _answer_keys(self, pairs: dict[str, str]) -> list[tuple[str, str]]:
        answers = []
        for name, text in pairs.items():
            key = KEYS.get(name)
            if key is None:
                answers.append((name, "NotUnderstood"))
            elif name == "MaxRecvDataSegmentLength":
                self._part_limit = int(read_value(key, text))
                answers.append((name, "262144"))
            elif key.kind is Kind.LIST:
                wanted = str(self.script.limits.get(name, "None"))
                choice = next((entry for entry in text.split(",") if entry == wanted), text.split(",")[0])
                self.header_digest |= name == "HeaderDigest" and choice == "CRC32C"
                self.data_digest |= name == "DataDigest" and choice == "CRC32C"
                answers.append((name, choice))
            else:
                theirs = read_value(key, text)
                result = combine(key, self.script.limits.get(name, theirs), theirs)
                answers.append((name, format_value(result)))
        return answers

    def _text_response(self, request: LoginRequest, pairs: list[tuple[str, str]], *, transit: bool = True) -> Pdu:
        """Answer with a text; T=1 if wanted and asked for. Long texts come in parts."""
        head = self._respond(request, pairs, transit=transit and request.transit)
        parts = chunks(build_text(pairs), self.script.login_part_bytes)
        if len(parts) == 1:
            return self._finish_login(head).pdu(parts[0])
        self._login_parts = [(part, head) for part in parts[1:]]
        return head._replace(transit=False, nsg=0, more=True, tsih=0).pdu(parts[0])

    def _next_login_part(self, request: LoginRequest) -> Pdu:
        part, head = self._login_parts.pop(0)
        head = head._replace(statsn=self._next_statsn(), itt=request.itt)
        if self._login_parts:
            return head._replace(transit=False, nsg=0, more=True, tsih=0).pdu(part)
        return self._finish_login(head).pdu(part)

    def _respond(self, request: LoginRequest, pairs: list[tuple[str, str]], *, transit: bool = False) -> LoginResponse:
        done = transit and request.nsg == FULL_FEATURE
        nsg = request.nsg if transit else 0
        tsih = 1 if done else request.tsih
        number = self._next_statsn()
        return LoginResponse(
            request.isid, request.itt, request.csg, nsg, transit, False, tsih, number, request.cmdsn, request.cmdsn + 1
        )

    def _finish_login(self, head: LoginResponse) -> LoginResponse:
        self.full_feature = head.transit and head.nsg == FULL_FEATURE
        return head

    def _refuse(self, request: LoginRequest, status: int, data: bytes = b"") -> Pdu:
        self.closed = status >> 8 != 1
        return LoginResponse(request.isid, request.itt, OPERATIONAL, status=status).pdu(data)

    # Full feature phase.

    def _on_text(self, request: TextRequest, data: bytes) -> list[Pdu]:
        if data:
            self._list_parts = chunks(self._list(dict(parse_text(data))), self.script.part_bytes or self._part_limit)
        if not self._list_parts:
            return [Reject(0x09, self._next_statsn()).pdu(bytes(48))]
        before = []
        if self.script.ping:
            before.append(NopIn(ALL_ONES, 0x51, self._statsn, lun=b"\x01" * 8).pdu())
        if self.script.ask_logout:
            before.append(Async(1, parameter3=5, statsn=self._next_statsn()).pdu())
        part = self._list_parts.pop(0)
        last = not self._list_parts
        ttt = ALL_ONES if last else 0x1000 + len(self._list_parts)
        answer = TextResponse(request.itt, ttt, self._next_statsn(), request.cmdsn + 1, 2, final=last)
        return [*before, answer.pdu(part)]

    def _list(self, pairs: dict[str, str]) -> bytes:
        if self.script.raw_list is not None:
            return self.script.raw_list
        wanted = pairs.get("SendTargets")
        lines = []
        for name, addresses in self.script.targets.items():
            if wanted in ("All", name):
                lines += [("TargetName", name), *(("TargetAddress", address) for address in addresses)]
        return build_text(lines)

    def _next_statsn(self) -> int:
        self._statsn += 1
        return self._statsn - 1


class StreamTarget:
    """A `FakeTarget` on a TCP connection: bytes in, bytes out. Close the connection when `target.closed`."""

    def __init__(self, script: TargetScript | None = None, twist: Twist | None = None) -> None:
        self.target = FakeTarget(script, twist)
        self._decoder = StreamDecoder(0xFFFFFF)

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the initiator; gives the bytes to send."""
        answers = []
        for pdu in self._decoder.receive(data):
            digests = self._digests()
            answers += [encode(answer, **digests) for answer in self.target.receive(pdu)]
            now = self._digests()
            self._decoder.header_digest, self._decoder.data_digest = now["header_digest"], now["data_digest"]
        return b"".join(answers)

    def _digests(self) -> dict[str, bool]:
        on, target = self.target.full_feature, self.target
        return {"header_digest": on and target.header_digest, "data_digest": on and target.data_digest}
