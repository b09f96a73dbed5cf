# SPDX-License-Identifier: Apache-2.0
"""What else an initiator must get right on a real kernel: values of the administrator, messages nobody hears, pings,
disks that grow or are taken offline, a scan that does not end, addresses with a scope.

The targets are LIO, and a fake one over loopback TCP where the target must do what LIO does not.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rdmactl.initiator import scan, sysfs
from rdmactl.initiator.api import LoginRequest
from rdmactl.iscsi.pdu import ALL_ONES, Async, NopIn, NopOut, Opcode, Pdu, Reject
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.stream import encode
from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import ConnError, ReceivedPdu
from rdmactl.netlink.message import split
from rdmactl.netlink.ports import NetlinkSocket
from rdmactl.netlink.sockets import open_socket
from tests import iscsi_class_contract as contract
from tests.fake.target import FakeTarget, StreamTarget
from tests.initiator_scenarios import FAST, eventually, failure, login, logout, recovered, request
from tests.lab import initiator_world as lab
from tests.lab.guest import sh
from tests.lab.initiator_world import RealWorld

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

FAKE = "iqn.2005-03.org.example:t1"
GROWING = "iqn.2026-11.test:growing"
SMALL, STEP = 16 << 20, 16 << 20
SECTOR_BYTES = 512
NEVER_S = 3600  # of the error handling, which shall not end what a test holds up
MANUAL = replace(FAST, initial_login_retry_max=8, scan="manual")
PATIENT = replace(FAST, initial_login_retry_max=8)

transports = pytest.mark.parametrize("transport", ["tcp", "iser"])


class SilentDisk(FakeTarget):
    """Lets everybody in, and answers neither SCSI commands nor their abortion. `farewell` is about logouts."""

    def __init__(self, farewell: str) -> None:
        super().__init__()
        self.farewell = farewell
        self.commands = self.logouts = 0
        self.pongs: list[NopOut] = []

    def receive(self, pdu: Pdu) -> list[Pdu]:
        match pdu.header[0] & 0x3F:
            case Opcode.SCSI_COMMAND | Opcode.TASK_MANAGEMENT:
                self.commands += 1
                return []
            case Opcode.NOP_OUT:
                self.pongs.append(NopOut.unpack(pdu.header))
            case Opcode.LOGOUT_REQUEST:
                self.logouts += 1
                if self.farewell != "answers":
                    self.closed = self.farewell == "hangs up"
                    return [Reject(0x04).pdu(pdu.header)] if self.farewell == "rejects" else []
        return super().receive(pdu)


class FakeServer:
    """Connections to `SilentDisk`s on a TCP port."""

    def __init__(self, address: str = "127.0.0.1", farewell: str = "answers") -> None:
        self._address = address
        self._farewell = farewell
        self._writers: list[asyncio.StreamWriter] = []
        self.targets: list[SilentDisk] = []

    async def __aenter__(self) -> FakeServer:
        self._server = await asyncio.start_server(self._serve, self._address, 0)
        self.portal = Portal(self._address, self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go_away()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = StreamTarget()
        stream.target = target = SilentDisk(self._farewell)
        self.targets.append(target)
        self._writers.append(writer)
        while not stream.target.closed and (data := await reader.read(65536)):
            writer.write(stream.receive(data))
        writer.close()

    @property
    def target(self) -> SilentDisk:
        """Of the latest connection."""
        return self.targets[-1]

    def send(self, pdu: Pdu) -> None:
        """Out of the blue, on the latest connection."""
        self._writers[-1].write(encode(pdu))

    def hang_up(self) -> None:
        """On everybody there is; new ones are let in."""
        while self._writers:
            self._writers.pop().close()

    def go_away(self) -> None:
        self._server.close()
        self.hang_up()

    def request(self, world: RealWorld) -> LoginRequest:
        return replace(request(world, "tcp", MANUAL), target=FAKE, portal=self.portal)


class Events:
    """Another listener next to the service."""

    def __init__(self, sock: NetlinkSocket) -> None:
        self._socket = sock
        self._seen: list[iscsi.Event] = []

    def of(self, sid: int) -> list[iscsi.Event]:
        """PDUs and errors of a session, all there were."""
        while (item := self._socket.receive()) is not None:
            self._seen += [event for message in split(item[0]) if (event := iscsi.parse_event(message)) is not None]
        return [each for each in self._seen if isinstance(each, (ReceivedPdu, ConnError)) and each.sid == sid]


@pytest.fixture(scope="module", autouse=True)
def target() -> None:
    lab.set_up()
    sh("ip link set lo up")


@pytest.fixture(autouse=True)
def healthy_kernel() -> Iterator[None]:
    before = lab.kernel_stumbled()
    yield
    assert lab.kernel_stumbled() == before


@pytest.fixture
def world() -> Iterator[RealWorld]:
    yield RealWorld()
    cleaner = RealWorld()

    async def log_out() -> None:
        for view in sysfs.sessions():
            await logout(cleaner, view.sid)

    if sysfs.sessions():  # of a test that has failed: it shall not spoil the next
        cleaner.run(log_out)


@pytest.fixture
def events() -> Iterator[Events]:
    sock = open_socket(contract.EVENTS)
    yield Events(sock)
    sock.close()


def state(sid: int) -> str | None:
    found = sysfs.session(sid)
    return None if found is None else found.state


def connection_errors(number: int) -> int:
    """As the kernel has told them in its log."""
    return subprocess.check_output(["dmesg"], text=True).count(f"detected conn error ({number})")


@transports
def test_the_administrators_recovery_timeout_outlives_relogins(world: RealWorld, transport: str) -> None:
    """Checklist 37: written in sysfs, it is not the record's any more, with this daemon and with the next."""

    async def scenario() -> None:
        sid = await login(world, request(world, transport, PATIENT))
        attribute = f"/sys/class/iscsi_session/session{sid}/recovery_tmo"
        assert sysfs.read(attribute) == str(PATIENT.replacement_timeout_s)
        sysfs.write(attribute, "77")
        world.break_connection(sid)
        await recovered(world)
        assert sysfs.read(attribute) == "77"
        await world.restart()
        world.break_connection(sid)
        await recovered(world)
        assert sysfs.read(attribute) == "77"
        await logout(world, sid)

    world.run(scenario)


