# SPDX-License-Identifier: Apache-2.0
"""rdmactl.netlink.iscsi_stats: counters from bytes, and what is cut short or lies about its length."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.netlink.iscsi_stats import (
    HOST_COUNTERS,
    SESSION_COUNTERS,
    Statistics,
    parse_host_statistics,
    parse_statistics,
)

S64 = st.integers(-(1 << 63), (1 << 63) - 1)
NAMED = st.lists(st.tuples(st.text("abc_", min_size=1, max_size=63), S64), max_size=4)


def named(counters: list[tuple[str, int]]) -> bytes:
    return b"".join(struct.pack("=64sq", name.encode(), value) for name, value in counters)


@given(st.lists(S64, min_size=2, max_size=2), st.lists(st.integers(0, (1 << 32) - 1), min_size=19, max_size=19), NAMED)
def test_session(octets: list[int], pdus: list[int], own: list[tuple[str, int]]) -> None:
    payload = struct.pack("=qq20I", *octets, *pdus, len(own)) + named(own)
    assert parse_statistics(payload) == Statistics(
        tuple(zip(SESSION_COUNTERS, [*octets, *pdus], strict=True)), tuple(own)
    )


@given(st.lists(S64, min_size=82, max_size=82), NAMED)
def test_host(values: list[int], own: list[tuple[str, int]]) -> None:
    payload = struct.pack("=82qI4x", *values, len(own)) + named(own)
    assert parse_host_statistics(payload) == Statistics(tuple(zip(HOST_COUNTERS, values, strict=True)), tuple(own))


@pytest.mark.parametrize("length", range(96 + 72))
def test_cut_short(length: int) -> None:
    payload = struct.pack("=qq20I", *range(21), 1) + named([("x", 1)])
    assert parse_statistics(payload[:length]) is None


def test_a_count_beyond_reason() -> None:
    assert parse_statistics(struct.pack("=qq20I", *range(21), 1 << 31)) is None
