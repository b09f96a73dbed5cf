# SPDX-License-Identifier: Apache-2.0
"""What a discovery does to records: operations, several interfaces, answers that are not whole, and `preserve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rdmactl.control.client import RemoteError
from rdmactl.records.discovery_settings import FIELDS
from rdmactl.records.store import Store
from tests.golden.shell import Result
from tests.golden.world import T1, T2, Target, World

pytestmark = pytest.mark.fake

ROOT = Path(__file__).resolve().parents[2]
DISCOVER = "-m discovery -t st -p 10.9.0.1"
AUTOMATIC = "-m node -T {} -o update -n node.startup -v automatic"
NEW = "iqn.2003-01.org.linux-iscsi.san:t3"


class Machine:
    """Fixture F of the corpus, with a daemon whose answers can be changed."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = directory / "settings"
        self.settings.mkdir()
        monkeypatch.setenv("RDMACTL_SETTINGS_DIRECTORY", str(self.settings))
        self.world = World(directory / "world")
        self.world.start_fixture(iser=False)
        self.world.daemon = True

    def run(self, words: str) -> Result:
        return self.world.iscsiadm(words.split())

    def preserve(self) -> None:
        (self.settings / "rdmactl.toml").write_text("[discovery]\npreserve = true\n")

    def startups(self) -> dict[str, set[str]]:
        """node.startup of the records, by target."""
        found: dict[str, set[str]] = {}
        with Store(str(self.world.state)) as store:
            for node in store.nodes():
                record = store.node(node)
                assert record is not None
                found.setdefault(node.target, set()).add(str(record["node.startup"]))
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def moved(machine: Machine) -> Machine:
    """Both targets were discovered and set to start automatically; now t2 has gone, and another one has come."""
    assert machine.run(DISCOVER).status == 0
    for name in (T1, T2):
        assert machine.run(AUTOMATIC.format(name)).status == 0
    del machine.world.targets[T2]
    machine.world.targets[NEW] = Target(machine.world.targets[T1].portals)
    return machine


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ("", {T1: {"manual"}, NEW: {"manual"}}),
        ("-o new", {T1: {"automatic"}, T2: {"automatic"}, NEW: {"manual"}}),
        ("-o update", {T1: {"manual"}, T2: {"automatic"}, NEW: {"manual"}}),
        ("-o delete", {T1: {"automatic"}}),
        ("-o new -o delete", {T1: {"automatic"}, NEW: {"manual"}}),
        ("-o new -o update", {T1: {"manual"}, T2: {"automatic"}, NEW: {"manual"}}),
        ("-o update -o delete", {T1: {"manual"}, NEW: {"manual"}}),
        ("-o nonpersistent", {T1: {"automatic"}, T2: {"automatic"}}),
        ("-o nonpersistent -o new", {T1: {"automatic"}, T2: {"automatic"}}),
        ("-o show", {T1: {"automatic"}, T2: {"automatic"}}),
    ],
)
def test_operations(moved: Machine, operations: str, expected: dict[str, set[str]]) -> None:
    result = moved.run(f"{DISCOVER} {operations}")
    assert (result.status, result.stderr) == (0, "")
    assert moved.startups() == expected


def test_preserve_keeps_what_an_administrator_changed(moved: Machine) -> None:
    moved.preserve()
    assert moved.run(DISCOVER).status == 0
    assert moved.startups() == {T1: {"automatic"}, T2: {"automatic"}, NEW: {"manual"}}


def test_preserve_deletes_what_nobody_has_changed(machine: Machine) -> None:
    machine.preserve()
    machine.run(DISCOVER)
    del machine.world.targets[T2]
    machine.run(DISCOVER)
    assert machine.startups() == {T1: {"manual"}}


def test_preserve_keeps_the_discovery_record(machine: Machine) -> None:
    machine.run(DISCOVER)
    machine.run("-m discoverydb -t st -p 10.9.0.1 -o update -n discovery.sendtargets.reopen_max -v 2")
    machine.preserve()
    machine.run(DISCOVER)
    assert "reopen_max = 2" in machine.run("-m discoverydb -t st -p 10.9.0.1").stdout
    (machine.settings / "rdmactl.toml").unlink()
    machine.run(DISCOVER)
    assert "reopen_max = 5" in machine.run("-m discoverydb -t st -p 10.9.0.1").stdout


def test_an_operation_that_is_named_counts_under_preserve_too(moved: Machine) -> None:
    moved.preserve()
    moved.run(f"{DISCOVER} -o update -o delete")
    assert moved.startups() == {T1: {"manual"}, NEW: {"manual"}}


def test_the_manual_page_has_every_sentence_of_the_settings() -> None:
    page = " ".join((ROOT / "man/rdmactl.toml.5").read_text().replace(".Cm false ,", "false,").split())
    for key, (_, sentence) in FIELDS.items():
        assert f".It Cm {key}" in page
        assert sentence in page


def test_a_list_with_bad_entries_takes_no_record_away(moved: Machine) -> None:
    moved.world.left_out = ["target name \"../x\" has a '/' or '..'; left out"]
    result = moved.run(DISCOVER)
    assert result.status == 0
    assert result.stderr == "iscsiadm: 10.9.0.1: target name \"../x\" has a '/' or '..'; left out\n"
    assert set(moved.startups()) == {T1, T2, NEW}


def test_an_empty_answer_takes_no_record_away(moved: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved.world, "discover", lambda wire: [])
    result = moved.run(DISCOVER)
    assert (result.status, result.stderr) == (21, "iscsiadm: No portals found\n")
    assert set(moved.startups()) == {T1, T2}


def test_an_error_takes_no_record_away(moved: Machine) -> None:
    moved.world.targets = {}
    assert moved.run(DISCOVER).status == 11
    assert set(moved.startups()) == {T1, T2}


def test_several_interfaces_have_records_of_their_own(machine: Machine) -> None:
    for name in ("eth0", "eth1"):
        machine.run(f"-m iface -I {name} -o new")
    result = machine.run(f"{DISCOVER} -I eth0 -I eth1")
    assert len(result.stdout.splitlines()) == 8  # three portals of t1 and one of t2, for each
    with Store(str(machine.world.state)) as store:
        assert {node.iface for node in store.nodes(target=T1)} == {"eth0", "eth1"}


def test_an_interface_that_fails_takes_no_record_of_its_own_away(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("eth0", "eth1"):
        machine.run(f"-m iface -I {name} -o new")
    machine.run(f"{DISCOVER} -I eth0 -I eth1")
    before = machine.startups()
    played = machine.world.discover

    def half(wire: dict[str, str]) -> list[dict[str, Any]]:
        if wire["iface.iscsi_ifacename"] == "eth1":
            raise RemoteError("no answer", code="silent", err=11)
        return played(wire)

    monkeypatch.setattr(machine.world, "discover", half)
    machine.world.program = "iseradm"
    result = machine.run(f"{DISCOVER} -I eth0 -I eth1")
    assert result.status == 0
    assert "no answer" in result.stderr
    assert machine.startups() == before


def test_login_follows(machine: Machine) -> None:
    result = machine.run(f"{DISCOVER} -l")
    assert result.stdout.count("successful") == 3
    assert result.status == 24  # t2 wants CHAP
    assert len(machine.run("-m session").stdout.splitlines()) == 3
