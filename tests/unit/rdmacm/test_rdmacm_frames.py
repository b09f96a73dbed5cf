# SPDX-License-Identifier: Apache-2.0
"""Frames between a process and its RDMA worker, errors and reports inside them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmactl.errors import DeadlineExceeded, KernelError, LocalError, PeerError, RdmactlError, Unavailable
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.rdmacm.frames import FRAME_BYTES_MAX, Decoder, encode, pack_error, unpack_error
from rdmactl.rdmacm.report import FoundTarget, Question, Report
from rdmactl.rdmacm.steps import Steps

FLAT = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=5), FLAT | st.lists(FLAT, max_size=3), max_size=3), max_size=3)


@settings(max_examples=20)
@given(MESSAGES, st.integers(1, 50))
def test_messages_survive_any_cutting(messages: list[dict[str, Any]], step: int) -> None:
    stream = b"".join(map(encode, messages))
    decoder = Decoder()
    found = [message for at in range(0, len(stream), step) for message in decoder.receive(stream[at : at + step])]
    assert found == messages


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(PeerError):
        Decoder().receive(struct.pack(">I", len(text)) + text)


def test_a_length_beyond_the_limit_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(PeerError, match="announces"):
        Decoder().receive(struct.pack(">I", FRAME_BYTES_MAX + 1))


@given(st.binary(max_size=64))
def test_no_bytes_do_worse_than_a_refusal(data: bytes) -> None:
    try:
        Decoder().receive(data)
    except PeerError:
        return


@pytest.mark.parametrize(
    "error",
    [
        LocalError("a", hint="b"),
        PeerError("a", code="refused"),
        Unavailable("a"),
        DeadlineExceeded("a"),
        KernelError("ibv_reg_mr", 12, "a", hint="b"),
        IscsiFailure(IscsiErr.LOGIN_AUTH_FAILED, "a", hint="b"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_as_they_were(error: RdmactlError) -> None:
    back = unpack_error(pack_error(error))
    assert type(back) is type(error)
    assert (back.code, back.message, back.hint) == (error.code, error.message, error.hint)
    for name in ("operation", "errno", "err"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_an_error_of_an_unknown_class_is_still_an_error() -> None:
    back = unpack_error({"class": "Later", "code": "later", "message": "m", "hint": None})
    assert (type(back), back.code) == (PeerError, "later")


def test_questions_come_back_and_show_no_secret() -> None:
    question = Question(
        Portal("fe80::1%2", 3261), "iqn.a:b", 2.0, "10.0.0.1", "joe", "hush-hush", "array", "psst-psst", (7, 5)
    )
    (back,) = (Question.from_json(message) for message in Decoder().receive(encode(question.to_json())))
    assert back == question
    for shown in (repr(question), str(question), f"{question}"):
        assert "hush" not in shown
        assert "psst" not in shown


@pytest.mark.parametrize("error", [None, IscsiFailure(IscsiErr.FATAL_LOGIN, "refused", hint="do")])
def test_reports_come_back(error: RdmactlError | None) -> None:
    targets = (FoundTarget("iqn.a:t", ((Portal("10.0.0.1"), 1), (Portal("fd00::1", 3261), -1))),)
    report = Report((("address", 0.5), ("route", 0.25)), 1.0, "rxe0", "RoCE", "10.0.0.2:1", targets, error)
    (message,) = Decoder().receive(encode(report.to_json()))
    back = Report.from_json(message)
    assert back._replace(error=None) == report._replace(error=None)
    assert (back.error and pack_error(back.error)) == (error and pack_error(error))


def test_steps_follow_each_other_without_a_gap() -> None:
    now = 100.0
    steps = Steps(lambda: now)
    now = 101.0
    steps.begin("address")
    now = 103.0
    steps.begin("address")  # goes on
    now = 104.0
    steps.begin("route")
    now = 104.5
    steps.end()
    now = 110.0
    steps.begin("address")
    steps.end()
    assert steps.taken() == (("address", 3.0), ("route", 0.5), ("address", 0.0))
    assert steps.total_s() == 10.0
    assert steps.current == "address"
