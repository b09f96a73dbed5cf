# SPDX-License-Identifier: Apache-2.0
"""What outlives the daemon: the journal, systemd's descriptor store, the keeper process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.iwpm import keeper, spares
from rdmactl.iwpm.claims import ClaimKeeper, ClaimLease
from rdmactl.iwpm.journal import MappingJournal, pack, unpack
from rdmactl.iwpm.keeper import Keeper
from rdmactl.iwpm.spares import BATCH, GROUP, STOCK
from rdmactl.iwpm.table import Claim, Kind, MappingState, MappingTable
from rdmactl.iwpm.vault import KEEPER_SOCKET, KeeperVault, SystemdVault, Vaults
from rdmactl.netlink.sockaddr import AF_INET, AF_INET6, SockAddr
from tests.fake.mapper_bench import FakeClaims, addr

V4 = int(socket.AF_INET)


# The journal.

addresses = st.one_of(
    st.builds(SockAddr, st.just(AF_INET), st.integers(0, 65535), st.binary(min_size=4, max_size=4), st.just(0)),
    st.builds(
        SockAddr, st.just(AF_INET6), st.integers(0, 65535), st.binary(min_size=16, max_size=16), st.integers(0, 99)
    ),
)


@st.composite
def mapping_states(draw: st.DrawFn) -> MappingState:
    local = draw(addresses)
    mapped = local.with_port(draw(st.integers(0, 65535)))
    refs = draw(st.integers(1, 2**32 - 1))
    return MappingState(local, mapped, draw(st.sampled_from(Kind)), refs, draw(st.integers(0, 9)), draw(st.booleans()))


@given(st.lists(mapping_states(), unique_by=lambda state: state.local[:3]))
def test_unpack_is_the_inverse_of_pack(states: list[MappingState]) -> None:
    assert unpack(b"iwpm journal 1\n\0" + pack(states)) == states


@given(st.binary())
def test_any_content_is_read(content: bytes) -> None:
    unpack(content)
    unpack(b"iwpm journal 1\n\0" + content)


def state(local: str, port: int = 40000, refs: int = 1, refused: int = 0) -> MappingState:
    return MappingState(addr(local), addr(local).with_port(port), Kind.LISTENER, refs, refused, True)


def test_the_last_record_of_an_address_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = MappingJournal(path)
    assert journal.read() == []
    journal.rewrite([state("10.9.0.1:1"), state("10.9.0.1:2")])
    journal.append([state("10.9.0.1:2", refs=3)])
    journal.append([state("10.9.0.1:1", refs=0), state("10.9.0.1:3", refs=0, refused=1)])
    expected = [state("10.9.0.1:2", refs=3), state("10.9.0.1:3", refs=0, refused=1)]
    assert MappingJournal(path).read() == expected
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_torn_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = MappingJournal(str(path))
    journal.rewrite([state("10.9.0.1:1")])
    whole = len(path.read_bytes())
    journal.append([state("10.9.0.1:2")])
    content = path.read_bytes()
    for length in range(len(content)):
        expected = [state("10.9.0.1:1")] if length >= whole else []
        assert unpack(content[:length]) == expected


def test_a_journal_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = MappingJournal(str(tmp_path / "missing" / "journal"))
    for _ in range(3):
        assert journal.wants_rewrite(0)
        journal.rewrite([])
        journal.append([state("10.9.0.1:1")])
    assert len(caplog.records) == 1


def test_a_long_journal_is_written_anew(tmp_path: Path) -> None:
    journal = MappingJournal(str(tmp_path / "journal"))
    journal.rewrite([])
    assert not journal.wants_rewrite(0)
    for _ in range(5000):
        journal.append([state("10.9.0.1:1")])
    assert journal.wants_rewrite(1)
    journal.rewrite([state("10.9.0.1:1")])
    assert not journal.wants_rewrite(1)
    assert (tmp_path / "journal").stat().st_size < 100


def test_a_table_is_loaded_as_it_was_recorded() -> None:
    claims = FakeClaims()
    table = MappingTable(claims)
    table.add_listener(addr("10.9.0.1:7174"), True, 0)
    table.add_listener(addr("10.9.0.1:7174"), True, 0)  # refused
    table.add_listener(addr("0.0.0.0:7175"), True, 0)
    table.add_listener(addr("0.0.0.0:7175"), True, 0)
    table.add_connection(addr("[fd09::1]:5001"), False, 0)
    table.add_listener(addr("10.9.0.1:7176"), True, 0)
    table.remove(addr("10.9.0.1:7176"))
    recorded = unpack(b"iwpm journal 1\n\0" + pack(table.take_changes()))
    again = MappingTable(FakeClaims())
    again.load(recorded, 5)
    assert again.states() == table.states()
    assert again.claims_held == table.claims_held
    assert [mapping.refs for mapping in again] == [1, 2, 1]
    assert again.refused(addr("10.9.0.1:7174")) == 1
    assert again.take_changes() == []


# The keeper.


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Keeper]:
    """A keeper in a thread, at the place where a vault looks for it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / KEEPER_SOCKET))
    listener.listen()
    instance = Keeper(listener, idle_s=0.05)
    thread = threading.Thread(target=instance.run)
    thread.start()
    yield instance
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / KEEPER_SOCKET))
        client.send(keeper.QUIT)
        thread.join(10)
    assert not thread.is_alive()
    listener.close()
    for descriptor in instance.held.values():
        os.close(descriptor)


