# SPDX-License-Identifier: Apache-2.0
"""What scsi_transport_iscsi answers, request by request: run against the fake and against the real kernel.

The initiator is written to these answers. A case that passes here and fails there means that one of them has changed.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from rdmactl.initiator import sysfs
from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import (
    UEVENT,
    ConnError,
    ConnStop,
    Param,
    Reply,
    SessionCreated,
    SessionDestroyed,
    SessionUnbound,
    Uevent,
)
from rdmactl.netlink.message import build, split
from rdmactl.netlink.ports import ChannelSpec, NetlinkSocket
from rdmactl.netlink.sockaddr import SockAddr

REQUESTS = ChannelSpec(iscsi.NETLINK_ISCSI)
EVENTS = ChannelSpec(iscsi.NETLINK_ISCSI, groups=(1,), receive_bytes=16384)
LIMIT_S = 20.0
_GET_PARAM = 21  # in the header, and nowhere else
_MANAGEMENT_COMMANDS = 15  # ISCSI_MGMT_CMDS_MAX: of all commands, those not for the SCSI layer


class Place(Protocol):
    """Where the cases run. `root` is where its sysfs is."""

    root: str

    def door(self, spec: ChannelSpec) -> NetlinkSocket: ...
    def handle(self, transport: str) -> int: ...
    def iser_portal(self) -> SockAddr: ...
    def iser_refused(self) -> SockAddr: ...
    def iser_silent(self) -> SockAddr: ...
    def listener(self) -> socket.socket: ...


class Class:
    """A request socket and an event socket; what was made is undone by `close`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.events_socket = place.door(EVENTS)
        self.socket = place.door(REQUESTS)
        self.tcp, self.iser = place.handle("tcp"), place.handle("iser")
        self.made: list[tuple[int, int]] = []  # (transport handle, sid); the kernel oopses on the wrong handle
        self.endpoints: list[int] = []

    def ask(self, *requests: bytes) -> list[Reply]:
        padded = [request + bytes(-len(request) & 3) for request in requests]
        self.socket.send(b"".join(padded))
        replies = []
        while (item := self.socket.receive()) is not None:
            reply = iscsi.parse_reply(item[0])
            assert reply is not None
            replies.append(reply)
        return replies

    def one(self, request: bytes) -> Reply:
        (reply,) = self.ask(request)
        return reply

    def code(self, request: bytes) -> int:
        return self.one(request).code

    def events(self, sid: int | None = None) -> list[iscsi.Event]:
        found = []
        while (item := self.events_socket.receive()) is not None:
            found += [event for message in split(item[0]) if (event := iscsi.parse_event(message)) is not None]
        return [event for event in found if sid is None or getattr(event, "sid", None) == sid]

    def await_event(self, kind: type, sid: int) -> list[iscsi.Event]:
        """Events of a session up to the first of `kind`."""
        seen: list[iscsi.Event] = []
        end = time.monotonic() + LIMIT_S
        while not any(isinstance(event, kind) for event in seen):
            assert time.monotonic() < end, f"no {kind.__name__} of session {sid}, but {seen}"
            seen += self.events(sid)
        return seen

    def session(self) -> int:
        """A tcp session with a connection that is not bound."""
        reply = self.one(iscsi.create_session(self.tcp, 0, 32, 8))
        assert reply.code == 0
        self.made.append((self.tcp, reply.sid))
        assert self.code(iscsi.create_conn(self.tcp, reply.sid)) == 0
        return reply.sid

    def bound(self) -> int:
        """A tcp session, bound to a connection to somebody who says nothing."""
        sid = self.session()
        with socket.create_connection(self.place.listener().getsockname()) as sock:
            assert self.code(iscsi.bind_conn(self.tcp, sid, sock.fileno())) == 0
        return sid

    def connect(self, address: SockAddr) -> int:
        reply = self.one(iscsi.ep_connect(self.iser, address.pack()))
        assert reply.code == 0
        self.endpoints.append(reply.handle)
        return reply.handle

    def poll(self, endpoint: int, limit_s: float = LIMIT_S) -> int:
        """EP_POLL until it says something other than 0, or the time is up."""
        end = time.monotonic() + limit_s
        while True:
            code = self.code(iscsi.ep_poll(self.iser, endpoint))
            if code or time.monotonic() > end:
                return code
            time.sleep(0.002)

    def close(self) -> None:
        for endpoint in self.endpoints:
            self.ask(iscsi.ep_disconnect(self.iser, endpoint))
        for handle, sid in self.made:
            stop = iscsi.stop_conn(handle, sid, ConnStop.TERM)
            self.ask(stop, iscsi.destroy_conn(handle, sid), iscsi.destroy_session_async(handle, sid))
        self.socket.close()
        self.events_socket.close()


