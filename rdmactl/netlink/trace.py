# SPDX-License-Identifier: Apache-2.0
"""The structured trace: every netlink message in and out, in memory and on request in a file. Shell ring.

Not here: what messages mean and which part of them is secret (`describe.py`), playing a recording back (`replay.py`).

Channels write down each datagram with the time, and hand over what has gathered after each batch (`TraceWriter`). On
that path nothing is decoded: secrets are overwritten and the bytes kept, in a ring that is bounded in bytes. Reading
the trace decodes it, and computes how long each request of the kernel waited for its answer. A recording has one JSON
object per line:

    {"time": 1763633080.123456, "dir": "daemon->kernel", "family": 20, "portid": 711, "hex": "…", "note": "HELLO …"}

and in answers to kernel requests "waited_us". It can be attached to a bug report, and becomes a test by `load`.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

from rdmactl.errors import LocalError, StoreError
from rdmactl.netlink.describe import describe, redact
from rdmactl.netlink.message import NETLINK_KOBJECT_UEVENT, NETLINK_RDMA, Message, split

__all__ = ["DAEMON_TO_KERNEL", "KERNEL_TO_DAEMON", "TraceEntry", "TraceWriter", "Tracer", "Written", "load"]

KERNEL_TO_DAEMON = "kernel->daemon"
DAEMON_TO_KERNEL = "daemon->kernel"

# A thousand connections being mapped take about 800 KB.
RING_BYTES = 1 << 20
_ENTRY_OVERHEAD_BYTES = 200  # the tuple, the bytes object and the numbers in it

# A recording left running must not fill the disk; at this size it ends.
RECORDING_BYTES = 256 << 20

# Kernel requests waiting for our answer. The kernel gives up after 10 s.
_ASKED_LIMIT = 4096


class TraceEntry(NamedTuple):
    """One datagram. `time_s` is seconds since 1970; `waited_s` how long the kernel waited for this answer, or None."""

    time_s: float
    direction: str
    family: int
    portid: int
    datagram: bytes
    note: str
    waited_s: float | None = None

    def as_json(self) -> str:
        """One line of a recording."""
        fields: dict[str, object] = {
            "time": round(self.time_s, 6),
            "dir": self.direction,
            "family": self.family,
            "portid": self.portid,
            "hex": self.datagram.hex(),
            "note": self.note,
        }
        if self.waited_s is not None:
            fields["waited_us"] = round(self.waited_s * 1e6)
        return json.dumps(fields, ensure_ascii=False)


Written = tuple[float, bool, bytes]
"""One datagram: the monotonic clock, whether it came from the kernel, the bytes. A plain tuple: thousands a second."""


class _Batch(NamedTuple):
    """What one socket has handed over at once: not decoded yet, secrets gone."""

    family: int
    portid: int
    items: list[Written]
    kept_bytes: int


class TraceWriter:
    """The trace as one socket's thread sees it: `write` for each datagram, `hand_over` after a batch of them.

    Until then only a list grows. Whoever reads the trace meanwhile hands over as well, from his thread.
    """

    def __init__(self, tracer: Tracer, family: int, portid: int) -> None:
        self._tracer = tracer
        self._family = family
        self._portid = portid
        self._items: list[Written] = []
        # NETLINK_RDMA has no secrets.
        self.write: Callable[[Written], None] = self._items.append if family == NETLINK_RDMA else self._write_redacted

    def hand_over(self) -> None:
        """Put what has been written into the ring, and into a recording."""
        if self._items:
            self._tracer.take(self._family, self._portid, self._items)

    def _write_redacted(self, written: Written) -> None:
        now, inbound, datagram = written
        self._items.append((now, inbound, redact(self._family, datagram)))


class _Annotator:
    """Decodes datagrams in their order and pairs the kernel's requests with our answers."""

    def __init__(self, epoch_s: float) -> None:
        self._epoch_s = epoch_s
        self._asked: dict[tuple[int, int, int], float] = {}

    def annotate(self, batch: _Batch) -> list[TraceEntry]:
        return [self._annotate(batch.family, batch.portid, *item) for item in batch.items]

    def _annotate(self, family: int, portid: int, now: float, inbound: bool, datagram: bytes) -> TraceEntry:
        notes = []
        waited_s = None
        for message in messages_of(family, datagram):
            text, asks, answers = describe(family, message, inbound)
            notes.append(text)
            if asks is not None:
                self._ask((family, portid, asks), now)
            if answers is not None:
                asked = self._asked.pop((family, portid, answers), None)
                waited_s = None if asked is None else now - asked
        direction = KERNEL_TO_DAEMON if inbound else DAEMON_TO_KERNEL
        note = " ; ".join(notes)
        return TraceEntry(self._epoch_s + now, direction, family, portid, datagram, note, waited_s)

    def _ask(self, key: tuple[int, int, int], now: float) -> None:
        if len(self._asked) >= _ASKED_LIMIT:
            del self._asked[next(iter(self._asked))]
        self._asked[key] = now


def messages_of(family: int, datagram: bytes) -> list[Message]:
    """The messages of a datagram; a family without framing has one, of type 0."""
    return [Message(0, 0, 0, 0, datagram)] if family == NETLINK_KOBJECT_UEVENT else split(datagram)


