# SPDX-License-Identifier: Apache-2.0
"""CHAP, one-way and mutual: secrets, responses, and the checks an initiator owes itself. Engine ring.

    response = hash(identifier byte | secret | challenge)

What can go wrong beyond a wrong password: a target that switches authentication off (`required`), one that sends our
own challenge back to have us compute the answer it needs (`ChallengeBook`), equal secrets in both directions (refused
where they are configured), and tgt, for which algorithm 7 is SHA-1 and not SHA-256.

Not here: the order of login PDUs (`login.py`), where secrets are stored. Defined by RFC 7143 section 12.1.3 and RFC
1994; algorithms in the IANA registry "iSCSI CHAP algorithms".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.names import printable
from rdmactl.iscsi.text import REJECT, parse_number

__all__ = [
    "ALGORITHMS",
    "MAX_CHALLENGE_BYTES",
    "ChallengeBook",
    "ChapCredentials",
    "ChapDialogue",
    "Secret",
    "chap_response",
    "encode_binary",
    "parse_binary",
]

ALGORITHMS = {5: ("MD5", 16), 6: ("SHA1", 20), 7: ("SHA256", 32), 8: ("SHA3-256", 32)}  # number: name, response bytes
_HASHES: dict[int, Callable[[bytes], bytes]] = {
    5: lambda data: hashlib.md5(data, usedforsecurity=False).digest(),  # so that FIPS builds of OpenSSL still have it
    6: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    7: lambda data: hashlib.sha256(data).digest(),
    8: lambda data: hashlib.sha3_256(data).digest(),
}

MAX_CHALLENGE_BYTES = 1024  # RFC 7143 section 12.1.3
_OUR_CHALLENGE_BYTES = 32
_WEAK_CHALLENGE_BYTES = 8
_SHORT_SECRET_BYTES = 12  # RFC 7143 section 9.2.1 asks for 96 bits
_MAX_SECRET_BYTES = 256
_MAX_USER_BYTES = 255
_REMEMBERED_CHALLENGES = 1024  # logins in flight at once, with room; a challenge is worthless once its login ended


class Secret:
    """A CHAP secret. It never shows itself: `reveal()` is the one way to its bytes."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The bytes, for hashing and for the kernel."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a dictionary of secrets would be a mistake

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class ChapCredentials:
    """Who we are to the target and, for mutual CHAP, who it must be to us. Refuses what could not be safe."""

    username: str
    """Name the target knows us by."""
    secret: Secret
    """Our secret."""
    username_in: str | None = None
    """Name the target must give; None with `secret_in` set accepts any."""
    secret_in: Secret | None = None
    """The target's secret; None means one-way CHAP."""
    algorithms: tuple[int, ...] = (5,)
    """Numbers of `ALGORITHMS`, the preferred one first; only MD5 is known to every target."""
    required: bool = False
    """Fail instead of going on without authentication when the target wants none; mutual CHAP always does."""

    def __post_init__(self) -> None:
        if not self.username or not len(self.secret):
            raise LocalError("CHAP needs a user name and a secret", code="invalid-chap")
        if self.username_in is not None and self.secret_in is None:
            raise LocalError("CHAP has a user name for the target, but no secret", code="invalid-chap")
        for secret in (self.secret, self.secret_in):
            if secret is not None and len(secret) > _MAX_SECRET_BYTES:
                raise LocalError(f"a CHAP secret has more than {_MAX_SECRET_BYTES} bytes", code="invalid-chap")
        if self.secret_in is not None and self.secret == self.secret_in:
            raise LocalError(
                "the CHAP secrets of both directions are equal, so that a false target could reflect our own answer",
                hint="give the target another secret than the initiator",
                code="invalid-chap",
            )
        unknown = [number for number in self.algorithms if number not in ALGORITHMS]
        if unknown or not self.algorithms:
            raise LocalError(f"CHAP algorithms {unknown or '()'} are not known", code="invalid-chap")

    @property
    def mutual(self) -> bool:
        """Whether the target has to authenticate itself."""
        return self.secret_in is not None

    @property
    def methods(self) -> str:
        """Our offer of AuthMethod."""
        return "CHAP" if self.mutual or self.required else "CHAP,None"

    def notices(self) -> list[str]:
        """Weaknesses worth telling, not worth refusing."""
        if any(len(secret) < _SHORT_SECRET_BYTES for secret in (self.secret, self.secret_in) if secret is not None):
            return [f"a CHAP secret has less than {_SHORT_SECRET_BYTES} bytes; targets may refuse it"]
        return []


class ChallengeBook:
    """The challenges a process has outstanding; all its logins share one, so that none can be reflected."""

    def __init__(self) -> None:
        self._challenges: deque[bytes] = deque(maxlen=_REMEMBERED_CHALLENGES)

    def add(self, challenge: bytes) -> None:
        """Remember a challenge we send; the oldest is forgotten above the limit."""
        self._challenges.append(challenge)

    def __contains__(self, challenge: bytes) -> bool:
        return challenge in self._challenges


