# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost on a restart: many mappings, kill -9, upgrade, references, module reload. A keeper, no systemd."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmactl.control.client import Client
from tests.lab.guest import sh, wait_for
from tests.lab.mapper_world import (
    IN_RNIC,
    KEEPER,
    Listeners,
    Mapper,
    Rping,
    build_listeners,
    is_taken,
    kept,
    list_mappings,
    ports,
    rping_client,
    set_up,
    stop_keeper,
)

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

MANY = 300  # more than the 227 the kernel can report


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    set_up()
    build_listeners()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    sh("pkill -x listeners; pkill -x rping; true")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "upgrade"])
def test_no_port_is_free_meanwhile_and_none_changes(number: signal.Signals) -> None:
    mapper = Mapper()
    listeners = Listeners(MANY)
    before = mapper.mappings()
    assert len(before) == MANY
    mapper.end(number)
    assert all(is_taken(port) for port in ports(before))
    mapper = Mapper()
    assert mapper.mappings() == before
    assert "more than fit into its report" in mapper.text()
    listeners.close()
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")
    wait_for(lambda: not any(is_taken(port) for port in ports(before)), "all ports to be free")
    assert mapper.end() == 0
    wait_for(lambda: not kept(), "the keeper to be empty")


def test_kill_9_under_load() -> None:
    """Listeners come and go all the time; what is live at the kill is there afterwards, with its port."""
    mapper = Mapper()
    stay = Listeners(20, first=20000)
    moving = Listeners(MANY)
    before = {local: mapped for local, mapped in mapper.mappings().items() if ":200" in local}
    assert len(before) == 20
    for _ in range(4):
        moving.move(400)
        mapper.end(signal.SIGKILL)
        mapper = Mapper()
        now = mapper.mappings()
        assert {local: now.get(local) for local in before} == before
        moving.said("moved")
        assert all(is_taken(port) for port in ports(before))
    unmapped = len([1 for local, mapped in mapper.mappings().items() if local == mapped])
    print(f"{len(mapper.mappings())} mappings at the end, {unmapped} of them unmapped while nobody ran")
    moving.close()
    stay.close()
    mapper.end()


