# SPDX-License-Identifier: Apache-2.0
"""The login engine, exchange by exchange. Numbers are rows of the checklists on login and CHAP."""

import itertools
import re
from typing import Any

import pytest

from rdmactl.errors import LocalError
from rdmactl.iscsi.chap import ChallengeBook, ChapCredentials, Secret
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.login import MAX_ROUNDS, LoginDone, LoginEngine, LoginFailed, Notice, Redirected, random_isid
from rdmactl.iscsi.login_states import ENDED, TRANSITIONS, LoginInput, LoginState
from rdmactl.iscsi.login_status import STATUS_WORDS
from rdmactl.iscsi.pdu import LoginRequest, NopIn, Pdu, Reject
from rdmactl.iscsi.portal import UNKNOWN_TPGT, Portal
from rdmactl.iscsi.redirect import MAX_HOPS, RedirectChain
from rdmactl.iscsi.text import build_text
from rdmactl.states import advance

from .support import (
    INITIATOR,
    ISID,
    MUTUAL,
    ONE_WAY,
    PORTAL,
    SECRET,
    TARGET,
    counting_bytes,
    failure,
    keys,
    login_engine,
    play,
    request,
    response,
    security,
)

CHAP_CHOSEN = security(("AuthMethod", "CHAP"))
CHALLENGED = security(("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", "0x" + "ab" * 16))
TO_OPERATIONAL: dict[str, Any] = {"nsg": 1, "transit": True}


def done(engine: LoginEngine, *responses: Pdu) -> tuple[list[Pdu], LoginDone, list[Notice]]:
    sent, events = play(engine, *responses)
    *notices, last = events
    assert isinstance(last, LoginDone), last
    return sent, last, [notice for notice in notices if isinstance(notice, Notice)]


def test_one_round_trip_without_credentials() -> None:
    sent, result, notices = done(login_engine(), response(("TargetPortalGroupTag", "7"), statsn=5))
    assert len(sent) == 1
    assert request(sent[0]) == LoginRequest(ISID, 1, 1, 3, True, cmdsn=1)
    assert list(keys(sent[0]))[:3] == ["InitiatorName", "TargetName", "SessionType"]
    assert (keys(sent[0])["TargetName"], keys(sent[0])["SessionType"]) == (TARGET, "Normal")
    assert (result.tsih, result.statsn, result.tpgt, result.exp_cmdsn, result.max_cmdsn) == (1, 5, 7, 1, 2)
    assert notices == []


def test_discovery_names_no_target() -> None:
    sent, result, _ = done(login_engine(target_name=None, initiator_alias="host"), response())
    assert keys(sent[0])["SessionType"] == "Discovery"
    assert keys(sent[0])["InitiatorAlias"] == "host"
    assert "TargetName" not in keys(sent[0])
    assert result.tpgt == UNKNOWN_TPGT


def test_numbers_given_are_used() -> None:
    sent, _, _ = done(login_engine(cmdsn=9, exp_statsn=0xFFFFFFFF, tsih=3), response(statsn=0xFFFFFFFF, tsih=3))
    assert (request(sent[0]).cmdsn, request(sent[0]).exp_statsn, request(sent[0]).tsih) == (9, 0xFFFFFFFF, 3)


def test_exp_statsn_follows_the_target() -> None:
    sent, _, _ = done(
        login_engine(), response(("MaxConnections", "1"), transit=False, nsg=0, tsih=0, statsn=0xFFFFFFFF), response()
    )
    assert request(sent[1]).exp_statsn == 0


def test_iser_06_proposals_of_lio_are_answered_once() -> None:
    """Row 6 E: missing keys are proposed with T=0; an empty answer would bring them again."""
    proposals = response(("TaskReporting", "RFC3720"), ("X-vendor", "1"), transit=False, nsg=0, tsih=0)
    sent, _, _ = done(login_engine(), proposals, response())
    assert keys(sent[1]) == {"TaskReporting": "RFC3720", "X-vendor": "NotUnderstood"}
    assert request(sent[1]).transit
    failed = failure(login_engine(), proposals, proposals)
    assert "duplicate key TaskReporting" in failed.message