@transports
def test_a_replacement_timeout_below_zero_is_for_ever(world: RealWorld, transport: str) -> None:
    """And stays it, with the record's daemon and with one that knows the session from the kernel only."""

    async def scenario() -> None:
        sid = await login(world, request(world, transport, replace(FAST, replacement_timeout_s=-1)))
        attribute = f"/sys/class/iscsi_session/session{sid}/recovery_tmo"
        assert sysfs.read(attribute) == "off"
        await world.restart()
        world.break_connection(sid)
        await recovered(world)
        assert sysfs.read(attribute) == "off"
        await logout(world, sid)

    world.run(scenario)


def test_a_message_nobody_hears_costs_the_connection_and_the_daemon_brings_it_back(world: RealWorld) -> None:
    """Checklist 40: an asynchronous message, and no daemon that listens."""

    async def scenario() -> None:
        async with FakeServer() as server:
            sid = await login(world, server.request(world))
            await world.dispatcher.stop(lab.DEADLINE_S)
            before = connection_errors(1011)
            server.send(Async(1, parameter3=5).pdu())
            await eventually(world, lambda: state(sid) == "FAILED", "the kernel keeps the connection")
            await eventually(world, lambda: connection_errors(1011) == before + 1, "failed for another reason")
            await world.restart()
            await recovered(world)
            await logout(world, sid)
            assert world.leftovers() == []

    world.run(scenario)


