# SPDX-License-Identifier: Apache-2.0
"""iseradm -m fw and -m discovery -t fw, over a firmware table in a directory, against the recorded runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmactl.initiator.firmware import boot_targets
from tests.fake.iscsi_sysfs import FakeSysfs
from tests.golden.compare import same
from tests.golden.corpus import Step, scenarios
from tests.golden.shell import Result, execute
from tests.golden.world import T1, World

pytestmark = pytest.mark.fake

STEPS = scenarios()["S9"]
CASES = {step.case.name: step for step in STEPS if step.case is not None}
CHAP = ("chapuser", "chapsecret1234", "revuser", "revsecret12345")


class Machine:
    """Fixture B of the corpus: one target of the firmware, and targets on the network."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.world.start_fixture(iser=False)
        self.world.daemon = True
        self.table = self.world.sysfs_root / "firmware/ibft"
        for step in STEPS[: STEPS.index(CASES["fw"])]:
            if step.text.startswith("fixture B: "):
                self.set(*step.text.removeprefix("fixture B: ").split(" = "))
        (self.table / "ethernet0/device/net/dummy0").mkdir(parents=True)

    def set(self, name: str, value: str) -> None:
        (self.table / name).parent.mkdir(parents=True, exist_ok=True)
        (self.table / name).write_text(f"{value}\n")

    def run(self, words: str) -> Result:
        return self.world.iscsiadm(words.split())

    def replay(self, name: str) -> None:
        """A recorded case."""
        step: Step = CASES[name]
        assert step.case is not None
        result = execute(step.text, self.world.iscsiadm)
        assert same(step.case, step.text, result), (step.case.expected, result)

    def second_target(self) -> None:
        for path in list((self.table / "target0").iterdir()):
            self.set(f"target1/{path.name}", path.read_text().strip())
        self.set("target1/ip-addr", "10.9.0.2")

    def use_dhcp(self) -> None:
        for name, value in {
            "origin": "3", "dhcp": "10.9.0.254", "vlan": "12", "secondary-dns": "10.9.0.252", "prefix-len": "24"
        }.items():  # fmt: skip
            self.set(f"ethernet0/{name}", value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_printed(machine: Machine) -> None:
    machine.replay("fw")


def test_with_chap_and_dhcp(machine: Machine) -> None:
    machine.use_dhcp()
    names = ("chap-name", "chap-secret", "rev-chap-name", "rev-chap-name-secret")
    for name, value in zip(names, CHAP, strict=True):
        machine.set(f"target0/{name}", value)
    machine.replay("fw-chap-dhcp")
    (target,) = boot_targets(str(machine.world.sysfs_root))
    assert CHAP[1] not in repr(target)
    assert machine.run("-m discovery -t fw").status == 0
    shown = machine.run("-m node -o show -S").stdout
    assert f"node.session.auth.password = {CHAP[1]}" in shown
    assert "node.session.auth.authmethod = CHAP" in shown


def test_two_targets(machine: Machine) -> None:
    machine.use_dhcp()
    machine.second_target()
    machine.replay("fw-two")
    machine.replay("fw-two-disc")


def test_entries_not_in_use(machine: Machine) -> None:
    machine.set("target0/flags", "0")
    machine.replay("fw-flags0")
    machine.replay("fw-flags0-login")


@pytest.mark.parametrize("name", ["fw-disc", "fw-disc-list-P1", "fw-disc-list", "ddb-fw-D"])
def test_discovered(machine: Machine, name: str) -> None:
    machine.run("-m discovery -t fw")
    machine.replay(name)


def test_records_of_the_firmware(machine: Machine) -> None:
    machine.run("-m discovery -t fw")
    machine.replay("fw-node-show")


@pytest.mark.parametrize("operation", ["show", "nonpersistent"])
def test_nothing_is_recorded(machine: Machine, operation: str) -> None:
    machine.replay(f"disc-fw-{operation}")
    assert machine.run("-m node").status == 21


def test_a_target_that_the_firmware_no_longer_has(machine: Machine) -> None:
    machine.second_target()
    assert machine.run("-m discovery -t fw").stdout.count(T1) == 2
    machine.set("target1/flags", "0")
    assert machine.run("-m discovery -t fw").stdout.count(T1) == 1
    assert machine.run("-m node").stdout.count(T1) == 1


def test_login(machine: Machine) -> None:
    case = CASES["fw-login"]
    assert case.text == "iscsiadm -m fw -l"
    machine.replay("fw-login")
    machine.replay("fw-login-again")
    listed = machine.run("-m session -P 1").stdout
    assert "Iface Initiatorname: iqn.2003-01.org.example:bootclient" in listed
    assert machine.run("-m node").status == 21  # no record is made


def test_login_after_a_discovery_and_logging_out_all_but_what_was_booted_from(machine: Machine) -> None:
    for name in ("disc-fw-login", "fw-session", "fw-logoutall-all", "fw-session-u"):
        machine.replay(name)


@pytest.mark.parametrize("name", ["fw-login-nv", "fw-login-nv-bad", "fw-login-nv-iface", "fw-login-nowait"])
def test_overrides(machine: Machine, name: str) -> None:
    machine.replay(name)


def test_the_table_of_an_adapter(tmp_path: Path) -> None:
    """Its sessions are of the adapter's transport."""
    tree = FakeSysfs(tmp_path)
    device = tree.host_device(3)
    tree.write(device / "scsi_host/host3", {"proc_name": "qla4xxx", "state": "running"})
    tree.write(device / "iscsi_host/host3", {})
    for kind in ("scsi_host", "iscsi_host"):
        tree.link(kind, "host3", device / kind / "host3")
    tree.write(
        tmp_path / "firmware/iscsi_boot3/target0", {"flags": "3", "target-name": "iqn.x", "ip-addr": "192.0.2.1"}
    )
    (target,) = boot_targets(str(tmp_path))
    assert (target.transport, target.name, target.port, target.hw_address) == ("qla4xxx", "iqn.x", 3260, "")