def test_iser_asks_for_the_full_feature_phase_once() -> None:
    """The kernel posts its receive buffers at each request with NSG=3, whatever T is."""
    answers = response(("RDMAExtensions", "Yes"), ("TaskReporting", "RFC3720"), transit=False, nsg=0, tsih=0)
    empty = response(transit=False, nsg=0, tsih=0)
    sent, result, _ = done(login_engine(transport="iser"), answers, empty, response())
    stages = [(request(pdu).transit, request(pdu).nsg) for pdu in sent]
    assert stages == [(False, 0), (False, 0), (True, 3)]
    assert sent[2].data == b""
    assert result.results.rdma_extensions
    assert not {"HeaderDigest", "DataDigest", "IFMarker"} & set(keys(sent[0]))
    failed = failure(login_engine(transport="iser"), answers, empty, empty)
    assert "does not enter the full feature phase" in failed.message


def test_iser_in_user_space_may_save_the_round_trip() -> None:
    sent, _, _ = done(
        login_engine(transport="iser", single_transition=False), response(("RDMAExtensions", "Yes"), transit=True)
    )
    assert (request(sent[0]).transit, request(sent[0]).nsg) == (True, 3)


def test_iser_07_iser_refused_by_the_target() -> None:
    """Row 7 E."""
    failed = failure(login_engine(transport="iser", single_transition=False), response(("RDMAExtensions", "No")))
    assert "RDMAExtensions" in failed.message
    assert failed.err is IscsiErr.FATAL_LOGIN


@pytest.mark.parametrize("cut", [0, 5, 21, 30])
def test_034_035_a_text_in_parts_of_the_target(cut: int) -> None:
    """Rows 34 and 35: at the boundary of a pair (21) and inside keys and values."""
    text = build_text([("TargetAlias", "disk one"), ("TargetPortalGroupTag", "3")])
    first = response(raw=text[:cut], transit=False, nsg=0, more=True, tsih=0)
    for last in (response(raw=text[cut:]), response(raw=text[cut:], transit=False, nsg=0, tsih=0)):
        engine = login_engine()
        sent, events = play(engine, first, last, response())
        assert request(sent[1]) == LoginRequest(ISID, 1, 1, 0, False, cmdsn=1, exp_statsn=1)
        assert sent[1].data == b""
        assert isinstance(events[-1], LoginDone)
        assert (events[-1].tpgt, events[-1].results.target_alias) == (3, "disk one")


def test_a_text_of_ours_in_parts() -> None:
    """A user name that does not fit: C=1 until the last part, each answered by an empty response."""
    credentials = ChapCredentials("u" * 9000, Secret(SECRET))
    empty = security()
    sent, _, _ = done(
        login_engine(chap=credentials), CHAP_CHOSEN, CHALLENGED, empty, security(**TO_OPERATIONAL), response()
    )
    parts = [request(pdu) for pdu in sent[2:4]]
    assert [(part.more, part.transit, part.nsg) for part in parts] == [(True, False, 0), (False, True, 1)]
    assert len(sent[2].data) == 8192
    assert b"u" * 9000 in sent[2].data + sent[3].data
    failed = failure(login_engine(chap=credentials), CHAP_CHOSEN, CHALLENGED, security(("A", "1")))
    assert "before our text is complete" in failed.message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"transit": True, "more": True}, "T and C"),  # row 36
        ({"nsg": 1}, "stage 1 to 1"),  # row 39
        ({"nsg": 0}, "stage 1 to 0"),
        ({"nsg": 2}, "to stage 2, asked for was 3"),
        ({"csg": 0, "nsg": 1}, "stage 0 in a login response, the login is in stage 1"),  # row 41
        ({"version_active": 2}, "version 2 .* 0 was offered"),  # row 42
        ({"itt": 9}, "task tag 0x9"),  # row 43
        ({"isid": bytes(6)}, "ISID 000000000000"),
        ({"tsih": 0}, "without a TSIH"),  # row 44
    ],
)
def test_036_039_041_042_043_044_headers_that_contradict_the_login(fields: dict[str, Any], reason: str) -> None:
    failed = failure(login_engine(), response(**fields))
    assert failed.err is IscsiErr.FATAL_LOGIN
    assert not failed.retry
    assert re.search(reason, failed.message), failed.message


