# SPDX-License-Identifier: Apache-2.0
"""The structured trace of netlink messages. Shell ring."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Tracer"]


class Tracer(Protocol):
    """What a channel tells: each datagram in and out, when it happened."""

    def sent(self, now: float, family: int, portid: int, datagram: bytes) -> None: ...

    def received(self, now: float, family: int, portid: int, datagram: bytes) -> None: ...
