# SPDX-License-Identifier: Apache-2.0
"""CHAP: values, limits, and the checks an initiator owes itself. Numbers are rows of the checklist on CHAP."""

import base64
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import LocalError, PeerError
from rdmactl.iscsi.chap import (
    ALGORITHMS,
    ChallengeBook,
    ChapCredentials,
    ChapDialogue,
    Secret,
    chap_response,
    encode_binary,
    parse_binary,
)

from .support import MUTUAL, ONE_WAY, SECRET, counting_bytes

CHALLENGE = bytes(range(100, 120))
Pairs = list[tuple[str, str]]


def dialogue(credentials: ChapCredentials = ONE_WAY, book: ChallengeBook | None = None) -> ChapDialogue:
    return ChapDialogue(credentials, counting_bytes, ChallengeBook() if book is None else book)


def challenge(text: str | None = None, **changes: str) -> Pairs:
    keys = {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": text or encode_binary(CHALLENGE)} | changes
    return list(keys.items())


@pytest.mark.parametrize(
    ("algorithm", "identifier", "challenge_hex", "response_hex"),
    [
        (
            5,
            1,
            "02294c43921540b67090582a593d00ccf0e5f8b9fd09397a9d86b116d7ebc0c63f22863d005d4e3eb52d80057a02f124df4c",
            "fb79070075b3896c0b470df1ba4596ee",
        ),
        (6, 113, "cafae395ba9f815433408eb23927ae6068cb3e9b", "382213a36c36585c4a3105f81dbdb885e05b5d1a"),
        (
            7,
            113,
            "043344a8b5a795bd92f55f051760ab91109ccae7f302075f34cca3e049cabfaf",
            "f7e835ea419d1c830f6012d05cffed66fa553ae4113eb86ec488898d82750402",
        ),
        (
            8,
            113,
            "c0d62773b6cff5596a158ff6cf5f34362c85a9a93dbead38a657374edf94a82c",
            "fadd8dc07f38fcbb19412af0d9c5bdab14507a8f147cbbd5e1e6e4d92b675ef5",
        ),
    ],
)
def test_058_059_known_responses(algorithm: int, identifier: int, challenge_hex: str, response_hex: str) -> None:
    """Rows 58 and 59."""
    response = chap_response(algorithm, identifier, Secret(SECRET), bytes.fromhex(challenge_hex))
    assert response.hex() == response_hex
    assert len(response) == ALGORITHMS[algorithm][1]


def test_058_known_mutual_response() -> None:
    """Row 58."""
    ours = bytes.fromhex("91d015a6fa9e7a8e3fa881927154ff29")
    assert chap_response(5, 22, Secret("outsecret12345"), ours).hex() == "b2f2f14a3cd786d5658354f8d7bc1637"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("0x00ff", b"\x00\xff"),
        ("0XABCDEF", b"\xab\xcd\xef"),  # row 61
        ("0xabc", b"\x0a\xbc"),  # row 62
        ("0b" + base64.b64encode(b"hello").decode(), b"hello"),  # row 60
        ("0B" + base64.b64encode(b"hello").decode().rstrip("="), b"hello"),
    ],
)
def test_060_061_062_binary_values(text: str, data: bytes) -> None:
    assert parse_binary(text) == data


@pytest.mark.parametrize("text", ["", "0x", "0b", "abcd", "0xzz", "0x1 2", "0b***", "0bA", "0b=", "0x\u0661", "0xa\n"])
def test_bad_binary_values(text: str) -> None:
    with pytest.raises(ValueError, match=r"it (has|begins)"):
        parse_binary(text)


@given(st.binary(min_size=1, max_size=100))
def test_binary_values_are_inverse(data: bytes) -> None:
    assert parse_binary(encode_binary(data)) == data
    assert parse_binary("0b" + base64.b64encode(data).decode()) == data


@given(st.text(max_size=40))
def test_binary_values_never_raise_anything_else(text: str) -> None:
    try:
        parse_binary(text)
    except ValueError as error:
        assert str(error).startswith("it ")  # noqa: PT017 (the text is the point)


@pytest.mark.parametrize("length", [1, 8, 50, 1024])
def test_064_065_challenges_of_every_legal_length(length: int) -> None:
    """Rows 64 and 65."""
    chap = dialogue()
    answer = dict(chap.respond(challenge(encode_binary(bytes(length)))))
    assert answer["CHAP_N"] == "inuser"
    assert answer["CHAP_R"] == encode_binary(chap_response(5, 1, Secret(SECRET), bytes(length)))
    assert chap.weak_challenge is (length < 8)


@pytest.mark.parametrize("text", [encode_binary(bytes(1025)), "0x", "1234", "0xgg", "0b!"])
def test_066_bad_challenges(text: str) -> None:
    """Row 66."""
    with pytest.raises(PeerError, match="bad CHAP_C: it"):
        dialogue().respond(challenge(text))


@pytest.mark.parametrize("text", ["256", "-1", "", "1 2"])
def test_067_bad_identifiers(text: str) -> None:
    """Row 67."""
    with pytest.raises(PeerError, match="bad CHAP_I"):
        dialogue().respond(challenge(CHAP_I=text))


def test_a_hexadecimal_identifier_is_fine() -> None:
    assert dict(dialogue().respond(challenge(CHAP_I="0x10")))["CHAP_R"]