def test_044_tsih_zero_in_a_discovery_is_told_only() -> None:
    """Row 44."""
    _, _, notices = done(login_engine(target_name=None), response(tsih=0))
    assert "TSIH" in notices[0].message


def test_a_tag_the_kernel_chose_is_not_compared() -> None:
    done(login_engine(itt=None), response(itt=77))


@pytest.mark.parametrize("credentials", [ONE_WAY, MUTUAL])
def test_040_074_076_t_bit_nobody_asked_for(credentials: ChapCredentials) -> None:
    """Rows 40, 74 and 76: the target ends the stage before authentication has taken place."""
    early = security(("AuthMethod", "CHAP"), **TO_OPERATIONAL)
    expected = "asked for was none" if credentials.mutual else "before authentication is complete"
    assert expected in failure(login_engine(chap=credentials), early).message
    header = bytearray(CHALLENGED.header)
    header[1] = 0x81  # T=1, from stage 0 to 1
    failed = failure(login_engine(chap=credentials), CHAP_CHOSEN, Pdu(bytes(header), CHALLENGED.data))
    assert "asked for was none" in failed.message


@pytest.mark.parametrize(
    ("more", "reason"), [(True, "no progress|more than 65536"), (False, f"no progress after {MAX_ROUNDS} rounds")]
)
@pytest.mark.parametrize("size", [0, 8000])
def test_037_038_085_endless_logins_end(more: bool, reason: str, size: int) -> None:
    """Rows 37, 38 and 85."""
    text = b"A" * size if more else b"X-k=1\0" if size else b""
    again = response(raw=text, transit=False, nsg=0, more=more, tsih=0)
    engine = login_engine()
    failed = failure(engine, *[again] * 300)
    assert failed.message.split(": ", 1)[1].startswith(("no progress", "a text of more"))
    assert re.search(reason, failed.message)


def test_085_endless_security_stage_ends() -> None:
    """Row 85."""
    rounds = [CHAP_CHOSEN, CHALLENGED, *[security()] * 300]
    assert "no progress" in failure(login_engine(chap=ONE_WAY), *rounds).message


@pytest.mark.parametrize("status", [*sorted(set(STATUS_WORDS) - {0x0101, 0x0102}), 0x0103, 0x0400, 0x05FF, 0x02FE])
@pytest.mark.parametrize("target_name", [TARGET, None])
def test_045_046_047_048_every_refusal_is_a_sentence(status: int, target_name: str | None) -> None:
    """Rows 45 and 46. Numbers of stages, tags and T do not matter (row 47), nor do keys (row 48)."""
    odd = response(raw=b"no text at all", status=status, csg=0, nsg=3, isid=bytes(6), itt=5, tsih=0)
    failed = failure(login_engine(target_name=target_name), odd)
    assert failed.status == status
    assert f"({status:04x})" in failed.message
    assert (target_name or "portal") in failed.message
    assert failed.retry is (status >> 8 >= 3)
    expected = {0x0201: IscsiErr.LOGIN_AUTH_FAILED, 0x0202: IscsiErr.LOGIN_AUTH_FAILED}.get(status)
    if expected is None and failed.retry:
        expected = IscsiErr.TRANS_TIMEOUT if target_name else IscsiErr.PDU_TIMEOUT
    assert failed.err is (expected or IscsiErr.FATAL_LOGIN)


def test_refusals_name_the_usual_cause() -> None:
    def refused(status: int, **config: Any) -> LoginFailed:
        return failure(login_engine(**config), security(status=status))

    assert "no CHAP user" in refused(0x0201).message
    assert '"inuser"' in refused(0x0201, chap=ONE_WAY).message
    assert INITIATOR in refused(0x0202).message
    assert "access list" in (refused(0x0202).hint or "")
    assert "MaxBurstLength" in (refused(0x0200).hint or "")


def test_084_algorithm_seven_clash_is_explained() -> None:
    """Row 84."""
    credentials = ChapCredentials("inuser", Secret(SECRET), algorithms=(7, 5))
    challenged = security(("CHAP_A", "7"), ("CHAP_I", "1"), ("CHAP_C", "0x" + "ab" * 16))
    failed = failure(login_engine(chap=credentials), CHAP_CHOSEN, challenged, security(status=0x0200))
    assert "SHA256" in (failed.hint or "")


