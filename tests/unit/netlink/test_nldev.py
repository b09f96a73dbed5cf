# SPDX-License-Identifier: Apache-2.0
"""NLDEV's formats against bytes captured from the kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink import message, nldev
from rdmactl.netlink.nldev import Device, Port

CAPTURED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data/nldev/rxe_siw.json").read_text())


def payloads(name: str) -> list[bytes]:
    return [part.payload for text in CAPTURED[name][:-1] for part in message.split(bytes.fromhex(text))]


def test_devices_as_captured() -> None:
    guid = "d8d5:6fff:fec7:135c"
    assert nldev.parse_device(payloads("devices")[0]) == Device(0, "rxe0", "roce", "CA", "", guid, guid, 1)
    guid = "d436:45ff:fe01:14a5"
    assert nldev.parse_device(payloads("devices")[1]) == Device(1, "siw0", "iw", "RNIC", "", guid, guid, 1)


def test_ports_as_captured() -> None:
    assert nldev.parse_port(payloads("ports_of_0")[0]) == Port(1, "ACTIVE", "LINK_UP", "d0", None)
    assert nldev.parse_port(payloads("ports_of_1")[0]) == Port(1, "ACTIVE", "LINK_UP", "d1", None)


def test_requests_as_captured() -> None:
    flags = message.NLM_F_REQUEST | message.NLM_F_DUMP
    built = [
        message.build(nldev.message_type(nldev.RDMA_NLDEV_CMD_GET), flags=flags, seq=1, pid=0xC3),
        *(
            message.build(
                nldev.message_type(nldev.RDMA_NLDEV_CMD_PORT_GET),
                nldev.ports_request(device),
                flags=flags,
                seq=2 + device,
                pid=0xC3,
            )
            for device in (0, 1)
        ),
    ]
    assert [request.hex() for request in built] == CAPTURED["requests"]


@pytest.mark.parametrize("name", ["devices", "ports_of_0"])
def test_cut_short_it_is_less_or_nothing(name: str) -> None:
    whole = payloads(name)[0]
    parse = nldev.parse_device if name == "devices" else nldev.parse_port
    full = parse(whole)
    assert full is not None
    for length in range(len(whole)):
        parsed = parse(whole[:length])
        for field, value in (parsed._asdict() if parsed else {}).items():
            assert value in (getattr(full, field), "", None, 0), (length, field)


def test_infiniband_port_has_a_lid() -> None:
    payload = b"".join(
        message.attribute(kind, value)
        for kind, value in (
            (nldev.RDMA_NLDEV_ATTR_PORT_INDEX, b"\2\0\0\0"),
            (nldev.RDMA_NLDEV_ATTR_LID, b"\7\0\0\0"),
            (nldev.RDMA_NLDEV_ATTR_PORT_STATE, b"\2"),
            (nldev.RDMA_NLDEV_ATTR_PORT_PHYS_STATE, b"\x2a"),
        )
    )
    assert nldev.parse_port(payload) == Port(2, "INIT", "42", "", 7)


@given(st.binary(max_size=200))
def test_nothing_from_outside_raises(payload: bytes) -> None:
    for parsed in (nldev.parse_device(payload), nldev.parse_port(payload)):
        assert parsed is None or isinstance(parsed, tuple)
