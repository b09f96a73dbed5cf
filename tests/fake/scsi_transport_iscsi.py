# SPDX-License-Identifier: Apache-2.0
"""The kernel's scsi_transport_iscsi with `tcp` and `iser` on top, in memory: states, error codes, order of events.

Requests come in through `FakeKernel`; sessions appear in a `FakeSysfs` tree; what travels on a connection goes to a
`Peer` (a target), one per connection. Follows drivers/scsi/scsi_transport_iscsi.c, libiscsi.c, libiscsi_tcp.c and
drivers/infiniband/ulp/iser of Linux 6.12 in what user space can see:

* a request that cannot be dispatched answers ISCSI_KEVENT_IF_ERROR with `iferror`; BIND_CONN, START_CONN, SEND_PDU and
  EP_POLL report through `retcode`;
* events of a request are queued before its answer;
* after a connection failed everything but STOP_CONN and destroying says ENOTCONN;
* STOP_CONN(TERM) leaves a session that takes no PDU any more;
* the endpoint of a failed connection leaves sysfs, and its number stays taken: until EP_DISCONNECT before STOP_CONN, or
  for ever.

The tests drive faults: `fail`, `send_from_target`, `fail_next`, `FakePortal.mode`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from rdmactl.iscsi.pdu import Pdu
from rdmactl.netlink.iscsi import NETLINK_ISCSI, UEVENT, ConnStop, HostParam, Param, Uevent
from rdmactl.netlink.message import Message, build
from rdmactl.netlink.sockaddr import SockAddr
from tests.fake.iscsi_sysfs import SESSION_DEFAULTS, FakeSysfs
from tests.fake.kernel import FakeKernel, FakeSocket

HANDLES = {"tcp": 18446744072637906944, "iser": 18446744072638906944}
CAPS = {"tcp": 0x39, "iser": 0x89}
_GROUP = 1
_MANAGEMENT_COMMANDS = 15
_ANSWERED_TO_ALL = (Uevent.GET_STATS, Uevent.GET_CHAP, Uevent.GET_HOST_STATS)
_RETCODE_REQUESTS = (Uevent.BIND_CONN, Uevent.START_CONN, Uevent.SEND_PDU)

_SESSION_ATTRIBUTES = {
    Param.TARGET_NAME: "targetname",
    Param.INITIATOR_NAME: "initiatorname",
    Param.IFACE_NAME: "ifacename",
    Param.TPGT: "tpgt",
    Param.USERNAME: "username",
    Param.PASSWORD: "password",
    Param.USERNAME_IN: "username_in",
    Param.PASSWORD_IN: "password_in",
    Param.SESS_RECOVERY_TMO: "recovery_tmo",
    Param.ABORT_TMO: "abort_tmo",
    Param.LU_RESET_TMO: "lu_reset_tmo",
    Param.TGT_RESET_TMO: "tgt_reset_tmo",
    Param.FAST_ABORT: "fast_abort",
    Param.INITIAL_R2T_EN: "initial_r2t",
    Param.IMM_DATA_EN: "immediate_data",
    Param.FIRST_BURST: "first_burst_len",
    Param.MAX_BURST: "max_burst_len",
    Param.MAX_R2T: "max_outstanding_r2t",
    Param.PDU_INORDER_EN: "data_pdu_in_order",
    Param.DATASEQ_INORDER_EN: "data_seq_in_order",
    Param.ERL: "erl",
    Param.DISCOVERY_SESS: "discovery_session",
}
_CONNECTION_ATTRIBUTES = {
    Param.PERSISTENT_ADDRESS: "persistent_address",
    Param.PERSISTENT_PORT: "persistent_port",
    Param.HDRDGST_EN: "header_digest",
    Param.DATADGST_EN: "data_digest",
    Param.MAX_RECV_DLENGTH: "max_recv_dlength",
    Param.MAX_XMIT_DLENGTH: "max_xmit_dlength",
    Param.EXP_STATSN: "exp_statsn",
    Param.PING_TMO: "ping_tmo",
    Param.RECV_TMO: "recv_tmo",
}
_KNOWN = {*_SESSION_ATTRIBUTES, *_CONNECTION_ATTRIBUTES}


class Peer(Protocol):
    """The target's end of one connection (`tests.fake.target.FakeTarget`)."""

    closed: bool  # the target ended the connection

    def receive(self, pdu: Pdu) -> list[Pdu]:
        """A PDU of the initiator; what comes back."""


