# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.claims: names, and who may end a session."""

from __future__ import annotations

import pytest

from rdmactl.initiator.claims import ADMINISTRATOR, checked, with_claim, without_claim
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure


@pytest.mark.parametrize("name", [ADMINISTRATOR, "csi.example.org", "discovery:sendtargets [fd00::1]:3260", "x" * 128])
def test_names(name: str) -> None:
    assert checked(name) == name


@pytest.mark.parametrize("name", ["", " boot", "boot ", "a,b", "a\nb", "b\u00fcro", "x" * 129, "\x1b[2J"])
def test_no_names(name: str) -> None:
    with pytest.raises(IscsiFailure) as caught:
        checked(name)
    assert caught.value.err is IscsiErr.INVAL
    assert "\x1b" not in caught.value.message


def test_a_claim_is_a_name_and_not_a_count() -> None:
    claims = with_claim(with_claim(("boot",), "csi"), "csi")
    assert claims == ("boot", "csi")
    assert without_claim(claims, "csi", "session 3") == ("boot",)
    assert without_claim(("boot",), "boot", "session 3") == ()


def test_who_claims_nothing_ends_nothing() -> None:
    with pytest.raises(IscsiFailure, match="session 3 stays: it is claimed by boot, csi, not by a") as caught:
        without_claim(("boot", "csi"), ADMINISTRATOR, "session 3")
    assert caught.value.err is IscsiErr.BUSY


RECORD = "discovery:sendtargets 10.9.0.1:3260"


def test_an_administrators_logout_counts_for_the_boot_and_discovery_records_too() -> None:
    assert without_claim(("boot",), ADMINISTRATOR, "session 3") == ()
    assert without_claim(("boot", RECORD, ADMINISTRATOR), ADMINISTRATOR, "session 3") == ()
    assert without_claim((RECORD,), ADMINISTRATOR, "session 3") == ()
    assert without_claim((RECORD, ADMINISTRATOR), ADMINISTRATOR, "session 3") == ()
    assert without_claim((RECORD, ADMINISTRATOR, "csi"), ADMINISTRATOR, "session 3") == (RECORD, "csi")
    with pytest.raises(IscsiFailure):
        without_claim((RECORD, "csi"), ADMINISTRATOR, "session 3")
    with pytest.raises(IscsiFailure):
        without_claim((RECORD,), "csi", "session 3")


def test_a_discovery_record_ends_what_is_its_own_only() -> None:
    assert without_claim((RECORD,), RECORD, "session 3") == ()
    assert without_claim((RECORD, ADMINISTRATOR), RECORD, "session 3") == (ADMINISTRATOR,)
