# SPDX-License-Identifier: Apache-2.0
"""Where claimed sockets are while the daemon is not: systemd's descriptor store, or the keeper process. Shell ring.

A socket that is in a vault stays open, and its port taken, whatever happens to this process. Not here: claiming
(`claims.py`) and what the ports are for; a vault knows families and port numbers.

Why there are two. systemd's store (FileDescriptorStoreMax= of the unit; sd_notify(3), sd_listen_fds(3)) needs nothing
beside it and is there from the first start. But for each new descriptor systemd asks the kernel to compare it with
every one it has, one system call each, in process 1; and it passes all names in one string of at most 128 KiB. That is
right for hundreds of ports and wrong for ten thousand. So it takes the first SYSTEMD_LIMIT, and the keeper
(`keeper.py`) what is beyond; without systemd the keeper takes all.

Three rules. Nothing here waits for the other end: what cannot be sent now is sent later (`flush`), and counts as not
safe until then. FDPOLL=0 is essential: poll(2) reports EPOLLHUP for a socket that is bound and nothing else, and
systemd would drop it at once. And libsystemd's notify call blocks while process 1 is busy, hence the datagrams are sent
from here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from itertools import starmap
from pathlib import Path
from typing import Protocol

from rdmactl.iwpm import keeper
from rdmactl.iwpm.table import Claim

__all__ = ["SYSTEMD_LIMIT", "KeeperVault", "SystemdVault", "Vault", "Vaults", "open_vaults"]

_log = logging.getLogger(__name__)

SYSTEMD_LIMIT = 512
"""As FileDescriptorStoreMax= in our units. At 512, a new one costs process 1 a quarter of a millisecond."""

KEEPER_SOCKET = "iwpm-keeper.sock"
LIST_S = 5.0
"""What the keeper gets to hand over all it has; for 10,000 it takes some tens of milliseconds."""

STARTS = 8
"""Keepers started in the life of a daemon: one that cannot live is not tried for ever."""

_FIRST_PASSED = 3
_PASSED_BYTES = socket.CMSG_SPACE(keeper.BATCH * struct.calcsize("i"))
_CLAIM = struct.Struct("!HH")  # as in the keeper's datagrams: family, port
_NAME = re.compile(r"claim-(?P<family>\d+)-(?P<port>\d+)")


class Vault(Protocol):
    """Something that holds sockets."""

    def adopt(self) -> dict[Claim, int]:
        """Descriptors of all that is held, new ones of this process. Asked once."""

    def keep(self, claims: Mapping[Claim, int]) -> dict[Claim, int]:
        """Hold these as well; returns what it had no room for, or could not be told of."""

    def drop(self, claims: Iterable[Claim]) -> list[Claim]:
        """Let go; returns what it could not be told of. Unknown ones are ignored."""


class SystemdVault:
    """The descriptor store of this process's unit."""

    def __init__(self, notify_socket: str, limit: int = SYSTEMD_LIMIT) -> None:
        self._limit = limit
        self._names: set[Claim] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.connect("\0" + notify_socket[1:] if notify_socket.startswith("@") else notify_socket)

    def adopt(self) -> dict[Claim, int]:
        """What systemd has passed to this process; see sd_listen_fds(3)."""
        found: dict[Claim, int] = {}
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            return found
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        for descriptor, name in enumerate(names[: int(os.environ.get("LISTEN_FDS", "0"))], _FIRST_PASSED):
            os.set_inheritable(descriptor, False)
            match = _NAME.fullmatch(name)
            if match is not None:
                found[Claim(int(match["family"]), int(match["port"]))] = descriptor
        for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(variable, None)
        self._names.update(found)
        return found

    def keep(self, claims: Mapping[Claim, int]) -> dict[Claim, int]:
        left = {}
        for claim, descriptor in claims.items():
            state = f"FDSTORE=1\nFDPOLL=0\nFDNAME={_name(claim)}"
            if len(self._names) < self._limit and self._send(state, [descriptor]):
                self._names.add(claim)
            else:
                left[claim] = descriptor
        return left

    def drop(self, claims: Iterable[Claim]) -> list[Claim]:
        left = []
        for claim in claims:
            if claim in self._names:
                if self._send(f"FDSTOREREMOVE=1\nFDNAME={_name(claim)}", []):
                    self._names.discard(claim)
                else:
                    left.append(claim)
        return left

    def _send(self, state: str, descriptors: list[int]) -> bool:
        try:
            socket.send_fds(self._socket, [state.encode()], descriptors)
        except OSError:
            return False
        return True


