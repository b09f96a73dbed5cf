# SPDX-License-Identifier: Apache-2.0
"""The daemons' end of the control interface: sockets, identity and limits around asyncvarlink. Shell ring.

One socket per role, /run/rdmactl/ROLE.sock, open to everybody: asking is free, changing needs root, and who asks is
known from the kernel (SO_PEERCRED). What a client can do to others is nothing: the size of a call, the unread answers,
the connections of one user and the time of silence are bounded, and whatever goes wrong in a connection ends there.

Not here: what the methods are (`interfaces.py` and those it names), who may serve a role (`roles.py`).
Must change together with: `rdmactl/control/client.py`.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncvarlink import (
    FileDescriptorArray,
    VarlinkInterface,
    VarlinkInterfaceRegistry,
    VarlinkInterfaceServerProtocol,
    VarlinkMethodCall,
    VarlinkTransport,
)
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from rdmactl import __version__
from rdmactl.control.client import socket_path
from rdmactl.control.interfaces import CHANGING_METHODS, Caller, Daemon, Failed, failure
from rdmactl.control.roles import RoleLock
from rdmactl.errors import LocalError, RdmactlError, Unavailable

if TYPE_CHECKING:
    from rdmactl.control.initiator import Initiator

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)

CALL_BYTES_MAX = 256 << 10
"""Of a caller who may only read: such calls are short."""

ADMIN_CALL_BYTES_MAX = 64 << 20
"""Of root: a login of ten thousand records is about 40 MB of keys and values."""

CALLS_WAITING_MAX = 256
"""Calls sent ahead without waiting for answers."""

UNREAD_BYTES_MAX = 64 << 20
"""Answers a client leaves unread before it is disconnected."""

CONNECTIONS_PER_USER = 32
CONNECTIONS_MAX = 512
"""Below the usual limit of 1024 descriptors, which the services need as well."""

SILENCE_S = 60.0
"""A connection that asks nothing for so long is closed; the front ends use theirs at once."""

BACKLOG = 128
_RECEIVE_BYTES = 65536
_ACCEPT_PAUSE_S = 0.1
_STOP_S = 2.0


class _Transport(VarlinkTransport):
    """A connection's socket, with a bound on what its reader leaves lying."""

    RECV_BUFFER_SIZE = _RECEIVE_BYTES
    MAX_RECV_FDS = 0  # nobody has a reason to pass descriptors

    def __init__(self, accepted: socket.socket, protocol: "_Connection") -> None:
        super().__init__(asyncio.get_running_loop(), accepted, accepted, protocol)
        self._accepted = accepted
        self._unsent_bytes = 0
        self._all_sent = asyncio.Event()
        self._all_sent.set()

    def send_message(self, data: bytes, fds: list[int] | None = None) -> asyncio.Future[None]:
        self._unsent_bytes += len(data)
        self._all_sent.clear()
        sent = super().send_message(data, fds)

        def done(sending: asyncio.Future[None]) -> None:
            self._unsent_bytes -= len(data)
            if not self._unsent_bytes:
                self._all_sent.set()

        sent.add_done_callback(done)
        if self._unsent_bytes > UNREAD_BYTES_MAX:
            self.abort()
        return sent

    async def flush(self) -> None:
        """Wait until everything has been sent, or cannot be."""
        await self._all_sent.wait()

    def abort(self) -> None:
        """Disconnect now: without the shutdown, the read loop would go on for as long as the client sends."""
        with contextlib.suppress(OSError):
            self._accepted.shutdown(socket.SHUT_RDWR)
        super().abort()


