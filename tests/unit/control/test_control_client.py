# SPDX-License-Identifier: Apache-2.0
"""The client of the control interface against a peer that is played byte by byte."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rdmactl.control.client import Client, RemoteError
from rdmactl.errors import DeadlineExceeded, LocalError, PeerError, Unavailable


@contextmanager
def peer(directory: Path, answer: Callable[[socket.socket, bytes], None]) -> Iterator[None]:
    """A daemon for one connection: reads one call, then `answer` writes what it likes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "iwpm.sock"))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                call = b""
                while not call.endswith(b"\0"):
                    call += connection.recv(4096)
                answer(connection, call[:-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)
        assert not thread.is_alive()


def replies(*objects: object) -> Callable[[socket.socket, bytes], None]:
    return lambda connection, _: connection.sendall(b"".join(json.dumps(o).encode() + b"\0" for o in objects))


def client(directory: Path, deadline_s: float = 5.0) -> Client:
    return Client("iwpm", deadline_s=deadline_s, directory=str(directory))


def test_call_sends_one_framed_object_and_returns_the_parameters(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket, call: bytes) -> None:
        seen.append(call)
        replies({"parameters": {"mappings": [1, 2]}})(connection, call)

    with peer(tmp_path, answer), client(tmp_path) as c:
        assert c.call("io.rdmactl.PortMapper.List", {"a": "b"}) == {"mappings": [1, 2]}
    assert json.loads(seen[0]) == {"method": "io.rdmactl.PortMapper.List", "parameters": {"a": "b"}}


def test_answer_in_single_bytes(tmp_path: Path) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        for byte in b'{"parameters":{"x":1}}\0':
            connection.sendall(bytes([byte]))

    with peer(tmp_path, answer), client(tmp_path) as c:
        assert c.call("a.b.C") == {"x": 1}


def test_more_streams_until_the_last_reply(tmp_path: Path) -> None:
    answer = replies({"parameters": {"n": 1}, "continues": True}, {"parameters": {"n": 2}})
    with peer(tmp_path, answer), client(tmp_path) as c:
        assert [reply["n"] for reply in c.more("a.b.C")] == [1, 2]


def test_remote_error_carries_code_message_hint_and_number(tmp_path: Path) -> None:
    parameters = {"code": "iscsi", "message": "no", "hint": "try", "err": 24}
    with (
        peer(tmp_path, replies({"error": "io.rdmactl.Initiator.Failed", "parameters": parameters})),
        client(tmp_path) as c,
        pytest.raises(RemoteError) as raised,
    ):
        c.call("a.b.C")
    error = raised.value
    assert (error.code, error.message, error.hint, error.err) == ("iscsi", "no", "try", 24)


def test_an_error_of_varlink_itself_is_named(tmp_path: Path) -> None:
    reply = {"error": "org.varlink.service.MethodNotFound", "parameters": {"method": "C"}}
    with peer(tmp_path, replies(reply)), client(tmp_path) as c, pytest.raises(RemoteError, match="MethodNotFound"):
        c.call("a.b.C")


@pytest.mark.parametrize("answer", [b"nonsense\0", b"[]\0", b'{"parameters": 3}\0', b"\xff\0", b"[" * 9999 + b"\0"])
def test_an_answer_that_is_not_varlink_is_the_peers_fault(tmp_path: Path, answer: bytes) -> None:
    with (
        peer(tmp_path, lambda connection, _: connection.sendall(answer)),
        client(tmp_path) as c,
        pytest.raises(PeerError),
    ):
        c.call("a.b.C")


def test_a_daemon_that_goes_away_is_named(tmp_path: Path) -> None:
    with peer(tmp_path, lambda *_: None), client(tmp_path) as c, pytest.raises(Unavailable) as raised:
        c.call("a.b.C")
    assert raised.value.code == "daemon-gone"


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as raised:
        client(tmp_path)
    assert raised.value.code == "daemon-not-running"
    assert "iwpmd" in raised.value.message


def test_a_stale_socket_is_no_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "iwpm.sock"))
    with pytest.raises(Unavailable) as raised:
        client(tmp_path)
    assert raised.value.code == "daemon-not-running"


def test_the_deadline_covers_the_whole_call(tmp_path: Path) -> None:
    """A peer that sends a little now and then does not extend it."""
    stop = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        while not stop.wait(0.01):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    with peer(tmp_path, drip), client(tmp_path, 0.1) as c:
        with pytest.raises(DeadlineExceeded):
            c.call("a.b.C")
        stop.set()


def test_unknown_role() -> None:
    with pytest.raises(LocalError):
        Client("nobody")
