# SPDX-License-Identifier: Apache-2.0
"""The store under kill -9, and under many processes at once.

How long readers and writers run together is RDMACTL_CONCURRENT_S (10 seconds unless it is set):
RDMACTL_CONCURRENT_S=60 pytest -m slow tests/unit/records/test_records_crash.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rdmactl.records.model import Record, Secret
from rdmactl.records.settings import Mirror
from rdmactl.records.store import NodeId, Store
from rdmactl.records.tree_export import TreeWriter, export_tree
from tests.unit.records.test_records_mirror import files

pytestmark = pytest.mark.slow

WRITES = 1000
TARGETS = 12
CONCURRENT_S = float(os.environ.get("RDMACTL_CONCURRENT_S", "10"))

Model = dict[str, Record]


def node(number: int) -> NodeId:
    return NodeId(f"iqn.{number:02}", "192.0.2.1", 3260, 1, "default")


class Writes:
    """A sequence of commands, the same for who writes and who checks: number n is always the same."""

    def __init__(self, number: int) -> None:
        self.number = number
        dice = random.Random(number)
        self.kind = dice.choice(("write", "write", "delete", "update", "update", "update all", "iface"))
        self.which = [dice.randrange(TARGETS) for _ in range(3)]
        self.values: Record = {"node.startup": f"w{number}", "node.session.auth.password": Secret(f"s{number}")}

    def to_store(self, store: Store) -> None:
        with store.transaction():
            store.write_iface("counter", {"iface.number": str(self.number)})
            for which in self.which:
                if self.kind == "write":
                    store.write_node(node(which), self.values, "static")
                elif self.kind == "delete":
                    store.delete_node(node(which))
                elif self.kind == "update":
                    store.update_nodes(self.values, target=node(which).target)
                elif self.kind == "iface":
                    store.write_iface(f"i{which}", {"iface.number": str(self.number)})
            if self.kind == "update all":
                store.update_nodes(self.values)

    def to_model(self, model: Model) -> None:
        for which in self.which:
            name = node(which).target
            if self.kind == "write":
                model[name] = self.values
            elif self.kind == "delete":
                model.pop(name, None)
            elif self.kind == "update" and name in model:
                model[name] = self.values
        if self.kind == "update all":
            model.update(dict.fromkeys(model, self.values))


def write_from(first: int, state: Path, settings: Path, done: int) -> None:
    """A process that writes until it is killed or finished, and says after each commit which one that was."""
    with Store(str(state), follower=Mirror(print, str(settings))) as store:
        for number in range(first, WRITES):
            Writes(number).to_store(store)
            os.write(done, number.to_bytes(4, "big"))


def fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    return child


def killed_at_random(first: int, state: Path, settings: Path, dice: random.Random) -> tuple[int, bool]:
    """Let a process write, kill it after a random number of commits and a random moment more; its last word."""
    reading, writing = os.pipe()
    child = fork(lambda: write_from(first, state, settings, writing))
    os.close(writing)
    words = b""
    for _ in range(dice.randrange(1, 60)):
        more = os.read(reading, 4)
        words += more
        if not more:
            break
    until = time.perf_counter() + dice.random() * 0.004
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    while more := os.read(reading, 4096):
        words += more
    os.close(reading)
    return int.from_bytes(words[-4:], "big") if words else first - 1, status == 0


def test_kill_at_random_moments_of_a_thousand_mixed_writes(tmp_path: Path) -> None:
    state, tree = tmp_path / "state", tmp_path / "etc"
    (tmp_path / "rdmactl.toml").write_text(f'[records]\nmirror = "{tree}"\n')
    dice = random.Random(4711)
    model: Model = {}
    next_one, kills, unheard = 0, 0, 0
    while next_one < WRITES:
        said, finished = killed_at_random(next_one, state, tmp_path, dice)
        with Store(str(state)) as store:
            counter = store.iface("counter")
            committed = -1 if counter is None else int(str(counter["iface.number"]))
            # Everything that was reported is there, and at most the one after it, whose report was cut off.
            assert committed in (said, said + 1)
            for number in range(next_one, committed + 1):
                Writes(number).to_model(model)
            names = {each.target: store.node(each) for each in store.nodes()}
            assert set(names) == set(model)
            for name, values in model.items():
                record = names[name]
                assert record is not None
                assert {key: record[key] for key in values} == values
            assert store._select("PRAGMA quick_check") == [("ok",)]
            assert store.quarantined() == []
        kills += not finished
        unheard += committed > said
        next_one = committed + 1
    with Store(str(state), follower=Mirror(print, str(tmp_path))) as store:
        with store.transaction():
            store.delete_iface("counter")
        export_tree(store, TreeWriter(str(tmp_path / "out"), str(tree)))
    left = [name for name in os.listdir(tree) if name.startswith(".rdmactl.")]
    for name in left:  # of writers that were killed
        (tree / name).unlink()
    assert files(tree) == files(tmp_path / "out")
    print(f"{WRITES} writes, {kills} kills, {unheard} of them between commit and report")
    assert kills >= 10


def test_readers_and_writers_at_once(tmp_path: Path) -> None:
    """No error, and no record of which one part is older than another."""
    state = str(tmp_path)
    count, contested = 200, 5

    def values(text: str) -> Record:
        return {"node.a": text, "node.b": text, "node.password": Secret(text)}

    with Store(state) as store, store.transaction():
        for number in range(count):
            store.write_node(node(number), values("0"), "static")
    until = time.monotonic() + CONCURRENT_S
    reading, writing = os.pipe()

    def read() -> None:
        turns = 0
        while time.monotonic() < until:
            with Store(state) as store:
                assert len(store.nodes()) == count
                for number in range(contested + 10):
                    record = store.node(node(number))
                    assert record is not None
                    assert record == {**record, **values(str(record["node.a"]))}, record
            turns += 1
        os.write(writing, b"r" + turns.to_bytes(4, "big"))

    def write() -> None:
        dice, turns = random.Random(os.getpid()), 0
        while time.monotonic() < until:
            with Store(state) as store, store.transaction():
                which, fresh = node(dice.randrange(contested)), values(f"{os.getpid()}.{turns}")
                how = dice.randrange(3)
                if how == 0:
                    store.write_node(which, fresh, "static")
                else:
                    store.update_nodes(fresh, target=which.target if how == 1 else None)
            turns += 1
        os.write(writing, b"w" + turns.to_bytes(4, "big"))

    children = [fork(run) for run in (read, write) * 4]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    turns: dict[bytes, list[int]] = {b"r": [], b"w": []}
    for _ in children:
        word = os.read(reading, 5)
        turns[word[:1]].append(int.from_bytes(word[1:], "big"))
    print(f"{CONCURRENT_S:g} s: readings by 4 processes {turns[b'r']}, transactions by 4 processes {turns[b'w']}")
    assert all(turns[b"r"] + turns[b"w"])


def test_eight_processes_updating_different_records(tmp_path: Path) -> None:
    """Each through the command: no lost update, no lock failure."""
    turns = 8
    with Store(str(tmp_path)) as store, store.transaction():
        for number in range(8):
            store.write_node(node(number), {"node.startup": "manual"}, "static")
    environment = {**os.environ, "RDMACTL_STATE_DIRECTORY": str(tmp_path)}

    def update(number: int) -> None:
        words = ["-m", "node", "-T", node(number).target, "-o", "update", "-n", "node.session.queue_depth", "-v"]
        for turn in range(turns):
            command = [sys.executable, "-m", "rdmactl.cli.iseradm", *words, str(turn + 1)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            with Store(str(tmp_path)) as store:
                record = store.node(node(number))
                assert record is not None
                assert record["node.session.queue_depth"] == str(turn + 1)

    children = [fork(lambda number=number: update(number)) for number in range(8)]  # type: ignore[misc]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
