# SPDX-License-Identifier: Apache-2.0
"""Reading devices: the kernel's own bytes replayed, over a sysfs made for the test."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from rdmactl.errors import DeadlineExceeded, KernelError
from rdmactl.netlink import message, nldev
from rdmactl.netlink.ports import ChannelSpec
from rdmactl.rdmacm import devices
from rdmactl.rdmacm.devices import Gid, read_devices, transport

CAPTURED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data/nldev/rxe_siw.json").read_text())


class Replay:
    """A socket that answers each request with datagrams; their nlmsg_seq is set to the request's."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.portid = 0xC3
        self._answers = deque(answers)
        self._queue: deque[bytes] = deque()
        self.asked: list[bytes] = []
        self.closed = False
        self._reader, self._writer = os.pipe()

    def __call__(self, spec: ChannelSpec) -> Replay:
        assert spec.family == message.NETLINK_RDMA
        return self

    def fileno(self) -> int:
        return self._reader

    def send(self, datagram: bytes) -> None:
        self.asked.append(datagram)
        if self._answers:
            self._queue.extend(self._numbered(answer, datagram[8:12]) for answer in self._answers.popleft())

    def receive(self) -> tuple[bytes, int, int] | None:
        return (self._queue.popleft(), 0, 0) if self._queue else None

    def close(self) -> None:
        self.closed = True
        os.close(self._reader)
        os.close(self._writer)

    def _numbered(self, datagram: bytes, seq: bytes) -> bytes:
        return datagram[:8] + seq + datagram[12:]


def captured(name: str) -> list[bytes]:
    return [bytes.fromhex(text) for text in CAPTURED[name]]


def done(code: int) -> bytes:
    return message.build(message.NLMSG_DONE, code.to_bytes(4, "little", signed=True), flags=message.NLM_F_MULTI)


@pytest.fixture
def sysfs(tmp_path: Path) -> str:
    port = tmp_path / "rxe0/ports/1"
    for folder in ("gids", "gid_attrs/types", "gid_attrs/ndevs"):
        (port / folder).mkdir(parents=True)
    (port / "link_layer").write_text("Ethernet\n")
    (port / "rate").write_text("2.5 Gb/sec (1X SDR)\n")
    for index in range(12):
        (port / f"gids/{index}").write_text("0000:0000:0000:0000:0000:0000:0000:0000\n")
    for index in (0, 10):
        (port / f"gids/{index}").write_text(f"fe80:0000:0000:0000:0000:0000:0000:00{index:02}\n")
        (port / f"gid_attrs/types/{index}").write_text("RoCE v2\n")
        (port / f"gid_attrs/ndevs/{index}").write_text("d0\n")
    return str(tmp_path)


def test_two_devices(sysfs: str) -> None:
    replay = Replay(captured("devices"), captured("ports_of_0"), captured("ports_of_1"))
    rxe, siw = read_devices(replay, sysfs)
    assert [request.hex() for request in replay.asked] == CAPTURED["requests"]
    assert replay.closed
    assert (rxe.name, rxe.transport, rxe.node_type) == ("rxe0", "RoCE", "CA")
    (port,) = rxe.ports
    assert (port.number, port.state, port.netdev, port.rate) == (1, "ACTIVE", "d0", "2.5 Gb/sec (1X SDR)")
    assert port.gids == (
        Gid(0, "fe80:0000:0000:0000:0000:0000:0000:0000", "RoCE v2", "d0"),
        Gid(10, "fe80:0000:0000:0000:0000:0000:0000:0010", "RoCE v2", "d0"),
    )
    assert (siw.name, siw.transport, siw.ports[0].gids) == ("siw0", "iWARP", ())  # nothing of it is in this sysfs


def test_a_device_that_goes_away_meanwhile_has_no_ports(sysfs: str) -> None:
    replay = Replay(captured("devices"), [done(-19)], captured("ports_of_1"))
    rxe, siw = read_devices(replay, sysfs)
    assert rxe.ports == ()
    assert rxe.transport == "RoCE"
    assert siw.ports[0].netdev == "d1"


def test_no_device() -> None:
    assert read_devices(Replay([done(0)])) == []


def test_an_answer_to_something_else_is_passed_over() -> None:
    replay = Replay([])
    replay._queue.extend([captured("devices")[0][:8] + b"\x63\0\0\0" + captured("devices")[0][12:]])
    replay._answers = deque([[done(0)]])
    assert read_devices(replay) == []


def test_a_refusal_is_a_kernel_error() -> None:
    with pytest.raises(KernelError) as caught:
        read_devices(Replay([done(-1)]))
    assert caught.value.errno == 1


def test_silence_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DEADLINE_S", 0.01)
    replay = Replay([])
    with pytest.raises(DeadlineExceeded):
        read_devices(replay)
    assert replay.closed


@pytest.mark.parametrize(
    ("protocol", "node_type", "link_layer", "expected"),
    [
        ("ib", "CA", "InfiniBand", "InfiniBand"),
        ("ib", "CA", "Ethernet", "RoCE"),  # the second port of a device whose first is InfiniBand
        ("roce", "CA", "InfiniBand", "InfiniBand"),
        ("roce", "CA", "", "RoCE"),
        ("iw", "RNIC", "Ethernet", "iWARP"),
        ("", "RNIC", "Ethernet", "iWARP"),
        ("", "CA", "Ethernet", "RoCE"),
        ("", "CA", "", ""),
        ("usnic", "usNIC", "Ethernet", "usNIC"),
        ("new", "unspecified", "", "new"),
    ],
)
def test_transport(protocol: str, node_type: str, link_layer: str, expected: str) -> None:
    assert transport(protocol, node_type, link_layer) == expected


def test_every_node_type_named_here_is_known_to_the_formats() -> None:
    assert {"CA", "switch", "router", "RNIC"} <= set(nldev._NODE_TYPES.values())
