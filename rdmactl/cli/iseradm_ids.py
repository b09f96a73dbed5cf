# SPDX-License-Identifier: Apache-2.0
"""Session ids and host numbers as iscsiadm's -r and -H take them: numbers, sysfs paths, MAC addresses. Face ring."""

from __future__ import annotations

import os

from rdmactl.cli.iseradm_context import Exit

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.cli.iseradm_context import Context

__all__ = ["host_number", "session_id"]

_UNSIGNED_LONG_MAX = (1 << 64) - 1


def session_id(context: Context, text: str) -> int:
    """A decimal id from 1 on, or any directory of a session below sysfs."""
    from rdmactl.initiator import sysfs

    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    path = _below(context.sysfs, text)
    if not os.path.lexists(path):
        raise Exit(1, f"{text} is an invalid session ID or path")
    if not os.path.isdir(path):
        raise Exit(1, f"{text} is not a directory")
    if not os.path.realpath(path).startswith(os.path.realpath(context.sysfs) + "/"):
        raise Exit(7, f"Could not get dev for {text}. Possible sysfs incompatibility.", f"invalid sid '{text}'")
    sid = sysfs.session_of(path)
    if sid is None:
        raise Exit(7, f"Unable to find sid in path {text}", f"invalid sid '{text}'")
    return sid


def host_number(context: Context, text: str) -> int:
    """A number, or the MAC address of a host."""
    from rdmactl.cli.iseradm_grammar import leading_number

    if ":" in text:
        from rdmactl.initiator import sysfs

        for host in sysfs.hosts(context.sysfs):
            if (host.hw_address or "").lower() == text.lower():
                return host.host_no
        raise Exit(7, "Could not match MAC to host.")
    number = leading_number(text)
    if not 0 <= number <= _UNSIGNED_LONG_MAX:
        raise Exit(7, f"Invalid host no {text}. Numerical result out of range.")
    return number


def _below(root: str, path: str) -> str:
    """A path below /sys, seen from the sysfs in use."""
    return root + path.removeprefix("/sys") if path.startswith("/sys/") else path
