# SPDX-License-Identifier: Apache-2.0
"""Targets that know nothing but a list, in a process of their own: what initiators are measured against.

Their answers are ready before anybody asks. They take any discovery login without CHAP and digests.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ADDRESS", "FIRST_PORT", "serving", "target_name"]

ADDRESS, FIRST_PORT = "127.0.0.1", 3290

_BHS_BYTES = 48
_PART_BYTES = 32768  # what both initiators take
_LOGIN, _TEXT = 0x03, 0x04
_KEYS = b"TargetPortalGroupTag=1\0HeaderDigest=None\0DataDigest=None\0MaxRecvDataSegmentLength=262144\0"
_LAST = 0xFFFFFFFF


@contextmanager
def serving(targets: int, *, ports: int = 1, silence_s: float = 0.0) -> Iterator[Path]:
    """Serve lists of so many targets from FIRST_PORT on while this lasts; each question is a line in the file given.

    The server on the first port waits `silence_s` before each answer to SendTargets.
    """
    questions = Path("/tmp/questions")
    command = [sys.executable, str(Path(__file__).resolve()), str(targets), str(ports), str(silence_s), str(questions)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield questions
    finally:
        server.kill()
        server.wait()


def target_name(number: int) -> str:
    """The targets' names are as long as people's are."""
    return f"iqn.2026-11.org.example:storage.rack{number % 40:02}.volume-{number:06}"


def main() -> None:
    """The server's process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", type=int)
    parser.add_argument("ports", type=int)
    parser.add_argument("silence", type=float)
    parser.add_argument("questions", type=Path)
    given = parser.parse_args()
    entries = (f"TargetName={target_name(n)}\0TargetAddress={ADDRESS}:3260,1\0" for n in range(given.targets))
    text = "".join(entries).encode()
    parts = [text[at : at + _PART_BYTES] for at in range(0, len(text), _PART_BYTES)] or [b""]
    with given.questions.open("w", buffering=1) as questions:
        listeners = [socket.create_server((ADDRESS, FIRST_PORT + number)) for number in range(given.ports)]
        for number, listener in enumerate(listeners):
            silence_s = 0.0 if number else given.silence
            threading.Thread(target=serve, args=(listener, parts, silence_s, questions), daemon=True).start()
        print("ready", flush=True)
        threading.Event().wait()


def serve(listener: socket.socket, parts: list[bytes], silence_s: float, questions: object) -> None:
    """Sessions on one port, one after another."""
    port = listener.getsockname()[1]
    while True:
        connection, _ = listener.accept()
        print(port, time.monotonic(), file=questions)  # type: ignore[call-overload]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionError):  # iscsiadm resets it at its end
            converse(connection, parts, silence_s)


def converse(connection: socket.socket, parts: list[bytes], silence_s: float) -> None:
    """One session, until it is logged out or gone."""
    statsn, turn = 1, 0
    with connection.makefile("rb") as stream:
        while len(header := stream.read(_BHS_BYTES)) == _BHS_BYTES:
            length = int.from_bytes(header[5:8], "big")
            stream.read(length + -length % 4)
            opcode, itt = header[0] & 0x3F, header[16:20]
            cmdsn = int.from_bytes(header[24:28], "big")
            numbers = struct.pack(">III", statsn, cmdsn + 1, cmdsn + 32)
            statsn += 1
            if opcode == _LOGIN:
                tail = header[8:14] + b"\0\1" + itt + bytes(4) + numbers
                reply(connection, bytes((0x23, header[1], 0, 0)), tail, _KEYS)
            elif opcode == _TEXT:
                time.sleep(0 if turn else silence_s)
                final = turn == len(parts) - 1
                ttt = _LAST if final else turn + 1
                reply(
                    connection,
                    bytes((0x24, 0x80 if final else 0, 0, 0)),
                    bytes(8) + itt + struct.pack(">I", ttt) + numbers,
                    parts[turn],
                )
                turn += 1
            else:
                reply(connection, bytes((0x26, 0x80, 0, 0)), bytes(8) + itt + bytes(4) + numbers, b"")
                return


def reply(connection: socket.socket, head: bytes, tail: bytes, data: bytes) -> None:
    """Send a PDU: its first four bytes, the bytes from the eighth on, and data."""
    header = (head + len(data).to_bytes(4, "big") + tail).ljust(_BHS_BYTES, b"\0")
    connection.sendall(header + data + bytes(-len(data) % 4))


if __name__ == "__main__":
    main()
