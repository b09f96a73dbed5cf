# SPDX-License-Identifier: Apache-2.0
"""Any command line ends with a status and words, never with an internal error."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.cli.iseradm_grammar import scan
from rdmactl.control.client import _remote_error

OPTIONS = [*"pTIotnvHrRPDlLuUskdmSVhCabcixAW"]
LONG = [
    "--mode",
    "--login",
    "--log",
    "--portal=",
    "--targetname",
    "--op",
    "--name",
    "--value=",
    "--print",
    "--sid",
    "--",
]
MODES = ["node", "session", "discovery", "discoverydb", "iface", "host", "fw", "nothing"]
WORDS = [
    *MODES,
    "new", "update", "delete", "show", "apply", "st", "isns", "all", "manual", "0", "1", "-1", "99999999999999999999",
    "iqn.2003-01.org.example:a", "192.0.2.1:3260,1", "[2001:db8::1]", "2001:db8::2,3", "a.b:x,y", "default", "iser",
    "ifa", "\udcff",
    "node.startup", "automatic", "node.session.auth.password", "iface.mtu", "discovery.sendtargets.reopen_max",
    "/", "/sys/class", "", "a/b", "x" * 300,
]  # fmt: skip

word = st.one_of(
    st.sampled_from([f"-{letter}" for letter in OPTIONS]),
    st.sampled_from(LONG),
    st.sampled_from(WORDS),
    st.text(max_size=12),
)
line = st.tuples(st.lists(word, max_size=3), st.sampled_from(MODES), st.lists(word, max_size=10)).map(
    lambda parts: [*parts[0], "-m", parts[1], *parts[2]]
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        yield Path(directory)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(st.one_of(line, st.lists(word, max_size=8)), st.sampled_from(["iscsiadm", "iseradm"]))
def test_any_command_line_ends_well(machine: Path, words: list[str], name: str) -> None:
    environment = {f"RDMACTL_{kind}_DIRECTORY": str(machine / kind) for kind in ("STATE", "RUNTIME", "CONFIG")}
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch("socket.getaddrinfo", side_effect=OSError),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        status = run(Context(name, sysfs=str(machine / "sys")), words)
    assert 0 <= status <= 33, words
    assert "internal error" not in stderr.getvalue(), words
    assert "Traceback" not in stderr.getvalue(), words


@given(st.lists(word, max_size=12))
def test_the_scanner_takes_every_word_at_most_once(words: list[str]) -> None:
    complaints: list[str] = []
    events = list(scan(words, complaints.append))
    assert sum(event.short == "?" for event in events) == len(complaints)
    assert len(events) <= sum(len(each) for each in words)


@given(
    st.text(),
    st.dictionaries(st.sampled_from(["code", "message", "hint", "err", "x"]), st.none() | st.text() | st.integers()),
)
def test_any_error_reply_is_an_error_with_a_message(name: str, parameters: dict[str, object]) -> None:
    error = _remote_error(name, parameters)
    assert isinstance(error.message, str)
    assert error.err is None or isinstance(error.err, int)
