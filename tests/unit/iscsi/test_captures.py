# SPDX-License-Identifier: Apache-2.0
"""Captured conversations, the target's half replayed to our engines.

Our requests are compared with those of the initiator in the capture where both mean to say the same. Deliberate
differences: open-iscsi and libiscsi send IFMarker and OFMarker also in discoveries; open-iscsi never advances ExpStatSN
and never logs out there; libiscsi sends text requests as immediate.
"""

from __future__ import annotations

from typing import Any

import pytest

from rdmactl.iscsi.chap import ChapCredentials, Secret
from rdmactl.iscsi.discovery import DiscoveryDone, DiscoveryEngine, DiscoveryFailed
from rdmactl.iscsi.errors import IscsiErr
from rdmactl.iscsi.login import LoginConfig, LoginDone, LoginEngine, LoginEvent, LoginFailed, Redirected
from rdmactl.iscsi.negotiation import OperationalSettings
from rdmactl.iscsi.pdu import LoginRequest, NopIn, NopOut, Pdu, TextRequest, TextResponse, decode
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.sendtargets import TargetRecord

from .support import MUTUAL, ONE_WAY, SECRET, Captured, capture, discovery_config, keys

T1, T2, T3 = (f"iqn.2005-03.org.example:t{number}" for number in (1, 2, 3))
MARKERS = {"IFMarker", "OFMarker"}


def captured_randomness(pdus: list[Captured]) -> Any:
    """The random bytes the initiator of a capture used, so that the target's answers fit ours."""
    values = b""
    for entry in pdus:
        if entry.to_target and entry.raw[0] == 0x43 and b"CHAP_I" in entry.raw:
            said = keys(entry.pdu)
            values = bytes((int(said["CHAP_I"]),)) + bytes.fromhex(said["CHAP_C"][2:])
    remaining = bytearray(values)

    def random_bytes(count: int) -> bytes:
        taken = bytes(remaining[:count])
        del remaining[:count]
        return taken  # 16 bytes where we ask for 32: open-iscsi's challenge is as long as the hash

    return random_bytes


def first_connection(name: str, connection: int = 1) -> list[Captured]:
    return [entry for entry in capture(name) if entry.connection == connection]


def replay_login(
    name: str, target: str | None, connection: int = 1, **config: Any
) -> tuple[list[Pdu], LoginEvent | None]:
    """Log in as the initiator of a capture did, against its target's responses."""
    entries = first_connection(name, connection)
    theirs = LoginRequest.unpack(entries[0].pdu.header)
    said = keys(entries[0].pdu)
    engine = LoginEngine(
        LoginConfig(
            initiator_name=said["InitiatorName"],
            portal=Portal("127.0.0.1"),
            target_name=target,
            isid=theirs.isid,
            itt=theirs.itt,
            cmdsn=theirs.cmdsn,
            exp_statsn=theirs.exp_statsn,
            **config,
        ),
        random_bytes=captured_randomness(entries),
    )
    sent: list[Pdu] = [engine.start()]
    ends: list[LoginEvent] = []
    for entry in entries:
        if not entry.to_target and not ends:
            engine.receive(*entry.pdu, 0.0)
            for item in engine.take_output():
                if isinstance(item, Pdu):
                    sent.append(item)
                elif isinstance(item, (LoginDone, LoginFailed, Redirected)):
                    ends.append(item)
    assert len(ends) <= 1
    return sent, ends[0] if ends else None


@pytest.mark.parametrize(
    ("name", "connection", "digest"),
    [
        ("normal-login-libiscsi", 1, ("None", "CRC32C")),
        ("normal-login-header-digest-crc32c", 1, ("None", "CRC32C")),
        ("normal-nop-ping-header-digest", 1, ("None", "CRC32C")),
        ("login-redirect-temporary", 2, ("None", "CRC32C")),
    ],
)
def test_normal_logins_of_tgt(name: str, connection: int, digest: tuple[str, ...]) -> None:
    settings = OperationalSettings(header_digest=digest, max_burst_bytes=262144)
    (ours,), done = replay_login(name, T1, connection, settings=settings)
    assert isinstance(done, LoginDone)
    entries = first_connection(name, connection)
    theirs = entries[0].pdu
    assert keys(ours) == keys(theirs)
    assert LoginRequest.unpack(ours.header) == LoginRequest.unpack(theirs.header)
    assert done.results.first_burst_bytes == 65536
    assert done.results.initial_r2t
    assert done.results.header_digest is any(entry.header_digest for entry in entries)
    assert done.tpgt == 1