def unknown_request_is_enosys(k: Class) -> None:
    for number in (_GET_PARAM, 99):
        assert k.code(build(number, UEVENT.pack(number, 0, k.tcp, b"", b""), flags=0)) == -errno.ENOSYS


def short_request_has_no_answer(k: Class) -> None:
    assert k.ask(build(Uevent.CREATE_SESSION, bytes(UEVENT.size - 1), flags=0)) == []


def wrong_handle_is_einval(k: Class) -> None:
    assert k.code(iscsi.create_session(k.tcp ^ 0x10, 0, 32, 8)) == -errno.EINVAL


def each_request_of_a_batch_is_answered(k: Class) -> None:
    sid = k.bound()
    pairs = [(Param.PING_TMO, 5), (Param.RECV_TMO, 5), (Param.MAX_R2T, 3), (Param.TARGET_NAME, "iqn.2026-11.test:x")]
    replies = k.ask(*(iscsi.set_param(k.tcp, sid, param, value) for param, value in pairs))
    assert [reply.code for reply in replies] == [0, 0, -errno.EINVAL, 0]
    assert [struct.unpack_from("=I", reply.request, 8)[0] for reply in replies] == [param for param, _ in pairs]


def the_parameters_of_a_login_fit_in_one_datagram(k: Class) -> None:
    sid = k.bound()
    seconds = range(1, 17)
    requests = [iscsi.set_param(k.tcp, sid, Param.ABORT_TMO, value) for value in seconds]
    replies = k.ask(*requests, iscsi.start_conn(k.tcp, sid))
    assert [(reply.type, reply.code) for reply in replies] == [(Uevent.SET_PARAM, 0)] * 16 + [(Uevent.START_CONN, 0)]
    assert sysfs.read(_attribute(k, sid, "abort_tmo")) == "16"


def parameters_need_a_bound_connection(k: Class) -> None:
    sid = k.session()
    assert k.code(iscsi.set_param(k.tcp, sid, Param.PING_TMO, 5)) == -errno.ENOTCONN
    assert k.code(iscsi.set_param(k.tcp, sid, Param.SESS_RECOVERY_TMO, 77)) == 0


def parameter_length_is_checked(k: Class) -> None:
    sid = k.bound()
    for length, value in ((50, b"short\0"), (4097, b"x" * 4096 + b"\0")):
        u = struct.pack("=IIII8x", sid, 0, Param.TARGET_NAME, length)
        message = build(Uevent.SET_PARAM, UEVENT.pack(Uevent.SET_PARAM, 0, k.tcp, u, b"") + value, flags=0)
        assert k.code(message) == -errno.EINVAL


def tcp_has_no_markers(k: Class) -> None:
    sid = k.bound()
    assert k.code(iscsi.set_param(k.tcp, sid, Param.IFMARKER_EN, 0)) == -errno.ENOSYS


