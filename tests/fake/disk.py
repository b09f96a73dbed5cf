# SPDX-License-Identifier: Apache-2.0
"""A target with disks at the other end of a connection in memory: SCSI commands, and data moved as by RDMA.

`MemoryConnection` is what a `Session` needs of a connection. The target sees the buffers of commands by their keys
only, as a real one does, and can be told to do what no honest one would (`FakeTarget.twist`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rdmactl.errors import RdmactlError
from rdmactl.iscsi import scsi
from rdmactl.iscsi.iser import IserHeader, RemoteBuffer, unwrap, wrap
from rdmactl.iscsi.pdu import Opcode, Pdu
from rdmactl.iscsi.scsi_pdu import ScsiCommand, ScsiResponse
from rdmactl.rdmacm import failures
from rdmactl.rdmacm.states import CmEvent
from tests.fake.target import FakeTarget, TargetScript, Twist

WINDOW = 32
NAA = bytes.fromhex("6001405aabbccddeeff0011223344556")


class Memory:
    """Stands for `endpoint.Arena`: registered memory with a key."""

    def __init__(self, key: int, size_bytes: int) -> None:
        remote = RemoteBuffer(key, 0x1000 * key)
        self.read_header = IserHeader(read=remote).pack()
        self.write_header = IserHeader(write=remote).pack()
        self.slot_bytes = size_bytes
        self.data = bytearray(size_bytes)

    def read(self, slot: int, length: int) -> bytes:
        return bytes(self.data[:length])

    def write(self, slot: int, data: bytes) -> None:
        self.data[: len(data)] = data


@dataclass
class Disk:
    """One logical unit of 512-byte blocks. `sense` is reported once, by the next commands, before anything is done."""

    blocks: int = 64
    data: bytearray = field(default_factory=bytearray)
    sense: list[bytes] = field(default_factory=list)
    knows_16: bool = True
    serial: str = "serial-1"

    def __post_init__(self) -> None:
        self.data = self.data or bytearray(self.blocks * 512)


def fixed_sense(key: int, asc: int, ascq: int) -> bytes:
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


UNIT_ATTENTION = fixed_sense(6, 0x29, 3)
UNSUPPORTED = fixed_sense(5, 0x20, 0)
OUT_OF_RANGE = fixed_sense(5, 0x21, 0)


class DiskTarget(FakeTarget):
    """A `FakeTarget` that has disks. `memory` are the buffers of the initiator, by key."""

    def __init__(
        self, disks: dict[int, Disk] | None = None, script: TargetScript | None = None, twist: Twist | None = None
    ) -> None:
        super().__init__(script, twist)
        self.disks = {0: Disk()} if disks is None else disks
        self.memory: dict[int, Memory] = {}
        self.commands: list[ScsiCommand] = []

    def receive_message(self, message: bytes) -> list[bytes]:
        """Take a whole message; gives the answers."""
        pdu = unwrap(message)
        if pdu.header[0] & 0x3F != Opcode.SCSI_COMMAND:
            return [wrap(answer) for answer in self.receive(pdu)]
        answers = [self._command(ScsiCommand.unpack(pdu.header), IserHeader.unpack(message))]
        return [wrap(answer) for answer in (answers if self.twist is None else self.twist(pdu, answers))]

    def _command(self, command: ScsiCommand, header: IserHeader) -> Pdu:
        self.commands.append(command)
        disk = self.disks.get(scsi.lun_number(command.lun))
        if disk is not None and disk.sense:
            return self._answer(command, sense=disk.sense.pop(0))
        opcode = command.cdb[0]
        if opcode == 0xA0:
            listed = b"".join(scsi.lun_bytes(number) for number in self.disks)
            return self._send(command, header, (len(listed)).to_bytes(4, "big") + bytes(4) + listed)
        if disk is None:
            return self._answer(command, sense=fixed_sense(5, 0x25, 0))
        if opcode == 0x12:
            return self._inquiry(command, header, disk)
        if opcode == 0x9E and disk.knows_16:
            return self._send(command, header, (disk.blocks - 1).to_bytes(8, "big") + b"\0\0\2\0" + bytes(20))
        if opcode == 0x25:
            return self._send(command, header, (disk.blocks - 1).to_bytes(4, "big") + b"\0\0\2\0")
        if opcode in (0x28, 0x2A, 0x88, 0x8A):
            return self._transfer(command, header, disk)
        return self._answer(command, sense=b"" if opcode == 0 else UNSUPPORTED)

    def _inquiry(self, command: ScsiCommand, header: IserHeader, disk: Disk) -> Pdu:
        if not command.cdb[1]:
            return self._send(command, header, bytes(8) + b"TEST    DISK            1.0 ".ljust(28))
        serial = disk.serial.encode()
        bodies = {
            0x00: bytes((0x00, 0x80, 0x83, 0xB0)),
            0x80: serial,
            0x83: bytes((2, 1, 0, 3)) + b"T10" + bytes((1, 3, 0, len(NAA))) + NAA,
            0xB0: bytes(4) + (64).to_bytes(4, "big") + bytes(4),
        }
        page = command.cdb[2]
        if page not in bodies:
            return self._answer(command, sense=fixed_sense(5, 0x24, 0))
        return self._send(command, header, bytes((0, page)) + len(bodies[page]).to_bytes(2, "big") + bodies[page])

    def _transfer(self, command: ScsiCommand, header: IserHeader, disk: Disk) -> Pdu:
        long = command.cdb[0] in (0x88, 0x8A)
        lba = int.from_bytes(command.cdb[2:10] if long else command.cdb[2:6], "big")
        count = int.from_bytes(command.cdb[10:14] if long else command.cdb[7:9], "big")
        if lba + count > disk.blocks:
            return self._answer(command, sense=OUT_OF_RANGE)
        part = slice(lba * 512, (lba + count) * 512)
        if command.cdb[0] in (0x28, 0x88):
            return self._send(command, header, bytes(disk.data[part]))
        assert header.write is not None
        disk.data[part] = self.memory[header.write.stag].data[: count * 512]
        return self._answer(command)

    def _send(self, command: ScsiCommand, header: IserHeader, data: bytes) -> Pdu:
        """Put data into the initiator's buffer, and say what did not fit, or was not there."""
        assert header.read is not None
        moved = data[: command.expected_bytes]
        self.memory[header.read.stag].write(0, moved)
        missing, more = command.expected_bytes - len(moved), len(data) - len(moved)
        answer = self._response(command)._replace(
            residual=missing or more, underflow=bool(missing), overflow=bool(more)
        )
        return answer.pdu()

    def _answer(self, command: ScsiCommand, sense: bytes = b"") -> Pdu:
        if not sense:
            return self._response(command).pdu()
        failed = self._response(command)._replace(
            status=2, residual=command.expected_bytes, underflow=bool(command.expected_bytes)
        )
        return failed.pdu(len(sense).to_bytes(2, "big") + sense)

    def _response(self, command: ScsiCommand) -> ScsiResponse:
        top = (command.cmdsn + WINDOW) & 0xFFFFFFFF
        return ScsiResponse(command.itt, statsn=self._next_statsn(), exp_cmdsn=command.cmdsn + 1, max_cmdsn=top)