class Tracer:
    """Trace of one dispatcher; safe to use from all its threads."""

    def __init__(self, ring_bytes: int = RING_BYTES) -> None:
        self._lock = threading.Lock()
        self._ring: deque[_Batch] = deque()
        self._writers: weakref.WeakSet[TraceWriter] = weakref.WeakSet()
        self._total = 0
        self._ring_limit_bytes = ring_bytes
        self._ring_bytes = 0
        self._epoch_s = time.time() - time.monotonic()
        self._file: TextIO | None = None
        self._file_bytes = 0
        self._file_limit_bytes = RECORDING_BYTES
        self._annotator = _Annotator(self._epoch_s)
        self.recording_error: str | None = None

    def writer(self, family: int, portid: int) -> TraceWriter:
        """For a socket with many messages; it must hand over by itself."""
        writer = TraceWriter(self, family, portid)
        self._writers.add(writer)
        return writer

    def sent(self, now: float, family: int, portid: int, datagram: bytes) -> None:
        """A datagram is about to go to the kernel. `now` is the monotonic clock."""
        self.take(family, portid, [(now, False, redact(family, datagram))])

    def received(self, now: float, family: int, portid: int, datagram: bytes) -> None:
        """A datagram has come from the kernel."""
        self.take(family, portid, [(now, True, redact(family, datagram))])

    def entries(self) -> list[TraceEntry]:
        """What the ring holds, oldest first within each socket, decoded."""
        return self.since(0)[1]

    def since(self, total: int) -> tuple[int, list[TraceEntry]]:
        """How many datagrams there have been in all, and those after the first `total`, as far as the ring holds them.

        0 gives all it holds; with the number returned the next call goes on where this one ended.
        """
        for writer in list(self._writers):
            writer.hand_over()
        with self._lock:
            kept = list(self._ring)
            now_total = self._total
        annotator = _Annotator(self._epoch_s)
        entries = [entry for batch in kept for entry in annotator.annotate(batch)]
        new = max(0, now_total - total)
        return now_total, entries[max(0, len(entries) - new) :]

    # ---------------------------------------------------------------- recording

    def record(self, path: str, limit_bytes: int = RECORDING_BYTES) -> None:
        """Write all further messages to a new file, readable by its owner only; it ends at `limit_bytes`.

        LocalError if a recording is going on, StoreError if the file exists or cannot be made.
        """
        if self._file is not None:
            raise LocalError("a recording is going on already", hint="stop it first")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot record to {path}: {os.strerror(error.errno or 0)}") from error
        self.record_into(os.fdopen(descriptor, "w", encoding="utf-8", buffering=1), limit_bytes)

    def record_into(self, file: TextIO, limit_bytes: int = RECORDING_BYTES) -> None:
        """The same with an open file, which belongs to the recording from now on."""
        with self._lock:
            self._annotator = _Annotator(self._epoch_s)
            self._file_bytes = 0
            self._file_limit_bytes = limit_bytes
            self.recording_error = None
            self._file = file

    def stop_recording(self) -> None:
        """Close the recording. Harmless if there is none."""
        for writer in list(self._writers):
            writer.hand_over()
        with self._lock:
            self._end_recording(None)

    def take(self, family: int, portid: int, written: list[Written]) -> None:
        """Move what has been written from the list, which another thread may be adding to, into the ring."""
        with self._lock:
            items = written[:]
            del written[: len(items)]
            kept_bytes = sum([len(item[2]) for item in items]) + len(items) * _ENTRY_OVERHEAD_BYTES
            batch = _Batch(family, portid, items, kept_bytes)
            self._ring.append(batch)
            self._total += len(items)
            self._ring_bytes += kept_bytes
            while self._ring_bytes > self._ring_limit_bytes and len(self._ring) > 1:
                self._ring_bytes -= self._ring.popleft().kept_bytes
            if self._file is not None:
                self._record(batch)

    def _record(self, batch: _Batch) -> None:
        """A line for each. A disk that is full ends the recording, never the service."""
        for entry in self._annotator.annotate(batch):
            line = entry.as_json() + "\n"
            self._file_bytes += len(line.encode())
            if self._file_bytes > self._file_limit_bytes:
                self._end_recording("the recording has reached its limit")
            if self._file is None:
                return
            try:
                self._file.write(line)
            except OSError as error:
                self._end_recording(os.strerror(error.errno or 0))

    def _end_recording(self, error: str | None) -> None:
        file, self._file = self._file, None
        if error is not None:
            self.recording_error = error
        if file is not None:
            try:
                file.close()
            except OSError as failure:
                self.recording_error = os.strerror(failure.errno or 0)


def load(path: str, family: int = NETLINK_RDMA) -> list[TraceEntry]:
    """A recording: JSON lines, or one JSON array of the same objects. `family` is for entries that do not name theirs.

    Entries of other directions (peer traffic of hand-made captures) are left out. StoreError if it is no recording.
    """
    try:
        if os.stat(path).st_size > RECORDING_BYTES:
            raise StoreError(f"{path} is larger than a recording can be")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        objects = (
            json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
        )
        return [_entry(item, family) for item in objects if item["dir"] in (KERNEL_TO_DAEMON, DAEMON_TO_KERNEL)]
    except OSError as error:
        raise StoreError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no recording: {error}") from error


def _entry(item: dict[str, object], family: int) -> TraceEntry:
    waited = item.get("waited_us")
    return TraceEntry(
        float(str(item.get("time", 0.0))),
        str(item["dir"]),
        int(str(item.get("family", family))),
        int(str(item.get("portid", 0))),
        bytes.fromhex(str(item["hex"])),
        str(item.get("note", "")),
        None if waited is None else float(str(waited)) / 1e6,
    )