def tcp_wants_powers_of_two(k: Class) -> None:
    sid = k.bound()
    codes = [k.code(iscsi.set_param(k.tcp, sid, Param.MAX_R2T, value)) for value in (0, 3, 4)]
    assert codes == [-errno.EINVAL, -errno.EINVAL, 0]


def too_few_commands_is_enomem(k: Class) -> None:
    assert k.code(iscsi.create_session(k.tcp, 0, 15, 8)) == -errno.ENOMEM


def commands_are_a_power_of_two_within_bounds(k: Class) -> None:
    queued = []
    for cmds_max in (0, 100, 5000):
        reply = k.one(iscsi.create_session(k.tcp, 0, cmds_max, 8))
        k.made.append((k.tcp, reply.sid))
        queued.append(int(sysfs.read(f"{k.place.root}/class/scsi_host/host{reply.second}/can_queue") or 0))
    assert queued == [commands - _MANAGEMENT_COMMANDS for commands in (128, 64, 4096)]


def one_connection_per_session(k: Class) -> None:
    sid = k.session()
    assert k.code(iscsi.create_conn(k.tcp, sid)) == -errno.ENOMEM
    assert k.code(iscsi.destroy_session_async(k.tcp, sid)) == -errno.EBUSY


def creation_is_told_before_it_is_answered(k: Class) -> None:
    k.events()
    reply = k.one(iscsi.create_session(k.tcp, 0, 32, 8))
    k.made.append((k.tcp, reply.sid))
    assert k.events(reply.sid) == [SessionCreated(reply.sid, reply.second)]


def destruction_is_told_in_order(k: Class) -> None:
    sid = k.session()
    k.ask(iscsi.destroy_conn(k.tcp, sid))
    assert k.code(iscsi.destroy_session_async(k.tcp, sid)) == 0
    assert k.code(iscsi.unbind_session(k.tcp, sid)) == -errno.EINVAL
    events = [event for event in k.await_event(SessionDestroyed, sid) if not isinstance(event, SessionCreated)]
    assert [type(event) for event in events] == [SessionUnbound, SessionDestroyed]


def unbinding_twice_is_told_once(k: Class) -> None:
    sid = k.session()
    assert k.code(iscsi.unbind_session(k.tcp, sid)) == 0
    k.await_event(SessionUnbound, sid)
    assert k.code(iscsi.unbind_session(k.tcp, sid)) == 0
    assert not [event for event in k.events(sid) if isinstance(event, SessionUnbound)]


def only_tcp_sockets_are_bound(k: Class) -> None:
    sid = k.session()
    assert k.code(iscsi.bind_conn(k.tcp, sid, 987)) == -errno.EEXIST
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert k.code(iscsi.bind_conn(k.tcp, sid, sock.fileno())) == -errno.EINVAL


def a_terminated_session_takes_no_pdu(k: Class) -> None:
    sid = k.bound()
    assert k.code(iscsi.stop_conn(k.tcp, sid, ConnStop.TERM)) == 0
    with socket.create_connection(k.place.listener().getsockname()) as sock:
        assert k.code(iscsi.bind_conn(k.tcp, sid, sock.fileno())) == 0
    assert k.code(iscsi.send_pdu(k.tcp, sid, b"\x43\x87" + bytes(46), b"")) == -errno.EPERM


def one_login_request_at_a_time(k: Class) -> None:
    sid = k.bound()
    request = iscsi.send_pdu(k.tcp, sid, b"\x43\x87" + bytes(46), b"")
    assert k.ask(request)[0].code == 0
    assert k.code(request) == -errno.EPERM


def refused_endpoint_fails_at_once(k: Class) -> None:
    endpoint = k.connect(k.place.iser_refused())
    begin = time.monotonic()
    assert k.poll(endpoint) < 0
    assert time.monotonic() - begin < 5
    assert k.code(iscsi.ep_disconnect(k.iser, endpoint)) == 0


