# SPDX-License-Identifier: Apache-2.0
"""The keeper: a process that does nothing but hold claimed ports while the port mapper is away. Shell ring.

Started by the daemon where no systemd keeps its descriptors, or by systemd (iwpmd-keeper.socket) when there are more
than systemd should keep. It survives the daemon, whatever ends that; it ends when it holds nothing and nobody has been
connected for IDLE_S, when it is told to (QUIT), or on SIGTERM. Its end gives all ports back.

Run as a file by a bare interpreter, `python3 -I -S keeper.py DESCRIPTOR [PATH]`: it imports nothing of the project, so
that it is small, and stays the same program whatever is upgraded around it. DESCRIPTOR is the listening socket, a
SOCK_SEQPACKET of the Unix family; PATH is removed at the end.

The protocol, one datagram each: an operation, then 4 bytes for each claim (family and port, big-endian).

    KEEP    with one descriptor (SCM_RIGHTS) for each claim; not answered
    DROP    close these; not answered
    LIST    answered with KEEP datagrams of at most BATCH claims, then END
    QUIT    end now

Not here: what ports are for (`vault.py` is the other end). Only processes of the same user are served.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import struct
import sys

__all__ = ["BATCH", "DATAGRAM_BYTES", "DROP", "END", "KEEP", "LIST", "NAME_BYTES", "QUIT", "Keeper", "main"]

KEEP, DROP, LIST, END, QUIT = b"K", b"D", b"L", b"E", b"Q"

NAME_BYTES = 4
BATCH = 64
"""Claims in one datagram. The kernel takes 253 descriptors at most (SCM_MAX_FD)."""

DATAGRAM_BYTES = 1 + NAME_BYTES * BATCH

IDLE_S = 60.0
SEND_S = 5.0
"""What a client gets to take its list."""

_CREDENTIALS = struct.Struct("=iII")


class Keeper:
    """Serves `listener` until there is nothing left to do."""

    def __init__(self, listener: socket.socket, idle_s: float = IDLE_S) -> None:
        self.held: dict[bytes, int] = {}
        self._listener = listener
        self._idle_s = idle_s
        self._told_to_end = False
        self._clients: set[socket.socket] = set()
        self._asking: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Until told to end, or idle for long enough."""
        while not self._told_to_end:
            idle = not self.held and not self._clients
            ready = self._selector.select(0 if self._asking else self._idle_s if idle else None)
            if not ready and self._asking:
                # Only now: what a daemon that was killed has still said is part of the answer.
                self._list(self._asking.pop())
            elif not ready:
                return
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._serve(key.fileobj)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(peer)[1] != os.getuid():
                client.close()
                return
            client.settimeout(SEND_S)
            self._clients.add(client)
            self._selector.register(client, selectors.EVENT_READ)

    def _serve(self, client: socket.socket) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(client, DATAGRAM_BYTES, BATCH)
            if not data:
                raise ConnectionResetError
            self._obey(client, data, descriptors, whole=not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC))
        except OSError:
            self._part(client)

    def _part(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        self._clients.discard(client)
        self._asking = [other for other in self._asking if other is not client]
        client.close()

    def _obey(self, client: socket.socket, data: bytes, descriptors: list[int], *, whole: bool) -> None:
        operation, names = data[:1], _names(data[1:])
        if operation == KEEP and whole and len(names) == len(descriptors):
            for name in self.held.keys() & set(names):
                os.close(self.held.pop(name))
            self.held.update(zip(names, descriptors, strict=True))
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if operation == DROP:
            for name in names:
                descriptor = self.held.pop(name, -1)
                if descriptor >= 0:
                    os.close(descriptor)
        elif operation == LIST:
            self._asking.append(client)
        elif operation == QUIT:
            self._told_to_end = True

    def _list(self, client: socket.socket) -> None:
        held = list(self.held.items())
        try:
            for at in range(0, len(held), BATCH):
                some = held[at : at + BATCH]
                names = b"".join(name for name, _ in some)
                socket.send_fds(client, [KEEP + names], [descriptor for _, descriptor in some])
            client.send(END)
        except OSError:
            self._part(client)


def _names(data: bytes) -> list[bytes]:
    return [data[at : at + NAME_BYTES] for at in range(0, len(data) - NAME_BYTES + 1, NAME_BYTES)]


def main() -> int:
    """Arguments: descriptor of the listening socket, and optionally its path."""
    arguments = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with socket.socket(fileno=int(arguments[0])) as listener:
        Keeper(listener).run()
        for path in arguments[1:]:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
