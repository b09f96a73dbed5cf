# SPDX-License-Identifier: Apache-2.0
"""Helpers of these tests: captures, an engine joined with a server in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rdmactl.isns.pdu import Message, StreamDecoder
from rdmactl.isns.query import QueryConfig, QueryDone, QueryEngine, QueryFailed, Reconnect
from rdmactl.isns.targets import TargetList
from tests.fake.isns_server import Connection, FakeIsnsServer

CAPTURES = Path(__file__).resolve().parents[2] / "data" / "isns"
INITIATOR = "iqn.2005-03.org.example:init1"
T1, T2 = "iqn.2005-03.org.example:t1", "iqn.2005-03.org.example:t2"


class Captured(NamedTuple):
    """One PDU of a capture."""

    to_server: bool
    raw: bytes
    connection: int
    note: str

    @property
    def message(self) -> Message:
        (pdu,) = StreamDecoder().receive(self.raw)
        return Message(pdu.function, pdu.transaction, pdu.payload, pdu.flags)


@cache
def capture(name: str) -> tuple[Captured, ...]:
    """The PDUs of a capture in tests/data/isns."""
    entries = json.loads((CAPTURES / f"{name}.json").read_text())
    return tuple(
        Captured(entry["dir"] == "client->server", bytes.fromhex(entry["hex"]), entry["conn"], entry["note"])
        for entry in entries
    )


def capture_names() -> list[str]:
    return sorted(path.stem for path in CAPTURES.glob("*.json"))


def query(server: FakeIsnsServer | Callable[[bytes], bytes | None], **config: Any) -> QueryDone | QueryFailed:
    """A query with everything the server says; a server that says None closes the connection. Time passes in waits."""
    engine = QueryEngine(QueryConfig(INITIATOR, **config))
    now = 0.0
    receive = _receiver(server)
    engine.connected(now)
    while True:
        silent = True
        for item in engine.take_output():
            if isinstance(item, QueryDone | QueryFailed):
                return item
            silent = False
            if isinstance(item, Reconnect):
                receive = _receiver(server)
                engine.connected(now)
                continue
            reply = receive(item)
            if reply is None:
                engine.closed(now)
            else:
                engine.receive(reply, now)
        if silent:
            wake_at = engine.wake_at()
            assert wake_at is not None
            now = wake_at
            engine.tick(now)


def _receiver(server: FakeIsnsServer | Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
    return Connection(server).receive if isinstance(server, FakeIsnsServer) else server


def listed(server: FakeIsnsServer | Callable[[bytes], bytes | None], **config: Any) -> TargetList:
    """The list a query ends with."""
    done = query(server, **config)
    assert isinstance(done, QueryDone), done
    return done.found


def failed(server: FakeIsnsServer | Callable[[bytes], bytes | None], **config: Any) -> QueryFailed:
    """The failure a query ends with."""
    result = query(server, **config)
    assert isinstance(result, QueryFailed), result
    return result
