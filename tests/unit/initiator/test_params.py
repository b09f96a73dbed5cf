# SPDX-License-Identifier: Apache-2.0
"""rdmactl.initiator.params: what a request becomes for the kernel and for the login."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.initiator import params
from rdmactl.initiator.api import ChapSettings, LoginRequest, SessionSettings
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.negotiation import Negotiation, OperationalSettings
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.iscsi import Param

REQUEST = LoginRequest("iqn.2026-11.test:t", Portal("10.9.0.1"), initiator_name="iqn.2026-11.test:me")


@pytest.mark.parametrize(("sid", "isid"), [(1, "00023d000001"), (0x1234567, "00023d234567")])
def test_isid_is_open_iscsi_s(sid: int, isid: str) -> None:
    assert params.isid(sid).hex() == isid


def test_before_login() -> None:
    told = dict(params.before_login(REQUEST))
    assert told[Param.TARGET_NAME] == "iqn.2026-11.test:t"
    assert (told[Param.PERSISTENT_ADDRESS], told[Param.PERSISTENT_PORT]) == ("10.9.0.1", 3260)
    assert (told[Param.RECV_TMO], told[Param.PING_TMO]) == (5, 5)
    assert told[Param.SESS_RECOVERY_TMO] == 120
    assert Param.USERNAME not in told
    assert Param.PASSWORD not in told


@given(st.integers(-(2**40), 2**40))
def test_seconds_fit_the_kernel_s_signed_number(value: int) -> None:
    told = dict(params.before_login(replace(REQUEST, settings=SessionSettings(replacement_timeout_s=value))))
    assert told[Param.SESS_RECOVERY_TMO] == max(-1, min(value, 2**31 - 1))  # below zero is for ever, zero is not at all


def test_after_login_begins_with_digests() -> None:
    result = Negotiation(OperationalSettings(), discovery=False, iser=False).result()
    names = [param for param, _ in params.after_login(result, 1, 99, "tcp")]
    assert names[:2] == [Param.HDRDGST_EN, Param.DATADGST_EN]
    assert Param.IFMARKER_EN not in names
    assert dict(params.after_login(result, None, 99, "iser"))[Param.IFMARKER_EN] == 0
    assert Param.TPGT not in dict(params.after_login(result, None, 99, "tcp"))


@given(st.integers(1, 65535))
def test_outstanding_r2t_is_a_power_of_two_not_above_the_agreed(agreed: int) -> None:
    result = replace(
        Negotiation(OperationalSettings(), discovery=False, iser=False).result(), max_outstanding_r2t=agreed
    )
    value = int(dict(params.after_login(result, None, 0, "tcp"))[Param.MAX_R2T])
    assert value & (value - 1) == 0
    assert agreed // 2 < value <= agreed


def test_values_out_of_range_are_moved_and_told() -> None:
    notes: list[str] = []
    offered = params.operational(SessionSettings(first_burst_length=1, error_recovery_level=2), notes)
    assert (offered.first_burst_bytes, offered.error_recovery_level) == (262144, 0)
    assert len(notes) == 2


def test_chap_needs_name_and_password() -> None:
    assert params.credentials(ChapSettings(username="joe")) is None
    one_way = params.credentials(ChapSettings("joe", "0x00112233"))
    assert one_way is not None
    assert one_way.secret.reveal() == b"0x00112233"  # literal, as in open-iscsi
    assert not one_way.mutual
    mutual = params.credentials(ChapSettings("joe", "secret-secret", "array", "other-secret"))
    assert mutual is not None
    assert mutual.mutual


def test_chap_settings_that_cannot_be_safe() -> None:
    with pytest.raises(IscsiFailure, match="equal") as caught:
        params.credentials(ChapSettings("joe", "same-secret-12", "array", "same-secret-12"))
    assert caught.value.err is IscsiErr.FATAL_LOGIN
    assert "same-secret-12" not in str(caught.value)
    with pytest.raises(IscsiFailure, match="CRC32"):
        params.credentials(ChapSettings("joe", "secret", algorithms=("CRC32",)))


def test_secrets_are_not_in_a_request_s_repr() -> None:
    settings = SessionSettings(chap=ChapSettings("joe", "hunter2hunter2", "array", "3hunter3hunter"))
    assert "hunter" not in repr(replace(REQUEST, settings=settings))
