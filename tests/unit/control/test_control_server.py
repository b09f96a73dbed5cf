# SPDX-License-Identifier: Apache-2.0
"""The control server over real sockets, with services that are played: calls, errors, deadlines, and bad clients."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rdmactl.control import interfaces, server
from rdmactl.control.client import Client, RemoteError
from rdmactl.control.port_mapper import MAPPINGS_EACH
from rdmactl.control.roles import RoleLock, claim_role
from rdmactl.control.server import ControlServer
from rdmactl.errors import DeadlineExceeded, LocalError
from rdmactl.initiator.api import DiscoveredTarget, DiscoveryAnswer, DiscoveryRequest, LoginRequest, SessionStatus
from rdmactl.initiator.claims import Claims
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.portal import Portal
from rdmactl.iwpm.service import PortMapperStatus
from rdmactl.iwpm.table import Claim, Kind, Mapping
from rdmactl.iwpm.view import Snapshot
from rdmactl.netlink.counters import Counters
from rdmactl.netlink.iscsi_stats import Statistics
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr
from rdmactl.netlink.supervisor import LaneState, LaneStatus

pytestmark = pytest.mark.fake

ME = os.getuid()
SHARED = 9  # a session that others claim as well
RECORD = {
    "node.name": "iqn.2003-01.org.example:disk1",
    "node.conn[0].address": "192.0.2.10",
    "node.conn[0].port": "3260",
}
DISCOVERY = {"discovery.sendtargets.address": "192.0.2.1"}


class FakeInitiator:
    """Answers by target name: "...:refused" fails, "...:broken" has a bug, "...:slow" never ends."""

    def __init__(self) -> None:
        self.logins: list[LoginRequest] = []
        self.discoveries: list[DiscoveryRequest] = []
        self.logouts: list[tuple[int, str, bool, bool]] = []
        self.claims: list[str] = []
        self.arrived = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def discover(self, request: DiscoveryRequest) -> DiscoveryAnswer:
        self.discoveries.append(request)
        portals = (Portal("fd00::1", 3260), 1), (Portal("192.0.2.1", 3261), -1)
        return DiscoveryAnswer((DiscoveredTarget("iqn.a", portals),), 1, ("one entry has no name; left out",))

    async def login(self, request: LoginRequest, claim: str) -> int:
        self.logins.append(request)
        self.claims.append(claim)
        self.arrived.release()
        if request.target.endswith(":refused"):
            raise IscsiFailure(IscsiErr.TRANS_TIMEOUT, f"{request} refuses the connection", hint="look at the target")
        if request.target.endswith(":broken"):
            raise ZeroDivisionError("secret detail")
        if request.target.endswith(":slow"):
            await self.go_on.wait()
        return 40 + len(self.logins)

    async def logout(self, sid: int, claim: str, *, everybody: bool, safe: bool) -> Claims:
        self.logouts.append((sid, claim, everybody, safe))
        return ("boot", "csi") if sid == SHARED else ()

    async def claim(self, sid: int, claim: str) -> Claims:
        return ("boot", claim)

    def status(self) -> list[SessionStatus]:
        return [SessionStatus(3, "iqn.a", Portal("fd00::1"), "iser", ("boot",), "logged in", 0, 1, "cut")]

    async def statistics(self, sid: int) -> Statistics:
        return Statistics((("txdata_octets", sid), ("rxdata_octets", -1)), (("eh_abort_cnt", 1 << 62),))


class FakePortMapper:
    async def snapshot(self) -> Snapshot:
        local = SockAddr(AF_INET, 4711, bytes([192, 0, 2, 1]))
        mapped = SockAddr(AF_INET6, 50000, bytes(15) + b"\1")
        mapping = Mapping(local, mapped, Kind.LISTENER, Claim(AF_INET6, 50000), 10.0)
        return Snapshot([mapping] * (2 * MAPPINGS_EACH + 1), 11.5)

    async def status(self) -> PortMapperStatus:
        return PortMapperStatus("serving", True, 4, 1, 1, 0, 0, {"requests": 3}, [(0.001, 2), (None, 1)])

    async def dump(self) -> list[str]:
        return ["print_iwpm_mapped_ports:"]


class FakeDispatcher:
    """Calls the services on the same loop, with the deadline the dispatcher would keep."""

    def __init__(self) -> None:
        self.initiator = FakeInitiator()
        self.services = {"initiator": self.initiator, "iwpm": FakePortMapper()}

    async def call(self, name: str, function: Callable[[Any], Awaitable[Any]], *, deadline_s: float) -> Any:
        try:
            async with asyncio.timeout(deadline_s):
                return await function(self.services[name])
        except TimeoutError:
            raise DeadlineExceeded(f"the initiator did not answer within {deadline_s:g} s") from None

    def status(self) -> list[LaneStatus]:
        return [LaneStatus("initiator", LaneState.SERVING, True, 3.5, 1, 0, 0, "it raised", Counters(messages=7))]


@contextmanager
def roles(directory: Path, *names: str) -> Iterator[list[RoleLock]]:
    proc = directory / "proc"
    (proc / "net").mkdir(parents=True, exist_ok=True)
    locks = [claim_role(name, directory=str(directory), proc=str(proc)) for name in names]
    yield locks
    for lock in locks:
        lock.release()


def serve(
    directory: Path,
    scenario: Callable[[FakeDispatcher], Awaitable[None]],
    *,
    admins: tuple[int, ...] = (0, ME),
    silence_s: float = 60.0,
) -> None:
    """Run a scenario with a server of the initiator's role around it."""

    async def run() -> None:
        dispatcher = FakeDispatcher()
        with roles(directory, "initiator") as locks:
            control = ControlServer(dispatcher, locks, initiator_name="iqn.host", admins=admins, silence_s=silence_s)
            await control.start()
            try:
                await scenario(dispatcher)
            finally:
                await control.stop()

    asyncio.run(run())


