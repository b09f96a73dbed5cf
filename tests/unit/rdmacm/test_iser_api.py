# SPDX-License-Identifier: Apache-2.0
"""`rdmactl.iser` where no device is needed; docs/api.md, whose examples run in the lab, is the rest."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl import iser
from rdmactl.errors import LocalError
from rdmactl.iser import Chap, Initiator
from rdmactl.rdmacm.session import TRANSFER_BYTES_MAX


def test_secrets_do_not_show() -> None:
    chap = Chap("joe", "secret-of-joe", "array", "secret-of-array")
    assert repr(chap) == "Chap('joe', mutual)"
    assert "secret" not in f"{chap} {Initiator('iqn.2026-11.test:me', chap=chap)._question('10.9.0.1', '', 1.0)!r}"


def test_what_is_asked() -> None:
    chap = Chap("joe", "secret-of-joe", algorithms=(7, 5))
    question = Initiator("iqn.2026-11.test:me", chap=chap, source="10.9.0.2")._question("10.9.0.1:3261", "iqn.t", 2.0)
    assert (str(question.portal), question.target, question.deadline_s) == ("10.9.0.1:3261", "iqn.t", 2.0)
    assert (question.username, question.algorithms, question.source) == ("joe", (7, 5), "10.9.0.2")


@pytest.mark.parametrize("depth", [0, 129])
def test_a_depth_out_of_range(depth: int) -> None:
    async def use() -> None:
        async with (
            Initiator("iqn.2026-11.test:me") as initiator,
            initiator.session("10.9.0.1", "iqn.2026-11.test:t", depth=depth),
        ):
            pass

    with pytest.raises(LocalError, match="from 1 to 128"):
        asyncio.run(use())


@given(st.integers(0, 1 << 40), st.integers(1, 5000), st.sampled_from([512, 4096]))
def test_parts_cover_all_blocks_once(lba: int, blocks: int, block_bytes: int) -> None:
    parts = iser._parts(lba, blocks, block_bytes)
    assert sum(count for _, count in parts) == blocks
    assert all(0 < count * block_bytes <= TRANSFER_BYTES_MAX for _, count in parts)
    at = lba
    for start, count in parts:
        assert start == at
        at += count