class MemoryConnection:
    """A connection to a `DiskTarget`. What arrives is delivered in the next turn of the loop.

    `hold` keeps the target's answers back until `release`. `slots` messages may be sent per turn.
    """

    peer = "10.9.0.1:3260"
    device, transport, local, stuck = "fake0", "RoCE", None, False

    def __init__(self, target: DiskTarget, *, slots: int = 1000) -> None:
        self.target = target
        self.failure: RdmactlError | None = None
        self.on_change: Callable[[], None] | None = None
        self.closed = False
        self.hold = False
        self.sent: list[bytes] = []
        self._slots = self._free = slots
        self._arrived: deque[bytes] = deque()
        self._held: deque[bytes] = deque()

    @property
    def room(self) -> int:
        return self._free if self.failure is None else 0

    def post(self, messages: Sequence[bytes], *, quiet: bool = False) -> None:
        assert len(messages) <= self.room
        self._free -= len(messages)
        self.sent += messages
        for message in messages:
            (self._held if self.hold else self._arrived).extend(self.target.receive_message(message))
        asyncio.get_running_loop().call_soon(self._turn)

    def take(self) -> list[bytes]:
        messages = list(self._arrived)
        self._arrived.clear()
        return messages

    def share(self, size_bytes: int, *, writable: bool) -> Memory:
        key = len(self.target.memory) + 1
        self.target.memory[key] = Memory(key, size_bytes)
        return self.target.memory[key]

    async def close(self) -> None:
        self.closed = True

    # What a test does

    def release(self) -> None:
        self.hold = False
        self._arrived.extend(self._held)
        self._held.clear()
        self._turn()

    def deliver(self, message: bytes) -> None:
        self._arrived.append(message)
        self._turn()

    def lose(self) -> None:
        self.failure = failures.event_failed(self.peer, CmEvent.DISCONNECTED, 0)
        self._turn()

    def _turn(self) -> None:
        self._free = self._slots
        if self.on_change is not None:
            self.on_change()