def test_a_target_that_asks_for_a_logout_gets_it_and_the_session_back(world: RealWorld) -> None:
    """Checklist 39: event 1."""

    async def scenario() -> None:
        async with FakeServer() as server:
            wanted = server.request(world)
            sid = await login(world, wanted)
            server.send(Async(1, parameter3=5).pdu())
            status = await recovered(world)
            assert status.sid == sid
            assert [number for number, target in enumerate(server.targets) if target.logouts] == [0]
            await logout(world, sid)
            assert world.leftovers() == []

    world.run(scenario)


@pytest.mark.parametrize("farewell", ["hangs up", "rejects", "is silent"])
def test_a_logout_ends_whatever_the_target_makes_of_it(world: RealWorld, farewell: str) -> None:
    """Checklist 43 and 44: the kernel tells neither the end of a connection in logout nor a Reject."""

    async def scenario() -> None:
        async with FakeServer(farewell=farewell) as server:
            wanted = server.request(world)
            sid = await login(world, replace(wanted, settings=replace(MANUAL, logout_timeout_s=1.0)))
            await logout(world, sid)
            assert server.target.logouts == 1
            assert world.leftovers() == []

    world.run(scenario)


def test_a_ping_is_answered_by_the_kernel(world: RealWorld, events: Events) -> None:
    """Checklist 41: nobody up here learns of it."""

    async def scenario() -> None:
        async with FakeServer() as server:
            sid = await login(world, server.request(world))
            before = events.of(sid)
            server.send(NopIn(ALL_ONES, 1, lun=bytes(8)).pdu())
            await eventually(world, lambda: server.target.pongs, "no answer")
            server.send(NopIn(ALL_ONES, 2, lun=bytes(8)).pdu())  # with its answer, what the first one caused is there
            await eventually(world, lambda: len(server.target.pongs) == 2, "no second answer")
            assert [(pong.itt, pong.ttt) for pong in server.target.pongs] == [(ALL_ONES, 1), (ALL_ONES, 2)]
            assert events.of(sid) == before
            assert state(sid) == "LOGGED_IN"
            await logout(world, sid)

    world.run(scenario)


def test_a_ping_with_data_costs_the_connection(world: RealWorld, events: Events) -> None:
    """Checklist 41: a protocol error for the kernel, 1008; the session comes back."""

    async def scenario() -> None:
        async with FakeServer() as server:
            sid = await login(world, server.request(world))
            server.send(NopIn(ALL_ONES, 1).pdu(b"ping"))
            await recovered(world)
            assert [each.error for each in events.of(sid) if isinstance(each, ConnError)][:1] == [1008]
            assert not any(target.pongs for target in server.targets)
            await logout(world, sid)
            assert world.leftovers() == []

    world.run(scenario)


class GrowingDisk:
    """A loop device behind a LIO target, which tells its size of the moment."""

    def __init__(self) -> None:
        self.portals = {"tcp": Portal(lab.ADDRESS, 3265), "iser": Portal(lab.ADDRESS, 3266)}
        self.size_bytes = SMALL
        self._device = sh(f"""
            modprobe -a loop target_core_iblock
            truncate -s {SMALL} /tmp/growing.img
            losetup --find --show /tmp/growing.img
        """).strip()
        sh(f"""
            target {GROWING} {self.portals["tcp"]} tcp 1
            target {GROWING} {self.portals["iser"]} iser 1
            core=/sys/kernel/config/target/core/iblock_0/growing
            lun=/sys/kernel/config/target/iscsi/{GROWING}/tpgt_1/lun/lun_0
            mkdir -p $core
            echo udev_path={self._device} > $core/control
            echo 1 > $core/enable
            rm $lun/iqn*; ln -s $core $lun/growing
        """)

    def grow(self) -> None:
        self.size_bytes += STEP
        sh(f"truncate -s {self.size_bytes} /tmp/growing.img; losetup --set-capacity {self._device}")

    def break_connections(self) -> None:
        enable = Path(f"/sys/kernel/config/target/iscsi/{GROWING}/tpgt_1/enable")
        enable.write_text("0")
        enable.write_text("1")

    def request(self, world: RealWorld, transport: str, scan: str = "auto") -> LoginRequest:
        wanted = request(world, transport, replace(PATIENT, scan=scan))
        return replace(wanted, target=GROWING, portal=self.portals[transport])


