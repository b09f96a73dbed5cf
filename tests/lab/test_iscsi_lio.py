# SPDX-License-Identifier: Apache-2.0
"""The iSCSI engines against a LIO target over TCP; iSER has its own tests. Sockets here are as plain as can be."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from rdmactl.iscsi.chap import ChapCredentials, Secret
from rdmactl.iscsi.discovery import DiscoveryConfig, DiscoveryDone, DiscoveryFailed, StreamDiscovery
from rdmactl.iscsi.errors import IscsiErr
from rdmactl.iscsi.login import LoginConfig, LoginDone, LoginEngine, LoginFailed, Notice, random_isid
from rdmactl.iscsi.logout import read_logout
from rdmactl.iscsi.negotiation import OperationalSettings
from rdmactl.iscsi.pdu import ALL_ONES, LogoutRequest, NopIn, NopOut, Pdu, decode, next_serial
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.stream import StreamDecoder, encode
from tests.lab.guest import sh

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

INITIATOR = "iqn.2005-03.org.example:init1"
NAME = "iqn.2005-03.org.example:disk"
PORTAL = Portal("127.0.0.1")
COUNT = 12
DISCOVERY_AUTH = "/sys/kernel/config/target/iscsi/discovery_auth"
LIMIT_S = 30


@pytest.fixture(scope="module", autouse=True)
def lio() -> None:
    lines = [f"target {NAME}{number} 127.0.0.1:3260 tcp 8" for number in range(COUNT)]
    sh("ip link set lo up\n" + "\n".join(lines) + "\ntarget " + NAME + "0 '[::1]:3260'")


def discover(portal: Portal = PORTAL, **changes: Any) -> Any:
    """One discovery; the event it ended with."""
    config = DiscoveryConfig(INITIATOR, portal, random_isid(os.urandom), **changes)
    engine = StreamDiscovery(config, random_bytes=os.urandom)
    ends: list[Any] = []
    with socket.create_connection(portal, timeout=LIMIT_S) as connection:
        engine.start(time.monotonic())
        while not ends:
            for item in engine.take_output():
                if isinstance(item, bytes):
                    connection.sendall(item)
                elif not isinstance(item, Notice):
                    ends.append(item)
            if not ends:
                data = connection.recv(65536)
                if data:
                    engine.receive(data, time.monotonic())
                else:
                    engine.closed()
    return ends[0]


@pytest.mark.parametrize("size", [512, 8192, 32768])
@pytest.mark.parametrize("portal", [PORTAL, Portal("::1")])
def test_discovery_in_any_number_of_parts(size: int, portal: Portal) -> None:
    done = discover(portal, max_recv_data_segment_bytes=size)
    assert isinstance(done, DiscoveryDone), done
    assert {target.name for target in done.targets} == {f"{NAME}{number}" for number in range(COUNT)}
    portals = dict(done.targets)[f"{NAME}0"]
    assert set(portals) == {(PORTAL, 1), (Portal("::1"), 1)}
    assert (done.skipped, done.warnings) == (0, ())


@pytest.mark.parametrize("algorithms", [(5,), (6,), (7,), (8,), (8, 7, 6, 5)])
@pytest.mark.parametrize("mutual", [False, True])
def test_discovery_with_chap(algorithms: tuple[int, ...], mutual: bool) -> None:
    words = {
        "userid": "inuser",
        "password": "insecret12345",
        "userid_mutual": "outuser",
        "password_mutual": "outsecret12345",
        "enforce_discovery_auth": "1",
    }
    for file, text in words.items():  # LIO would take a newline for a part of the value
        Path(DISCOVERY_AUTH, file).write_text(text)
    try:
        incoming = ("outuser", Secret("outsecret12345")) if mutual else (None, None)
        good = ChapCredentials("inuser", Secret("insecret12345"), *incoming, algorithms)
        done = discover(chap=good)
        assert isinstance(done, DiscoveryDone), done
        for chap in (None, ChapCredentials("inuser", Secret("a wrong secret"), None, None, algorithms)):
            failed = discover(chap=chap)
            assert isinstance(failed, DiscoveryFailed)
            assert failed.err is IscsiErr.LOGIN_AUTH_FAILED, failed
        if mutual:
            foreign = ChapCredentials(
                "inuser", Secret("insecret12345"), "outuser", Secret("not its secret"), algorithms
            )
            failed = discover(chap=foreign)
            assert "the target failed authentication" in failed.message
    finally:
        sh(f"echo 0 > {DISCOVERY_AUTH}/enforce_discovery_auth")


def login(target: str = f"{NAME}0", **changes: Any) -> tuple[Any, socket.socket, StreamDecoder]:
    """One login; the event it ended with, and the connection."""
    config = LoginConfig(INITIATOR, PORTAL, target, random_isid(os.urandom), **changes)
    engine = LoginEngine(config, random_bytes=os.urandom)
    connection = socket.create_connection(PORTAL, timeout=LIMIT_S)
    decoder = StreamDecoder(262144)
    connection.sendall(encode(engine.start()))
    while True:
        data = connection.recv(65536)
        if not data:
            engine.lost()
        for pdu in decoder.receive(data):
            engine.receive(*pdu, 0.0)
        for item in engine.take_output():
            if isinstance(item, Pdu):
                connection.sendall(encode(item))
            elif not isinstance(item, Notice):
                return item, connection, decoder


@pytest.mark.parametrize("digests", [("None",), ("CRC32C",)])
def test_normal_session(digests: tuple[str, ...]) -> None:
    """A login in one round trip, a ping with its echo, a logout; with digests, the kernel checks ours."""
    done, connection, decoder = login(settings=OperationalSettings(header_digest=digests, data_digest=digests))
    with connection:
        assert isinstance(done, LoginDone), done
        assert done.tpgt == 1
        assert done.results.header_digest is done.results.data_digest is (digests == ("CRC32C",))
        assert done.results.max_burst_bytes <= 262144
        on = {"header_digest": done.results.header_digest, "data_digest": done.results.data_digest}
        decoder.header_digest, decoder.data_digest = on["header_digest"], on["data_digest"]
        expected = next_serial(done.statsn)
        connection.sendall(encode(NopOut(5, ALL_ONES, 1, expected).pdu(b"padded"), **on))
        (echo,) = receive(connection, decoder)
        answer = decode(echo.header)
        assert isinstance(answer, NopIn)
        assert (answer.itt, echo.data) == (5, b"padded")
        connection.sendall(encode(LogoutRequest(6, cmdsn=1, exp_statsn=next_serial(answer.statsn)).pdu(), **on))
        (bye,) = receive(connection, decoder)
        assert read_logout(bye.header).done


def receive(connection: socket.socket, decoder: StreamDecoder) -> list[Pdu]:
    """At least one PDU."""
    pdus: list[Pdu] = []
    while not pdus:
        data = connection.recv(65536)
        assert data
        pdus += decoder.receive(data)
    return pdus


def test_a_target_that_is_not_there() -> None:
    """LIO answers with a target error (class 3), not with "not found"."""
    failed, connection, _ = login("iqn.2005-03.org.example:nobody")
    with connection:
        assert isinstance(failed, LoginFailed)
        assert "iqn.2005-03.org.example:nobody at 127.0.0.1:3260" in failed.message
        assert failed.hint


def test_the_cautious_transition_works_with_lio() -> None:
    """Operational keys with T=0, one empty request with T=1: what the kernel's iSER needs."""
    done, connection, _ = login(single_transition=True)
    with connection:
        assert isinstance(done, LoginDone), done
        assert done.results.max_burst_bytes <= 262144