def test_kill_9_in_a_storm() -> None:
    """Listeners come and go and connections are tried without a pause, while the daemon is killed again and again."""
    sh("gcc -O2 -o /tmp/connects tests/lab/connects.c -lrdmacm -libverbs")
    mapper = Mapper()
    stay = Listeners(20, first=20000)
    moving = Listeners(50)
    before = {local: mapped for local, mapped in mapper.mappings().items() if ":200" in local}
    assert len(before) == 20
    watch = PortWatch(ports(before))
    connects = subprocess.Popen(
        [*IN_RNIC, "/tmp/connects", "10.9.0.1", "10.9.0.1", "9"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    for _ in range(5):
        moving.move(2000)
        wait_for(lambda: counter("requests") > 100, "the storm to be served")
        mapper.end(signal.SIGKILL)
        mapper = Mapper()
        now = mapper.mappings()
        assert {local: now.get(local) for local in before} == before
        moving.said("moved")
    said, _ = connects.communicate(timeout=60)
    assert connects.returncode == 0
    assert int(said) > 0
    assert watch.end() == set()
    moving.close()
    stay.close()
    wait_for(lambda: mapper.mappings() == {}, "all mappings to end")
    mapper.end()


def counter(name: str) -> int:
    with Client("iwpm", deadline_s=30) as client:
        return int(client.call("io.rdmactl.PortMapper.Status", {})["counters"][name])


class PortWatch:
    """Tries all the time whether somebody else could have one of the ports."""

    def __init__(self, watched: set[int]) -> None:
        self._watched = watched
        self._free: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self._free |= {port for port in self._watched if not is_taken(port)}

    def end(self) -> set[int]:
        """Which ones were free for a moment."""
        self._over.set()
        self._thread.join()
        return self._free


def test_what_ended_while_nobody_ran_is_dropped() -> None:
    """Below 228 the kernel's report is complete, and wins."""
    mapper = Mapper()
    stay, gone = Listeners(5, first=20000), Listeners(5)
    before = mapper.mappings()
    mapper.end(signal.SIGKILL)
    gone.close()
    mapper = Mapper()
    left = {local: mapped for local, mapped in before.items() if ":200" in local}
    assert mapper.mappings() == left
    wait_for(lambda: kept() >= ports(left), "the keeper")
    freed = ports(before) - ports(left)
    wait_for(lambda: not freed & kept(), "the ports to be given back")
    stay.close()
    mapper.end()


def test_references_are_right_at_once() -> None:
    """A wildcard listener on two devices is two references; one device goes, the mapping stays."""
    sh("""
        ip -n rnic link add dummy1 type dummy; ip -n rnic address add 10.9.1.1/24 dev dummy1
        ip -n rnic link set dummy1 up; ip netns exec rnic rdma link add siw1 type siw netdev dummy1
    """)
    mapper = Mapper()
    listener = Rping("0.0.0.0:7174")
    wait_for(lambda: "0.0.0.0:7174" in mapper.mappings(), "the mapping")
    wait_for(lambda: references("0.0.0.0:7174") == 2, "both references")
    before = mapper.mappings()
    mapper.end(signal.SIGKILL)
    mapper = Mapper()
    assert references("0.0.0.0:7174") == 2
    sh("ip netns exec rnic rdma link del siw1")
    wait_for(lambda: references("0.0.0.0:7174") == 1, "one reference to end")
    assert mapper.mappings() == before
    assert rping_client("10.9.0.1:7174")
    listener.close()
    wait_for(lambda: mapper.mappings() == {}, "the mapping to end")
    mapper.end()


def references(local: str) -> int:
    with Client("iwpm", deadline_s=10) as client:
        found = list_mappings(client)
    return next((int(item["references"]) for item in found if item["local"] == local), 0)


def test_the_keeper_is_killed() -> None:
    """Another one takes over all ports, and then outlives the daemon in its turn."""
    mapper = Mapper()
    listeners = Listeners(30)
    before = mapper.mappings()
    stop_keeper()
    wait_for(lambda: Path(KEEPER).exists() and kept() >= ports(before), "another keeper")
    mapper.end(signal.SIGKILL)
    assert all(is_taken(port) for port in ports(before))
    mapper = Mapper()
    assert mapper.mappings() == before
    listeners.close()
    mapper.end()


def test_the_module_is_reloaded() -> None:
    """iw_cm goes and comes back under a running daemon: its mappings with it, and the next ones are served."""
    mapper = Mapper()
    listeners = Listeners(10)
    assert len(mapper.mappings()) == 10
    listeners.close()
    lost = Rping("10.9.0.1:7174")
    wait_for(lambda: "10.9.0.1:7174" in mapper.mappings(), "the mapping")
    os.kill(mapper.process.pid, signal.SIGSTOP)  # so that the end of the listener is not heard of
    lost.process.kill()
    lost.process.wait()
    sh("""
        for device in $(rdma link | grep -o 'siw[0-9]*/1'); do ip netns exec rnic rdma link del ${device%/1}; done
        rmmod siw; rmmod rdma_ucm; rmmod rdma_cm; rmmod iw_cm
    """)
    os.kill(mapper.process.pid, signal.SIGCONT)
    sh("siw map; ip netns exec rnic rdma link add siw0 type siw netdev va; modprobe rdma_ucm")
    listener = Rping("10.9.0.1:7175")
    wait_for(lambda: mapper.mappings().get("10.9.0.1:7175", "10.9.0.1:7175") != "10.9.0.1:7175", "the new mapping")
    wait_for(lambda: set(mapper.mappings()) == {"10.9.0.1:7175"}, "the old one to go")
    assert rping_client("10.9.0.1:7175")
    listener.close()
    mapper.end()