class _Connection(VarlinkInterfaceServerProtocol):
    """One client."""

    def __init__(self, listener: "_Listener", uid: int) -> None:
        super().__init__(listener.registry)
        self.uid = uid
        self._listener = listener
        self._admin = uid in listener.admins
        self._pieces: list[bytes] = []
        self._received_bytes = 0
        self._waiting = 0
        self._ending = False
        self._calls: set[asyncio.Future[None]] = set()
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch_silence()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()
        self._listener.forget(self)

    def abort(self, reason: str = "") -> None:
        """Disconnect now."""
        if reason:
            _log.warning("control client of uid %d disconnected: %s", self.uid, reason)
        self._ending = True
        self._stop_watching()
        self._pieces.clear()
        if self._transport is not None:
            self._transport.abort()

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        """Gather a whole call before it is parsed, within bounds."""
        if self._transport is None or self._transport.is_closing():
            return
        self._received_bytes += len(data)
        if self._received_bytes > (ADMIN_CALL_BYTES_MAX if self._admin else CALL_BYTES_MAX):
            self.abort("its call is too long")
            return
        self._pieces.append(data)
        if b"\0" not in data:
            return
        whole = b"".join(self._pieces)
        end = whole.rfind(b"\0") + 1
        self._pieces, self._received_bytes = [whole[end:]], len(whole) - end
        self._waiting += whole.count(b"\0")
        if self._waiting > CALLS_WAITING_MAX:
            self.abort("it does not wait for answers")
            return
        try:
            super().message_received(whole[:end], None)
        except (ValueError, RecursionError):
            self.abort("its call is not UTF-8, or nested beyond reason")

    def error_received(self, err: Exception, data: bytes, fds: FileDescriptorArray | None) -> None:
        """Not a JSON object: whoever speaks something else gets no answer that it could not read anyway."""
        self.abort("its call is not a JSON object")

    def request_received(self, obj: dict[str, Any], fds: FileDescriptorArray | None) -> asyncio.Future[None] | None:
        self._waiting -= 1
        answer: asyncio.Future[None] | None = super().request_received(obj, fds)
        return answer

    def call_received(self, call: VarlinkMethodCall, fds: FileDescriptorArray | None) -> asyncio.Future[None] | None:
        if call.method_name in CHANGING_METHODS and not self._admin:
            raise Failed(
                code="access-denied",
                message=f"{call.method} is for root only, not for uid {self.uid}",
                hint="run as root",
                err=None,
            )
        if self._ending:  # the library takes the next call of a client when one is done, also when that was cancelled
            raise Failed(**failure(asyncio.CancelledError()))
        running = super().call_received(call, fds)
        if running is None:
            return None
        self._stop_watching()
        guarded = asyncio.ensure_future(self._until_done(running))
        self._calls.add(guarded)
        guarded.add_done_callback(self._call_done)
        return guarded

    def handle_call_exception(self, exc: BaseException, oneway: bool) -> None:
        raise Failed(**failure(exc)) from None

    def send_message(
        self, obj: dict[str, Any], fds: list[int] | None = None, autoclose: bool = True
    ) -> asyncio.Future[None]:
        """Send one reply. That the client has gone is not an error of the call: the call simply runs to its end."""
        sent = super().send_message(obj, fds, autoclose)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(sending: asyncio.Future[None]) -> None:
            if not sending.cancelled():
                sending.exception()
            if not done.done():
                done.set_result(None)

        sent.add_done_callback(finish)
        return done

    async def cancel(self) -> None:
        """End the running calls and those that wait with an error for the client, and see it off."""
        self._ending = True
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if isinstance(self._transport, _Transport):
            await self._transport.flush()

    async def _until_done(self, running: asyncio.Future[None]) -> None:
        """A call that is cancelled ends with an error for the client, not with a cancelled future for the library."""
        try:
            await running
        except asyncio.CancelledError as error:
            raise Failed(**failure(error)) from None

    def _call_done(self, call: asyncio.Future[None]) -> None:
        self._calls.discard(call)
        if not self._calls and self._transport is not None:
            self._watch_silence()

    def _watch_silence(self) -> None:
        self._stop_watching()
        self._silence = asyncio.get_running_loop().call_later(self._listener.silence_s, self.abort)

    def _stop_watching(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


class _Listener:
    """The socket of one role, and its connections."""

    def __init__(
        self, path: Path, registry: VarlinkInterfaceRegistry, admins: frozenset[int], silence_s: float
    ) -> None:
        self.path = path
        self.registry = registry
        self.admins = admins
        self.silence_s = silence_s
        self._connections: set[_Connection] = set()
        self._per_user: Counter[int] = Counter()
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Bind and listen. A socket file left behind by a process that died is replaced: the role's lock is ours.

        It has its name only when somebody listens: who waits for the name is never refused.
        """
        nascent = self.path.with_name(f"{self.path.name}.new")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            nascent.unlink(missing_ok=True)
            listening.bind(str(nascent))
            nascent.chmod(0o666)
            listening.listen(BACKLOG)
            nascent.replace(self.path)
        except OSError as error:
            listening.close()
            raise Unavailable(f"cannot listen on {self.path}: {error.strerror}") from None
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._accept)

    async def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            self.path.unlink(missing_ok=True)
        connections = tuple(self._connections)
        try:
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(*(connection.cancel() for connection in connections))
        except TimeoutError:
            _log.warning("%d control clients of %s do not read their answers", len(connections), self.path)
        for connection in connections:
            connection.abort()

    def forget(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._per_user[connection.uid] -= 1

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            accepted, _ = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._pause()
            return
        uid = _peer_uid(accepted)
        if self._is_full_for(uid):
            accepted.close()
            return
        connection = _Connection(self, uid)
        self._connections.add(connection)
        self._per_user[uid] += 1
        _Transport(accepted, connection)

    def _is_full_for(self, uid: int) -> bool:
        if len(self._connections) >= CONNECTIONS_MAX:
            return True
        return uid not in self.admins and self._per_user[uid] >= CONNECTIONS_PER_USER

    def _pause(self) -> None:
        """Out of descriptors: a listening socket stays readable, so look again in a moment instead of spinning."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.call_later(_ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)


class ControlServer:
    """Serves the control interface of the roles whose locks it is given, on the dispatcher's main loop.

    `roles` are held locks (`claim_role`): without one, no socket is replaced. The services are called by the name of
    their role ("iwpm", "initiator"). `initiator_name` is the host's own (`rdmactl.records.conf`); `admins` are the user
    ids that may change things. Use `start` and `stop` from the loop that serves.
    """

    def __init__(
        self,
        dispatcher: Caller,
        roles: Sequence[RoleLock],
        *,
        initiator_name: str = "",
        admins: Iterable[int] = (0,),
        silence_s: float = SILENCE_S,
    ) -> None:
        for lock in roles:
            if not lock.held:
                raise LocalError(f"the role {lock.role} must be held to be served")
        names = [lock.role for lock in roles]
        self._initiator: Initiator | None = None
        self._listeners: list[_Listener] = []
        for lock in roles:
            own = self._interfaces(lock.role, dispatcher, initiator_name)
            path = Path(socket_path(lock.role, str(lock.directory)))
            registry = _registry([*own, Daemon(dispatcher, names)])
            self._listeners.append(_Listener(path, registry, frozenset(admins), silence_s))

    def _interfaces(self, role: str, dispatcher: Caller, initiator_name: str) -> list[VarlinkInterface]:
        """What is served for a role; imported here, because it is a good part of a daemon's start."""
        if role == "iwpm":
            from rdmactl.control.port_mapper import PortMapper

            return [PortMapper(dispatcher)]
        from rdmactl.control.discovery import Discovery
        from rdmactl.control.initiator import Initiator

        self._initiator = Initiator(dispatcher, initiator_name)
        return [self._initiator, Discovery(dispatcher)]

    @property
    def paths(self) -> list[Path]:
        return [listener.path for listener in self._listeners]

    async def start(self) -> None:
        """Listen. Raises Unavailable naming the socket; then nothing listens."""
        try:
            for listener in self._listeners:
                listener.open()
        except RdmactlError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Refuse new connections, end the calls that run with the error "stopping", and remove the sockets."""
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        if self._initiator is not None:
            await self._initiator.stop()


def _registry(interfaces: Iterable[VarlinkInterface]) -> VarlinkInterfaceRegistry:
    registry = VarlinkInterfaceRegistry()
    registry.register_interface(VarlinkServiceInterface("rdmactl", "rdmactl", __version__, "", registry))
    for interface in interfaces:
        registry.register_interface(interface)
    return registry


def _peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    credentials = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials))
    return int(uid)