@pytest.mark.parametrize("text", ["99", "6", "5,7", "five"])
def test_068_foreign_algorithms(text: str) -> None:
    """Row 68."""
    with pytest.raises(PeerError, match=f'CHAP_A="{text}" was answered, offered was "5"'):
        dialogue().respond(challenge(CHAP_A=text))


def test_069_rejected_algorithms() -> None:
    """Row 69."""
    with pytest.raises(PeerError, match="accepts none of the CHAP algorithms 5"):
        dialogue().respond(challenge(CHAP_A="Reject"))


@pytest.mark.parametrize("missing", ["CHAP_A", "CHAP_I", "CHAP_C"])
def test_070_missing_keys_are_named(missing: str) -> None:
    """Row 70; keys that come twice (row 71) are refused by the text parser."""
    with pytest.raises(PeerError, match=f"{missing} is missing"):
        dialogue().respond([pair for pair in challenge() if pair[0] != missing])


def verdict(credentials: ChapCredentials = MUTUAL, **changes: str | None) -> None:
    """A mutual dialogue whose target answers correctly but for `changes`."""
    chap = dialogue(credentials)
    answer = dict(chap.respond(challenge(CHAP_A=str(credentials.algorithms[0]))))
    ours, identifier = parse_binary(answer["CHAP_C"]), int(answer["CHAP_I"])
    response = chap_response(credentials.algorithms[0], identifier, Secret("outsecret12345"), ours)
    keys: dict[str, str | None] = {"CHAP_N": "outuser", "CHAP_R": encode_binary(response)}
    chap.verify([(key, value) for key, value in (keys | changes).items() if value is not None])


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_058_059_mutual_success(algorithm: int) -> None:
    """Rows 58 and 59."""
    verdict(ChapCredentials("inuser", Secret(SECRET), "outuser", Secret("outsecret12345"), (algorithm,)))


def test_063_mutual_response_in_base64() -> None:
    """Row 63."""
    response = chap_response(5, 0, Secret("outsecret12345"), bytes(range(32)))
    verdict(CHAP_R="0b" + base64.b64encode(response).decode())


@pytest.mark.parametrize("missing", ["CHAP_N", "CHAP_R"])
def test_077_mutual_missing_keys(missing: str) -> None:
    """Row 77."""
    with pytest.raises(PeerError, match=f"{missing} is missing"):
        verdict(**{missing: None})


@pytest.mark.parametrize("text", ["0x00", encode_binary(bytes(16)), encode_binary(bytes(17)), "0x", "junk"])
def test_078_mutual_wrong_response(text: str) -> None:
    """Row 78."""
    with pytest.raises(PeerError, match="the target failed authentication"):
        verdict(CHAP_R=text)


@pytest.mark.parametrize("name", ["someone", "", "x" * 300, "OUTUSER"])
def test_079_mutual_wrong_name(name: str) -> None:
    """Row 79."""
    with pytest.raises(PeerError, match='expected was "outuser"'):
        verdict(CHAP_N=name)


def test_any_name_will_do_when_none_is_configured() -> None:
    verdict(ChapCredentials("inuser", Secret(SECRET), None, Secret("outsecret12345")), CHAP_N="whoever")


def test_081_a_reflected_challenge_is_refused() -> None:
    """Row 81: the challenge of one login comes back in another one of this process."""
    book = ChallengeBook()
    ours = dict(dialogue(MUTUAL, book).respond(challenge()))["CHAP_C"]
    with pytest.raises(PeerError, match="challenge reflected"):
        dialogue(ONE_WAY, book).respond(challenge(ours))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("u", Secret("same secret 1"), "t", Secret("same secret 1")), "equal"),  # row 82
        (("", Secret("x")), "needs a user name"),
        (("u", Secret("")), "needs a user name"),
        (("u", Secret("x" * 257)), "256"),
        (("u", Secret("x"), "t"), "no secret"),
        (("u", Secret("x"), None, None, (9,)), r"\[9\]"),
        (("u", Secret("x"), None, None, ()), "algorithms"),
    ],
)
def test_082_credentials_that_cannot_be_safe_are_refused(arguments: Any, reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        ChapCredentials(*arguments)


def test_083_short_secrets_are_told() -> None:
    """Row 83."""
    assert ChapCredentials("u", Secret("short")).notices()
    assert ChapCredentials("u", Secret(SECRET), None, Secret("short")).notices()
    assert not MUTUAL.notices()


def test_methods_offered() -> None:
    assert ONE_WAY.methods == "CHAP,None"
    assert MUTUAL.methods == "CHAP"
    assert ChapCredentials("u", Secret(SECRET), required=True).methods == "CHAP"


def test_a_secret_never_shows_itself() -> None:
    secret = Secret(SECRET)
    shown = f"{secret} {secret!r} {[secret]} {MUTUAL}"
    assert SECRET not in shown
    assert secret.reveal() == SECRET.encode()
    assert secret == Secret(SECRET.encode())
    assert secret != SECRET
    with pytest.raises(TypeError):
        hash(secret)


def test_a_secret_reaches_a_worker_process() -> None:
    assert pickle.loads(pickle.dumps(Secret(SECRET))) == Secret(SECRET)


def test_verify_before_respond_is_a_defect() -> None:
    with pytest.raises(LocalError):
        dialogue(MUTUAL).verify([])
