# SPDX-License-Identifier: Apache-2.0
"""The iSCSI class of the kernel as coroutines: each step of a session's life is one exchange. Shell ring.

What belongs together goes in one datagram: the kernel runs the requests of a datagram in order, under one lock for the
whole machine, and answers each. A failing one does not stop the rest, so every answer is checked.

Orders that matter (drivers/scsi/scsi_transport_iscsi.c, drivers/infiniband/ulp/iser):

* iser: EP_DISCONNECT before STOP_CONN. The other way round the endpoint's number is never free again.
* STOP_CONN(TERM) ends a session for good: only destroying helps afterwards. A session that shall live on gets RECOVER.
* iser: SEND_PDU on a connection that is not bound crashes the kernel. One whose connection has failed is refused.
* The handle in a request must be that of the session's own transport: the kernel does not compare, and oopses.
* While the kernel cleans a failed connection up, BIND_CONN, START_CONN, SEND_PDU and SET_PARAM say ENOTCONN, until
  STOP_CONN.

Not here: login PDUs (`login.py`), when to do what (`service.py`), message formats (`rdmactl.netlink.iscsi`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rdmactl.errors import KernelError, Unavailable
from rdmactl.initiator import sysfs
from rdmactl.initiator.endpoints import EndpointPoll
from rdmactl.initiator.failures import TryAgain
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.netlink import iscsi
from rdmactl.netlink.iscsi import ConnStop, HostParam, Param, Reply, Uevent
from rdmactl.netlink.ports import RequestChannel

__all__ = ["Kernel", "KernelSession", "ParamList", "host_params"]

# Any request may have to wait for somebody else's, a slow EP_DISCONNECT or DESTROY_SESSION; far above what is normal.
EXCHANGE_S = 30.0

_MIN_CMDS_MAX = 16  # ISCSI_TOTAL_CMDS_MIN
_CLEAN_UP_S = 10.0
_CLEAN_UP_POLL_S = 0.02

ParamList = Sequence[tuple[Param, str | int | bool]]


@dataclass(slots=True)
class KernelSession:
    """How to name a session to the kernel. `endpoint` is the iser endpoint it holds, None for tcp or when unknown."""

    sid: int
    host_no: int
    transport: str
    handle: int  # of the transport
    endpoint: int | None = None


class Kernel:
    """Requests to scsi_transport_iscsi. One instance per service; concurrent use is fine, the channel serialises.

    Endpoints that exist already belong to sessions of before; nobody knows which to which. When one of their
    connections fails, the endpoint leaves sysfs and its number stays taken until somebody releases it, which must be
    done before STOP_CONN. So whichever has left sysfs by then is released; healthy ones the kernel frees itself.
    """

    def __init__(self, requests: RequestChannel, root: str = "/sys") -> None:
        self._requests = requests
        self._root = root
        self._orphans = set(sysfs.endpoints(root))
        self._polls = EndpointPoll(self._exchange)

    async def endpoint_connect(self, handle: int, sockaddr: bytes, peer: str) -> int:
        """Begin to connect an endpoint; it must be released with `endpoint_disconnect`, connected or not."""
        (reply,) = await self._exchange([iscsi.ep_connect(handle, sockaddr)])
        if reply.code < 0:
            raise TryAgain(IscsiErr.TRANS, f"cannot reach {peer} by RDMA: {os.strerror(-reply.code)}")
        self._orphans.discard(reply.handle)  # a number that is given out anew is nobody's any more
        return reply.handle

    async def endpoint_wait(self, handle: int, endpoint: int, peer: str) -> None:
        """Return when the endpoint is connected; TryAgain when that failed. Bound it with a time-out.

        The kernel tells "connected" only once, and sends no event for it.
        """
        if not await self._polls.connected(handle, endpoint):
            raise TryAgain(IscsiErr.TRANS, f"{peer} refused the RDMA connection")

    async def endpoint_disconnect(self, handle: int, endpoint: int) -> None:
        """Release an endpoint; one that is gone already is fine."""
        (reply,) = await self._exchange([iscsi.ep_disconnect(handle, endpoint)])
        if reply.code != -errno.EINVAL:
            _check(reply, f"endpoint {endpoint}")

    async def create_session(
        self, transport: str, handle: int, endpoint: int | None, initial_cmdsn: int, cmds_max: int, queue_depth: int
    ) -> KernelSession:
        """A session without connection: upon `endpoint` (iser), or on nothing yet (tcp)."""
        if 0 < cmds_max < _MIN_CMDS_MAX:
            raise IscsiFailure(
                IscsiErr.INTERNAL,
                f"the kernel creates no {transport} session with cmds_max {cmds_max}",
                hint="cmds_max is a power of two between 16 and 2048",
            )
        if endpoint is None:
            request = iscsi.create_session(handle, initial_cmdsn, cmds_max, queue_depth)
        else:
            request = iscsi.create_bound_session(handle, endpoint, initial_cmdsn, cmds_max, queue_depth)
        (reply,) = await self._exchange([request])
        if reply.code == -errno.ENOMEM and endpoint is not None:  # the one answer for every reason
            raise TryAgain(IscsiErr.TRANS, "the kernel did not create an iser session: its connection failed")
        _check(reply, f"{transport} session")
        return KernelSession(reply.sid, reply.second, transport, handle, endpoint)

    async def bind(
        self,
        session: KernelSession,
        transport_eph: int,
        host: Sequence[bytes],
        params: ParamList,
        first: tuple[bytes, bytes],
        *,
        new: bool,
    ) -> None:
        """Give the session's connection (a `new` one, or that of before) its transport and the parameters of before
        the login, and queue the `first` PDU (header and data).

        All in one exchange for tcp: what follows a request that failed fails as well, and sends nothing. In two for
        iser: an endpoint may fail until it is bound, and a PDU for a connection that is not ends in a NULL pointer.
        """
        handle, sid = session.handle, session.sid
        binding = [iscsi.create_conn(handle, sid)] if new else []
        binding += [iscsi.bind_conn(handle, sid, transport_eph), *host]
        requests = [iscsi.set_param(handle, sid, param, value) for param, value in params]
        requests += [iscsi.send_pdu(handle, sid, *first)]
        if session.transport == "iser":
            await self._all(session, binding)
            await self._all(session, requests)
        else:
            await self._all(session, [*binding, *requests])

    async def send_pdu(self, session: KernelSession, header: bytes, data: bytes) -> None:
        """Queue a Login, Text, Logout or NOP-Out; errors of its transmission come as events."""
        await self._all(session, [iscsi.send_pdu(session.handle, session.sid, header, data)])

    async def start(self, session: KernelSession, params: ParamList) -> None:
        """Set what was negotiated and open the session to the SCSI layer, in one exchange.

        Digests come first: the target uses them from its last login response on.
        """
        requests = [iscsi.set_param(session.handle, session.sid, param, value) for param, value in params]
        await self._all(session, [*requests, iscsi.start_conn(session.handle, session.sid)])

    async def set_params(self, session: KernelSession, params: ParamList) -> None:
        """Change parameters of a session."""
        handle, sid = session.handle, session.sid
        await self._all(session, [iscsi.set_param(handle, sid, param, value) for param, value in params])

    async def release(self, session: KernelSession, flag: ConnStop, *, failed: bool) -> None:
        """Take the transport away: the endpoint first, then STOP_CONN. Returns after the kernel's clean-up.

        `failed`: the kernel has told that the connection is lost.
        """
        endpoint, session.endpoint = session.endpoint, None
        if endpoint is not None:
            await self.endpoint_disconnect(session.handle, endpoint)
        elif session.transport == "iser" and self._orphans:
            await self._cleaned_up(session, failed)
            await self._release_orphans(session.handle)
        (reply,) = await self._exchange([iscsi.stop_conn(session.handle, session.sid, flag)])
        if reply.code != -errno.EINVAL:  # no such connection: nothing to stop
            _check(reply, f"session {session.sid}")

    async def _cleaned_up(self, session: KernelSession, failed: bool) -> None:
        """The kernel puts a failed connection away in the background. Its endpoint has left sysfs when the session's
        state changes; before, STOP_CONN would come in between and the endpoint's number be lost.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S):
                while (view := sysfs.session(session.sid, self._root)) is not None and view.state == "LOGGED_IN":
                    if not failed and view.connection_state != "failed":
                        return  # it is up: the kernel disconnects it itself, nothing is lost
                    await asyncio.sleep(_CLEAN_UP_POLL_S)

    async def _release_orphans(self, handle: int) -> None:
        """In one exchange: who finds its endpoint released by somebody else sends STOP_CONN next, and must not
        overtake."""
        gone = self._orphans.difference(sysfs.endpoints(self._root))
        self._orphans -= gone
        requests = [iscsi.ep_disconnect(handle, endpoint) for endpoint in sorted(gone)]
        for reply in await self._exchange(requests) if requests else ():
            if reply.code != -errno.EINVAL:
                _check(reply, "an endpoint of before")

    async def unbind(self, session: KernelSession) -> None:
        """Begin to remove the session's SCSI devices."""
        await self._all(session, [iscsi.unbind_session(session.handle, session.sid)])

    async def destroy(self, session: KernelSession) -> None:
        """Free connection and session; the latter in the background. Parts that are gone already are fine."""
        replies = await self._exchange(
            [
                iscsi.destroy_conn(session.handle, session.sid),
                iscsi.destroy_session_async(session.handle, session.sid),
            ]
        )
        for reply in replies:
            if reply.code != -errno.EINVAL:
                _check(reply, f"session {session.sid}")

    async def ask_statistics(self, handle: int, sid: int) -> None:
        """Have the kernel send a session's counters to the event channel, which must be open (`iscsi.get_stats`)."""
        try:
            (reply,) = await self._exchange([iscsi.get_stats(handle, sid)])
        except KernelError as error:
            if error.errno != errno.ENODATA:  # no answer here is the good case
                raise
        else:
            _check(reply, f"session {sid}")

    async def _all(self, session: KernelSession, requests: Sequence[bytes]) -> None:
        failed = [reply for reply in await self._exchange(requests) if reply.code < 0]
        for reply in failed:
            if reply.code == -errno.ENOSYS and reply.type in (Uevent.SET_PARAM, Uevent.SET_HOST_PARAM):
                continue  # a parameter this transport does not have
            _check(reply, f"session {session.sid}")

    async def _exchange(self, requests: Sequence[bytes]) -> list[Reply]:
        try:
            answers = await self._requests.exchange(requests, deadline_s=EXCHANGE_S)
        except KernelError as error:
            if error.errno != errno.ECONNREFUSED:
                raise
            raise Unavailable(
                "the kernel takes iSCSI requests only in the initial network namespace, and this is another one",
                hint="start the daemon outside of the container, or with --net=host",
                code="wrong-namespace",
            ) from None
        replies = [iscsi.parse_reply(answer) for answer in answers]
        whole = [reply for reply in replies if reply is not None]
        if len(whole) != len(requests):
            raise KernelError("NETLINK_ISCSI", errno.EPROTO, "the kernel's answer to an iSCSI request is cut short")
        return whole


def host_params(handle: int, host_no: int, params: Sequence[tuple[HostParam, str]]) -> list[bytes]:
    """Requests that set what sysfs shows of a host; empty values are left out."""
    return [iscsi.set_host_param(handle, host_no, param, value) for param, value in params if value]


def _check(reply: Reply, what: str) -> None:
    if reply.code >= 0:
        return
    if reply.code == -errno.EPERM and reply.type != Uevent.SEND_PDU:
        raise Unavailable(
            "not permitted to command the kernel's iSCSI sessions",
            hint="run as root, in the initial user namespace",
            code="not-permitted",
        )
    operation = Uevent(reply.type).name
    raise KernelError(operation, -reply.code, f"{what}: {operation}: {os.strerror(-reply.code)}")
