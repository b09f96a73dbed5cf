# SPDX-License-Identifier: Apache-2.0
"""The clients' end of the control interface: one Varlink call over a Unix socket. Shell ring.

Synchronous and small on purpose: a front end is judged by its start-up time, so nothing is imported here but json and
socket. What does not belong here: what the methods mean (`interfaces`), and turning errors into text
(`rdmactl.cli.errors`).
Framing is Varlink's: JSON objects, each ended by one NUL byte (https://varlink.org/Method-Call).
Must change together with: `rdmactl/control/server.py` (the other end, and the error's parameters).
"""

from __future__ import annotations

import json
import os
import socket
import time

from rdmactl.errors import DeadlineExceeded, LocalError, PeerError, RdmactlError, Unavailable

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

__all__ = ["DAEMONS", "DEFAULT_RUNTIME_DIRECTORY", "Client", "RemoteError", "runtime_directory", "socket_path"]

DEFAULT_RUNTIME_DIRECTORY = "/run/rdmactl"

DAEMONS = {"iwpm": "iwpmd", "initiator": "iserd"}
"""Which daemon serves a role when it runs alone; `rdmactld` serves both."""

_REPLY_BYTES_MAX = 64 << 20
"""Longest reply believed: a mapping list is about 300 bytes an entry, so this is far above any real table."""

_RECEIVE_BYTES = 65536


class RemoteError(RdmactlError):
    """The daemon answered with an error; `err` is an open-iscsi number (`IscsiErr`) when it has one."""

    code = "remote"

    def __init__(self, message: str, *, code: str, hint: str | None = None, err: int | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.err = err


def runtime_directory() -> str:
    """Where the control sockets are: $RDMACTL_RUNTIME_DIRECTORY, or /run/rdmactl."""
    return os.environ.get("RDMACTL_RUNTIME_DIRECTORY") or DEFAULT_RUNTIME_DIRECTORY


def socket_path(role: str, directory: str | None = None) -> str:
    """The control socket of a role ("iwpm" or "initiator")."""
    if role not in DAEMONS:
        raise LocalError(f"there is no role {role}: choose one of {', '.join(DAEMONS)}")
    return os.path.join(directory or runtime_directory(), f"{role}.sock")


class Client:
    """A connection to the daemon of one role; a context manager. Each call has the whole of `deadline_s` for itself.

    Raises Unavailable("daemon-not-running" | "access-denied" | "daemon-gone"), DeadlineExceeded, PeerError for an
    answer that is not Varlink, and RemoteError for what the daemon reports.
    """

    def __init__(self, role: str, *, deadline_s: float = 30.0, directory: str | None = None) -> None:
        self.role = role
        self.path = socket_path(role, directory)
        self.deadline_s = deadline_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._scanned = 0
        try:
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon ends what only this client was waiting for."""
        self._socket.close()

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """One question, one answer."""
        until = time.monotonic() + self.deadline_s
        self._send({"method": method, "parameters": parameters or {}}, method, until)
        answer, _ = self._receive(method, until)
        return answer

    def more(
        self, method: str, parameters: dict[str, Any] | None = None, *, deadline_each: bool = False
    ) -> Iterator[dict[str, Any]]:
        """One question, answers as they come; the deadline covers all of them, or with `deadline_each` the next one."""
        until = time.monotonic() + self.deadline_s
        self._send({"method": method, "parameters": parameters or {}, "more": True}, method, until)
        continues = True
        while continues:
            answer, continues = self._receive(method, until)
            yield answer
            if deadline_each:
                until = time.monotonic() + self.deadline_s

    def _connect(self) -> None:
        daemon = DAEMONS[self.role]
        self._socket.settimeout(self.deadline_s)
        try:
            self._socket.connect(self.path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise Unavailable(
                f"{daemon} is not running: nothing answers on {self.path}",
                hint=f"start {daemon}.service or rdmactld.service",
                code="daemon-not-running",
            ) from None
        except PermissionError:
            raise Unavailable(
                f"{daemon} may not be asked: no permission for {self.path}", hint="run as root", code="access-denied"
            ) from None
        except (TimeoutError, BlockingIOError):
            raise DeadlineExceeded(f"{daemon} does not accept a connection on {self.path}") from None
        except OSError as error:
            raise Unavailable(f"{daemon} cannot be reached on {self.path}: {error.strerror or error}") from None

    def _send(self, call: dict[str, Any], method: str, until: float) -> None:
        try:
            self._wait_at_most(method, until)
            self._socket.sendall(json.dumps(call).encode() + b"\0")
        except TimeoutError:
            raise self._late(method) from None
        except OSError:
            raise self._gone(method) from None

    def _receive(self, method: str, until: float) -> tuple[dict[str, Any], bool]:
        """The next reply's parameters, and whether another follows."""
        text = self._receive_text(method, until)
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError):
            reply = None
        parameters = reply.get("parameters", {}) if isinstance(reply, dict) else None
        if not isinstance(parameters, dict):
            raise PeerError(f"{DAEMONS[self.role]} answered {method} with something that is not Varlink")
        if reply.get("error") is not None:
            raise _remote_error(str(reply["error"]), parameters)
        return parameters, reply.get("continues") is True

    def _receive_text(self, method: str, until: float) -> bytes:
        while True:
            end = self._buffer.find(b"\0", self._scanned)
            if end >= 0:
                text = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._scanned = 0
                return text
            self._scanned = len(self._buffer)
            if self._scanned > _REPLY_BYTES_MAX:
                raise PeerError(
                    f"the answer of {DAEMONS[self.role]} to {method} is longer than {_REPLY_BYTES_MAX} bytes"
                )
            try:
                self._wait_at_most(method, until)
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError:
                raise self._late(method) from None
            except OSError:
                data = b""
            if not data:
                raise self._gone(method)
            self._buffer += data

    def _wait_at_most(self, method: str, until: float) -> None:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise self._late(method)
        self._socket.settimeout(left_s)

    def _late(self, method: str) -> DeadlineExceeded:
        return DeadlineExceeded(f"{DAEMONS[self.role]} did not answer {method} within {self.deadline_s:g} s")

    def _gone(self, method: str) -> Unavailable:
        return Unavailable(
            f"{DAEMONS[self.role]} closed the connection before it had answered {method}",
            hint="see its journal",
            code="daemon-gone",
        )


def _remote_error(name: str, parameters: dict[str, Any]) -> RemoteError:
    """What the server put into an error reply; errors of Varlink itself have only a name and odd parameters."""
    code, message, hint, err = (parameters.get(key) for key in ("code", "message", "hint", "err"))
    if not isinstance(message, str):
        detail = ", ".join(f"{key} {value}" for key, value in parameters.items())
        return RemoteError(f"the daemon refused the call: {name}" + (f" ({detail})" if detail else ""), code="protocol")
    return RemoteError(
        message,
        code=code if isinstance(code, str) else "remote",
        hint=hint if isinstance(hint, str) else None,
        err=err if isinstance(err, int) and not isinstance(err, bool) else None,
    )