@dataclass(slots=True)
class FakePortal:
    """Where targets listen. `mode`: "accept", "refuse" or "silent"."""

    peer: Callable[[], Peer]
    mode: str = "accept"
    polls_until_up: int = 2


@dataclass(slots=True)
class Endpoint:
    number: int
    portal: FakePortal | None
    polls: int = 0
    reported: bool = False
    down: bool = False
    orphaned: bool = False  # disconnected by the kernel: gone from sysfs, its number still taken
    leaked: bool = False

    @property
    def up(self) -> bool:
        mode = self.portal.mode if self.portal else "refuse"
        return (
            not self.down and mode == "accept" and self.portal is not None and self.polls >= self.portal.polls_until_up
        )


@dataclass(slots=True)
class Connection:
    state: str = "down"  # of the class: down, bound, up, failed
    cleanup: bool = False
    peer: Peer | None = None
    endpoint: Endpoint | None = None
    sock: socket.socket | None = None
    outstanding_login: bool = False
    cmdsn: int = 0


@dataclass(slots=True)
class Session:
    sid: int
    host_no: int
    transport: str
    state: str = "FREE"
    target_state: str = "ALLOCATED"
    terminated: bool = False
    logging_out: bool = False
    cmds_max: int = 128
    queue_depth: int = 32
    conn: Connection | None = None
    params: dict[Param, str] = field(default_factory=dict)


class Refused(Exception):
    """A request is answered with an error code."""

    def __init__(self, code: int) -> None:
        self.code = code