class ChapDialogue:
    """The CHAP keys of one login, in three steps: `offer`, `respond`, `verify`. PeerError says what the target did."""

    def __init__(
        self, credentials: ChapCredentials, random_bytes: Callable[[int], bytes], challenges: ChallengeBook
    ) -> None:
        self._credentials = credentials
        self._random_bytes = random_bytes
        self._challenges = challenges
        self._our_identifier = 0
        self._our_challenge = b""
        self.algorithm: int | None = None  # the one in use, once the target chose it
        self.weak_challenge = False

    def offer(self) -> list[tuple[str, str]]:
        """The algorithms we can."""
        return [("CHAP_A", self._offered)]

    def respond(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the target's choice and challenge; in mutual mode with a challenge of ours."""
        keys = dict(pairs)
        self.algorithm = self._choice(_need(keys, "CHAP_A"))
        identifier = _identifier(_need(keys, "CHAP_I"))
        challenge = _challenge(_need(keys, "CHAP_C"))
        if challenge in self._challenges:
            raise PeerError(
                "CHAP challenge reflected: the target sent a challenge of ours back",
                hint="the target, or something between, tries to have us compute its own answer; do not trust it",
                code="iscsi-chap",
            )
        self.weak_challenge = len(challenge) < _WEAK_CHALLENGE_BYTES
        response = chap_response(self.algorithm, identifier, self._credentials.secret, challenge)
        answer = [("CHAP_N", self._credentials.username), ("CHAP_R", encode_binary(response))]
        return answer + self._counter_challenge() if self._credentials.mutual else answer

    def verify(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Check the target's own response; call it in mutual mode only."""
        secret, keys = self._credentials.secret_in, dict(pairs)
        if secret is None or self.algorithm is None:
            raise LocalError("CHAP of the target is verified before it was challenged", code="invalid-chap")
        name, response_text = _need(keys, "CHAP_N"), _need(keys, "CHAP_R")
        expected_name = self._credentials.username_in
        if len(name.encode()) > _MAX_USER_BYTES or (expected_name is not None and name != expected_name):
            raise PeerError(
                f'the target calls itself "{printable(name)}" in CHAP, expected was "{printable(expected_name or "")}"',
                hint="compare username_in with the target's outgoing user name",
                code="iscsi-chap",
            )
        expected = chap_response(self.algorithm, self._our_identifier, secret, self._our_challenge)
        try:
            response = parse_binary(response_text)
        except ValueError as error:
            raise PeerError(f"the target failed authentication: bad CHAP_R, {error}", code="iscsi-chap") from None
        if not hmac.compare_digest(response, expected):
            raise PeerError(
                "the target failed authentication: its CHAP response is wrong",
                hint="compare password_in with the target's outgoing secret",
                code="iscsi-chap",
            )

    @property
    def _offered(self) -> str:
        return ",".join(map(str, self._credentials.algorithms))

    def _choice(self, text: str) -> int:
        if text == REJECT:
            raise PeerError(
                f"the target accepts none of the CHAP algorithms {self._offered}",
                hint="allow MD5 (5), which every target knows",
                code="iscsi-chap",
            )
        number = parse_number(text)
        if number is None or number not in self._credentials.algorithms:
            raise PeerError(
                f'CHAP_A="{printable(text)}" was answered, offered was "{self._offered}"', code="iscsi-chap"
            )
        return number

    def _counter_challenge(self) -> list[tuple[str, str]]:
        self._our_identifier = self._random_bytes(1)[0]
        self._our_challenge = self._random_bytes(_OUR_CHALLENGE_BYTES)
        self._challenges.add(self._our_challenge)
        return [("CHAP_I", str(self._our_identifier)), ("CHAP_C", encode_binary(self._our_challenge))]


def chap_response(algorithm: int, identifier: int, secret: Secret, challenge: bytes) -> bytes:
    """The response to a challenge; `algorithm` is a key of `ALGORITHMS`."""
    return _HASHES[algorithm](bytes((identifier,)) + secret.reveal() + challenge)


def encode_binary(data: bytes) -> str:
    """`data` as lower-case hex, which every target reads."""
    return "0x" + data.hex()


def parse_binary(text: str) -> bytes:
    """The bytes of "0x..." (an odd number of digits has a leading zero) or "0b..." (base64, padding optional).

    ValueError with the reason.
    """
    prefix, digits = text[:2].lower(), text[2:]
    if prefix == "0b":
        digits = digits.rstrip("=")
    if not digits:
        raise ValueError("it has no digits")
    try:
        if prefix == "0x" and digits.isalnum():
            return bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0"))
        if prefix == "0b":
            return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("it has a bad digit") from None
    raise ValueError("it begins neither with 0x nor with 0b" if prefix != "0x" else "it has a bad digit")


def _need(keys: dict[str, str], name: str) -> str:
    if name not in keys:
        raise PeerError(f"{name} is missing in the target's answer", code="iscsi-chap")
    return keys[name]


def _identifier(text: str) -> int:
    number = parse_number(text)
    if number is None or number > 0xFF:
        raise PeerError(f'bad CHAP_I: "{printable(text)}" is no number from 0 to 255', code="iscsi-chap")
    return number


def _challenge(text: str) -> bytes:
    try:
        challenge = parse_binary(text)
    except ValueError as error:
        raise PeerError(f"bad CHAP_C: {error}", code="iscsi-chap") from None
    if len(challenge) > MAX_CHALLENGE_BYTES:
        raise PeerError(f"bad CHAP_C: it has more than {MAX_CHALLENGE_BYTES} bytes", code="iscsi-chap")
    return challenge