def silent_endpoint_stays_pending(k: Class) -> None:
    endpoint = k.connect(k.place.iser_silent())
    assert k.poll(endpoint, 0.2) == 0
    assert k.code(iscsi.ep_disconnect(k.iser, endpoint)) == 0


def connected_is_told_once(k: Class) -> None:
    endpoint = k.connect(k.place.iser_portal())
    assert k.poll(endpoint) == 1
    assert k.code(iscsi.ep_poll(k.iser, endpoint)) == 0
    assert k.code(iscsi.ep_disconnect(k.iser, endpoint)) == 0


def released_endpoint_is_unknown(k: Class) -> None:
    endpoint = k.connect(k.place.iser_refused())
    assert k.code(iscsi.ep_disconnect(k.iser, endpoint)) == 0
    assert k.code(iscsi.ep_disconnect(k.iser, endpoint)) == -errno.EINVAL


def session_needs_a_connected_endpoint(k: Class) -> None:
    endpoint = k.connect(k.place.iser_silent())
    assert k.code(iscsi.create_bound_session(k.iser, endpoint, 0, 32, 8)) == -errno.ENOMEM


def digests_are_refused_on_iser(k: Class) -> None:
    sid = _bound_iser(k)
    assert k.code(iscsi.set_param(k.iser, sid, Param.HDRDGST_EN, 1)) == -errno.EPROTO
    assert k.code(iscsi.set_param(k.iser, sid, Param.HDRDGST_EN, 0)) == 0


def endpoint_number_is_free_after_the_right_order(k: Class) -> None:
    """EP_DISCONNECT, then STOP_CONN: the next endpoint gets the same number."""
    sid = _bound_iser(k)
    endpoint = k.endpoints.pop()
    assert k.ask(iscsi.ep_disconnect(k.iser, endpoint), iscsi.stop_conn(k.iser, sid, ConnStop.RECOVER))[1].code == 0
    assert k.connect(k.place.iser_refused()) == endpoint


def endpoint_number_is_free_after_stopping_a_healthy_connection(k: Class) -> None:
    """STOP_CONN alone, as after a restart of the daemon: the kernel disconnects, and nothing is left."""
    sid = _bound_iser(k)
    endpoint = k.endpoints.pop()
    assert k.code(iscsi.stop_conn(k.iser, sid, ConnStop.TERM)) == 0
    assert k.code(iscsi.ep_disconnect(k.iser, endpoint)) == -errno.EINVAL


def only_a_connected_endpoint_is_bound(k: Class) -> None:
    sid = _bound_iser(k)
    endpoint = k.connect(k.place.iser_silent())
    assert k.code(iscsi.bind_conn(k.iser, sid, endpoint)) == -errno.EINVAL


def a_connection_that_is_not_bound_is_started(k: Class) -> None:
    """The kernel does not stand in the way: to bind first is the initiator's own business."""
    sid = k.session()
    assert k.code(iscsi.start_conn(k.tcp, sid)) == 0
    assert sysfs.read(_attribute(k, sid, "state")) == "LOGGED_IN"


def recovery_timeout_of_the_administrator_stays(k: Class) -> None:
    sid = k.bound()
    attribute = _attribute(k, sid, "recovery_tmo")
    assert k.ask(iscsi.set_param(k.tcp, sid, Param.SESS_RECOVERY_TMO, 33), iscsi.start_conn(k.tcp, sid))[1].code == 0
    assert sysfs.read(attribute) == "33"
    sysfs.write(attribute, "77")  # refused while the session is not logged in
    assert k.code(iscsi.set_param(k.tcp, sid, Param.SESS_RECOVERY_TMO, 55)) == 0
    assert sysfs.read(attribute) == "77"


def burst_lengths_are_checked_at_start(k: Class) -> None:
    sid = _bound_iser(k)
    pairs = [(Param.INITIAL_R2T_EN, 0), (Param.IMM_DATA_EN, 1), (Param.FIRST_BURST, 9000), (Param.MAX_BURST, 8000)]
    k.ask(*(iscsi.set_param(k.iser, sid, param, value) for param, value in pairs))
    assert k.code(iscsi.start_conn(k.iser, sid)) == -errno.EINVAL


