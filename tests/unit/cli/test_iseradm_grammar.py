# SPDX-License-Identifier: Apache-2.0
"""rdmactl.cli.iseradm_grammar: the table of options, and that the manual page has all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rdmactl.cli.iseradm_context import Context
from rdmactl.cli.iseradm_grammar import _ALLOWED, _OPTIONS, OPERATIONS, Option, parse

PAGE = (Path(__file__).parents[3] / "man/iseradm.8").read_text()


@pytest.mark.parametrize("option", _OPTIONS, ids=lambda option: option.long)
def test_the_manual_page_has_every_option(option: Option) -> None:
    names = f"-{option.long}" if option.short == option.long else f"{option.short} , -{option.long}"
    assert re.search(rf"\bFl {names}\b", PAGE)


@pytest.mark.parametrize("mode", _ALLOWED)
def test_the_manual_page_has_every_mode(mode: str) -> None:
    assert f".It Cm {mode}\n" in PAGE


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_manual_page_has_every_operation(operation: str) -> None:
    assert re.search(rf"\.Cm .*\b{operation}\b|Cm {operation}\b", PAGE)


@pytest.mark.parametrize(("word", "family"), [("ipv4", "ipv4"), ("ipv6", "ipv6"), ("ipx", None)])
def test_portal_types(word: str, family: str | None) -> None:
    assert parse(Context("iseradm"), ["-m", "host", "-A", word]).portal_type == family