# Redirections.


@pytest.mark.parametrize(
    ("status", "address", "portal", "permanent"),
    [
        (0x0101, "192.0.2.9:3261", Portal("192.0.2.9", 3261), False),
        (0x0102, "[fd00::1]", Portal("fd00::1"), True),  # rows 53 and 55
        (0x0101, "[fd00::1]:3262,4", Portal("fd00::1", 3262), False),
        (0x0101, "no-such-host.example", Portal("no-such-host.example"), False),  # row 54: resolved by the owner
    ],
)
def test_053_054_055_redirections(status: int, address: str, portal: Portal, permanent: bool) -> None:
    _, events = play(login_engine(), response(("TargetAddress", address), status=status, transit=False))
    assert isinstance(events[-1], Redirected)
    assert (events[-1].portal, events[-1].permanent) == (portal, permanent)


@pytest.mark.parametrize(
    "pairs", [[], [("TargetAddress", "")], [("TargetAddress", "[::1")], [("TargetAddress", "a b")]]
)
def test_052_redirections_to_nowhere(pairs: list[tuple[str, str]]) -> None:
    """Row 52."""
    failed = failure(login_engine(), response(*pairs, status=0x0101))
    assert failed.err is IscsiErr.FATAL_LOGIN
    assert "redirects" in failed.message


def test_049_050_redirect_loops_show_the_chain() -> None:
    """Rows 49 and 50."""
    chain = RedirectChain(PORTAL)
    with pytest.raises(IscsiFailure, match=r"redirect loop: 192.0.2.1:3260 -> 192.0.2.1:3260"):
        chain.follow(PORTAL)
    chain.follow(Portal("192.0.2.2"))
    with pytest.raises(IscsiFailure, match=r"-> 192.0.2.2:3260 -> 192.0.2.1:3260"):
        chain.follow(PORTAL)


def test_051_redirects_are_limited() -> None:
    """Row 51."""
    chain = RedirectChain(PORTAL)
    for hop in range(MAX_HOPS):
        chain.follow(Portal("192.0.2.2", 1000 + hop))
    with pytest.raises(IscsiFailure, match=f"more than {MAX_HOPS}"):
        chain.follow(Portal("192.0.2.3"))


def test_056_an_address_in_a_successful_response_is_ignored() -> None:
    """Row 56."""
    sent, _, notices = done(
        login_engine(), response(("TargetAddress", "192.0.2.99"), transit=False, nsg=0, tsih=0), response()
    )
    assert "TargetAddress" in notices[0].message
    assert sent[1].data == b""


def test_057_a_long_response_is_read() -> None:
    """Row 57, at the limit of a text: what matters is that nothing is cut."""
    text = b"".join(b"X-vendor.k%d=%s\0" % (number, b"v" * 200) for number in range(150))
    sent, _, _ = done(login_engine(), response(raw=text, transit=False, nsg=0, tsih=0), response())
    assert len(keys(sent[1])) == 150


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"9bad=1\0", "malformed key"),  # row 21
        (b"TargetAlias=" + b"x" * 300 + b"\0", "TargetAlias has 300 bytes"),  # row 22
        (b"nonsense\0", "malformed text"),  # row 23
        (b"MaxBurstLength=512\0MaxBurstLength=512\0", "duplicate key"),  # row 27
        (b"HeaderDigest=CRC32C\0", "HeaderDigest"),  # row 29
        (b"MaxRecvDataSegmentLength=0\0", "512 to 16777215"),  # row 31
    ],
)
def test_021_022_023_027_029_031_bad_keys_fail_the_login_with_their_name(text: bytes, reason: str) -> None:
    failed = failure(login_engine(), response(raw=text))
    assert reason in failed.message
    assert TARGET in failed.message


def test_028_unknown_keys_in_the_final_response_are_told() -> None:
    """Row 28."""
    _, _, notices = done(login_engine(), response(("X-org.example.foo", "1")))
    assert "X-org.example.foo" in notices[0].message


def test_a_data_segment_cut_short() -> None:
    whole = response(("TargetAlias", "x"))
    assert "cut short" in failure(login_engine(), Pdu(whole.header, whole.data[:-1])).message
    done(login_engine(), Pdu(whole.header, whole.data + b"\0\0"))  # padding a transport left there


