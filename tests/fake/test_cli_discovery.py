# SPDX-License-Identifier: Apache-2.0
"""`rdmactl discovery run` over real records and a played daemon; `rdmactl discovery status` from given answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rdmactl.cli import discovery_run, discovery_status
from rdmactl.errors import LocalError
from rdmactl.records.model import Record
from rdmactl.records.store import Store
from tests.golden.world import T1, T2, World

pytestmark = pytest.mark.fake

Output = pytest.CaptureFixture[str]


class Machine:
    """Fixture F of the corpus, whose records are this process's."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(directory)
        self.world.start_fixture(iser=False)
        self.world.daemon = True
        monkeypatch.setenv("RDMACTL_STATE_DIRECTORY", str(self.world.state))
        monkeypatch.setenv("RDMACTL_CONFIG_DIRECTORY", str(self.world.config))
        monkeypatch.setattr(discovery_run, "Context", self.world.context)

    def record(self, target: str) -> Record | None:
        with Store(str(self.world.state)) as store:
            nodes = store.nodes(target=target)
            return store.node(nodes[0]) if nodes else None

    def change(self, target: str) -> None:
        with Store(str(self.world.state)) as store, store.transaction():
            assert store.update_nodes({"node.startup": "automatic"}, target=target)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_run_records_and_prints(machine: Machine, capsys: Output) -> None:
    assert discovery_run.run(["10.9.0.1"]) == 0
    printed = capsys.readouterr()
    assert f"10.9.0.1:3260,1 {T2}\n" in printed.out
    assert printed.err == ""
    assert (machine.record(T1) or {})["node.discovery_type"] == "send_targets"


def test_run_keeps_what_was_changed(machine: Machine) -> None:
    discovery_run.run(["10.9.0.1"])
    machine.change(T1)
    machine.change(T2)
    del machine.world.targets[T2]
    discovery_run.run(["10.9.0.1"])
    assert (machine.record(T1) or {})["node.startup"] == "automatic"
    assert machine.record(T2) is not None
    discovery_run.run(["10.9.0.1", "--reset"])
    assert (machine.record(T1) or {})["node.startup"] == "manual"
    assert machine.record(T2) is None


def test_run_uses_the_settings_of_the_discovery_record(machine: Machine) -> None:
    machine.world.discovery_chap = ("duser", "dsecret123456")
    machine.world.iscsiadm("-m discoverydb -t st -p 10.9.0.1 -o new".split())
    for name, value in (("username", "duser"), ("password", "dsecret123456")):
        words = f"-m discoverydb -t st -p 10.9.0.1 -o update -n discovery.sendtargets.auth.{name} -v {value}"
        machine.world.iscsiadm(words.split())
    assert discovery_run.run(["10.9.0.1"]) == 0
    assert machine.record(T1) is not None


def test_run_can_record_nothing(machine: Machine, capsys: Output) -> None:
    assert discovery_run.run(["10.9.0.1", "--dry-run"]) == 0
    assert T1 in capsys.readouterr().out
    with Store(str(machine.world.state)) as store:
        assert (store.nodes(), store.discoveries()) == ([], [])


def test_run_as_json(machine: Machine, capsys: Output) -> None:
    machine.world.left_out = ["entry 3 has no address; left out"]
    assert discovery_run.run(["10.9.0.1", "-j"]) == 0
    printed = capsys.readouterr()
    body = json.loads(printed.out)
    assert (body["schema"], body["whole"]) == ("rdmactl.discovery.run", False)
    (found,) = body["found"]
    assert (found["interface"], found["skipped"]) == ("default", 1)
    assert {"target": T2, "address": "10.9.0.1", "port": 3260, "tpgt": 1} in found["portals"]
    assert printed.err == "rdmactl: 10.9.0.1: entry 3 has no address; left out\n"


def test_run_with_an_interface_that_is_not_there(machine: Machine) -> None:
    with pytest.raises(LocalError, match="there is no interface eth7"):
        discovery_run.run(["10.9.0.1", "-I", "eth7"])


@pytest.mark.parametrize(("words", "port"), [(["10.9.0.1"], 3260), (["10.9.0.1", "--isns"], 3205)])
def test_the_port_that_is_not_given(machine: Machine, words: list[str], port: int) -> None:
    asked: list[dict[str, str]] = []

    def discover(wire: dict[str, str]) -> list[dict[str, Any]]:
        asked.append(wire)
        return []

    machine.world.discover = discover  # type: ignore[method-assign]
    assert discovery_run.run(words) == 0
    assert asked[0]["discovery.sendtargets.port"] == str(port)


def test_a_portal_that_is_none(machine: Machine) -> None:
    with pytest.raises(LocalError, match="has a port outside"):
        discovery_run.run(["10.9.0.1:99999"])


WATCH = {
    "type": "sendtargets", "address": "10.9.0.1", "port": 3260, "places": 4, "missing": 0, "logins": 0,
    "answered_at_s": 1000.0, "whole": True, "failures": 0, "last_error": "", "listening": False, "next_in_s": 17.2,
}  # fmt: skip


def test_status_as_text() -> None:
    assert discovery_status.text(WATCH, 1012.3) == [
        "10.9.0.1:3260 via sendtargets: 4 places",
        "  answered 12 s ago",
        "  asks again in 17 s",
    ]
    troubled = WATCH | {
        "places": 1, "missing": 1, "logins": 2, "whole": False, "failures": 3, "last_error": "10.9.0.1 is silent",
        "listening": True,
    }  # fmt: skip
    assert discovery_status.text(troubled, 1001.0) == [
        "10.9.0.1:3260 via sendtargets: 1 place, 1 of them missing, 2 being logged in to",
        "  answered 1 s ago, not whole: nothing is taken for gone",
        "  no answer (3 times): 10.9.0.1 is silent",
        "  listens to the server, and asks again in 17 s",
    ]
    new = WATCH | {"answered_at_s": None, "next_in_s": None, "places": 0}
    assert discovery_status.text(new, 1001.0) == ["10.9.0.1:3260 via sendtargets: 0 places", "  asks no more"]


@pytest.mark.parametrize("watches", [[], [WATCH]])
def test_status_as_json(watches: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    class Client:
        def __init__(self, role: str, *, deadline_s: float) -> None:
            assert (role, deadline_s) == ("initiator", 10.0)

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
            assert (method, parameters) == ("io.rdmactl.Discovery.List", {})
            return {"watches": watches}

    monkeypatch.setattr(discovery_status, "Client", Client)
    assert discovery_status.run(["-j"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["watches"]) == ("rdmactl.discovery.status", watches)
    assert discovery_status.run([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 * len(watches)