class FakeIscsiClass(FakeKernel):
    """The class with both transports. `portals` is the network: (address, port) -> FakePortal."""

    family = NETLINK_ISCSI

    def __init__(self, sysfs: FakeSysfs, *, luns: int = 0, privileged: bool = True) -> None:
        super().__init__()
        self.sysfs = sysfs
        self.luns = luns
        self.privileged = privileged
        self.initial_netns = True  # of whoever asks; elsewhere the kernel has no socket of this family
        self.portals: dict[tuple[str, int], FakePortal] = {}
        self.sessions: dict[int, Session] = {}
        self.endpoints: dict[int, Endpoint] = {}
        self.log: list[str] = []  # names of the requests, in order
        self.fail_next: dict[Uevent, int] = {}  # answer this request once with this code
        self.fail_always: dict[Uevent, int] = {}
        self.unknown_handles = 0  # requests for a transport that is not there
        self.lose_events = False
        self.violations: list[str] = []  # what a real kernel does not survive
        self.busy_cleaning_up: set[int] = set()  # sessions whose failed connection is put away later (`cleaned_up`)
        self.stale_events: list[tuple[Uevent, bytes]] = []  # sent once, before the next STOP_CONN is answered
        self._sids = 0
        self._hosts = 5
        self._portal_of_sock: dict[int, FakePortal] = {}
        self.handles = dict(HANDLES)
        for name, handle in HANDLES.items():
            sysfs.add_transport(name, handle, CAPS[name])

    # ---------------------------------------------------------------- requests

    def handle(self, sender: FakeSocket, message: Message) -> None:
        if not self.initial_netns:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if len(message.payload) < UEVENT.size:
            return  # dropped without a word, like the kernel does
        kind, _, handle, u, _ = UEVENT.unpack_from(message.payload)
        with self.lock:
            result = self._dispatch(message.type, handle, u, message.payload[UEVENT.size :])
        if result is None:
            return  # answered to the whole group
        if isinstance(result, int):
            body = UEVENT.pack(Uevent.IF_ERROR, result, handle, u, b"")
        else:
            body = UEVENT.pack(kind, 0, handle, u, result)
        sender.deliver(build(message.type, body, flags=0))

    def _dispatch(self, type_: int, handle: int, u: bytes, payload: bytes) -> bytes | int | None:
        """The union r of the answer, or an iferror; None when the answer went to the group."""
        if not self.privileged:
            return -errno.EPERM
        transport = next((name for name, value in self.handles.items() if value == handle), None)
        if transport is None:
            self.unknown_handles += 1
            return -errno.EINVAL
        handler = self._HANDLERS.get(type_)
        if handler is None:
            return -errno.ENOSYS
        self.log.append(Uevent(type_).name)
        try:
            forced = self.fail_next.pop(Uevent(type_), self.fail_always.get(Uevent(type_)))
            if forced is not None:
                raise Refused(forced)
            answer = handler(self, transport, u, payload)
            return None if type_ in _ANSWERED_TO_ALL else answer or b""
        except Refused as refused:
            if type_ in _RETCODE_REQUESTS and refused.code != -errno.EINVAL:
                return struct.pack("=i", refused.code)
            return refused.code

    def _create_session(self, transport: str, u: bytes, payload: bytes) -> bytes:
        _, cmds_max, queue_depth = struct.unpack_from("=IHH", u)
        return self._new_session(transport, cmds_max, queue_depth, None)

    def _create_bound(self, transport: str, u: bytes, payload: bytes) -> bytes:
        number, _, cmds_max, queue_depth = struct.unpack_from("=QIHH", u)
        endpoint = self._endpoint(number)
        if not endpoint.up:
            raise Refused(-errno.ENOMEM)
        return self._new_session(transport, cmds_max, queue_depth, endpoint)

    def _new_session(self, transport: str, cmds_max: int, queue_depth: int, endpoint: Endpoint | None) -> bytes:
        cmds_max = cmds_max or 128
        if cmds_max < 16:
            raise Refused(-errno.ENOMEM)
        self._sids += 1
        self._hosts += 1
        session = Session(self._sids, self._hosts, transport)
        session.cmds_max = min(4096, 1 << (cmds_max.bit_length() - 1))
        session.queue_depth = queue_depth or 32
        self.sessions[session.sid] = session
        self.sysfs.add_session(transport, session.sid, session.host_no, session.cmds_max - _MANAGEMENT_COMMANDS)
        self._event(Uevent.KEVENT_CREATE_SESSION, struct.pack("=II", session.sid, session.host_no))
        return struct.pack("=II", session.sid, session.host_no)

    def _create_conn(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session = self._session(u)
        if session.conn is not None:
            raise Refused(-errno.ENOMEM)
        session.conn = Connection()
        self.sysfs.add_connection(session.sid, session.host_no)
        return struct.pack("=II", session.sid, 0)

    def _bind(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session, conn = self._usable(u)
        eph = struct.unpack_from("=Q", u, 8)[0]
        if transport == "iser":
            endpoint = self._endpoint(eph)
            if not endpoint.up:
                raise Refused(-errno.EINVAL)
            conn.endpoint = endpoint
            assert endpoint.portal is not None
            conn.peer = endpoint.portal.peer()
        else:
            conn.sock, portal = self._tcp_socket(eph)
            conn.peer = portal.peer()
        conn.state, conn.outstanding_login = "bound", False
        self.sysfs.set_connection(session.sid, state="bound", address="127.0.0.1", port="3260")
        return b""

    def _tcp_socket(self, descriptor: int) -> tuple[socket.socket, FakePortal]:
        """What the kernel does with a descriptor of its caller: look it up, insist on TCP, keep a reference."""
        try:
            sock = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            raise Refused(-errno.EEXIST) from None
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            raise Refused(-errno.EINVAL)
        address = sock.getpeername()[:2]
        return sock, self.portals[address]

    def _set_param(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session = self._session(u)
        number, length = struct.unpack_from("=II", u, 8)
        if length > len(payload) or length > 4096 or payload.find(b"\0") not in range(length):
            raise Refused(-errno.EINVAL)
        conn = session.conn
        if conn is None:
            raise Refused(-errno.EINVAL)
        if number != Param.SESS_RECOVERY_TMO and (conn.cleanup or conn.state not in ("bound", "up")):
            raise Refused(-errno.ENOTCONN)
        value = payload[: payload.index(b"\0")].decode()
        self._store_param(session, transport, number, value)
        return b""

    def _store_param(self, session: Session, transport: str, number: int, value: str) -> None:
        if number in (Param.IFMARKER_EN, Param.OFMARKER_EN):
            raise Refused(-errno.ENOSYS) if transport == "tcp" else Refused(-errno.EPROTO if value != "0" else 0)
        if number not in _KNOWN:
            raise Refused(-errno.ENOSYS)
        param = Param(number)
        if transport == "iser" and param in (Param.HDRDGST_EN, Param.DATADGST_EN) and value != "0":
            raise Refused(-errno.EPROTO)
        if transport == "tcp" and param == Param.MAX_R2T and (int(value) == 0 or int(value) & (int(value) - 1)):
            raise Refused(-errno.EINVAL)
        if param == Param.SESS_RECOVERY_TMO and self._administrators_recovery_tmo(session):
            return
        if param == Param.SESS_RECOVERY_TMO and int(value) < 0:
            value = "off"
        session.params[param] = value
        if param in _CONNECTION_ATTRIBUTES:
            shown = "128" if transport == "iser" and param == Param.MAX_RECV_DLENGTH else value
            self.sysfs.set_connection(session.sid, **{_CONNECTION_ATTRIBUTES[param]: shown})
        else:
            self.sysfs.set_session(session.sid, **{_SESSION_ATTRIBUTES[param]: value})

    def _administrators_recovery_tmo(self, session: Session) -> bool:
        """What sysfs shows is not what was set by a request: somebody has written it there."""
        name = _SESSION_ATTRIBUTES[Param.SESS_RECOVERY_TMO]
        before = session.params.get(Param.SESS_RECOVERY_TMO, SESSION_DEFAULTS[name])
        return self.sysfs.get_session(session.sid, name) != before

    def _set_host_param(self, transport: str, u: bytes, payload: bytes) -> bytes:
        host_no, number, _ = struct.unpack_from("=III", u)
        names = {
            HostParam.HWADDRESS: "hwaddress",
            HostParam.INITIATOR_NAME: "initiatorname",
            HostParam.NETDEV_NAME: "netdev",
        }
        self.sysfs.set_host(host_no, **{names[HostParam(number)]: payload.rstrip(b"\0").decode()})
        return b""

    def _start(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session, conn = self._usable(u)
        solicited_only = (
            session.params.get(Param.INITIAL_R2T_EN) == "1" and session.params.get(Param.IMM_DATA_EN) == "0"
        )
        if not solicited_only and int(session.params.get(Param.FIRST_BURST, "0")) > int(
            session.params.get(Param.MAX_BURST, "0")
        ):
            raise Refused(-errno.EINVAL)
        session.state, conn.state = "LOGGED_IN", "up"
        for lun in range(self.luns):
            self.sysfs.add_lun(session.sid, session.host_no, lun, None)
        self._show(session)
        return b""

    def _stop(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session = self._session(u)
        conn = session.conn
        if conn is None:
            raise Refused(-errno.EINVAL)
        flag = struct.unpack_from("=I", u, 16)[0]
        while self.stale_events:
            self._event(*self.stale_events.pop())
        if conn.endpoint is not None:  # not disconnected by user space
            conn.endpoint.leaked = conn.state == "failed"
            if not conn.endpoint.leaked:
                self._free_endpoint(conn.endpoint)
        self._unbind_transport(session, conn)
        if flag == ConnStop.TERM:
            session.terminated, conn.state = True, "down"
        else:
            conn.state = "failed"
            session.logging_out = False
            if session.state == "LOGGED_IN":
                session.state = "FAILED"
        conn.cleanup = False
        self._show(session)
        return b""

    def _destroy_conn(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session = self._session(u)
        if session.conn is None:
            raise Refused(-errno.EINVAL)
        self._unbind_transport(session, session.conn)
        session.conn = None
        self.sysfs.remove_connection(session.sid, session.host_no)
        return b""

    def _destroy_session(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session = self._session(u)
        if session.conn is not None:
            raise Refused(-errno.EBUSY)
        self._unbind_target(session)
        del self.sessions[session.sid]
        self.sysfs.remove_session(session.sid, session.host_no)
        self._event(Uevent.KEVENT_DESTROY_SESSION, struct.pack("=II", session.host_no, session.sid))
        return b""

    def _unbind_session(self, transport: str, u: bytes, payload: bytes) -> bytes:
        self._unbind_target(self._session(u))
        return b""

    def _send_pdu(self, transport: str, u: bytes, payload: bytes) -> bytes:
        session, conn = self._usable(u)
        if transport == "iser" and conn.endpoint is None:
            self.violations.append(f"SEND_PDU on session {session.sid}, whose iser connection has no endpoint")
        header, data = payload[:48], payload[48:]
        login = header[0] & 0x3F in (0x03, 0x04)
        if session.terminated or session.logging_out or conn.peer is None or (conn.outstanding_login and login):
            raise Refused(-errno.EPERM)
        if len(data) > 8192 or (data and not login):
            raise Refused(-errno.EPERM)
        if not login and session.state != "LOGGED_IN":
            raise Refused(-errno.EPERM)
        session.logging_out = header[0] & 0x3F == 0x06
        length = int.from_bytes(header[5:8], "big")
        conn.outstanding_login = login
        for answer in conn.peer.receive(Pdu(header, data[:length])):
            self._deliver(session, conn, answer)
        if conn.peer.closed and transport == "iser":
            self._connection_failed(session, conn, 1011)  # also behind the answer to a logout
        elif conn.peer.closed and not session.logging_out:
            self._connection_failed(session, conn, 1020)
        return b""

    def _get_stats(self, transport: str, u: bytes, payload: bytes) -> None:
        session = self.sessions.get(struct.unpack_from("=I", u)[0])
        if session is None or session.conn is None:
            raise Refused(-errno.EEXIST)
        named = (b"tx_sendpage_failures", b"rx_discontiguous_hdr", b"eh_abort_cnt") if transport == "tcp" else ()
        statistics = struct.pack("=qq20I", 1000 + session.sid, -1, *range(19), len(named))
        statistics += b"".join(struct.pack("=64sq", name, 7) for name in named)
        if not any(_GROUP in sock.spec.groups for sock in self.sockets):
            raise AssertionError("the kernel would loop for ever: nobody listens")
        self._answer_all(Uevent.GET_STATS, u, statistics)

    def _ep_connect(self, transport: str, u: bytes, payload: bytes) -> bytes:
        if len(payload) < 16:
            raise Refused(-errno.EINVAL)
        address = SockAddr.unpack(payload.ljust(128, b"\0"))
        if address is None:
            raise Refused(-errno.EAFNOSUPPORT)
        number = next(n for n in range(1, 1 << 16) if n not in self.endpoints)
        host, _, port = str(address).rpartition(":")
        portal = self.portals.get((host.strip("[]"), int(port)))
        self.endpoints[number] = Endpoint(number, portal)
        self.sysfs.add_endpoint(number)
        return struct.pack("=Q", number)

    def _ep_poll(self, transport: str, u: bytes, payload: bytes) -> bytes:
        endpoint = self._endpoint(struct.unpack_from("=Q", u)[0])
        endpoint.polls += 1
        if endpoint.portal is None or endpoint.portal.mode == "refuse" or endpoint.down:
            return struct.pack("=i", -1)
        if endpoint.up and not endpoint.reported:
            endpoint.reported = True
            return struct.pack("=i", 1)
        return struct.pack("=i", 0)

    def _ep_disconnect(self, transport: str, u: bytes, payload: bytes) -> bytes:
        endpoint = self._endpoint(struct.unpack_from("=Q", u)[0])
        if endpoint.leaked:
            return b""  # says yes each time, and frees nothing
        for session in self.sessions.values():
            if session.conn is not None and session.conn.endpoint is endpoint:
                session.conn.endpoint = None
                session.conn.state = "failed"
                self._show(session)
        self._free_endpoint(endpoint)
        return b""

    _HANDLERS: ClassVar[dict[int, Callable[[FakeIscsiClass, str, bytes, bytes], bytes | None]]] = {
        Uevent.CREATE_SESSION: _create_session,
        Uevent.CREATE_BOUND_SESSION: _create_bound,
        Uevent.CREATE_CONN: _create_conn,
        Uevent.BIND_CONN: _bind,
        Uevent.SET_PARAM: _set_param,
        Uevent.SET_HOST_PARAM: _set_host_param,
        Uevent.START_CONN: _start,
        Uevent.STOP_CONN: _stop,
        Uevent.DESTROY_CONN: _destroy_conn,
        Uevent.DESTROY_SESSION: _destroy_session,
        Uevent.DESTROY_SESSION_ASYNC: _destroy_session,
        Uevent.UNBIND_SESSION: _unbind_session,
        Uevent.SEND_PDU: _send_pdu,
        Uevent.GET_STATS: _get_stats,
        Uevent.TRANSPORT_EP_CONNECT: _ep_connect,
        Uevent.TRANSPORT_EP_POLL: _ep_poll,
        Uevent.TRANSPORT_EP_DISCONNECT: _ep_disconnect,
    }

    # ---------------------------------------------------------------- what tests do to it

    def fail(self, sid: int, error: int) -> None:
        """The connection of a session breaks."""
        with self.lock:
            session = self.sessions[sid]
            assert session.conn is not None
            self._connection_failed(session, session.conn, error)

    def cleaned_up(self, sid: int) -> None:
        """The work the kernel had begun when the connection failed comes to its end."""
        with self.lock:
            self.busy_cleaning_up.discard(sid)
            session = self.sessions[sid]
            if session.conn is not None and session.conn.cleanup:
                self._clean_up(session, session.conn)

    def send_from_target(self, sid: int, pdu: Pdu) -> None:
        """A PDU out of the blue."""
        with self.lock:
            session = self.sessions[sid]
            assert session.conn is not None
            self._deliver(session, session.conn, pdu)

    def overrun(self) -> None:
        """Every subscriber learns that something was lost."""
        with self.lock:
            members = [sock for sock in self.sockets if _GROUP in sock.spec.groups]
        for sock in members:
            size, sock.receive_buffer_bytes = sock.receive_buffer_bytes, 0
            sock.deliver(b"")
            sock.receive_buffer_bytes = size

    def destroy_from_outside(self, sid: int) -> None:
        """Another program ends a session."""
        with self.lock:
            u = struct.pack("=I", sid)
            self._destroy_conn("", u, b"")
            self._destroy_session("", u, b"")

    # ---------------------------------------------------------------- inside

    def _session(self, u: bytes) -> Session:
        session = self.sessions.get(struct.unpack_from("=I", u)[0])
        if session is None:
            raise Refused(-errno.EINVAL)
        return session

    def _usable(self, u: bytes) -> tuple[Session, Connection]:
        session = self._session(u)
        if session.conn is None:
            raise Refused(-errno.EINVAL)
        if session.conn.cleanup:
            raise Refused(-errno.ENOTCONN)
        return session, session.conn

    def _endpoint(self, number: int) -> Endpoint:
        if number not in self.endpoints:
            raise Refused(-errno.EINVAL)
        return self.endpoints[number]

    def _free_endpoint(self, endpoint: Endpoint) -> None:
        del self.endpoints[endpoint.number]
        if not endpoint.orphaned:
            self.sysfs.remove_endpoint(endpoint.number)

    def _deliver(self, session: Session, conn: Connection, pdu: Pdu) -> None:
        conn.outstanding_login = False
        body = pdu.header + pdu.data + bytes(-len(pdu.data) & 3)
        self._event(Uevent.RECV_PDU, struct.pack("=IIQ", session.sid, 0, 0), body)

    def _connection_failed(self, session: Session, conn: Connection, error: int) -> None:
        if session.state == "FAILED":
            return
        self._event(Uevent.CONN_ERROR, struct.pack("=III", session.sid, 0, error))
        if conn.state in ("bound", "up"):
            conn.cleanup = True
            conn.state = "failed"
            self._show(session)
            if session.sid not in self.busy_cleaning_up:
                self._clean_up(session, conn)

    def _clean_up(self, session: Session, conn: Connection) -> None:
        if conn.endpoint is not None:
            conn.endpoint.down = conn.endpoint.orphaned = True
            self.sysfs.remove_endpoint(conn.endpoint.number)
        if session.state == "LOGGED_IN":
            session.state = "FAILED"
        self._show(session)

    def _unbind_transport(self, session: Session, conn: Connection) -> None:
        conn.peer = conn.endpoint = None
        conn.outstanding_login = False
        if conn.sock is not None:
            conn.sock.close()
            conn.sock = None
        self.sysfs.clear_connection(session.sid, "address", "port")

    def _unbind_target(self, session: Session) -> None:
        if session.target_state in ("UNBINDING", "UNBOUND"):
            return
        session.target_state = "UNBOUND"
        self.sysfs.remove_luns(session.sid, session.host_no)
        self._show(session)
        self._event(Uevent.KEVENT_UNBIND_SESSION, struct.pack("=II", session.sid, session.host_no))

    def _show(self, session: Session) -> None:
        self.sysfs.set_session(session.sid, state=session.state, target_state=session.target_state)
        if session.conn is not None:
            self.sysfs.set_connection(session.sid, state=session.conn.state)

    def _answer_all(self, kind: Uevent, u: bytes, payload: bytes) -> None:
        """The answer to a request, as the whole group gets it."""
        if not self.lose_events:
            self.multicast(_GROUP, build(0, UEVENT.pack(kind, 0, 0, u, b"") + payload, flags=0))

    def _event(self, kind: Uevent, r: bytes, payload: bytes = b"") -> None:
        if self.lose_events:
            return
        # Like the kernel, which does not clear what an event does not use: garbage in iferror and u.
        body = UEVENT.pack(kind, -1, 0xAAAAAAAAAAAAAAAA, b"\xaa" * 24, r) + payload
        self.multicast(_GROUP, build(0, body, flags=0))
