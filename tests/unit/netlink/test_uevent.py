# SPDX-License-Identifier: Apache-2.0
"""Device events of the kernel. The first case was captured from a 6.12 kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink import uevent

ADD = (
    b"add@/devices/virtual/net/dummy0\0ACTION=add\0DEVPATH=/devices/virtual/net/dummy0\0SUBSYSTEM=net\0"
    b"INTERFACE=dummy0\0IFINDEX=4\0SEQNUM=1734\0"
)


def test_an_event_has_action_path_and_properties() -> None:
    event = uevent.parse(ADD)
    assert event is not None
    assert (event.action, event.devpath, event.subsystem) == ("add", "/devices/virtual/net/dummy0", "net")
    assert event.properties["IFINDEX"] == "4"


def test_a_value_may_be_empty_or_contain_equals_signs() -> None:
    event = uevent.parse(b"change@/x\0A=\0B=c=d\0=e\0nothing\0")
    assert event is not None
    assert event.properties == {"A": "", "B": "c=d"}
    assert event.subsystem == ""


@pytest.mark.parametrize("datagram", [b"", b"\0", b"libudev\0\xfe\xed\xca\xfe", b"add", b"@/x\0", b"add@x\0"])
def test_anything_else_is_none(datagram: bytes) -> None:
    assert uevent.parse(datagram) is None


@pytest.mark.parametrize("length", range(len(ADD)))
def test_cut_events_do_not_raise(length: int) -> None:
    event = uevent.parse(ADD[:length])
    assert event is None or event.action == "add"


@given(st.binary(max_size=200))
def test_any_bytes_do_not_raise(datagram: bytes) -> None:
    uevent.parse(datagram)
