# SPDX-License-Identifier: Apache-2.0
"""iseradm against an adapter with its own iSCSI stack: host submodes, iface apply, ping.

There is no such hardware in the lab: the other end is a model in memory (`iscsi_adapter.py`), made after the kernel's
headers. What is shown here is that the front end says to the kernel what these headers ask for.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

import pytest

from rdmactl.cli.iseradm import run
from rdmactl.cli.iseradm_context import Context
from rdmactl.netlink.iscsi import Uevent
from rdmactl.netlink.iscsi_stats import HOST_COUNTERS
from rdmactl.records.adapter import FLASHNODE
from tests.fake.iscsi_adapter import HW_ADDRESS, FakeAdapterClass

pytestmark = pytest.mark.fake

CHAP = ("-m", "host", "-H", "3", "-C", "chap")
FLASH = ("-m", "host", "-H", "3", "-C", "flashnode")
SECRET = "adapter-secret-1"


class Machine:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.sysfs = directory / "sys"
        self.kernel = FakeAdapterClass(self.sysfs)
        self.capsys = capsys

    def run(self, *words: str, name: str = "iscsiadm") -> tuple[int, str, str]:
        context = Context(name, sysfs=str(self.sysfs))
        context.door = self.kernel.open
        status = run(context, words)
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def says(self, *words: str) -> str:
        """Standard output of what succeeds without a complaint."""
        status, out, err = self.run(*words)
        assert (status, err) == (0, "")
        return out

    def fails(self, *words: str) -> tuple[int, str]:
        status, out, err = self.run(*words)
        assert out == ""
        return status, err


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    for name in ("STATE", "RUNTIME", "CONFIG", "SETTINGS"):
        monkeypatch.setenv(f"RDMACTL_{name}_DIRECTORY", str(tmp_path / name.lower()))
    return Machine(tmp_path, capsys)


def test_the_host_is_listed(machine: Machine) -> None:
    assert machine.says("-m", "host") == f"qla4xxx: [3] 192.0.2.30,[{HW_ADDRESS}],<empty> <empty>\n"


# CHAP table


def test_the_chap_table_is_shown_page_after_page_and_masked(machine: Machine) -> None:
    machine.kernel.chap = {number: (number % 2 == 1, f"user{number}", SECRET) for number in range(130)}
    out = machine.says(*CHAP, "-o", "show")
    assert out.count("# BEGIN RECORD") == 130
    assert out.startswith(
        "# BEGIN RECORD 2.1.8\nhost.auth.tbl_idx = 0\nhost.auth.username = user0\nhost.auth.password = ********\n"
        "# END RECORD\n# BEGIN RECORD 2.1.8\nhost.auth.tbl_idx = 1\nhost.auth.username_in = user1\n"
        "host.auth.password_in = ********\n# END RECORD\n"
    )
    assert SECRET not in out
    assert machine.says(*CHAP, "-o", "show", "-x", "7").count("# BEGIN RECORD") == 1


def test_chap_entries_are_made_changed_and_cleared(machine: Machine) -> None:
    pairs = ("-n", "host.auth.username", "-v", "u", "-n", "host.auth.password", "-v", SECRET)
    machine.kernel.chap = {0: (False, "there", "already-there1")}
    assert machine.says(*CHAP, "-o", "new", *pairs) == ""
    assert machine.kernel.chap[1] == (False, "u", SECRET)
    assert machine.says(*CHAP, "-o", "update", "-x", "1", "-n", "host.auth.username", "-v", "v") == ""
    assert machine.kernel.chap[1] == (False, "v", SECRET)
    incoming = ("-n", "host.auth.username_in", "-v", "t", "-n", "host.auth.password_in", "-v", SECRET)
    assert machine.says(*CHAP, "-o", "new", "-x", "9", *incoming) == ""
    assert machine.kernel.chap[9] == (True, "t", SECRET)
    assert machine.says(*CHAP, "-o", "delete", "-x", "1") == ""
    assert sorted(machine.kernel.chap) == [0, 9]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("-o", "show"), 21, "No CHAP entries found."),
        (("-o", "apply"), 7, "Invalid operation."),
        (("-o", "delete"), 7, "CHAP delete requires the index of a CHAP entry."),
        (("-o", "new"), 7, "CHAP entries need host.auth names and values."),
        (("-o", "new", "-n", "host.auth.x", "-v", "1"), 7, "Cannot modify host.auth.x. Invalid param name."),
        (("-o", "update", "-x", "5", "-n", "host.auth.username", "-v", "1"), 21, "No CHAP entry 5."),
        (("-o", "delete", "-x", "70000"), 7, "Invalid CHAP table index 70000."),
        (("-o", "delete", "-x", "5"), 1, "the adapter refused DELETE_CHAP: Invalid argument"),
    ],
)
def test_what_cannot_be_done_to_the_chap_table(
    machine: Machine, words: tuple[str, ...], status: int, sentence: str
) -> None:
    assert machine.fails(*CHAP, *words) == (status, f"iscsiadm: {sentence}\n")


def test_an_entry_a_flash_node_uses(machine: Machine) -> None:
    machine.kernel.fail_next[Uevent.DELETE_CHAP] = -errno.EBUSY
    assert machine.fails(*CHAP, "-o", "delete", "-x", "1") == (28, "iscsiadm: CHAP entry 1 is in use.\n")


def test_an_answer_that_is_cut_short(machine: Machine) -> None:
    machine.kernel.chap = {0: (False, "u", SECRET)}
    machine.kernel.cuts_answers = True
    status, err = machine.fails(*CHAP, "-o", "show")
    assert (status, err) == (1, "iscsiadm: host 3: the answer to GET_CHAP is cut short\n")


# Flash nodes


def test_flash_nodes_are_listed_and_shown(machine: Machine) -> None:
    machine.kernel.add_flashnode(
        10, {"targetname": "iqn.2003-01.org.example:disk1", "tpgt": "1", "password": SECRET, "portal_type": "ipv4"},
        {"ipaddress": "192.0.2.10", "port": "3260"},
    )  # fmt: skip
    machine.kernel.add_flashnode(2, {"targetname": "(null)"}, {"ipaddress": "2001:db8::1", "port": "3260"})
    assert machine.says(*FLASH) == (
        "qla4xxx: [2] [2001:db8::1]:3260,<empty> <empty>\n"
        "qla4xxx: [10] 192.0.2.10:3260,1 iqn.2003-01.org.example:disk1\n"
    )
    shown = machine.says(*FLASH, "-x", "10", "-o", "show")
    assert shown.splitlines() == [
        "# BEGIN RECORD 2.1.8",
        "flashnode.session.portal_type = ipv4",
        "flashnode.session.targetname = iqn.2003-01.org.example:disk1",
        "flashnode.session.tpgt = 1",
        "flashnode.session.password = ********",
        "flashnode.conn[0].port = 3260",
        "flashnode.conn[0].ipaddress = 192.0.2.10",
        "# END RECORD",
    ]


def test_the_life_of_a_flash_node(machine: Machine) -> None:
    assert machine.says(*FLASH, "-o", "new", "-A", "ipv4") == "New flash node 0 of host 3 added.\n"
    pairs = {
        "flashnode.session.targetname": ("iqn.2003-01.org.example:disk1", b"iqn.2003-01.org.example:disk1\0"),
        "flashnode.conn[0].ipaddress": ("192.0.2.10", socket.inet_aton("192.0.2.10")),
        "flashnode.conn[0].port": ("3261", struct.pack("=H", 3261)),
        "flashnode.session.password": (SECRET, SECRET.encode() + b"\0"),
    }
    words = [word for name, (text, _) in pairs.items() for word in ("-n", name, "-v", text)]
    assert machine.says(*FLASH, "-x", "0", "-o", "update", *words) == "Flash node 0 of host 3 updated.\n"
    numbers = {key.name: key.number for key in FLASHNODE}
    assert machine.kernel.flash[0] == {numbers[name]: value for name, (_, value) in pairs.items()}
    assert machine.says(*FLASH, "-x", "0", "-o", "login") == "Flash node 0 of host 3 logged in.\n"
    assert machine.kernel.logged_in == {0}
    assert machine.says(*FLASH, "-x", "0", "-o", "logout") == "Flash node 0 of host 3 logged out.\n"
    assert machine.says(*FLASH, "-x", "0", "-o", "delete") == "Flash node 0 of host 3 deleted.\n"
    assert machine.fails(*FLASH) == (21, "iscsiadm: No flashnodes attached to host 3.\n")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("-o", "apply"), 7, "Invalid operation."),
        (("-o", "new"), 7, "A new flash node requires its portal type: -A ipv4 or -A ipv6."),
        (("-o", "login"), 7, "Flash node login requires the index of a flash node."),
        (("-o", "login", "-x", "4"), 21, "No flash node 4 on host 3."),
        (("-x", "4"), 21, "No flash node 4 on host 3."),
        (("-o", "update", "-x", "0"), 7, "Flash node update requires name and value."),
        (
            ("-o", "update", "-x", "0", "-n", "flashnode.session.x", "-v", "1"),
            7,
            "Cannot modify flashnode.session.x. Invalid param name.",
        ),
        (
            ("-o", "update", "-x", "0", "-n", "flashnode.conn[0].port", "-v", "99999"),
            7,
            "unknown value format '99999' for parameter name 'flashnode.conn[0].port'",
        ),
        (("-o", "logout", "-x", "0"), 1, "the adapter refused LOGOUT_FLASHNODE: No such process"),
    ],
)
def test_what_cannot_be_done_to_flash_nodes(
    machine: Machine, words: tuple[str, ...], status: int, sentence: str
) -> None:
    machine.kernel.add_flashnode(0, {"targetname": "iqn.2003-01.org.example:x"}, {"port": "3260"})
    assert machine.fails(*FLASH, *words) == (status, f"iscsiadm: {sentence}\n")


# Counters


def test_host_statistics(machine: Machine) -> None:
    lines = machine.says("-m", "host", "-H", "3", "-C", "stats").splitlines()
    assert lines[:2] == ["Host Statistics:", "\tmactx_frames: 100"]
    assert lines[1:-2] == [f"\t{name}: {100 + at}" for at, name in enumerate(HOST_COUNTERS)]
    assert lines[-2:] == ["iSCSI Extended:", "\tfirmware_resets: 2"]


def test_nobody_but_root(machine: Machine) -> None:
    machine.kernel.privileged = False
    for words in ((*CHAP, "-o", "show"), ("-m", "host", "-H", "3", "-C", "stats")):
        status, err = machine.fails(*words)
        assert status == 13
        assert "run as root" in err


# Interfaces


def make_iface(machine: Machine, name: str, **values: str) -> None:
    pairs = {"transport_name": "qla4xxx", "hwaddress": HW_ADDRESS, "iface_num": "1", **values}
    machine.run("-m", "iface", "-I", name, "-o", "new")
    words = [word for key, value in pairs.items() for word in ("-n", f"iface.{key}", "-v", value)]
    assert machine.run("-m", "iface", "-I", name, "-o", "update", *words)[0] == 0


def test_apply_sends_what_the_record_sets(machine: Machine) -> None:
    make_iface(
        machine, "card", ipaddress="192.0.2.31", subnet_mask="255.255.255.0", bootproto="static", state="enable",
        mtu="9000", vlan_id="12", vlan_priority="3", vlan_state="enable", max_burst_len="262144", erl="0",
    )  # fmt: skip
    assert machine.says("-m", "iface", "-I", "card", "-o", "apply") == "card applied.\n"
    assert machine.kernel.settings == [
        (1, 1, 2, 1, socket.inet_aton("192.0.2.31")),
        (1, 1, 2, 2, socket.inet_aton("255.255.255.0")),
        (1, 1, 2, 4, b"\x01"),
        (1, 1, 2, 12, b"\x02"),
        (1, 1, 2, 15, b"\x02"),
        (1, 1, 2, 16, struct.pack("=H", 3 << 13 | 12)),
        (1, 1, 2, 19, struct.pack("=H", 9000)),
        (1, 1, 5, 11, struct.pack("=I", 262144)),
    ]


def test_an_interface_of_the_other_family(machine: Machine) -> None:
    make_iface(machine, "card.ipv6.1", ipaddress="2001:db8::31", ipv6_autocfg="dhcpv6", linklocal_autocfg="auto")
    assert machine.says("-m", "iface", "-I", "card.ipv6.1", "-o", "apply") == "card.ipv6.1 applied.\n"
    assert machine.kernel.settings == [
        (1, 2, 2, 7, socket.inet_pton(socket.AF_INET6, "2001:db8::31")),
        (1, 2, 2, 9, b"\x03"),
        (1, 2, 2, 10, b"\x01"),
    ]


def test_apply_all_takes_the_interfaces_of_the_host(machine: Machine) -> None:
    make_iface(machine, "card", mtu="9000")
    make_iface(machine, "other", hwaddress="00:00:00:00:00:01", mtu="1500")
    assert machine.says("-m", "iface", "-H", HW_ADDRESS, "-o", "applyall") == (
        "Applied settings to ifaces attached to host3.\n"
    )
    assert machine.kernel.settings == [(1, 1, 2, 19, struct.pack("=H", 9000))]


def test_an_address_of_the_wrong_family_is_refused_before_the_adapter_sees_it(machine: Machine) -> None:
    make_iface(machine, "card", ipaddress="2001:db8::31")
    status, err = machine.fails("-m", "iface", "-I", "card", "-o", "apply")
    assert status == 7
    assert "iface.ipaddress must be an IPv4 address, not 2001:db8::31" in err
    assert machine.kernel.settings == []


def test_an_interface_without_its_host(machine: Machine) -> None:
    make_iface(machine, "card", hwaddress="00:00:00:00:00:01")
    apply = machine.fails("-m", "iface", "-I", "card", "-o", "apply")
    assert apply == (23, "iscsiadm: Could not find the host of iface card.\n")
    ping = machine.fails("-m", "iface", "-I", "card", "-C", "ping", "-a", "192.0.2.1")
    assert ping == (7, "iscsiadm: Can't find host_no.\n")


def test_ping(machine: Machine) -> None:
    make_iface(machine, "card")
    words = ("-m", "iface", "-I", "card", "-C", "ping", "-a", "192.0.2.1", "-b", "64")
    assert machine.says(*words, "-c", "2") == "Ping 1 completed\nPing 2 completed\n"
    assert [(iface, size) for iface, size, _ in machine.kernel.pings] == [(1, 64), (1, 64)]
    assert socket.inet_aton("192.0.2.1") in machine.kernel.pings[0][2]
    machine.kernel.pings.clear()
    machine.kernel.ping_status = {2: 9}
    assert machine.run(*words, "-c", "3") == (
        1,
        "Ping 1 completed\nPing 2 failed: No ARP response received\nPing 3 completed\n",
        "",
    )


def test_ping_wants_an_address(machine: Machine) -> None:
    make_iface(machine, "card")
    assert machine.fails("-m", "iface", "-I", "card", "-C", "ping", "-a", "host.example") == (
        7,
        "iscsiadm: Invalid IP address.\n",
    )
