# SPDX-License-Identifier: Apache-2.0
"""Helpers of these tests: captures, engines with everything unimportant filled in, two engines joined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rdmactl.iscsi.chap import ChallengeBook, ChapCredentials, Secret
from rdmactl.iscsi.discovery import DiscoveryConfig, DiscoveryEngine, DiscoveryEvent, StreamDiscovery
from rdmactl.iscsi.login import LoginConfig, LoginEngine, LoginEvent, LoginFailed, Notice
from rdmactl.iscsi.pdu import LoginRequest, LoginResponse, Pdu
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.stream import StreamDecoder
from rdmactl.iscsi.text import build_text, parse_text
from tests.fake.target import FakeTarget, StreamTarget, TargetScript, Twist

CAPTURES = Path(__file__).resolve().parents[2] / "data" / "iscsi"
INITIATOR = "iqn.2005-03.org.example:init1"
TARGET = "iqn.2005-03.org.example:t1"
PORTAL = Portal("192.0.2.1")
ISID = bytes.fromhex("80abcdef0000")
SECRET = "insecret12345"
ONE_WAY = ChapCredentials("inuser", Secret(SECRET))
MUTUAL = ChapCredentials("inuser", Secret(SECRET), "outuser", Secret("outsecret12345"))


class Captured(NamedTuple):
    """One PDU of a capture."""

    to_target: bool
    raw: bytes
    connection: int
    header_digest: bool
    data_digest: bool

    @property
    def pdu(self) -> Pdu:
        """The PDU without padding and digests, which are checked."""
        decoder = StreamDecoder(0xFFFFFF)
        decoder.header_digest, decoder.data_digest = self.header_digest, self.data_digest
        (pdu,) = decoder.receive(self.raw)
        assert decoder.partial() is None
        return pdu


@cache
def capture(name: str) -> tuple[Captured, ...]:
    """The PDUs of a capture in tests/data/iscsi."""
    entries = json.loads((CAPTURES / f"{name}.json").read_text())
    return tuple(
        Captured(
            entry["dir"].startswith("initiator"),
            bytes.fromhex(entry["hex"]),
            entry["conn"],
            "header digest True" in entry["note"],
            "data digest True" in entry["note"],
        )
        for entry in entries
    )


def capture_names() -> list[str]:
    """All captures."""
    return sorted(path.stem for path in CAPTURES.glob("*.json"))


def counting_bytes(count: int) -> bytes:
    """A source of randomness that is none."""
    return bytes(range(count))


def login_engine(challenges: ChallengeBook | None = None, **changes: Any) -> LoginEngine:
    """A login to `TARGET` with `changes` to its configuration."""
    config: dict[str, Any] = {"initiator_name": INITIATOR, "portal": PORTAL, "target_name": TARGET, "isid": ISID}
    return LoginEngine(LoginConfig(**(config | changes)), random_bytes=counting_bytes, challenges=challenges)


def discovery_config(**changes: Any) -> DiscoveryConfig:
    """A discovery at `PORTAL` with `changes`."""
    return DiscoveryConfig(**({"initiator_name": INITIATOR, "portal": PORTAL, "isid": ISID} | changes))


def response(*pairs: tuple[str, str], raw: bytes | None = None, **fields: Any) -> Pdu:
    """A Login Response to `login_engine()`; T=1 to the full feature phase unless `fields` say otherwise."""
    head = LoginResponse(ISID, 1, 1, 3, True, tsih=1, exp_cmdsn=1, max_cmdsn=2)
    return head._replace(**fields).pdu(build_text(pairs) if raw is None else raw)


def security(*pairs: tuple[str, str], **fields: Any) -> Pdu:
    """A Login Response of the security stage with T=0."""
    return response(*pairs, **({"csg": 0, "nsg": 0, "transit": False, "tsih": 0} | fields))


def play(engine: LoginEngine, *responses: Pdu) -> tuple[list[Pdu], list[LoginEvent]]:
    """Start `engine` and feed it `responses`; gives what it sent and what it reported."""
    sent, events = [engine.start()], []
    items = engine.take_output()
    for pdu in (*responses, None):
        events += [item for item in items if not isinstance(item, Pdu)]
        sent += [item for item in items if isinstance(item, Pdu)]
        if pdu is None or any(not isinstance(event, Notice) for event in events):
            break
        engine.receive(pdu.header, pdu.data, 0.0)
        items = engine.take_output()
    return sent, events


def failure(engine: LoginEngine, *responses: Pdu) -> LoginFailed:
    """The failure `responses` end in; every message names who it is about."""
    failed = play(engine, *responses)[1][-1]
    assert isinstance(failed, LoginFailed)
    assert str(PORTAL) in failed.message
    assert SECRET not in f"{failed}"
    return failed


def keys(pdu: Pdu) -> dict[str, str]:
    """The keys a PDU carries."""
    return dict(parse_text(pdu.data))


def request(pdu: Pdu) -> LoginRequest:
    """The header of a Login Request."""
    return LoginRequest.unpack(pdu.header)


def join(
    engine: LoginEngine, script: TargetScript | None = None, twist: Twist | None = None
) -> tuple[list[LoginEvent], FakeTarget]:
    """Two engines back to back."""
    target = FakeTarget(script, twist)
    events: list[LoginEvent] = []
    waiting: list[Pdu | LoginEvent] = [engine.start()]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, Pdu):
            for answer in target.receive(item):
                engine.receive(answer.header, answer.data, 0.0)
        else:
            events.append(item)
        waiting += engine.take_output()
    return events, target


def discover(
    script: TargetScript | None = None, twist: Twist | None = None, step: int | None = None, **changes: Any
) -> list[DiscoveryEvent]:
    """A discovery over TCP against a fake target, whose bytes arrive `step` at a time."""
    engine = StreamDiscovery(discovery_config(**changes), random_bytes=counting_bytes)
    target = StreamTarget(script, twist)
    engine.start(0.0)
    events: list[DiscoveryEvent] = []
    while items := engine.take_output():
        for item in items:
            if not isinstance(item, bytes):
                events.append(item)
                continue
            for piece in pieces(target.receive(item), step):
                engine.receive(piece, 0.0)
    return events


def pieces(data: bytes, step: int | None) -> Iterator[bytes]:
    """`data` cut every `step` bytes."""
    for at in range(0, len(data), step or len(data) or 1):
        yield data[at : at + (step or len(data))]


def feed(engine: DiscoveryEngine, *pdus: Pdu, now: float = 0.0) -> list[Pdu | DiscoveryEvent]:
    """Feed PDUs; gives the output."""
    for pdu in pdus:
        engine.receive(pdu.header, pdu.data, now)
    return engine.take_output()