def claimed(family: int = V4) -> tuple[Claim, int]:
    sock = socket.socket(family)
    sock.bind(("0.0.0.0" if family == V4 else "::", 0))
    return Claim(family, sock.getsockname()[1]), sock.detach()


def is_free(claim: Claim) -> bool:
    with socket.socket(claim.family) as probe:
        try:
            probe.bind(("0.0.0.0" if claim.family == V4 else "::", claim.port))
        except OSError:
            return False
    return True


def eventually(condition: Callable[[], bool]) -> bool:
    """The keeper is another thread: it needs a moment."""
    for _ in range(10_000):
        if condition():
            return True
        threading.Event().wait(0.001)
    return False


def test_a_kept_port_outlives_its_owner(running: Keeper, tmp_path: Path) -> None:
    vault = KeeperVault(str(tmp_path), spawn=False)
    assert vault.adopt() == {}
    claims = dict(claimed() for _ in range(3 * keeper.BATCH))
    assert vault.keep(claims) == {}
    for descriptor in claims.values():
        os.close(descriptor)
    assert not any(map(is_free, claims))
    successor = KeeperVault(str(tmp_path), spawn=False)
    adopted = successor.adopt()
    assert adopted.keys() == claims.keys()
    assert not any(os.get_inheritable(descriptor) for descriptor in adopted.values())
    first, *others = claims
    assert successor.drop([first]) == []
    for descriptor in adopted.values():
        os.close(descriptor)
    assert eventually(lambda: is_free(first))
    assert not any(map(is_free, others))
    assert successor.drop(others) == []
    assert eventually(lambda: not running.held)


def test_nonsense_does_not_end_the_keeper(running: Keeper, tmp_path: Path) -> None:
    claim, descriptor = claimed()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / KEEPER_SOCKET))
        for data in (b"x", b"K", b"K123", b"Kabcd", b"D1", b"L" * 300, b"K" * 1000):
            client.send(data)
        socket.send_fds(client, [b"Kabcdabcd"], [descriptor])
        socket.send_fds(client, [b"D"], [descriptor] * 5)
        client.send(keeper.LIST)
        while client.recv(1000) != keeper.END:
            pass
    os.close(descriptor)
    assert running.held == {}
    assert is_free(claim)


def mended(lease: ClaimLease, path: str) -> bool:
    lease.tidy(MappingTable(lease))
    return Path(path).exists()


def test_a_keeper_process_is_started_and_ends_when_told(tmp_path: Path) -> None:
    """Killed, it is replaced, and what was in it is kept again."""
    vaults = Vaults([KeeperVault(str(tmp_path), spawn=True)])
    assert vaults.adopt() == {}
    owner = ClaimKeeper(vaults)
    lease = owner.lease()
    lease.prepare()
    claim = lease.claim(V4, 0)
    assert claim is not None
    path = str(tmp_path / KEEPER_SOCKET)
    for again in (True, False):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(path)
            client.send(keeper.LIST)
            data, descriptors, _, _ = socket.recv_fds(client, 1000, 100)
            names = {data[at : at + keeper.NAME_BYTES] for at in range(1, len(data), keeper.NAME_BYTES)}
            assert len(names) == len(descriptors) == STOCK
            assert name_of(claim) in names
            for descriptor in descriptors:
                os.close(descriptor)
            assert client.recv(100) == keeper.END
            client.send(keeper.QUIT)
            assert client.recv(100) == b""
        if again:
            assert eventually(lambda: not Path(path).exists())
            assert eventually(lambda: mended(lease, path))
    owner.close()
    assert eventually(lambda: is_free(claim))


def test_spares_are_safe_before_they_are_handed_out(running: Keeper, tmp_path: Path) -> None:
    owner = ClaimKeeper(Vaults([KeeperVault(str(tmp_path), spawn=False)]))
    lease = owner.lease()
    lease.prepare()
    assert eventually(lambda: len(running.held) == STOCK)
    for _ in range(3 * STOCK):
        claim = lease.claim(V4, 0)
        assert claim is not None
        assert eventually(lambda: name_of(claim) in running.held)  # noqa: B023
        lease.refill()
    assert owner.held == 3 * STOCK
    spare = next(iter(running.held.keys() - {name_of(claim) for claim in owner._sockets}))
    number = int.from_bytes(spare[2:], "big")
    assert lease.claim(V4, number) == Claim(V4, number)
    lease.give_back_spares()
    assert eventually(lambda: len(running.held) == 3 * STOCK + 1)
    owner.close()
    assert eventually(lambda: not running.held)


def name_of(claim: Claim) -> bytes:
    return claim.family.to_bytes(2, "big") + claim.port.to_bytes(2, "big")


