# SPDX-License-Identifier: Apache-2.0
"""What the port mapper finds when it looks at itself."""

from __future__ import annotations

import asyncio
import socket

import pytest

from rdmactl.iwpm.selftest import Result, claim_check, peer_check, unmapped_listeners, unmapped_text
from rdmactl.iwpm.table import MappingTable
from rdmactl.iwpm.wire import REJECT, parse
from rdmactl.netlink.message import attribute
from rdmactl.netlink.nldev import CmId, parse_cm_ids
from tests.fake.mapper_bench import FakeClaims, addr

HOST = "127.0.0.1"


def test_a_port_can_be_claimed() -> None:
    assert claim_check().result is Result.OK


@pytest.mark.parametrize("answer", [True, False])
def test_the_udp_port_answers_or_not(answer: bool) -> None:
    async def run() -> Result:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
            server.bind((HOST, 0))
            port = server.getsockname()[1]
            if not answer:
                server.close()
                return (await peer_check(addr(f"{HOST}:0"), port)).result
            check = asyncio.create_task(peer_check(addr(f"{HOST}:0"), port))
            data, source = await asyncio.get_running_loop().sock_recvfrom(server, 100)
            asked = parse(data)
            assert asked.ap.port == 1  # nobody has a mapping for it
            server.sendto(asked.reject().build(), source)
            found = await check
            assert parse(asked.reject().build()).type == REJECT
            return found.result

    assert asyncio.run(run()) is (Result.OK if answer else Result.FAILED)


def test_listeners_without_an_entry_are_found() -> None:
    """Connections are not judged: accepted ones never have a mapping."""
    table = MappingTable(FakeClaims())
    table.add_listener(addr("10.7.0.1:7174"), True, 0.0)
    table.add_listener(addr("0.0.0.0:7175"), True, 0.0)
    ids = [
        CmId("siw0", True, addr("10.7.0.1:7174"), "process 4"),
        CmId("siw0", True, addr("10.7.0.1:7175"), "process 4"),
        CmId("siw0", True, addr("10.7.0.1:7176"), "isert"),
        CmId("siw0", False, addr("10.7.0.1:7177"), "process 5"),
    ]
    assert unmapped_listeners(table, ids) == [ids[2]]
    assert "10.7.0.1:7176 on siw0 (isert)" in unmapped_text([ids[2]])
    assert unmapped_text([ids[2]] * 9).count("siw0") == 5


def _entry(state: int, port_space: int, local: str, *, pid: int | None = 41, name: bytes = b"") -> bytes:
    fields = attribute(27, bytes([state])) + attribute(32, port_space.to_bytes(4, "little"))
    fields += attribute(33, addr(local).pack())
    fields += attribute(29, name + b"\0") if pid is None else attribute(28, pid.to_bytes(4, "little"))
    return attribute(31, fields)


def test_ids_of_the_connection_manager() -> None:
    entries = _entry(8, 0x106, "10.7.0.1:7174") + _entry(5, 0x106, "[fd00::1]:5001", pid=None, name=b"isert")
    entries += _entry(8, 0x111, "10.7.0.1:7180")  # UDP's port space
    payload = attribute(2, b"siw0\0") + attribute(30, entries)
    assert parse_cm_ids(payload) == [
        CmId("siw0", True, addr("10.7.0.1:7174"), "process 41"),
        CmId("siw0", False, addr("[fd00::1]:5001"), "isert"),
    ]
    for length in range(len(payload)):
        parse_cm_ids(payload[:length])
