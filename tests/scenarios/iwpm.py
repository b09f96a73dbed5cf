# SPDX-License-Identifier: Apache-2.0
"""What a host with a port mapper goes through. Worlds: tests/fake/test_iwpm.py and tests/lab/test_iwpm.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["SCENARIOS", "Listener", "Scenario", "World"]

V4, V6 = "v4", "v6"


class Listener(Protocol):
    """An application that listens; `local` is its address with port."""

    local: str

    def close(self) -> None: ...


class World(Protocol):
    """A host with one iWARP adapter, applications, and the port mapper under test, which is running.

    `host` and `host6` are the adapter's addresses, IPv6 with brackets.
    """

    host: str
    host6: str

    def listen(self, local: str) -> Listener:
        """Start an application that listens; returns when the port mapper knows it."""

    def connect(self, remote: str) -> bool:
        """Connect to `remote`, exchange data, disconnect; whether that succeeded."""

    def mappings(self) -> dict[str, str]:
        """Local to mapped address, as the port mapper tells."""

    def claimed(self, port: int) -> bool:
        """Whether the host's TCP port is taken."""

    def restart(self) -> None:
        """Kill the port mapper without warning, start it, and wait until it is ready."""


Scenario = Callable[[World], None]


def settle(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"gave up waiting for: {what}"
        time.sleep(0.01)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def start(world: World) -> None:
    """Ready, with nothing mapped."""
    assert world.mappings() == {}


def _listen(world: World, local: str) -> None:
    listener = world.listen(local)
    mapped = world.mappings()[local]
    assert mapped.rpartition(":")[0] == local.rpartition(":")[0]
    assert port_of(mapped) != port_of(local)
    assert world.claimed(port_of(mapped))
    listener.close()
    settle(lambda: world.mappings() == {}, "the mapping to end with its listener")
    settle(lambda: not world.claimed(port_of(mapped)), "the port to be free")


def listen(world: World) -> None:
    """A listener gets a port of its own, and gives it back."""
    _listen(world, f"{world.host}:7174")


def listen_wildcard(world: World) -> None:
    _listen(world, "0.0.0.0:7176")


def listen_ipv6(world: World) -> None:
    _listen(world, f"{world.host6}:7175")


def two_listeners(world: World) -> None:
    """Each has its own port."""
    first, second = world.listen(f"{world.host}:7174"), world.listen(f"{world.host}:7177")
    assert len(set(world.mappings().values())) == 2
    first.close()
    second.close()
    settle(lambda: world.mappings() == {}, "both mappings to end")


def connect(world: World) -> None:
    """A connection on this host goes through the mapped ports, and leaves nothing behind."""
    listener = world.listen(f"{world.host}:7174")
    assert world.connect(listener.local)
    settle(lambda: list(world.mappings()) == [listener.local], "the connection's mapping to end")
    assert world.connect(listener.local)
    listener.close()


def connect_to_wildcard(world: World) -> None:
    listener = world.listen("0.0.0.0:7176")
    assert world.connect(f"{world.host}:7176")
    listener.close()


def connect_ipv6(world: World) -> None:
    listener = world.listen(f"{world.host6}:7175")
    assert world.connect(listener.local)
    listener.close()


def reject(world: World) -> None:
    """Nobody listens: the application learns it at once, not after ten seconds."""
    started = time.monotonic()
    assert not world.connect(f"{world.host}:7199")
    assert time.monotonic() - started < 8
    settle(lambda: world.mappings() == {}, "the connection's mapping to end")


def restart(world: World) -> None:
    """Live mappings survive the death of the port mapper: same ports, claimed again, and connections work."""
    listeners = [world.listen(f"{world.host}:7174"), world.listen("0.0.0.0:7176"), world.listen(f"{world.host6}:7175")]
    before = world.mappings()
    assert len(before) == 3
    world.restart()
    assert world.mappings() == before
    assert all(world.claimed(port_of(mapped)) for mapped in before.values())
    assert world.connect(f"{world.host}:7174")
    for listener in listeners:
        listener.close()
    settle(lambda: world.mappings() == {}, "all mappings to end")
    settle(lambda: not any(world.claimed(port_of(mapped)) for mapped in before.values()), "the ports to be free")


SCENARIOS: list[Scenario] = [
    start,
    listen,
    listen_wildcard,
    listen_ipv6,
    two_listeners,
    connect,
    connect_to_wildcard,
    connect_ipv6,
    reject,
    restart,
]
