# SPDX-License-Identifier: Apache-2.0
"""Messages between a process and its RDMA worker: JSON objects behind a length, and errors as JSON. Shell ring.

A frame is four bytes of length, big-endian, and that many bytes of UTF-8. Both ends are one release of one program,
so nothing here is versioned; but what comes from a worker comes from the process that talks to a target, so it is
bounded and checked. Import-light: the front end uses it too.
Not here: which messages there are (`worker.py`, `client.py`).
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from rdmactl.errors import DeadlineExceeded, KernelError, LocalError, PeerError, RdmactlError, Unavailable

if TYPE_CHECKING:
    from typing import Any

__all__ = ["FRAME_BYTES_MAX", "Decoder", "encode", "pack_error", "unpack_error"]

FRAME_BYTES_MAX = 256 << 20
"""A target list is cut at 64 MiB of text (`rdmactl.iscsi.sendtargets`); as JSON that is at most a few times as much."""

_LENGTH = struct.Struct(">I")
_CLASSES: dict[str, type[RdmactlError]] = {
    kind.__name__: kind for kind in (DeadlineExceeded, LocalError, PeerError, Unavailable)
}


def encode(message: dict[str, Any]) -> bytes:
    """One frame. LocalError when the message is too long for one."""
    text = json.dumps(message, separators=(",", ":")).encode()
    if len(text) > FRAME_BYTES_MAX:
        raise LocalError(f"a message of {len(text)} bytes is too long for an RDMA worker")
    return _LENGTH.pack(len(text)) + text


class Decoder:
    """Takes bytes as they come, gives whole messages. PeerError for what is no frame; use no more of it then."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that `data` completes."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise PeerError(f"the RDMA worker announces a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_object(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def pack_error(error: RdmactlError) -> dict[str, Any]:
    """An error as JSON; `unpack_error` is the inverse."""
    packed: dict[str, Any] = {"class": type(error).__name__, "code": error.code}
    packed |= {"message": error.message, "hint": error.hint}
    if isinstance(error, KernelError):
        packed |= {"operation": error.operation, "errno": error.errno}
    err = getattr(error, "err", None)
    return packed if err is None else packed | {"err": int(err)}


def unpack_error(packed: dict[str, Any]) -> RdmactlError:
    """The error again; an unknown class becomes PeerError."""
    message, hint = str(packed.get("message")), packed.get("hint")
    error: RdmactlError
    if packed.get("class") == "KernelError":
        error = KernelError(str(packed.get("operation")), _int(packed.get("errno")), message, hint=hint)
    elif packed.get("class") == "IscsiFailure":
        from rdmactl.iscsi.errors import IscsiErr, IscsiFailure

        error = IscsiFailure(IscsiErr(_int(packed.get("err")) or IscsiErr.ERR), message, hint=hint)  # type: ignore[call-arg]
    else:
        error = _CLASSES.get(str(packed.get("class")), PeerError)(message, hint=hint)
    error.code = str(packed.get("code"))
    return error


def _object(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise PeerError("the RDMA worker sent something that is no JSON object")
    return message


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
