# SPDX-License-Identifier: Apache-2.0
"""Claims and UDP sockets on this machine's loopback; configuration, options, and what is shown."""

from __future__ import annotations

import errno
import select
import socket
from pathlib import Path as FilePath

import pytest

from rdmactl.errors import Unavailable
from rdmactl.iwpm import options
from rdmactl.iwpm.claims import ClaimKeeper
from rdmactl.iwpm.conf import MapperConfig, parse
from rdmactl.iwpm.events import Datagram, Door, Path, Unreachable
from rdmactl.iwpm.udp import UdpDoors
from rdmactl.iwpm.view import dump_lines, mapping_list
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake.mapper_bench import Bench, addr

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
DATA = FilePath(__file__).parents[2] / "data" / "iwpm"


# Claims.


def test_a_claim_takes_the_port_on_every_address_and_does_not_listen() -> None:
    keeper = ClaimKeeper()
    claim = keeper.lease().claim(V4, 0)
    assert claim is not None
    port = claim.port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))
    keeper.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_a_given_port_is_claimed_once() -> None:
    keeper = ClaimKeeper()
    lease = keeper.lease()
    claim = lease.claim(V4, 0)
    assert claim is not None
    port = claim.port
    assert lease.claim(V4, port) == claim
    assert keeper.held == 1
    lease.release(claim)
    lease.release(claim)
    assert keeper.held == 0
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        assert lease.claim(V4, port) is None
    assert lease.claim(V4, port) == claim
    keeper.close()


def test_a_new_lease_inherits_and_the_old_one_is_void() -> None:
    keeper = ClaimKeeper()
    old = keeper.lease()
    claim = old.claim(V4, 0)
    assert claim is not None
    new = keeper.lease()
    old.release(claim)
    assert old.claim(V4, 0) is None
    assert new.claim(*claim) == claim
    assert keeper.held == 1
    new.retain(set())
    assert keeper.held == 0


def test_no_descriptor_is_left_when_bind_fails() -> None:
    keeper = ClaimKeeper()
    lease = keeper.lease()
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        before = socket.socket().fileno()
        for _ in range(50):
            assert lease.claim(V4, taken.getsockname()[1]) is None
        assert abs(socket.socket().fileno() - before) <= 1


# UDP.


class Heard:
    """UDP sockets and what they heard."""

    def __init__(self) -> None:
        self.events: list[Datagram | Unreachable] = []
        self.doors = UdpDoors(self.events.append, port=0)
        self.doors.open()
        self.by_name = {sock.getsockname()[:2]: (sock, callback) for sock, callback in self.doors.sockets()}

    def server(self, family: int = V4) -> socket.socket:
        return next(s for p, s in self.doors._sockets.items() if (p.door, p.family) == (Door.SERVER, family))

    def wait(self) -> Datagram | Unreachable:
        while not self.events:
            readable, _, _ = select.select([sock for sock, _ in self.by_name.values()], [], [], 10)
            assert readable, "nothing came within 10 s"
            for sock, callback in self.by_name.values():
                if sock in readable:
                    callback()
        return self.events.pop(0)


def request(family: int = V4) -> bytes:
    """A REQUEST; only its first byte and its length matter here."""
    return bytes([4 if family == V4 else 6]) + bytes(63)


