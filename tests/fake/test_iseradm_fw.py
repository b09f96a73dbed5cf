# SPDX-License-Identifier: Apache-2.0
"""iseradm -m fw and -m discovery -t fw, over a firmware table in a directory, against the recorded runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rdmactl.cli import firmware_list
from rdmactl.errors import LocalError
from rdmactl.initiator.firmware import BootTarget, boot_targets
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


# The checklist, item by item; 138 is "fw-none" of the corpus


def firmware(machine: Machine) -> tuple[list[BootTarget], list[str]]:
    warnings: list[str] = []
    return boot_targets(str(machine.world.sysfs_root), warnings.append), warnings


def our_own(machine: Machine, words: str) -> Result:
    machine.world.program = "iseradm"
    return machine.run(words)


def test_138_no_firmware(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.iscsiadm(["-m", "fw"])
    assert (result.status, result.stdout) == (21, "")
    assert result.stderr == "iscsiadm: Could not get list of targets from firmware. (err 21)\n"


def test_139_for_root_only(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("rdmactl.initiator.firmware.open", refused, raising=False)
    with pytest.raises(LocalError, match="for root only") as caught:
        firmware(machine)
    assert (caught.value.hint, caught.value.code) == ("run as root", "access-denied")


@pytest.mark.parametrize(("flags", "count"), [("0", 0), ("1", 1), ("2", 1), ("3", 1)])
def test_140_flags(machine: Machine, flags: str, count: int) -> None:
    machine.set("target0/flags", flags)
    assert len(firmware(machine)[0]) == count


def test_141_a_card_that_is_not_there_costs_its_target_only(machine: Machine) -> None:
    machine.second_target()
    machine.set("target0/nic-assoc", "7")
    found, warnings = firmware(machine)
    assert [target.address for target in found] == ["10.9.0.2"]
    assert len(warnings) == 1
    assert warnings[0].endswith("is reached by network card 7, which the firmware does not have; left out")


def test_141_cards_are_found_by_their_index(machine: Machine) -> None:
    machine.second_target()
    for name, value in {"index": "5", "flags": "3", "mac": "02:00:00:00:09:02", "ip-addr": "10.9.0.9"}.items():
        machine.set(f"ethernet1/{name}", value)
    machine.set("target1/nic-assoc", "5")
    assert [target.ip_address for target in firmware(machine)[0]] == ["10.9.0.2", "10.9.0.9"]


def test_142_what_is_missing_has_its_default(machine: Machine) -> None:
    for name in ("target0/port", "target0/lun", "ethernet0/gateway", "ethernet0/vlan"):
        (machine.table / name).unlink()
    (target,), warnings = firmware(machine)
    assert (target.port, target.lun, target.gateway, target.vlan, warnings) == (3260, "", "", "", [])
    printed = machine.run("-m fw").stdout
    assert "node.conn[0].port = 3260" in printed
    assert "gateway" not in printed


def test_143_ipv6(machine: Machine) -> None:
    machine.set("target0/ip-addr", "fd00:9::1")
    machine.set("ethernet0/ip-addr", "fd00:9::2")
    assert machine.run("-m discovery -t fw").stdout == f"[fd00:9::1]:3260,1 {T1}\n"


def test_144_without_a_link_the_card_is_found_by_its_address(machine: Machine) -> None:
    shutil.rmtree(machine.table / "ethernet0/device")
    (target,), warnings = firmware(machine)
    assert target.netdev == ""
    assert len(warnings) == 1
    assert warnings[0].endswith("no network interface of this host has the address 02:00:00:00:09:01")
    netdev = machine.world.sysfs_root / "class/net/eth3"
    netdev.mkdir()
    (netdev / "address").write_text("02:00:00:00:09:01\n")
    (target,), warnings = firmware(machine)
    assert (target.netdev, warnings) == ("eth3", [])


def test_145_chap_both_ways_is_used_and_masked(machine: Machine) -> None:
    names = ("chap-name", "chap-secret", "rev-chap-name", "rev-chap-name-secret")
    for name, value in zip(names, CHAP, strict=True):
        machine.set(f"target0/{name}", value)
    masked = our_own(machine, "-m fw").stdout
    assert CHAP[1] not in masked
    assert CHAP[3] not in masked
    assert masked.count("********") == 2
    shown = our_own(machine, "-m fw -S").stdout
    assert f"node.session.auth.password_in = {CHAP[3]}" in shown
    asked: list[dict[str, str]] = []
    machine.world.log_in = lambda wire: asked.append(wire) or 1  # type: ignore[method-assign, func-returns-value]
    our_own(machine, "-m fw -l")
    prefix = "node.session.auth"
    assert [asked[0][f"{prefix}.{key}"] for key in ("username", "password", "username_in", "password_in")] == list(CHAP)


def test_145_show_is_not_an_option_of_iscsiadms(machine: Machine) -> None:
    result = machine.run("-m fw -S")
    assert (result.status, result.stderr) == (7, "iscsiadm: fw mode: option '-S' is not allowed/supported\n")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("target-name", b"iqn.2003-01.org.example:\xff\xfe", "which is no text; it counts as empty"),
        ("target-name", b"../../etc", "does not begin with iqn., eui. or naa.; left out"),
        ("target-name", b"iqn.x\x1b[31m", "which is no text; it counts as empty"),
        ("target-name", b"", "which is empty; left out"),
        ("ip-addr", b"", "has no address; left out"),
    ],
)
def test_146_nonsense_costs_its_target_only(machine: Machine, name: str, value: bytes, words: str) -> None:
    machine.second_target()
    (machine.table / "target0" / name).write_bytes(value)
    found, warnings = firmware(machine)
    assert [target.address for target in found] == ["10.9.0.2"]
    assert any(words in warning for warning in warnings)
    assert all(warning.isprintable() for warning in warnings)


@pytest.mark.parametrize("port", ["0", "65536", "99999999999999999", "32x", "-1"])
def test_146_a_port_that_is_none(machine: Machine, port: str) -> None:
    machine.set("target0/port", port)
    (target,), warnings = firmware(machine)
    assert target.port == 3260
    assert f'has the port "{port}"; 3260 is used' in warnings[0]


def test_147_targets_by_number(machine: Machine) -> None:
    machine.second_target()
    machine.set("target10/flags", "3")
    for path in list((machine.table / "target0").iterdir()):
        machine.set(f"target10/{path.name}", path.read_text().strip())
    machine.set("target10/ip-addr", "10.9.0.10")
    assert [target.address for target in firmware(machine)[0]] == ["10.9.0.1", "10.9.0.2", "10.9.0.10"]
    printed = our_own(machine, "-m fw").stdout
    assert printed.index("10.9.0.1\n") < printed.index("= 10.9.0.10\n")


# rdmactl firmware list


def test_all_attributes_are_listed_and_secrets_masked(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {
        "initiator/isns-server": "10.9.0.20", "ethernet0/hostname": "boot", "target0/flags": "0",
        "target0/chap-secret": CHAP[1], "target0/rev-chap-name-secret": CHAP[3], "acpi_header/signature": "iBFT",
    }.items():  # fmt: skip
        machine.set(name, value)
    root = str(machine.world.sysfs_root)
    assert firmware_list.run([], root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ibft/initiator/isns-server = 10.9.0.20" in lines
    assert "ibft/ethernet0/hostname = boot" in lines
    assert "ibft/target0/chap-secret = ********" in lines
    assert "ibft/acpi_header/signature = iBFT" in lines
    assert firmware_list.run(["-j", "-S"], root) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert tables["ibft"]["target0"]["rev-chap-name-secret"] == CHAP[3]
    assert "device" not in tables["ibft"]["ethernet0"]


def test_no_table_is_an_empty_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert firmware_list.run([], str(tmp_path)) == 0
    assert capsys.readouterr().out == ""
