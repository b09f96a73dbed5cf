# SPDX-License-Identifier: Apache-2.0
"""The port mapper's standing with the kernel: version, registration, reports, what must be sent again. Engine ring.

Not here: requests for mappings (`mapper.py`) and what a report does to the table (`report.py`). The states are in
`states.py`. Behaviour of the other side: drivers/infiniband/core/iwpm_msg.c, iwpm_util.c.

Two dangers rule this module. The kernel keeps a pointer to the waiter's stack behind each request it ever sent: an
answer that comes twice or after its 10 s can crash the machine. Hence `answer` sends nothing that is too old, and only
what the kernel says it has *not* processed (EBUSY) is sent again; ENOBUFS means that it will be processed later.
And HELLO and MAPINFO make the kernel forget that we are registered: a request between its two looks at that fact goes
unmapped. So neither is sent without need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rdmactl.iwpm.events import KernelReply, Outbox
from rdmactl.iwpm.states import HOLDING, LINK, LinkEvent, LinkState
from rdmactl.iwpm.stats import Stats
from rdmactl.iwpm.timers import earliest
from rdmactl.netlink.rdma import (
    IWPM_ABI_VERSION,
    IWPM_ABI_VERSION_MIN,
    RDMA_NL_IWPM_ADD_MAPPING,
    RDMA_NL_IWPM_HANDLE_ERR,
    RDMA_NL_IWPM_HELLO,
    RDMA_NL_IWPM_MAPINFO,
    RDMA_NL_IWPM_MAPINFO_NUM,
    RDMA_NL_IWPM_QUERY_MAPPING,
    RDMA_NL_IWPM_REG_PID,
    RDMA_NL_IWPM_REMOTE_INFO,
    IwpmErr,
    MapInfo,
    RegPid,
    handle_err,
    hello,
    mapinfo_num_ack,
    mapinfo_request,
    reg_pid_reply,
)
from rdmactl.states import advance

__all__ = ["ANSWER_LIMIT_S", "KernelLink", "Report"]

ANSWER_LIMIT_S = 9.0
"""The kernel waits 10 s for an answer and must never get one later; one second is for what we cannot see."""

OUTCOME_S = 5.0
"""HELLO and MAPINFO are answered inside the send; after this long the answer is lost."""

PROBE_ABSENT_S = 10.0
"""How often HELLO is offered to a kernel that refused everything. iw_cm may be loaded at any time; asking is cheap."""

PROBE_OLD_S = 60.0
"""The same for a kernel that speaks version 3: it is most likely just old."""

RESEND_S = 0.01
"""Until something the kernel was too busy for is sent again: its queue is drained by then."""

STRAGGLER_S = 1.0
"""REG_PID of threads that looked before we had registered may come this long afterwards; later ones are suspicious."""

RECHECKS = 3
"""Further reports asked for while the table is doubtful; under steady load it always is, a little."""

RECHECK_S = 12.0
"""Until such a further report: all that was young is settled by then."""

RECHECK_SOON_S = 0.5
"""The same when the report was cut off: our receive queue was full, and has been drained."""

LOST_PAUSE_S = 1.0
"""Between two reports asked for because messages were lost."""

_EBUSY, _ENOMEM, _ENOBUFS, _EAGAIN = -16, -12, -105, -11
_REPORTING = frozenset({LinkState.RESTORING, LinkState.CHECKING})
_ANSWERS = frozenset(
    {RDMA_NL_IWPM_REG_PID, RDMA_NL_IWPM_ADD_MAPPING, RDMA_NL_IWPM_QUERY_MAPPING, RDMA_NL_IWPM_HANDLE_ERR}
)


class Report(NamedTuple):
    """A finished report. A partial one says what there is, but not what there is not."""

    records: list[MapInfo]
    complete: bool


class _Resend(NamedTuple):
    due: float
    op: int
    payload: bytes
    asked_at: float | None


class KernelLink:
    """Sends everything that goes to the kernel, and keeps the link to it.

    `on_report` is called, from within `receive...`, with each report; it returns how many entries are doubtful.
    """

    def __init__(self, outbox: Outbox, stats: Stats, on_report: Callable[[Report, float], int]) -> None:
        self.state = LinkState.IDLE
        self.holding = LinkState.IDLE in HOLDING
        """Whether requests must wait."""
        self.version = IWPM_ABI_VERSION
        self._outbox = outbox
        self._stats = stats
        self._on_report = on_report
        self._ready = False
        self._greeted = False
        self._timer: float | None = None
        self._check_at: float | None = None
        self._check_again = False
        self._lost_at = float("-inf")
        self._rechecks = 0
        self._records: list[MapInfo] = []
        self._counted: int | None = None
        self._resends: list[_Resend] = []
        self._reg_pid_due = False  # REG_PID is the normal consequence of something we sent
        self._registered_at = float("-inf")

    @property
    def registered(self) -> bool:
        """Whether the kernel has taken our answer to REG_PID, as far as we know; it asks when it first needs us."""
        return not self._reg_pid_due and self._registered_at > float("-inf")

    @property
    def settled(self) -> bool:
        """Whether nothing asked of the kernel is outstanding: what it sends now, it sent after all we asked."""
        return self.state in (LinkState.SERVING, LinkState.REFUSED) and not self._check_again

    def start(self, now: float) -> None:
        """Offer HELLO."""
        self._event(LinkEvent.START, now)

    def answer(self, op: int, seq: int, payload: bytes, asked_at: float, now: float) -> None:
        """Answer request `seq`; nothing is sent if that would be too late: then the kernel's report must tell."""
        if now - asked_at > ANSWER_LIMIT_S:
            self._stats.too_late += 1
            self.check(now)
            return
        self._stats.answers += 1
        self._outbox.kernel(op, payload, asked_at)

    def refuse(self, seq: int, code: int, asked_at: float, now: float) -> None:
        """Answer request `seq` with HANDLE_ERR."""
        self._stats.refusals += 1
        self.answer(RDMA_NL_IWPM_HANDLE_ERR, seq, handle_err(seq, code), asked_at, now)

    def check(self, now: float) -> None:
        """Ask for a report, because the table may be wrong."""
        self._event(LinkEvent.CHECK, now)

    def lost(self, now: float) -> None:
        """Messages of the kernel were lost: ask for a report, soon if one has just been asked for.

        A receive buffer that is too small for the report itself would otherwise have us ask without end.
        """
        if now - self._lost_at >= LOST_PAUSE_S:
            self._lost_at = now
            self.check(now)
        elif self._check_at is None:
            self._check_at = now + LOST_PAUSE_S

    def probe(self, now: float) -> None:
        """A request has come: if HELLO was refused before, there is a kernel to offer it to now."""
        if self.state is LinkState.REFUSED or (self.state is LinkState.SERVING and not self._greeted):
            self._event(LinkEvent.PROBE, now)

    def greeted(self, version: int, seq: int, now: float) -> None:
        """HELLO has come from the kernel."""
        if version > IWPM_ABI_VERSION:
            self._outbox.kernel(RDMA_NL_IWPM_HANDLE_ERR, handle_err(seq, IwpmErr.VERSION_MISMATCH))
            self._outbox.warning(f"the kernel wants ABI version {version}; {IWPM_ABI_VERSION} is the newest known here")
            self._event(LinkEvent.TOO_NEW, now)
            return
        self._greeted = True
        self.version = max(version, IWPM_ABI_VERSION_MIN)
        if self.state is LinkState.SERVING:
            self._outbox.warning("the kernel has been greeted in our name: checking its mappings")
        self._event(LinkEvent.GREETED, now)

    def record(self, record: MapInfo) -> None:
        """One record of a report. Reports that somebody else has asked for are not ours to believe."""
        if self.state in _REPORTING:
            self._records.append(record)

    def counted(self, seq: int, sent: int) -> None:
        """The kernel says how many records it has sent; it wants to hear how many came."""
        self._records = self._records[len(self._records) - sent :] if sent < len(self._records) else self._records
        self._counted = sent
        self._outbox.kernel(RDMA_NL_IWPM_MAPINFO_NUM, mapinfo_num_ack(seq, sent, len(self._records)))

    def register(self, seq: int, request: RegPid, asked_at: float, now: float) -> None:
        """Answer REG_PID. One that nothing of ours explains means that somebody else has spoken to the kernel."""
        if not self._reg_pid_due and now - self._registered_at > STRAGGLER_S:
            self._outbox.warning(
                f"registered again with the kernel (device {request.ibdev_name}): another process had taken over, "
                "or iw_cm was reloaded; checking its mappings"
            )
            # Not now: a report asked for before the waiting thread has gone on would leave it unmapped.
            self._check_at = now + STRAGGLER_S
        elif self._reg_pid_due:
            self._outbox.info(f"registered with the kernel, ABI version {self.version}")
        self._reg_pid_due = False
        self._registered_at = now
        payload = reg_pid_reply(seq, request.ibdev_name, self.version)
        self.answer(RDMA_NL_IWPM_REG_PID, seq, payload, asked_at, now)

    def replied(self, reply: KernelReply, now: float) -> None:
        """The kernel's result for something sent."""
        op, payload, code, asked_at = reply
        if code == _EBUSY and op in _ANSWERS and asked_at is None:
            # An answer of unknown age must not be sent again.
            self._stats.too_late += 1
            self.check(now)
        elif code == _EBUSY or (code == _ENOBUFS and op in (RDMA_NL_IWPM_HELLO, RDMA_NL_IWPM_MAPINFO)):
            self._resends.append(_Resend(now + RESEND_S, op, payload, asked_at))
        elif op == RDMA_NL_IWPM_HELLO:
            if code:
                self._hello_refused(now)
        elif op == RDMA_NL_IWPM_MAPINFO:
            self._report_done(code, now)
        elif code and op != RDMA_NL_IWPM_REMOTE_INFO and code != _ENOBUFS:
            # REMOTE_INFO is reported as failed whatever happens (the kernel never sets its result).
            self._stats.kernel_refused += 1

    def tick(self, now: float) -> None:
        """Send again, ask again."""
        due = [resend for resend in self._resends if resend.due <= now]
        self._resends = [resend for resend in self._resends if resend.due > now]
        for resend in due:
            self._send_again(resend, now)
        if self._check_at is not None and self._check_at <= now:
            self._check_at = None
            self.check(now)
        if self._timer is not None and self._timer <= now:
            self._timer = None
            idle = self.state in (LinkState.SERVING, LinkState.REFUSED)
            self._event(LinkEvent.PROBE if idle else LinkEvent.TIME_UP, now)

    def wake_at(self) -> float | None:
        """When `tick` has something to do."""
        return earliest(self._timer, self._check_at, *[resend.due for resend in self._resends])

    def _send_again(self, resend: _Resend, now: float) -> None:
        if resend.asked_at is None:
            self._outbox.kernel(resend.op, resend.payload)
        elif now - resend.asked_at <= ANSWER_LIMIT_S:
            self._outbox.kernel(resend.op, resend.payload, resend.asked_at)
        else:
            self._stats.too_late += 1
            self.check(now)

    def _hello_refused(self, now: float) -> None:
        if self.state is LinkState.GREETING:
            self._greeted = False
            self.version = IWPM_ABI_VERSION_MIN
        self._event(LinkEvent.HELLO_REFUSED, now)

    def _report_done(self, code: int, now: float) -> None:
        records, counted = self._records, self._counted
        self._records, self._counted = [], None
        if self.state not in _REPORTING:
            return  # the end of a report that had been given up; its records were not taken
        if code not in (0, _ENOMEM, _EAGAIN):
            self._event(LinkEvent.REPORT_REFUSED, now)
            return
        self._stats.reports += 1
        # Nothing at all, not even a count, is how the kernel reports an empty table.
        complete = code == 0 and (counted == len(records) or (counted is None and not records))
        if code == _ENOMEM:
            self._outbox.warning(
                f"the kernel reported {len(records)} mappings and has more than fit into its report; "
                "the others are kept as this daemon has recorded them"
            )
        doubtful = self._on_report(Report(records, complete), now)
        unfinished = code != _ENOMEM and not complete
        if (unfinished or doubtful) and self._rechecks < RECHECKS:
            self._rechecks += 1
            self._check_at = now + (RECHECK_SOON_S if unfinished else RECHECK_S)
        else:
            self._rechecks = 0
        self._event(LinkEvent.REPORTED, now)

    def _event(self, event: LinkEvent, now: float) -> None:
        """Advance, and do what entering a state asks for."""
        before = self.state
        self.state = after = advance(LINK, before, event)
        self.holding = after in HOLDING
        if after in _REPORTING:
            if before in _REPORTING:
                self._check_again |= event in (LinkEvent.CHECK, LinkEvent.GREETED)
            else:
                self._send_mapinfo(now)
        elif after in (LinkState.GREETING, LinkState.PROBING):
            if after is not before or event is LinkEvent.TIME_UP:
                self._send_hello(now)
        elif after is not before:
            self._settled(now)

    def _send_hello(self, now: float) -> None:
        self._timer = now + OUTCOME_S
        self._reg_pid_due = True
        self._outbox.kernel(RDMA_NL_IWPM_HELLO, hello(IWPM_ABI_VERSION))

    def _send_mapinfo(self, now: float) -> None:
        self._timer = now + OUTCOME_S
        self._reg_pid_due = True
        self._check_again = False
        self._records, self._counted = [], None
        self._outbox.kernel(RDMA_NL_IWPM_MAPINFO, mapinfo_request(self.version))

    def _settled(self, now: float) -> None:
        """SERVING or REFUSED was entered."""
        self._timer = None
        if self.state is LinkState.REFUSED:
            self._timer = now + PROBE_ABSENT_S
            if not self._ready:
                self._outbox.warning(
                    "the kernel's iWARP connection manager does not answer: is module iw_cm there, and is this the "
                    "initial network namespace? Trying again until it does"
                )
        elif not self._greeted:
            self._timer = now + PROBE_OLD_S
        if not self._ready:
            self._ready = True
            self._outbox.ready()
        if self._check_again:
            self._check_at = now + RECHECK_SOON_S