class KeeperVault:
    """The keeper process. It is started when it is first needed, unless `spawn` is False: then systemd listens for it.

    `directory` is the runtime directory; the socket in it is for this user only.
    """

    def __init__(self, directory: str, *, spawn: bool) -> None:
        self._path = str(Path(directory) / KEEPER_SOCKET)
        self._starts_left = STARTS if spawn else 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._names: set[Claim] = set()

    def adopt(self) -> dict[Claim, int]:
        """What a keeper holds that is there already."""
        found: dict[Claim, int] = {}
        try:
            connection = self._connect()
            connection.settimeout(LIST_S)
            connection.send(keeper.LIST)
            while True:
                # socket.recv_fds takes flags and does not use them.
                data, ancillary, _, _ = connection.recvmsg(
                    keeper.DATAGRAM_BYTES, _PASSED_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                if data[:1] != keeper.KEEP:
                    break
                descriptors = [number for _, _, passed in ancillary for number in memoryview(passed).cast("i")]
                # Out of descriptors, the last ones are missing.
                found.update(zip(starmap(Claim, _CLAIM.iter_unpack(data[1:])), descriptors, strict=False))
            connection.setblocking(False)
        except OSError:
            self._disconnect()
            return found
        self._socket = connection
        self._names.update(found)
        return found

    def keep(self, claims: Mapping[Claim, int]) -> dict[Claim, int]:
        items = list(claims.items())
        left: dict[Claim, int] = {}
        for at in range(0, len(items), keeper.BATCH):
            some = items[at : at + keeper.BATCH]
            message = keeper.KEEP + b"".join(_pack(claim) for claim, _ in some)
            if self._send(message, [descriptor for _, descriptor in some]):
                self._names.update(claim for claim, _ in some)
            else:
                left.update(some)
        return left

    def drop(self, claims: Iterable[Claim]) -> list[Claim]:
        known = [claim for claim in claims if claim in self._names]
        left = []
        for at in range(0, len(known), keeper.BATCH):
            some = known[at : at + keeper.BATCH]
            if self._send(keeper.DROP + b"".join(map(_pack, some)), []):
                self._names.difference_update(some)
            else:
                left.extend(some)
        return left

    def take_lost(self) -> set[Claim]:
        """What it held, if it is gone: that must be kept again, if it is still wanted."""
        if self._socket is not None:
            try:
                if self._socket.recv(1, socket.MSG_PEEK) == b"":
                    self._disconnect()
            except BlockingIOError:
                pass
            except OSError:
                self._disconnect()
        if self._socket is not None:
            return set()
        names, self._names = self._names, set()
        return names

    def _send(self, message: bytes, descriptors: list[int]) -> bool:
        try:
            if self._socket is None:
                if message.startswith(keeper.DROP):
                    return True
                self._socket = self._connect_or_start()
            socket.send_fds(self._socket, [message], descriptors)
        except BlockingIOError:
            return False
        except OSError:
            self._disconnect()
            return False
        return True

    def _connect_or_start(self) -> socket.socket:
        try:
            connection = self._connect()
        except OSError:
            if not self._starts_left:
                raise
            self._starts_left -= 1
            self._start()
            connection = self._connect()
        connection.setblocking(False)
        return connection

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _start(self) -> None:
        """The listening socket is made here, so that connecting need not wait for the new process."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
            listener.bind(self._path)
            os.chmod(self._path, 0o600)
            listener.listen()
            program = [sys.executable, "-I", "-S", str(Path(keeper.__file__)), str(listener.fileno()), self._path]
            process = subprocess.Popen(
                program,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[listener.fileno()],
            )
        if self._process is not None:
            self._process.poll()  # the one before has ended
        self._process = process  # it is to outlive us: nobody waits for it
        _log.info("process %d keeps the claimed ports while the daemon is away", process.pid)

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Vaults:
    """Several vaults as one: each socket goes into the first that has room, and what none takes is tried again."""

    def __init__(self, vaults: Iterable[Vault]) -> None:
        self._vaults = list(vaults)
        self._unkept: dict[Claim, int] = {}
        self._undropped: dict[Claim, None] = {}

    @property
    def unsafe(self) -> int:
        """How many sockets wait to be taken."""
        return len(self._unkept)

    @property
    def unfinished(self) -> int:
        """How many sockets `flush` would let go."""
        return len(self._undropped)

    def adopt(self) -> dict[Claim, int]:
        """See `Vault.adopt`. A socket that two vaults have is held by both and released by both."""
        found: dict[Claim, int] = {}
        for vault in self._vaults:
            for claim, descriptor in vault.adopt().items():
                if found.setdefault(claim, descriptor) != descriptor:
                    os.close(descriptor)
        return found

    def keep(self, claims: Mapping[Claim, int]) -> None:
        """Hold these; at once, if anything can."""
        if not self._vaults:
            return
        if self._undropped:
            self._drop()  # the same number may come back: the order counts
        left = dict(claims)
        for vault in self._vaults:
            if left:
                left = vault.keep(left)
        self._unkept.update(left)

    def drop(self, claim: Claim) -> None:
        """Let go with the next `flush`. The descriptor is still the caller's."""
        if self._vaults:
            self._unkept.pop(claim, None)
            self._undropped[claim] = None

    def flush(self) -> None:
        """Let go of what has gathered."""
        if self._undropped:
            self._drop()

    def mend(self, claims: Mapping[Claim, int]) -> None:
        """Try again what failed, and begin anew with a keeper that was lost. `claims` are all there are."""
        self.flush()
        again, self._unkept = self._unkept, {}
        for vault in self._vaults:
            if isinstance(vault, KeeperVault):
                lost = vault.take_lost()
                if lost:
                    _log.warning("the keeper of %d claimed ports is gone: starting another one", len(lost))
                    again.update({claim: claims[claim] for claim in lost if claim in claims})
        if again:
            self.keep(again)

    def _drop(self) -> None:
        left: dict[Claim, None] = {}
        for vault in self._vaults:
            left.update(dict.fromkeys(vault.drop(self._undropped)))
        self._undropped = left


def open_vaults(directory: str) -> Vaults:
    """What this process can use: systemd's store if the unit has one (it says so in the environment), and a keeper."""
    notify_socket = os.environ.get("NOTIFY_SOCKET", "")
    limit = os.environ.get("RDMACTL_FD_STORE", "")
    vaults: list[Vault] = []
    if notify_socket and limit.isdigit():
        with contextlib.suppress(OSError):
            vaults.append(SystemdVault(notify_socket, int(limit)))
    vaults.append(KeeperVault(directory, spawn=not vaults))
    return Vaults(vaults)


def _name(claim: Claim) -> str:
    return f"claim-{claim.family:d}-{claim.port}"


def _pack(claim: Claim) -> bytes:
    return _CLAIM.pack(*claim)