def test_the_stock_is_refilled_a_few_at_a_time_and_handed_over_many_at_once() -> None:
    """The kernel waits behind each answer for what is done there; each datagram wakes whoever keeps the ports."""
    kept: list[int] = []

    class Counting:
        def adopt(self) -> dict[Claim, int]:
            return {}

        def keep(self, claims: Mapping[Claim, int]) -> dict[Claim, int]:
            kept.append(len(claims))
            return {}

        def drop(self, claims: Iterable[Claim]) -> list[Claim]:
            return []

    owner = ClaimKeeper(Vaults([Counting()]))
    lease = owner.lease()
    lease.prepare()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5 * STOCK):
        assert lease.claim(V4, 0)
        lease.refill()
        assert len(os.listdir("/proc/self/fd")) - before <= owner.held  # the stock does not grow
    assert min(kept) >= BATCH
    owner.close()


def test_a_dead_owner_is_succeeded(running: Keeper, tmp_path: Path) -> None:
    """Table, references and ports come back from journal and vault, without asking the kernel."""
    journal = str(tmp_path / "journal")
    first = ClaimKeeper(Vaults([KeeperVault(str(tmp_path), spawn=False)]), MappingJournal(journal))
    lease = first.lease()
    table = MappingTable(lease)
    lease.rewrite(table)
    for number in range(300):
        table.add_listener(addr(f"10.9.0.1:{5000 + number}"), True, 0)
    table.add_listener(addr("0.0.0.0:7174"), True, 0)
    table.add_listener(addr("0.0.0.0:7174"), True, 0)
    lease.record(table)
    second = ClaimKeeper(Vaults([KeeperVault(str(tmp_path), spawn=False)]), MappingJournal(journal))
    states = second.recorded()
    again = MappingTable(second.lease())
    again.load(states, 0)
    assert again.states() == table.states()
    assert all(mapping.claimed for mapping in again)
    assert second.held == 301
    first.close()
    second.close()
    assert eventually(lambda: not running.held)


# systemd.


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        yield manager


def test_systemd_stores_what_it_has_room_for(systemd: socket.socket, tmp_path: Path) -> None:
    vault = SystemdVault(str(tmp_path / "notify"), limit=2)
    claims = dict(claimed() for _ in range(3))
    left = vault.keep(claims)
    assert list(left) == list(claims)[2:]
    for claim in list(claims)[:2]:
        data, descriptors, _, _ = socket.recv_fds(systemd, 1000, 10)
        assert data == f"FDSTORE=1\nFDPOLL=0\nFDNAME=claim-{V4}-{claim.port}".encode()
        with socket.socket(fileno=descriptors[0]) as stored:
            assert stored.getsockname()[1] == claim.port
    first = next(iter(claims))
    assert vault.drop(claims) == []
    assert systemd.recv(1000) == f"FDSTOREREMOVE=1\nFDNAME=claim-{V4}-{first.port}".encode()
    for descriptor in claims.values():
        os.close(descriptor)


def empty(manager: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            manager.recv(1000, socket.MSG_DONTWAIT)


def test_a_busy_systemd_is_not_waited_for(systemd: socket.socket, tmp_path: Path) -> None:
    """What it does not take goes into the next vault, or is tried again."""
    vaults = Vaults([SystemdVault(str(tmp_path / "notify"), limit=10_000)])
    claim, descriptor = claimed()
    count = 0
    while not vaults.unsafe and count < 10_000:
        vaults.keep({Claim(V4, count): descriptor})
        count += 1
    assert 0 < count < 10_000
    empty(systemd)
    vaults.mend({})
    assert vaults.unsafe == 0
    os.close(descriptor)
    empty(systemd)
    assert is_free(claim)


def test_what_systemd_passes_is_adopted(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_FDNAMES", f"claim-{V4}-40001:else:claim-10-40002")
    inherited: list[int] = []
    monkeypatch.setattr(os, "set_inheritable", lambda descriptor, value: inherited.append(descriptor))
    vault = SystemdVault(str(tmp_path / "notify"), limit=3)
    assert vault.adopt() == {Claim(V4, 40001): 3, Claim(10, 40002): 5}
    assert inherited == [3, 4, 5]
    assert "LISTEN_FDS" not in os.environ
    assert vault.adopt() == {}


def test_passed_descriptors_of_another_process_are_not_ours(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", f"claim-{V4}-40001")
    assert SystemdVault(str(tmp_path / "notify")).adopt() == {}


def test_no_free_port_is_not_looked_for_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search through the whole range takes the kernel milliseconds; requests wait meanwhile."""
    owner = ClaimKeeper()
    lease = owner.lease()
    asked: list[int] = []
    bind = spares._bind
    monkeypatch.setattr(spares, "_bind", lambda family, port: asked.append(port))
    for _ in range(2 * GROUP):
        lease.claim(V4, 0)
        lease.refill()
    assert len(asked) == 2 * GROUP + 1  # each claim is tried, the stock once
    lease.tidy(MappingTable(lease))
    lease.refill()
    assert len(asked) == 2 * GROUP + 2
    monkeypatch.setattr(spares, "_bind", bind)
    lease.tidy(MappingTable(lease))
    lease.refill()
    assert lease.claim(V4, 0)
    owner.close()
