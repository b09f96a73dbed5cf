# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors. Every ring may raise them; only `rdmactl.cli.errors` turns them into text and exit status.

Not here: wording for one program, exit numbers, logging. A message names the object (target, portal, device) and
never a secret; a hint says what to do about it.
"""

__all__ = [
    "DeadlineExceeded",
    "KernelError",
    "LocalError",
    "PeerError",
    "RdmactlError",
    "StoreError",
    "Unavailable",
]


class RdmactlError(Exception):
    """Base of all errors an administrator may read.

    `code` is a stable identifier (lower case, hyphens) that programs may compare; `message` one sentence for a
    person, without a full stop; `hint` what to do about it, or None. `layer` is set by faces that tell by their status
    how far something came: "address", "rdma", "login", "authentication", "session" or "scsi".
    """

    code = "error"
    layer: str | None = None

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class LocalError(RdmactlError):
    """The caller is wrong: bad argument, call in the wrong state, record that contradicts itself."""

    code = "invalid"


class PeerError(RdmactlError):
    """The other end is wrong: a target or a port mapper that broke its protocol or refused."""

    code = "peer"


class KernelError(RdmactlError):
    """The kernel refused. `errno` is positive; `operation` is the kernel's own name of what was asked."""

    code = "kernel"

    def __init__(self, operation: str, errno: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.operation = operation
        self.errno = errno


class StoreError(RdmactlError):
    """The record store cannot be read or written."""

    code = "store"


class Unavailable(RdmactlError):
    """A daemon, a kernel module or a privilege is not there; the hint says how to get it."""

    code = "unavailable"


class DeadlineExceeded(RdmactlError):
    """Something did not answer within its deadline; the message names it and the seconds."""

    code = "deadline"