def test_a_digest_pair_of_istgt() -> None:
    settings = OperationalSettings(header_digest=("CRC32C",), data_digest=("CRC32C",))
    _, done = replay_login(
        "text-header-and-data-digest-istgt", "iqn.2005-03.org.example.istgt:disk1", settings=settings
    )
    assert isinstance(done, LoginDone)
    assert (done.results.header_digest, done.results.data_digest) == (True, True)
    assert done.results.target_alias == "Data Disk1"


def test_mutual_chap_of_tgt_with_libiscsi() -> None:
    sent, done = replay_login("normal-chap-mutual-ok-libiscsi", T1, chap=MUTUAL)
    assert isinstance(done, LoginDone)
    theirs = [keys(entry.pdu) for entry in capture("normal-chap-mutual-ok-libiscsi") if entry.to_target]
    assert keys(sent[2]) == {key: value.lower() for key, value in theirs[2].items()} | {"CHAP_N": "inuser"}


@pytest.mark.parametrize(
    ("name", "address", "permanent"),
    [
        ("login-redirect-temporary", Portal("127.0.0.2", 3261), False),
        ("login-redirect-permanent-ipv6", Portal("::1"), True),
    ],
)
def test_redirections_of_tgt(name: str, address: Portal, permanent: bool) -> None:
    _, event = replay_login(name, T1)
    assert event == Redirected(address, permanent)


@pytest.mark.parametrize(
    ("name", "connection", "status", "err"),
    [
        ("login-target-not-found", 1, 0x0203, IscsiErr.FATAL_LOGIN),
        ("discovery-chap-required-none-offered", 1, 0x0201, IscsiErr.LOGIN_AUTH_FAILED),
        ("login-errors-tgtd", 2, 0x0209, IscsiErr.FATAL_LOGIN),
        ("login-errors-tgtd", 4, 0x0207, IscsiErr.FATAL_LOGIN),
        ("login-errors-tgtd", 5, 0x0207, IscsiErr.FATAL_LOGIN),
        ("login-errors-tgtd", 6, 0x0205, IscsiErr.FATAL_LOGIN),
    ],
)
def test_refusals_of_tgt(name: str, connection: int, status: int, err: IscsiErr) -> None:
    _, failed = replay_login(name, T1, connection)
    assert isinstance(failed, LoginFailed)
    assert (failed.status, failed.err) == (status, err)


def test_reserved_answers_of_tgt() -> None:
    """Reject and NotUnderstood, in a successful response."""
    _, done = replay_login("login-errors-tgtd", None, 7)
    assert isinstance(done, LoginDone)
    assert (done.results.max_connections, done.results.error_recovery_level) == (1, 0)


@pytest.mark.parametrize(
    ("name", "chap", "reason"),
    [
        ("discovery-chap-wrong-password", ONE_WAY, "0201"),
        ("discovery-chap-wrong-user", ONE_WAY, "0201"),
        ("discovery-chap-wrong-password-istgt", MUTUAL, "0201"),  # T=1 with the failure
        ("discovery-chap-alg-unsupported-tgtd", ChapCredentials("inuser", Secret(SECRET), algorithms=(6,)), "0200"),
        (
            "discovery-chap-alg7-clash-tgtd",
            ChapCredentials("inuser", Secret(SECRET), algorithms=(8, 7, 6, 5)),
            "0200",
        ),
    ],
)
def test_chap_refused(name: str, chap: ChapCredentials, reason: str) -> None:
    credentials = chap
    if name.endswith("istgt"):
        credentials = ChapCredentials("inuser", Secret(SECRET), "outuser", Secret("outsecret12345"), (8, 7, 6, 5))
    _, failed = replay_login(name, None, chap=credentials)
    assert isinstance(failed, LoginFailed)
    assert f"({reason})" in failed.message
    assert ("SHA256" in (failed.hint or "")) is name.endswith("clash-tgtd")