def test_014_015_other_pdus_instead_of_a_login_response() -> None:
    """Rows 14 and 15."""
    assert "protocol error" in failure(login_engine(), Reject(0x04).pdu(bytes(48))).message
    assert "unexpected opcode 0x20" in failure(login_engine(), NopIn(1).pdu()).message
    assert "unexpected opcode 0xa3" in failure(login_engine(), Pdu(b"\xa3" + bytes(47))).message
    assert "header of 47 bytes" in failure(login_engine(), Pdu(bytes(47))).message


# CHAP inside the login.


def test_058_one_way_chap() -> None:
    """Row 58."""
    sent, _, notices = done(login_engine(chap=ONE_WAY), CHAP_CHOSEN, CHALLENGED, security(**TO_OPERATIONAL), response())
    stages = [(r.csg, r.nsg, r.transit) for r in map(request, sent)]
    assert stages == [(0, 1, True), (0, 0, False), (0, 1, True), (1, 3, True)]
    assert keys(sent[0])["AuthMethod"] == "CHAP,None"
    assert keys(sent[1]) == {"CHAP_A": "5"}
    assert set(keys(sent[2])) == {"CHAP_N", "CHAP_R"}
    assert "InitiatorName" not in keys(sent[3])
    assert notices == []


def test_mutual_chap_asks_for_no_stage_before_it_is_chosen() -> None:
    sent, _ = play(login_engine(chap=MUTUAL), CHAP_CHOSEN, CHALLENGED)
    assert (request(sent[0]).nsg, request(sent[0]).transit) == (0, False)
    assert keys(sent[0])["AuthMethod"] == "CHAP"
    assert set(keys(sent[2])) == {"CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"}


def test_declarations_may_come_in_the_security_stage() -> None:
    """LIO sends TargetPortalGroupTag with its first security response."""
    chosen = security(("TargetAlias", "x"), ("TargetPortalGroupTag", "4"), ("AuthMethod", "CHAP"), ("X-k", "1"))
    _, result, notices = done(login_engine(chap=ONE_WAY), chosen, CHALLENGED, security(**TO_OPERATIONAL), response())
    assert (result.tpgt, result.results.target_alias) == (4, "x")
    assert "X-k" in notices[0].message


@pytest.mark.parametrize("transit", [True, False])
def test_072_a_target_without_authentication_is_told(transit: bool) -> None:
    """Row 72, compatible: the target picks None, with or without ending the stage at once."""
    none = security(("AuthMethod", "None"), **(TO_OPERATIONAL if transit else {}))
    rest = [] if transit else [security(**TO_OPERATIONAL)]
    _, _, notices = done(login_engine(chap=ONE_WAY), none, *rest, response())
    assert "no authentication" in notices[0].message


@pytest.mark.parametrize(
    "credentials", [MUTUAL, ChapCredentials("inuser", Secret(SECRET), required=True)], ids=["mutual", "required"]
)
@pytest.mark.parametrize("method", ["None", "Reject"])
def test_072_073_a_target_without_authentication_is_refused(credentials: ChapCredentials, method: str) -> None:
    """Rows 72 (required) and 73."""
    failed = failure(login_engine(chap=credentials), security(("AuthMethod", method)))
    assert "the target refuses authentication" in failed.message


@pytest.mark.parametrize("method", ["KRB5", "CHAP,None", "chap", ""])
def test_075_methods_nobody_offered(method: str) -> None:
    """Row 75."""
    failed = failure(login_engine(chap=ONE_WAY), security(("AuthMethod", method)))
    assert f'AuthMethod="{method}" was answered' in failed.message


def test_074_a_method_is_needed() -> None:
    """Row 74."""
    for fields in ({}, TO_OPERATIONAL):
        assert "AuthMethod is missing" in failure(login_engine(chap=ONE_WAY), security(**fields)).message


def test_071_chap_keys_twice() -> None:
    """Row 71."""
    twice = security(raw=b"CHAP_A=5\0CHAP_A=5\0CHAP_I=1\0CHAP_C=0xab\0")
    assert "duplicate key CHAP_A" in failure(login_engine(chap=ONE_WAY), CHAP_CHOSEN, twice).message