@pytest.mark.parametrize(("family", "host"), [(V4, "127.0.0.1"), (V6, "::1")])
def test_a_datagram_comes_with_its_path_and_the_answer_goes_back(family: int, host: str) -> None:
    heard = Heard()
    port = heard.server(family).getsockname()[1]
    with socket.socket(socket.AddressFamily(family), socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        peer.settimeout(10)
        peer.sendto(request(family), (host, port))
        event = heard.wait()
        assert isinstance(event, Datagram)
        assert event.data == request(family)
        assert event.path.door is Door.SERVER
        assert event.path.peer.port == peer.getsockname()[1]
        assert event.path.local == socket.inet_pton(family, host)
        heard.doors.send(b"answer", event.path)
        data, source = peer.recvfrom(100)
        assert (data, source[0], source[1]) == (b"answer", host, port)
    heard.doors.close()


def test_an_answer_leaves_with_the_address_that_was_used() -> None:
    """Not with the one the route prefers: 127.0.0.1 here."""
    heard = Heard()
    port = heard.server().getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(10)
        peer.sendto(request(), ("127.0.0.9", port))
        event = heard.wait()
        assert isinstance(event, Datagram)
        heard.doors.send(b"answer", event.path)
        assert peer.recvfrom(100)[1] == ("127.0.0.9", port)
    heard.doors.close()


@pytest.mark.parametrize(("family", "host"), [(V4, "127.0.0.1"), (V6, "::1")])
def test_nobody_listens(family: int, host: str) -> None:
    """ICMP port unreachable comes back with what was sent and where to."""
    heard = Heard()
    with socket.socket(socket.AddressFamily(family), socket.SOCK_DGRAM) as closed:
        closed.bind((host, 0))
        peer = SockAddr(family, closed.getsockname()[1], socket.inet_pton(family, host))
    heard.doors.send(b"question" * 8, Path(Door.CLIENT, peer))
    event = heard.wait()
    assert event == Unreachable(b"question" * 8, peer)
    heard.doors.close()


def test_an_error_of_one_does_not_stop_the_next() -> None:
    heard = Heard()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            gone = SockAddr(V4, closed.getsockname()[1], bytes([127, 0, 0, 1]))
        there = gone.with_port(peer.getsockname()[1])
        for _ in range(5):
            heard.doors.send(b"lost", Path(Door.CLIENT, gone))
            heard.doors.send(b"found", Path(Door.CLIENT, there))
        peer.settimeout(10)
        assert [peer.recv(10) for _ in range(5)] == [b"found"] * 5
    heard.doors.close()


def test_a_missing_family_is_unreachable() -> None:
    heard = Heard()
    next(s for p, s in heard.doors._sockets.items() if (p.door, p.family) == (Door.CLIENT, V6)).close()
    heard.doors._sockets = {p: s for p, s in heard.doors._sockets.items() if (p.door, p.family) != (Door.CLIENT, V6)}
    heard.doors.send(b"data", Path(Door.CLIENT, addr("[::1]:3935")))
    assert heard.events == [Unreachable(b"data", addr("[::1]:3935"))]
    heard.doors.close()


def test_one_family_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    doors = UdpDoors(lambda event: None, port=0)
    doors.open()
    assert len(list(doors.sockets())) == 2
    doors.close()


def test_a_taken_port_is_refused_by_name() -> None:
    first = Heard()
    port = first.server().getsockname()[1]
    with pytest.raises(Unavailable, match=f"UDP port {port} cannot be had") as caught:
        UdpDoors(lambda event: None, port=port).open()
    assert caught.value.hint
    first.doors.close()


@pytest.mark.parametrize(("family", "host"), [(V4, "127.0.0.1"), (V6, "::1")])
def test_the_kernel_drops_what_is_no_message(family: int, host: str) -> None:
    """All lengths and first bytes against both kinds of socket: what passes is what the parser may take."""
    heard = Heard()
    server = heard.server(family)
    client = next(s for p, s in heard.doors._sockets.items() if (p.door, p.family) == (Door.CLIENT, family))
    version = 4 if family == V4 else 6
    for sock, answers in ((server, 0), (client, 0x10)):
        port = sock.getsockname()[1]
        with socket.socket(socket.AddressFamily(family), socket.SOCK_DGRAM) as peer:
            before = heard.doors.dropped
            for length in (0, 1, 47, 49, 63, 65, 1400):
                peer.sendto(bytes([version | answers]) * length, (host, port))
            for first in range(256):
                peer.sendto(bytes([first]) + bytes(47), (host, port))
            passed = {heard_event.data[0] for heard_event in drain(heard, 8)}
            assert passed == {first for first in range(256) if first & 0x1F == version | answers}
            assert heard.doors.dropped - before == 7 + 256 - 8
    heard.doors.close()


def drain(heard: Heard, count: int) -> list[Datagram]:
    events = [heard.wait() for _ in range(count)]
    return [event for event in events if isinstance(event, Datagram)]


def test_who_is_not_admitted_is_not_heard() -> None:
    heard = Heard()
    heard.doors._admit = lambda source: source == "127.0.0.2"
    port = heard.server().getsockname()[1]
    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((host, 0))
            peer.sendto(request(), ("127.0.0.1", port))
    event = heard.wait()
    assert isinstance(event, Datagram)
    assert event.path.peer.address == bytes([127, 0, 0, 2])
    assert heard.events == []
    heard.doors.close()


def test_addresses_are_followed() -> None:
    """Loopback is always served; others come and go, and nobody else can have the port for all addresses."""
    watched: list[tuple[socket.socket, bool]] = []
    doors = UdpDoors(
        lambda event: None, port=free_port(), watch=lambda sock, readable: watched.append((sock, readable is not None))
    )
    doors.open(everywhere=False)
    port = doors.listening[0].port
    with pytest.raises(Unavailable):
        UdpDoors(lambda event: None, port=port).open()
    assert {str(address) for address in doors.listening} == {f"127.0.0.1:{port}", f"[::1]:{port}"}
    doors.listen_on([SockAddr(V4, 0, bytes([127, 0, 0, 9])), SockAddr(V4, 0, bytes([10, 255, 0, 1]))])
    assert len(doors.listening) == 4
    doors.listen_on([SockAddr(V4, 0, bytes([127, 0, 0, 9]))])
    assert f"127.0.0.9:{port}" in {str(address) for address in doors.listening}
    doors.listen_on(None)
    assert {str(address) for address in doors.listening} == {f"0.0.0.0:{port}", f"[::]:{port}"}
    doors.listen_on([])
    assert len(doors.listening) == 2
    doors.close()
    assert sum(opened for _, opened in watched) == len(watched) / 2


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        port: int = probe.getsockname()[1]
        return port


# Configuration and options.


@pytest.mark.parametrize(
    ("text", "value", "notes"),
    [
        ("", None, []),
        ("# comment\n\nnl_sock_rbuf_size=419430400\n", 419430400, ["nl_sock_rbuf_size = 419430400"]),
        ("nl_sock_rbuf_size  ==  5 \n", 5, ["nl_sock_rbuf_size = 5"]),
        ("nl_sock_rbuf_size=0\n", None, []),
        ("nl_sock_rbuf_size=-4\n", None, []),
        ("nl_sock_rbuf_size\n", None, ["line not understood"]),
        (" # no comment\n", None, ["line not understood"]),
        ("nl_sock_rbuf_size=4k\n", None, ["line not understood"]),
        ("other=4\n", None, ["unknown parameter 'other'"]),
        ("x" * 130 + "=4\n", None, ["line not understood", "unknown parameter 'xxx'"]),
    ],
)
def test_configuration(text: str, value: int | None, notes: list[str]) -> None:
    config, said = parse(text)
    assert config == MapperConfig(value)
    assert len(said) == len(notes)
    assert all(note in line for note, line in zip(notes, said, strict=True))


@pytest.mark.parametrize(
    ("words", "systemd", "complaints"),
    [
        ([], False, ()),
        (["-s"], True, ()),
        (["--systemd"], True, ()),
        (["--sys"], True, ()),
        (["-f", "word"], False, ()),
        (["-fs"], True, ()),
        (["-x"], False, ("iwpmd: invalid option -- 'x'",)),
        (["--nonsense", "-s"], True, ("iwpmd: unrecognized option '--nonsense'",)),
        (["--systemd=1"], False, ("iwpmd: option '--systemd' doesn't allow an argument",)),
        (["--", "-s"], False, ()),
    ],
)
def test_options(words: list[str], systemd: bool, complaints: tuple[str, ...]) -> None:
    assert options.parse(words) == options.Options(systemd, complaints)


# What is shown.


def test_dump_as_recorded() -> None:
    """SIGUSR1 of rdma-core's iwpmd with three listeners, without priority, time and process."""
    lines = (DATA / "sigusr1-syslog.txt").read_text().splitlines()
    expected = [line.split("iwpmd[208]: ")[1] for line in lines if "[208]" in line]
    assert len(expected) == 11
    bench = Bench.started()
    bench.claims.next_ports = [54413, 34325, 46495]
    for local in ("10.9.0.1:7174", "[fd09::1]:7175", "0.0.0.0:7176"):
        bench.add(local)
    assert dump_lines(bench.mapper.table) == expected


def test_dump_of_nothing() -> None:
    assert dump_lines(Bench.started().mapper.table) == [
        "iwpm_signal_handler: Received SIGUSR1 signal",
        "print_iwpm_mapped_ports:",
    ]


def test_list() -> None:
    bench = Bench.started()
    bench.add("10.7.0.1:8000")
    bench.add("10.7.0.1:8001", flags=1)
    bench.query("10.7.0.1:5001", "10.7.0.2:7174")
    bench.sleep(3)
    first, second, third = mapping_list(bench.mapper.table, bench.now)
    assert (first.kind, first.port_mapped, first.claimed, first.references) == ("listener", True, True, 1)
    assert (second.mapped, second.port_mapped, second.claimed) == (addr("10.7.0.1:8001"), False, False)
    assert (third.kind, third.age_s) == ("connection", 3.0)