@pytest.mark.parametrize(
    ("capture_name", "username_in", "secret_in", "reason"),
    [
        ("wrong-target-name", "outuser", "outsecret12345", None),
        ("wrong-target-name", "someone", "outsecret12345", 'calls itself "outuser" in CHAP, expected was "someone"'),
        ("wrong-target-secret", "outuser", "outsecret12345", None),
        ("wrong-target-secret", "outuser", "another secret", "the target failed authentication"),
        ("same-secret", "outuser", "outsecret12345", "the target failed authentication"),
    ],
)
def test_mutual_chap_of_tgt(capture_name: str, username_in: str, secret_in: str, reason: str | None) -> None:
    """What these captures are named after was wrong in the initiator's configuration; the right one succeeds."""
    credentials = ChapCredentials("inuser", Secret(SECRET), username_in, Secret(secret_in))
    sent, end = replay_login(f"discovery-chap-mutual-{capture_name}", None, chap=credentials)
    if reason is None:
        assert end is None
        assert LoginRequest.unpack(sent[-1].header).csg == 1
    else:
        assert isinstance(end, LoginFailed)
        assert reason in end.message
        assert end.status is None


# Discoveries.


def replay_discovery(name: str, connection: int = 1, **changes: Any) -> tuple[list[Pdu], Any]:
    """Discover against the target of a capture; the tags are the capture's, which the engine does not compare."""
    entries = first_connection(name, connection)
    theirs = LoginRequest.unpack(entries[0].pdu.header)
    config = discovery_config(
        isid=theirs.isid, initiator_name=keys(entries[0].pdu)["InitiatorName"], itt=None, **changes
    )
    engine = DiscoveryEngine(config, random_bytes=captured_randomness(entries))
    engine.start(0.0)
    output = engine.take_output()
    for entry in entries:
        if not entry.to_target:
            engine.receive(*entry.pdu, 0.0)
            output += engine.take_output()
    engine.lost()
    output += engine.take_output()
    sent = [item for item in output if isinstance(item, Pdu)]
    return sent, [item for item in output if not isinstance(item, Pdu)][-1]


def test_discovery_of_tgt() -> None:
    sent, done = replay_discovery("discovery-noauth")
    local = ((Portal("127.0.0.1"), 1),)
    assert done == DiscoveryDone(tuple(TargetRecord(name, local) for name in (T1, T2, T3)), 0, ())
    theirs = [entry.pdu for entry in capture("discovery-noauth") if entry.to_target]
    assert keys(theirs[0]).items() - keys(sent[0]).items() == {(marker, "No") for marker in MARKERS}
    assert keys(sent[0]).items() <= keys(theirs[0]).items()
    ours, open_iscsi = TextRequest.unpack(sent[1].header), TextRequest.unpack(theirs[1].header)
    assert ours._replace(itt=open_iscsi.itt) == open_iscsi
    assert sent[1].data == theirs[1].data
    assert len(sent) == 3  # the logout open-iscsi does not send


def test_discovery_over_ipv6() -> None:
    _, done = replay_discovery("discovery-noauth-ipv6")
    assert isinstance(done, DiscoveryDone)
    assert {portals for _, portals in done.targets} == {((Portal("::1"), 1),)}


def test_discovery_with_logout() -> None:
    sent, done = replay_discovery("discovery-noauth-logout-libiscsi")
    assert isinstance(done, DiscoveryDone)
    assert len(done.targets) == 3
    assert sent[-1].header[0] == 0x46


def test_two_portal_groups_of_istgt() -> None:
    _, done = replay_discovery("discovery-two-portal-groups-istgt")
    group1 = ((Portal("127.0.0.1"), 1), (Portal("::1"), 1), (Portal("127.0.0.2", 3262), 1))
    assert done == DiscoveryDone(
        (
            TargetRecord("iqn.2005-03.org.example.istgt:disk1", (*group1, (Portal("127.0.0.3", 3263), 2))),
            TargetRecord("iqn.2005-03.org.example.istgt:disk3", group1),
        ),
        0,
        (),
    )


