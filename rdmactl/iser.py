# SPDX-License-Identifier: Apache-2.0
"""iSER from Python: discover targets, log in, look at logical units, read and write them, in user space. Shell ring.

    async with Initiator("iqn.2026-11.example:me") as initiator:
        targets = await initiator.discover("10.9.0.1")
        async with initiator.session("10.9.0.1", targets[0].name) as target:
            data = await target.read(0, lba=0, blocks=8)

No privilege and no kernel session is needed, and no block device appears. All of it is asyncio: one `Initiator` belongs
to one running loop. Errors are those of `rdmactl.errors`, `IscsiFailure` for refused logins among them; a deadline
that passes is `DeadlineExceeded`. What is cancelled gives everything back, if need be in the background.

The libraries below keep a device open for the life of the process, and an open device of soft-RoCE or soft-iWARP
cannot be removed: a program that runs for long does this in a worker (`rdmactl.rdmacm.client.WorkerPool`), as the
daemons here do. docs/api.md has whole examples. Not here: sessions of the kernel (`rdmactl.initiator`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import NamedTuple, Self

from rdmactl.errors import LocalError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.negotiation import NegotiatedParameters
from rdmactl.iscsi.portal import Portal
from rdmactl.iscsi.scsi import Capacity
from rdmactl.rdmacm import luns, perf
from rdmactl.rdmacm.discovery import Discoverer
from rdmactl.rdmacm.login import Attempt
from rdmactl.rdmacm.luns import ask
from rdmactl.rdmacm.report import FoundTarget, Lun, Measured, Plan, Question
from rdmactl.rdmacm.session import TRANSFER_BYTES_MAX, Result, Session
from rdmactl.rdmacm.steps import Steps

__all__ = [
    "Capacity",
    "Chap",
    "FoundTarget",
    "Initiator",
    "Lun",
    "Measured",
    "NegotiatedParameters",
    "Plan",
    "Portal",
    "Result",
    "Target",
]

_DEADLINE_S = 10.0
_DEPTH = 16
_UNIT_ATTENTIONS = 4


class Chap(NamedTuple):
    """CHAP credentials; mutual when `secret_in` is set. `algorithms` are CHAP numbers, the preferred one first.

    5 is MD5, 6 SHA1, 7 SHA256, 8 SHA3-256. Secrets do not show in the repr.
    """

    name: str
    secret: str
    name_in: str = ""
    secret_in: str = ""
    algorithms: tuple[int, ...] = (5,)

    def __repr__(self) -> str:
        return f"Chap({self.name!r}{', mutual' if self.secret_in else ''})"


class Initiator:
    """Who logs in. Use it as an asynchronous context manager on the loop that uses it.

    `name`: an iqn., eui. or naa. name. `source`: an address of this host to leave from, which chooses the device.
    """

    def __init__(self, name: str, *, chap: Chap | None = None, source: str = "") -> None:
        self._name, self._chap, self._source = name, chap, source
        self._discoverer = Discoverer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._discoverer.settle()
        self._discoverer.close()

    async def discover(self, portal: str | Portal, *, deadline_s: float = _DEADLINE_S) -> tuple[FoundTarget, ...]:
        """The targets a portal ("ADDR[:PORT]") announces over iSER: names, and (portal, group tag) of each."""
        report = await self._discoverer.discover(self._question(portal, "", deadline_s))
        if report.error is not None:
            raise report.error
        return report.targets

    @contextlib.asynccontextmanager
    async def session(
        self, portal: str | Portal, target: str, *, depth: int = _DEPTH, deadline_s: float = _DEADLINE_S
    ) -> AsyncIterator[Target]:
        """Log in to a target for the length of the block. `depth` commands may be under way at once (1 to 128).

        `deadline_s` is for connecting and logging in; commands have their own.
        """
        if not 1 <= depth <= perf.DEPTH_MAX:
            raise LocalError(f"the depth must be from 1 to {perf.DEPTH_MAX}")
        question = self._question(portal, target, deadline_s)
        attempt = Attempt(question, Steps(asyncio.get_running_loop().time), os.urandom)
        try:
            async with asyncio.timeout(deadline_s):
                session = await attempt.session(self._discoverer.channel(), depth)
        except TimeoutError:
            raise attempt.late(deadline_s) from None
        async with session:
            yield Target(session)

    def _question(self, portal: str | Portal, target: str, deadline_s: float) -> Question:
        where = Portal.parse(portal) if isinstance(portal, str) else portal
        question = Question(where, self._name, deadline_s, self._source, target=target)
        if self._chap is None:
            return question
        name, secret, name_in, secret_in, algorithms = self._chap
        return question._replace(
            username=name, password=secret, username_in=name_in, password_in=secret_in, algorithms=algorithms
        )


class Target:
    """A target this process is logged in to. Methods may be called side by side; LUNs are numbers.

    Any failure of the connection, and any command that is not answered in time, ends the session: every later call
    raises that failure. An error of a command itself ("medium error") is a PeerError with the code "scsi", and leaves
    the session usable.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._capacities: dict[int, Capacity] = {}

    @property
    def name(self) -> str:
        """The target's name."""
        return self._session.target

    @property
    def parameters(self) -> NegotiatedParameters:
        """What the login has negotiated."""
        return self._session.parameters

    async def ping(self, *, deadline_s: float = 5.0) -> float:
        """A NOP there and back, in seconds."""
        return await self._session.ping(deadline_s)

    async def luns(self) -> tuple[Lun, ...]:
        """The logical units: type, names, serial number, WWID, size."""
        return await luns.walk(self._session)

    async def capacity(self, lun: int) -> Capacity:
        """Blocks and their size; asked once."""
        if lun not in self._capacities:
            await ask(self._session, scsi.lun_bytes(lun), scsi.test_unit_ready())
            self._capacities[lun] = await luns.capacity(self._session, scsi.lun_bytes(lun))
        return self._capacities[lun]

    async def read(self, lun: int, *, lba: int, blocks: int) -> bytes:
        """Blocks from `lba` on, in as many commands as it takes, one after the other."""
        block_bytes = (await self.capacity(lun)).block_bytes
        parts = []
        for at, count in _parts(lba, blocks, block_bytes):
            what = f"reading {count} blocks at {at} of LUN {lun}"
            answer = await self._again(lun, scsi.read_blocks(at, count), read_bytes=count * block_bytes)
            parts.append(answer.require(what).data)
        return b"".join(parts)

    async def write(self, lun: int, data: bytes, *, lba: int) -> None:
        """Write whole blocks from `lba` on, in as many commands as it takes, one after the other."""
        block_bytes = (await self.capacity(lun)).block_bytes
        if not data or len(data) % block_bytes:
            raise LocalError(f"{len(data)} bytes are no whole blocks of {block_bytes}")
        for at, count in _parts(lba, len(data) // block_bytes, block_bytes):
            start = (at - lba) * block_bytes
            part = data[start : start + count * block_bytes]
            answer = await self._again(lun, scsi.write_blocks(at, count), write=part)
            answer.require(f"writing {count} blocks at {at} of LUN {lun}")

    async def command(
        self, lun: int, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"", deadline_s: float = 30.0
    ) -> Result:
        """Any SCSI command: a CDB of up to 16 bytes, with data in one direction. Its status is in the result."""
        if len(cdb) > len(scsi.test_unit_ready()):
            raise LocalError(f"a CDB of {len(cdb)} bytes is too long")
        padded = cdb.ljust(len(scsi.test_unit_ready()), b"\0")
        return await self._session.execute(
            scsi.lun_bytes(lun), padded, read_bytes=read_bytes, write=write, deadline_s=deadline_s
        )

    async def measure(self, plan: Plan) -> Measured:
        """Read (or, if the plan says so, overwrite) blocks for some time; the plan's depth must fit the session's."""
        if plan.depth > self._session.depth:
            raise LocalError(f"a depth of {plan.depth} does not fit the session's {self._session.depth}")
        return await perf.measure(self._session, plan, lambda seen: None)

    async def _again(self, lun: int, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"") -> Result:
        """Once more after a unit attention, which says that the command was not begun."""
        for _ in range(_UNIT_ATTENTIONS):
            result = await self._session.execute(scsi.lun_bytes(lun), cdb, read_bytes=read_bytes, write=write)
            if result.sense is None or not result.sense.unit_attention:
                break
        return result


def _parts(lba: int, blocks: int, block_bytes: int) -> list[tuple[int, int]]:
    """(first block, number) of the commands that move so many blocks."""
    most = max(1, TRANSFER_BYTES_MAX // block_bytes)
    return [(at, min(most, lba + blocks - at)) for at in range(lba, lba + blocks, most)]