def _lost_tcp(k: Class) -> tuple[socket.socket, ConnError]:
    """A session whose target has hung up: the target's listener, and what the kernel tells."""
    sid = k.session()
    listener = k.place.listener()
    with socket.create_connection(listener.getsockname()) as sock:
        assert k.code(iscsi.bind_conn(k.tcp, sid, sock.fileno())) == 0
    accepted, _ = listener.accept()
    accepted.close()
    lost = k.await_event(ConnError, sid)[-1]
    assert isinstance(lost, ConnError)
    return listener, lost


def lost_tcp_connection_is_told(k: Class) -> None:
    assert _lost_tcp(k)[1].error == 1020


def a_lost_connection_takes_nothing_until_it_is_stopped(k: Class) -> None:
    listener, (sid, *_) = _lost_tcp(k)
    pdu = iscsi.send_pdu(k.tcp, sid, b"\x43\x87" + bytes(46), b"")
    refused = [k.code(pdu), k.code(iscsi.set_param(k.tcp, sid, Param.PING_TMO, 5))]
    assert refused == [-errno.ENOTCONN, -errno.ENOTCONN]
    assert k.code(iscsi.stop_conn(k.tcp, sid, ConnStop.RECOVER)) == 0
    with socket.create_connection(listener.getsockname()) as sock:
        assert k.code(iscsi.bind_conn(k.tcp, sid, sock.fileno())) == 0
    assert k.code(pdu) == 0


def _attribute(k: Class, sid: int, name: str) -> str:
    return f"{k.place.root}/class/iscsi_session/session{sid}/{name}"


def _bound_iser(k: Class) -> int:
    endpoint = k.connect(k.place.iser_portal())
    assert k.poll(endpoint) == 1
    reply = k.one(iscsi.create_bound_session(k.iser, endpoint, 0, 32, 8))
    assert reply.code == 0
    k.made.append((k.iser, reply.sid))
    requests = (iscsi.create_conn(k.iser, reply.sid), iscsi.bind_conn(k.iser, reply.sid, endpoint))
    assert [answer.code for answer in k.ask(*requests)] == [0, 0]
    return reply.sid


CASES: list[Callable[[Class], None]] = [
    unknown_request_is_enosys,
    short_request_has_no_answer,
    wrong_handle_is_einval,
    each_request_of_a_batch_is_answered,
    the_parameters_of_a_login_fit_in_one_datagram,
    parameters_need_a_bound_connection,
    parameter_length_is_checked,
    tcp_has_no_markers,
    tcp_wants_powers_of_two,
    too_few_commands_is_enomem,
    commands_are_a_power_of_two_within_bounds,
    one_connection_per_session,
    creation_is_told_before_it_is_answered,
    destruction_is_told_in_order,
    unbinding_twice_is_told_once,
    only_tcp_sockets_are_bound,
    a_terminated_session_takes_no_pdu,
    one_login_request_at_a_time,
    refused_endpoint_fails_at_once,
    silent_endpoint_stays_pending,
    connected_is_told_once,
    released_endpoint_is_unknown,
    session_needs_a_connected_endpoint,
    digests_are_refused_on_iser,
    endpoint_number_is_free_after_the_right_order,
    endpoint_number_is_free_after_stopping_a_healthy_connection,
    only_a_connected_endpoint_is_bound,
    a_connection_that_is_not_bound_is_started,
    recovery_timeout_of_the_administrator_stays,
    burst_lengths_are_checked_at_start,
]
REAL_ONLY: list[Callable[[Class], None]] = [  # the fake does not watch sockets
    lost_tcp_connection_is_told,
    a_lost_connection_takes_nothing_until_it_is_stopped,
]