@pytest.mark.parametrize(("name", "size"), [("sendtargets-multi-pdu-512", 512), ("sendtargets-multi-pdu-8192", 8192)])
def test_400_targets_in_parts(name: str, size: int) -> None:
    """tgt cuts pairs anywhere with C=0, and never opens the command window."""
    sent, done = replay_discovery(name, max_recv_data_segment_bytes=size)
    assert isinstance(done, DiscoveryDone)
    assert len(done.targets) == 400
    assert done.skipped == 0
    theirs = [entry.pdu for entry in capture(name) if entry.to_target]
    assert len(sent) == len(theirs) + 1  # the logout
    for ours, open_iscsi in zip(sent[1:-1], theirs[1:], strict=True):
        mine, other = TextRequest.unpack(ours.header), TextRequest.unpack(open_iscsi.header)
        assert (mine.ttt, mine.cmdsn, mine.final) == (other.ttt, other.cmdsn, other.final)
        assert ours.data == open_iscsi.data


@pytest.mark.parametrize("connection", [1, 2, 3, 4])
def test_chap_algorithms_of_a_scripted_target(connection: int) -> None:
    """SHA-1, SHA-256, SHA3-256 and base64. Our response must be what open-iscsi computed."""
    name = "discovery-chap-alg-6-7-8-and-base64-scripted-target"
    entries = first_connection(name, connection)
    credentials = ChapCredentials("inuser", Secret(SECRET), "outuser", Secret("outsecret12345"), (8, 7, 6, 5))
    sent, done = replay_discovery(name, connection, chap=credentials)
    assert isinstance(done, DiscoveryDone)
    assert len(done.targets) == 1
    answers = [keys(entry.pdu) for entry in entries if entry.to_target and b"CHAP_R" in entry.raw]
    ours = [keys(pdu) for pdu in sent if b"CHAP_R" in pdu.data]
    assert [answer["CHAP_R"] for answer in ours] == [answer["CHAP_R"] for answer in answers]


def test_rejected_text() -> None:
    """The target's second answer of this capture is a Reject; it stands for one in answer to SendTargets."""
    _, failed = replay_discovery("text-reject-bad-ttt-tgtd")
    assert isinstance(failed, DiscoveryFailed)
    assert "invalid PDU field" in failed.message


def test_pings_of_tgt_are_answered_as_libiscsi_answers_them() -> None:
    entries = capture("normal-nop-ping-header-digest")
    pings = [entry.pdu for entry in entries if entry.raw[0] == 0x20]
    answers = [entry.pdu for entry in entries if entry.raw[0] & 0x3F == 0x00]
    assert len(pings) == len(answers) == 4
    engine = DiscoveryEngine(discovery_config(), random_bytes=bytes)
    engine.start(0.0)
    login = first_connection("discovery-noauth")[1].pdu
    header = bytearray(login.header)
    header[8:20] = discovery_config().isid + b"\x01\0" + b"\0\0\0\1"
    engine.receive(bytes(header), login.data, 0.0)
    engine.take_output()
    for ping, answer in zip(pings, answers, strict=True):
        engine.receive(*ping, 0.0)
        (ours,) = engine.take_output()
        assert isinstance(ours, Pdu)
        mine, theirs = decode(ours.header), decode(answer.header)
        assert isinstance(mine, NopOut)
        assert isinstance(theirs, NopOut)
        assert isinstance(decode(ping.header), NopIn)
        assert (mine.itt, mine.ttt, mine.lun, mine.immediate) == (theirs.itt, theirs.ttt, theirs.lun, theirs.immediate)
        assert ours.data == answer.data


def test_lists_of_single_targets() -> None:
    """One target, an unknown one, an empty value: as text responses, which the reader takes alike."""
    lists = [entry.pdu for entry in capture("text-variants-tgtd") if entry.raw[0] == 0x24]
    assert [len(pdu.data) for pdu in lists] == [69, 0, 0, 28]
    assert all(TextResponse.unpack(pdu.header).final for pdu in lists)