def test_081_a_reflected_challenge_ends_the_login() -> None:
    """Row 81, over two logins of one process."""
    book = ChallengeBook()
    sent, _ = play(login_engine(book, chap=MUTUAL), CHAP_CHOSEN, CHALLENGED)
    reflected = security(("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", keys(sent[2])["CHAP_C"]))
    assert "reflected" in failure(login_engine(book, chap=MUTUAL), CHAP_CHOSEN, reflected).message


def test_064_083_short_secrets_and_challenges_are_told() -> None:
    """Rows 64 and 83."""
    weak = security(("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", "0xab"))
    _, events = play(login_engine(chap=ChapCredentials("u", Secret("short"))), CHAP_CHOSEN, weak)
    text = " ".join(event.message for event in events if isinstance(event, Notice))
    assert "secret" in text
    assert "challenge is very short" in text


# Time and connection.


def test_002_a_silent_target() -> None:
    """Row 2."""
    engine = login_engine(deadline_s=15.0)
    engine.start(100.0)
    assert engine.wake_at() == 115.0
    engine.tick(114.9)
    assert engine.take_output() == []
    engine.tick(115.0)
    (failed,) = engine.take_output()
    assert isinstance(failed, LoginFailed)
    assert "no login response within 15 s" in failed.message
    assert failed.retry
    assert engine.wake_at() is None
    engine.tick(116.0)
    engine.lost()
    assert engine.take_output() == []


def test_an_answer_after_the_deadline_is_too_late() -> None:
    engine = login_engine(deadline_s=15.0)
    engine.start(0.0)
    pdu = response()
    engine.receive(pdu.header, pdu.data, 20.0)
    assert [type(item) for item in engine.take_output()] == [LoginFailed]


@pytest.mark.parametrize(
    ("config", "responses", "cause"),
    [
        ({}, [], "initiator not allowed"),
        ({"chap": ONE_WAY}, [CHAP_CHOSEN], "algorithms"),
        ({"chap": ONE_WAY}, [CHAP_CHOSEN, CHALLENGED], "secret may be wrong"),
        ({"chap": ONE_WAY}, [CHAP_CHOSEN, CHALLENGED, security(**TO_OPERATIONAL)], "operational keys"),
    ],
)
def test_003_a_lost_connection_is_explained_by_its_stage(config: Any, responses: list[Pdu], cause: str) -> None:
    """Row 3; LIO over iSER mostly loses the status of a refusal."""
    engine = login_engine(**config)
    play(engine, *responses)
    engine.lost()
    (failed,) = engine.take_output()
    assert isinstance(failed, LoginFailed)
    assert "connection closed during login" in failed.message
    assert cause in (failed.hint or "")
    assert failed.retry


def test_no_pdu_is_taken_before_the_start_or_after_the_end() -> None:
    engine = login_engine()
    pdu = response()
    with pytest.raises(LocalError):
        engine.receive(pdu.header, pdu.data, 0.0)
    play(engine, pdu)
    with pytest.raises(LocalError):
        engine.receive(pdu.header, pdu.data, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"initiator_name": "host1"},
        {"target_name": "../../x"},
        {"target_name": ""},
        {"isid": b"12345"},
        {"initiator_alias": "x" * 256},
    ],
)
def test_configurations_no_target_could_accept(changes: dict[str, Any]) -> None:
    with pytest.raises(LocalError):
        login_engine(**changes)


def test_random_isids_are_of_the_random_kind() -> None:
    assert random_isid(counting_bytes) == bytes.fromhex("800001020000")


# The table.


def test_every_pair_is_in_the_table_or_raises() -> None:
    for state, event in itertools.product(LoginState, LoginInput):
        if (state, event) in TRANSITIONS:
            assert advance(TRANSITIONS, state, event) is TRANSITIONS[state, event]
        else:
            with pytest.raises(LocalError):
                advance(TRANSITIONS, state, event)


def test_every_state_is_reached_and_the_ends_are_ends() -> None:
    assert {state for state, _ in TRANSITIONS}.isdisjoint(ENDED)
    assert {*TRANSITIONS.values(), LoginState.START} == set(LoginState)
    for state in set(LoginState) - ENDED - {LoginState.START}:
        assert TRANSITIONS[state, LoginInput.FAILURE] is LoginState.FAILED