async def ask(directory: Path, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    def call() -> dict[str, Any]:
        with Client("initiator", deadline_s=10, directory=str(directory)) as client:
            return client.call(method, parameters)

    return await asyncio.to_thread(call)


async def ask_more(directory: Path, method: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    def call() -> list[dict[str, Any]]:
        with Client("initiator", deadline_s=10, directory=str(directory)) as client:
            return [reply["outcome"] for reply in client.more(method, parameters)]

    return await asyncio.to_thread(call)


async def raw(directory: Path, *data: bytes, half_close: bool = True) -> bytes:
    """Send bytes as they are; what comes back until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(directory / "initiator.sock"), limit=1 << 26)
    try:
        for piece in data:
            writer.write(piece)
            await writer.drain()
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    except (ConnectionResetError, BrokenPipeError):
        return b""
    finally:
        writer.close()


async def still_serves(directory: Path) -> None:
    assert (await ask(directory, "io.rdmactl.Daemon.Status"))["pid"] == os.getpid()


def test_the_socket_is_for_everybody_and_goes_away_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "initiator.sock"

    async def scenario(_: FakeDispatcher) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666

    serve(tmp_path, scenario)
    assert not path.exists()


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "initiator.sock"))
    serve(tmp_path, lambda _: still_serves(tmp_path))


def test_a_role_that_is_not_held_is_not_served(tmp_path: Path) -> None:
    with roles(tmp_path, "initiator") as locks:
        pass
    with pytest.raises(LocalError, match="must be held"):
        ControlServer(FakeDispatcher(), locks)


def test_status(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        status = await ask(tmp_path, "io.rdmactl.Daemon.Status")
        assert status["roles"] == ["initiator"]
        lane = status["lanes"][0]
        assert (lane["name"], lane["state"], lane["restarts"]) == ("initiator", "serving", 1)
        assert lane["counters"]["messages"] == 7

    serve(tmp_path, scenario, admins=())


def test_the_interfaces_describe_themselves(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        info = await ask(tmp_path, "org.varlink.service.GetInfo")
        ours = ["io.rdmactl.Daemon", "io.rdmactl.Discovery", "io.rdmactl.Initiator"]
        assert info["interfaces"] == [*ours, "org.varlink.service"]
        described = await ask(
            tmp_path, "org.varlink.service.GetInterfaceDescription", {"interface": "io.rdmactl.Initiator"}
        )
        assert "method Login(records: [][string]string" in described["description"]

    serve(tmp_path, scenario)


def test_discover(tmp_path: Path) -> None:
    async def scenario(dispatcher: FakeDispatcher) -> None:
        answer = await ask(tmp_path, "io.rdmactl.Initiator.Discover", {"record": DISCOVERY, "deadline_s": 5})
        assert answer["targets"] == [{"name": "iqn.a", "addresses": ["[fd00::1]:3260,1", "192.0.2.1:3261"]}]
        assert (answer["skipped"], answer["warnings"]) == (1, ["one entry has no name; left out"])
        request = dispatcher.initiator.discoveries[0]
        assert (request.portal, request.initiator_name) == (Portal("192.0.2.1", 3260), "iqn.host")

    serve(tmp_path, scenario)


def test_login_streams_an_outcome_for_each_record(tmp_path: Path) -> None:
    names = ["iqn.x:ok", "iqn.x:refused", "iqn.x:broken"]

    async def scenario(_: FakeDispatcher) -> None:
        records = [RECORD | {"node.name": name} for name in names]
        outcomes = await ask_more(tmp_path, "io.rdmactl.Initiator.Login", {"records": records, "deadline_s": 5})
        good, refused, broken = sorted(outcomes, key=lambda outcome: outcome["index"])
        assert (good["sid"], good["failure"]) == (41, None)
        assert refused["failure"] == {
            "code": "iscsi",
            "message": "iqn.x:refused at 192.0.2.10:3260 refuses the connection",
            "hint": "look at the target",
            "err": 8,
        }
        assert (broken["failure"]["code"], broken["failure"]["err"]) == ("internal", None)
        assert "secret detail" not in json.dumps(outcomes)

    serve(tmp_path, scenario)


def test_a_secret_is_in_no_log_and_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "suite-secret-4711"
    key = "node.session.auth.password"

    async def scenario(dispatcher: FakeDispatcher) -> None:
        records = [RECORD | {"node.name": f"iqn.x:{name}", key: secret} for name in ("ok", "refused", "broken")]
        outcomes = await ask_more(tmp_path, "io.rdmactl.Initiator.Login", {"records": records, "deadline_s": 5})
        assert secret not in json.dumps(outcomes)
        assert {request.settings.chap.password for request in dispatcher.initiator.logins} == {secret}
        for bad in ({"node.startup": secret}, {key: f"{secret}\nx"}, {"node.conn[0].port": secret}):
            with pytest.raises(RemoteError) as raised:
                await ask_more(
                    tmp_path, "io.rdmactl.Initiator.Login", {"records": [RECORD | {key: secret} | bad], "deadline_s": 5}
                )
            assert secret not in f"{raised.value} {raised.value.hint}"

    with caplog.at_level(logging.DEBUG):
        serve(tmp_path, scenario)
    assert "a control call failed unexpectedly" in caplog.text
    assert secret not in caplog.text


def test_logout(tmp_path: Path) -> None:
    async def scenario(dispatcher: FakeDispatcher) -> None:
        outcomes = await ask_more(tmp_path, "io.rdmactl.Initiator.Logout", {"sids": [3, 4], "deadline_s": 5})
        assert sorted(outcome["sid"] for outcome in outcomes) == [3, 4]
        assert dispatcher.initiator.logouts == [(sid, "administrator", False, False) for sid in (3, 4)]

    serve(tmp_path, scenario)


def test_claims(tmp_path: Path) -> None:
    """In whose name; and who is left."""

    async def scenario(dispatcher: FakeDispatcher) -> None:
        where = "io.rdmactl.Initiator"
        await ask_more(tmp_path, f"{where}.Login", {"records": [RECORD], "deadline_s": 5, "claim": "csi"})
        await ask_more(tmp_path, f"{where}.Login", {"records": [RECORD], "deadline_s": 5})
        assert dispatcher.initiator.claims == ["csi", "administrator"]
        assert await ask_more(tmp_path, f"{where}.Claim", {"sids": [3], "claim": "csi"}) == [
            {"index": 0, "sid": 3, "failure": None, "claims": ["boot", "csi"]}
        ]
        words = {"sids": [SHARED], "deadline_s": 5, "claim": "csi", "everybody": True, "safe": True}
        (outcome,) = await ask_more(tmp_path, f"{where}.Logout", words)
        assert outcome["claims"] == ["boot", "csi"]
        assert dispatcher.initiator.logouts == [(SHARED, "csi", True, True)]
        (session,) = (await ask(tmp_path, f"{where}.Sessions", {}))["sessions"]
        assert (session["sid"], session["address"], session["claims"]) == (3, "fd00::1", ["boot"])

    serve(tmp_path, scenario)


def test_safe_logout_is_read_for_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMACTL_CONFIG_DIRECTORY", str(tmp_path))

    async def scenario(dispatcher: FakeDispatcher) -> None:
        for setting in ("Yes", "No"):
            (tmp_path / "iscsid.conf").write_text(f"iscsid.safe_logout = {setting}\n")
            await ask_more(tmp_path, "io.rdmactl.Initiator.Logout", {"sids": [3], "deadline_s": 5})
        assert dispatcher.initiator.logouts == [(3, "administrator", False, safe) for safe in (True, False)]

    serve(tmp_path, scenario)


def test_statistics(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        answer = await ask(tmp_path, "io.rdmactl.Initiator.Statistics", {"sid": 3, "deadline_s": 5})
        assert answer == {
            "fixed": [{"name": "txdata_octets", "value": 3}, {"name": "rxdata_octets", "value": -1}],
            "named": [{"name": "eh_abort_cnt", "value": 1 << 62}],
        }

    serve(tmp_path, scenario)


def test_without_waiting_there_is_one_outcome_at_once(tmp_path: Path) -> None:
    async def scenario(dispatcher: FakeDispatcher) -> None:
        parameters = {"records": [RECORD | {"node.name": "iqn.x:slow"}, RECORD], "deadline_s": 5, "wait": False}
        assert await ask_more(tmp_path, "io.rdmactl.Initiator.Login", parameters) == [
            {"index": 0, "sid": None, "failure": None, "claims": []}
        ]
        async with asyncio.timeout(5):
            await dispatcher.initiator.arrived.acquire()
            await dispatcher.initiator.arrived.acquire()

    serve(tmp_path, scenario)


def test_the_port_mapper_is_for_everybody(tmp_path: Path) -> None:
    async def run() -> None:
        with roles(tmp_path, "iwpm") as locks:
            control = ControlServer(FakeDispatcher(), locks, admins=())
            await control.start()
            try:
                await asyncio.to_thread(ask_all)
            finally:
                await control.stop()

    def ask_all() -> None:
        with Client("iwpm", deadline_s=10, directory=str(tmp_path)) as client:
            parts = [part["mappings"] for part in client.more("io.rdmactl.PortMapper.List", deadline_each=True)]
            assert [len(part) for part in parts] == [MAPPINGS_EACH, MAPPINGS_EACH, 1]
            mapping = parts[2][0]
            assert (mapping["local"], mapping["mapped"]) == ("192.0.2.1:4711", "[::1]:50000")
            assert (mapping["kind"], mapping["references"], mapping["age_s"]) == ("listener", 1, 1.5)
            status = client.call("io.rdmactl.PortMapper.Status")
            assert status["answer_times"][1] == {"within_s": None, "answers": 1}
            assert client.call("io.rdmactl.PortMapper.Dump")["lines"] == ["print_iwpm_mapped_ports:"]

    asyncio.run(run())


def test_only_root_changes_anything(tmp_path: Path) -> None:
    async def scenario(dispatcher: FakeDispatcher) -> None:
        with pytest.raises(RemoteError) as raised:
            await ask(tmp_path, "io.rdmactl.Initiator.Discover", {"record": DISCOVERY, "deadline_s": 5})
        assert raised.value.code == "access-denied"
        assert f"uid {ME}" in raised.value.message
        assert dispatcher.initiator.discoveries == []
        await still_serves(tmp_path)

    serve(tmp_path, scenario, admins=())


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"record": DISCOVERY, "deadline_s": 0}, "invalid"),
        ({"record": DISCOVERY, "deadline_s": 1e9}, "invalid"),
        ({"record": {}, "deadline_s": 5}, "invalid"),
        ({"record": DISCOVERY}, "protocol"),
        ({"record": 7, "deadline_s": 5}, "protocol"),
    ],
)
def test_bad_parameters_are_an_error_of_the_call(tmp_path: Path, parameters: dict[str, Any], code: str) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        with pytest.raises(RemoteError) as raised:
            await ask(tmp_path, "io.rdmactl.Initiator.Discover", parameters)
        assert raised.value.code == code

    serve(tmp_path, scenario)


def test_the_deadline_of_the_call_is_kept(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        parameters = {"records": [RECORD | {"node.name": "iqn.x:slow"}], "deadline_s": 0.05}
        [outcome] = await ask_more(tmp_path, "io.rdmactl.Initiator.Login", parameters)
        assert outcome["failure"]["code"] == "deadline"

    serve(tmp_path, scenario)


def test_a_client_that_goes_away_does_not_stop_its_login(tmp_path: Path) -> None:
    async def scenario(dispatcher: FakeDispatcher) -> None:
        call = {
            "method": "io.rdmactl.Initiator.Login",
            "parameters": {"records": [RECORD | {"node.name": "iqn.x:slow"}, RECORD], "deadline_s": 5},
            "more": True,
        }
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "initiator.sock"))
        writer.write(json.dumps(call).encode() + b"\0")
        await writer.drain()
        async with asyncio.timeout(5):
            await dispatcher.initiator.arrived.acquire()
            await dispatcher.initiator.arrived.acquire()
        writer.transport.abort()
        dispatcher.initiator.go_on.set()
        await still_serves(tmp_path)

    serve(tmp_path, scenario)


def test_stopping_ends_running_calls_with_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        dispatcher = FakeDispatcher()
        with roles(tmp_path, "initiator") as locks:
            control = ControlServer(dispatcher, locks, initiator_name="iqn.host", admins=(0, ME))
            await control.start()
            parameters = {"records": [RECORD | {"node.name": "iqn.x:slow"}], "deadline_s": 30}
            waiting = asyncio.create_task(ask_more(tmp_path, "io.rdmactl.Initiator.Login", parameters))
            async with asyncio.timeout(5):
                await dispatcher.initiator.arrived.acquire()
            await control.stop()
            with pytest.raises(RemoteError) as raised:
                await waiting
            assert raised.value.code == "stopping"

    asyncio.run(run())


def test_calls_that_wait_are_not_begun_when_the_server_stops(tmp_path: Path) -> None:
    """A client may send several calls at once; each is answered, none is left behind half-made."""
    call = {
        "method": "io.rdmactl.Initiator.Login",
        "parameters": {"records": [RECORD | {"node.name": "iqn.x:slow"}], "deadline_s": 30},
        "more": True,
    }

    async def run() -> None:
        dispatcher = FakeDispatcher()
        with roles(tmp_path, "initiator") as locks:
            control = ControlServer(dispatcher, locks, initiator_name="iqn.host", admins=(0, ME))
            await control.start()
            answers = asyncio.create_task(raw(tmp_path, (json.dumps(call).encode() + b"\0") * 8, half_close=False))
            async with asyncio.timeout(5):
                await dispatcher.initiator.arrived.acquire()
            await control.stop()
            codes = [json.loads(each)["parameters"]["code"] for each in (await answers).split(b"\0")[:-1]]
            assert codes == ["stopping"] * 8
        assert len(dispatcher.initiator.logins) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n\0",
        b"\0",
        b"[]\0",
        b"\xff\xfe\0",
        b'{"method": 3}\0',
        b'{"method": "nodots"}\0',
        b'{"method": "io.rdmactl.Nobody.Status"}\0',
        b'{"method": "io.rdmactl.Daemon.Nothing"}\0',
        b'{"method": "io.rdmactl.Daemon.__init__"}\0',
        b'{"method": "io.rdmactl.Initiator.Login", "parameters": {"records": [], "deadline_s": 1}, "more": true}\0',
        b'{"method": "io.rdmactl.Initiator.Login", "parameters": {"records": [], "deadline_s": 1}}\0',
        b'{"method": "io.rdmactl.Daemon.Status", "oneway": true}\0',
        b"[" * 100_000 + b"\0",
        b'{"method": "io.rdmactl.Daem',
    ],
)
def test_garbage_disturbs_nobody(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        answer = await raw(tmp_path, data)
        assert b"Traceback" not in answer
        await still_serves(tmp_path)

    with caplog.at_level(logging.ERROR):
        serve(tmp_path, scenario)
    assert [record for record in caplog.records if record.exc_info] == []


def test_ten_megabytes_disturb_nobody(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        assert await raw(tmp_path, b"x" * 10_000_000) == b""
        await still_serves(tmp_path)

    serve(tmp_path, scenario, admins=())


def test_a_client_that_does_not_wait_for_answers_is_disconnected(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        await raw(tmp_path, b'{"method":"io.rdmactl.Daemon.Status"}\0' * 100_000, half_close=False)
        await still_serves(tmp_path)

    serve(tmp_path, scenario)


def test_silence_ends_a_connection(tmp_path: Path) -> None:
    async def scenario(_: FakeDispatcher) -> None:
        assert await raw(tmp_path, b"", half_close=False) == b""

    serve(tmp_path, scenario, silence_s=0.01)


def test_one_user_cannot_take_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_USER", 2)

    async def scenario(_: FakeDispatcher) -> None:
        held = [await asyncio.open_unix_connection(str(tmp_path / "initiator.sock")) for _ in range(2)]
        assert await raw(tmp_path, b"", half_close=False) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while True:
                try:
                    await still_serves(tmp_path)
                    return
                except Exception:
                    await asyncio.sleep(0)

    serve(tmp_path, scenario, admins=())


def test_a_deadline_of_the_servers_own_is_reported_as_one() -> None:
    assert interfaces.failure(TimeoutError())["code"] == "deadline"


def test_a_socket_has_its_name_when_somebody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over the file that a killed daemon has left."""
    path, named = tmp_path / "iwpm.sock", []
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    replace = Path.replace

    def rename(nascent: Path, target: Path) -> Path:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(nascent))  # refused when nobody listens
        named.append(target)
        return replace(nascent, target)

    monkeypatch.setattr(Path, "replace", rename)

    async def run() -> None:
        with roles(tmp_path, "iwpm") as locks:
            control = ControlServer(FakeDispatcher(), locks, admins=())
            await control.start()
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            await control.stop()

    asyncio.run(run())
    assert named == [path]
    assert not path.exists()
