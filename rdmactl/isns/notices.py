# SPDX-License-Identifier: Apache-2.0
"""What an iSNS server tells its clients unasked: state changes (SCN) and inquiries (ESI). Engine ring.

    SCN: 32 who is told | 4 timestamp | { 35 bitmap | 32 changed node | ... }*
    ESI: 4 timestamp | 1 entity | 16, 17 portal

Every message is answered, or the server repeats it: with another transaction and the same content, so that content
tells a repetition. A notification proves nothing, since over UDP anybody can send one: it only makes us ask. Names
gather for a moment, and questions keep a distance, whatever comes.
Not here: the question (`query.py`), where answers go (`watch.py`). Defined by RFC 4171 sections 5.6.5.8 and 5.6.5.13.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from rdmactl.errors import PeerError
from rdmactl.iscsi.names import name_problem
from rdmactl.isns.attributes import Tag, of_text, read_text, unpack
from rdmactl.isns.pdu import Function, Message
from rdmactl.isns.requests import answer
from rdmactl.isns.status import Status

__all__ = ["Changed", "Notices"]

_NAMES_MAX = 64
"""Changed targets asked for by name; where there are more, everything is asked for."""
_REMEMBERED = 64  # contents, to know repetitions by


class Changed(NamedTuple):
    """Ask for these targets; `names` None: for everything."""

    names: tuple[str, ...] | None


class Notices:
    """The server's messages to one initiator. `senders` are the addresses they may come from, None: any."""

    def __init__(
        self,
        initiator_name: str,
        entity: str,
        senders: Collection[str] | None = None,
        *,
        settle_s: float = 1.0,
        quiet_s: float = 2.0,
    ) -> None:
        self._initiator_name = initiator_name
        self._entity = entity
        self._senders = senders
        self._settle_s = settle_s
        self._quiet_s = quiet_s
        self._names: dict[str, None] = {}
        self._all = False
        self._due: float | None = None  # when what has gathered is told
        self._quiet_until = 0.0
        self._seen: deque[bytes] = deque(maxlen=_REMEMBERED)
        self.inquired_at = float("-inf")
        """When the last inquiry came; never yet."""
        self.inquiries = 0
        """Inquiries answered."""
        self.taken = 0
        """Notifications that were for us, repetitions not counted."""
        self.ignored = 0
        """Messages from elsewhere, about others, or malformed."""

    def receive(self, message: Message, sender: str | None, now: float) -> Message | None:
        """Take a message; our answer to it, if it gets one. `sender` is None on a connection we have made."""
        if sender is not None and self._senders is not None and sender not in self._senders:
            self.ignored += 1
            return None
        if message.function == Function.SCN:
            return self._notification(message, now)
        if message.function == Function.ESI:
            return self._inquiry(message, now)
        self.ignored += 1
        return None

    def wake_at(self) -> float | None:
        """When `take` will have something."""
        return self._due

    def take(self, now: float) -> Changed | None:
        """What has changed, once it is time to ask for it."""
        if self._due is None or now < self._due:
            return None
        changed = Changed(None if self._all else tuple(self._names))
        self._names.clear()
        self._all = False
        self._due = None
        self._quiet_until = now + self._quiet_s
        return changed

    def _notification(self, message: Message, now: float) -> Message | None:
        ours = of_text(Tag.ISCSI_NAME, self._initiator_name)
        try:
            told, names = _read_notification(message.payload)
        except PeerError:
            self.ignored += 1
            return answer(message, Status.SCN_EVENT_REJECTED, [ours])
        if told != self._initiator_name:
            self.ignored += 1
            return None
        content = hashlib.sha256(message.payload).digest()
        if content not in self._seen:
            self._seen.append(content)
            self.taken += 1
            self._gather(names, now)
        return answer(message, Status.SUCCESSFUL, [ours])

    def _gather(self, names: list[str], now: float) -> None:
        for name in names:
            if name != self._initiator_name and name_problem(name) is None:
                self._names[name] = None
        if not self._names:
            return
        if len(self._names) > _NAMES_MAX:
            self._all = True
            self._names = dict.fromkeys(list(self._names)[:_NAMES_MAX])
        if self._due is None:
            self._due = max(now + self._settle_s, self._quiet_until)

    def _inquiry(self, message: Message, now: float) -> Message | None:
        try:
            attributes = list(unpack(message.payload))
            entity = next((read_text(one) for one in attributes if one.tag == Tag.ENTITY_IDENTIFIER), None)
        except PeerError:
            entity = None
        if entity != self._entity:
            self.ignored += 1
            return None
        self.inquired_at = now
        self.inquiries += 1
        return answer(message, Status.SUCCESSFUL, attributes)


def _read_notification(payload: bytes) -> tuple[str, list[str]]:
    """(who is told, changed nodes). PeerError when it is malformed, or a change has no name."""
    told: str | None = None
    names: list[str] = []
    open_change = False
    for attribute in unpack(payload):
        if attribute.tag == Tag.SCN_BITMAP:
            if open_change:
                break
            open_change = True
        elif attribute.tag == Tag.ISCSI_NAME and told is None:
            told = read_text(attribute)
        elif attribute.tag == Tag.ISCSI_NAME:
            names.append(read_text(attribute))
            open_change = False
    if told is None or open_change or not names:
        raise PeerError("a notification that does not say what has changed", code="isns-malformed")
    return told, names