@pytest.fixture(scope="module")
def growing(target: None) -> GrowingDisk:
    return GrowingDisk()


def size_bytes(disk: str) -> int:
    """As the kernel knows it."""
    sectors = sysfs.read(f"/sys/block/{disk.removeprefix('/dev/')}/size")
    assert sectors is not None
    return int(sectors) * SECTOR_BYTES


@transports
def test_a_disk_that_has_grown_is_larger_after_a_relogin(
    world: RealWorld, growing: GrowingDisk, transport: str
) -> None:
    """Checklist 53."""

    async def scenario() -> None:
        sid = await login(world, growing.request(world, transport))
        disk = lab.disk_of(sid)
        before = size_bytes(disk)
        assert before == growing.size_bytes
        await asyncio.to_thread(growing.grow)
        assert size_bytes(disk) == before  # nobody has told
        growing.break_connections()
        await recovered(world)
        await eventually(world, lambda: size_bytes(disk) == growing.size_bytes, "the size is that of before")
        await logout(world, sid)

    world.run(scenario)


def disk_node(view: sysfs.SessionView) -> bool:
    """Whether the session's disk is there, in /dev too."""
    return any(lun.block_device and os.path.exists(f"/dev/{lun.block_device}") for lun in view.luns())


def rescan(directory: Path) -> None:
    """`iseradm -m session -R`, which needs no daemon."""
    names = ("STATE", "RUNTIME", "CONFIG")
    environment = os.environ | {f"RDMACTL_{name}_DIRECTORY": str(directory / name.lower()) for name in names}
    command = [sys.executable, "-m", "rdmactl.cli.iseradm", "-m", "session", "-R"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Rescanning session [sid: ") == 1


def test_a_rescan_finds_disks_and_their_new_size(world: RealWorld, growing: GrowingDisk, tmp_path: Path) -> None:
    """Checklist 51 and 53: `-R` after a login that was not to scan, and after the disk has grown."""

    async def scenario() -> None:
        sid = await login(world, growing.request(world, "tcp", scan="manual"))
        found = sysfs.session(sid)
        assert found is not None
        assert (found.luns(), found.target_state) == ([], "ALLOCATED")
        await asyncio.to_thread(rescan, tmp_path)
        found = sysfs.session(sid)
        assert found is not None
        assert found.target_state == "SCANNED"
        await eventually(world, lambda: disk_node(found), "no disk")
        disk = lab.disk_of(sid)
        await eventually(world, lambda: size_bytes(disk) == growing.size_bytes, "the disk has no size")
        await asyncio.to_thread(growing.grow)
        await asyncio.to_thread(rescan, tmp_path)
        assert size_bytes(disk) == growing.size_bytes
        await logout(world, sid)

    world.run(scenario)


def test_a_disk_taken_offline_runs_after_a_relogin(world: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checklist 54: by error handling that ends while the session is being brought back, when the kernel leaves it so.

    Earlier would prove nothing: what is offline when the connection fails is set running by the kernel itself.
    """
    revive = scan.revive
    seen: list[str | None] = []

    def error_handling_ends_now(sid: int, root: str = "/sys") -> list[str]:
        (lun,) = sysfs.session_luns(sid, root)
        sysfs.write(f"{lun.path}/state", "offline")
        seen.append(sysfs.read(f"{lun.path}/state"))
        notes = revive(sid, root)
        seen.append(sysfs.read(f"{lun.path}/state"))
        return notes

    monkeypatch.setattr(scan, "revive", error_handling_ends_now)

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", PATIENT))
        disk = lab.disk_of(sid)
        world.break_connection(sid)
        await recovered(world)
        await eventually(world, lambda: len(seen) == 2, "the disks are not looked after")
        assert seen == ["offline", "running"]
        assert await asyncio.to_thread(lab.write_and_read, disk)
        await logout(world, sid)

    world.run(scenario)


def test_a_disk_offline_when_the_connection_fails_runs_after_a_relogin(world: RealWorld) -> None:
    """Checklist 54: whoever does it, the kernel or this daemon."""

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", PATIENT))
        disk = lab.disk_of(sid)
        found = sysfs.session(sid)
        assert found is not None
        sysfs.write(f"{found.luns()[0].path}/state", "offline")
        world.break_connection(sid)
        await recovered(world)
        await eventually(world, lambda: found.luns()[0].state == "running", "it stays offline")
        assert await asyncio.to_thread(lab.write_and_read, disk)
        await logout(world, sid)

    world.run(scenario)


def test_a_scan_that_does_not_end_delays_no_recovery(world: RealWorld) -> None:
    """Checklist 50: the target answers no command of the scan, so that it is under way however long this takes."""
    settings = replace(
        PATIENT, noop_out_interval_s=0, noop_out_timeout_s=0, replacement_timeout_s=1,
        abort_timeout_s=NEVER_S, lu_reset_timeout_s=NEVER_S, tgt_reset_timeout_s=NEVER_S,
    )  # fmt: skip

    async def scenario() -> None:
        near = await login(world, request(world, "tcp", PATIENT))
        async with FakeServer() as server:
            scanning = asyncio.ensure_future(login(world, replace(server.request(world), settings=settings)))
            await eventually(world, lambda: server.targets and server.target.commands, "no scan")
            world.break_connection(near)
            await recovered(world, sid=near)
            assert await asyncio.to_thread(lab.write_and_read, lab.disk_of(near))
            assert not scanning.done()
            server.go_away()  # its commands fail as soon as the replacement time is over
            await logout(world, await scanning)
        await logout(world, near)
        assert world.leftovers() == []

    world.run(scenario)


def test_a_queue_depth_beyond_the_hosts_is_told_and_the_login_good(
    world: RealWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 52: the kernel refuses it, with EINVAL."""

    async def scenario() -> None:
        sid = await login(world, request(world, "tcp", replace(PATIENT, cmds_max=128, queue_depth=1000)))
        found = sysfs.session(sid)
        assert found is not None
        (lun,) = found.luns()
        assert sysfs.read(f"{lun.path}/queue_depth") == sysfs.read(
            f"/sys/class/scsi_host/host{found.host_no}/can_queue"
        )
        assert "queue depth 1000 was refused: Invalid argument" in caplog.text
        assert lab.write_and_read(lab.disk_of(sid))
        await logout(world, sid)

    world.run(scenario)


def test_a_portal_with_a_scope_is_reached_again(world: RealWorld) -> None:
    """Checklist 56: a link-local address says nothing without its network device."""
    sh("ip address replace fe80::9:1/64 dev dummy0 nodad")

    async def scenario() -> None:
        async with FakeServer("fe80::9:1%dummy0") as server:
            sid = await login(world, server.request(world))
            found = sysfs.session(sid)
            assert found is not None
            assert found.persistent == server.portal
            server.hang_up()
            await recovered(world)
            await logout(world, sid)
            assert world.leftovers() == []

    world.run(scenario)


def log_in_elsewhere() -> None:
    """In a network namespace with nothing but a target: what a login says."""
    sh("ip link set lo up")
    world = RealWorld()

    async def scenario() -> None:
        async with FakeServer() as server:
            error = await failure(world, server.request(world))
            print(error.message, error.hint, world.leftovers())

    world.run(scenario)


def test_outside_the_initial_network_namespace() -> None:
    """Checklist 1: the kernel takes no request there, and whoever asks learns why."""
    code = "from tests.lab.test_initiator_checklist import log_in_elsewhere; log_in_elsewhere()"
    command = ["unshare", "--net", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "initial network namespace" in done.stdout
    assert "--net=host" in done.stdout
    assert done.stdout.endswith(" []\n")  # nothing is left
