# SPDX-License-Identifier: Apache-2.0
"""When a run counts as the recorded one: byte by byte, but for what the corpus's INDEX.txt says is free.

Free are numbers the kernel gives (session ids and SCSI hosts, one for one; names of disks; statistics), tails of
library messages, what the module loader says, the system's own error texts, whether a connection was "closed" or
"failed", which depends on the moment, and the order of lines that come in directory order or as answers arrive.
Sessions are sorted by number, so their order is free where the numbers differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from tests.golden.corpus import Case, Expected
from tests.golden.shell import Result

__all__ = ["Numbers", "same"]

_UNORDERED = re.compile(
    r"(-R\b|-l\b|--login|-u\b|--logout|-L |-U |-o delete|-o new|-m discovery(db)?( -P 1)?(;|$)|-m host|iscsi_discovery)"
)
"""Commands whose lines come in the order of directory entries, or as answers arrive."""

_FREE: tuple[tuple[str, str], ...] = (
    (r"(disk|/dev/)\s?sd[a-z]+", r"\1 sdX"),
    (r"(?m)^(\t\w+: )-?\d+$", r"\1N"),  # statistics
    (r"(getaddrinfo error: )\[.*\]", r"\1[...]"),
    (r"(Connection to Discovery Address \S+) (?:closed|failed)", r"\1 ended"),
    (r"(?m)^libkmod: .*\n", ""),
    (r"(?m)^(iSCSI (?:ERROR|WARNING): .*?) *# .*$", r"\1"),
    (r"(Host Number: |scsi|(?<=host )|hostno )\d+", r"\1N"),
)
_HOST_LINE = re.compile(r"(?m)^(\w+: )\[\d+\]( \S+,\[)")  # of a list of hosts

_LISTED = re.compile(r"(?m)^(\w+: )\[(\d+)\] (\S+ .*)$")
_NAMED = re.compile(r"\[sid: (\d+), (target: \S+, portal: [^]]*)\]")
_MISSING = re.compile(r"(session info for sid )(\d+)")
_BLOCK = re.compile(r"\s*(Target|Persistent Portal|Iface Name|SID): (.*)")
_TREE = re.compile(r"(?m)^(\s*SID: )(\d+)$")
_HOSTS = re.compile(r"SID: (\d+)$.*?Host Number: (\d+)", re.MULTILINE | re.DOTALL)


class Numbers:
    """Which session here is which of the recording, as far as it has been seen, and the same of hosts."""

    def __init__(self) -> None:
        self.sids: dict[int, int] = {}
        self._hosts: dict[int, int] = {}  # recorded host: recorded sid

    def learn(self, recorded: str, here: str) -> None:
        """Two texts of the same command: sessions of equal description, in the order of their numbers, are the same."""
        theirs, ours = _described(recorded), _described(here)
        for words, sids in theirs.items():
            known = set(self.sids.values())
            new = [sid for sid in sorted(ours.get(words, ())) if sid not in known]
            for sid in sorted(sids):
                if sid not in self.sids and new:
                    self.sids[sid] = new.pop(0)
        for sid, host in _HOSTS.findall(recorded):
            self._hosts[int(host)] = int(sid)

    def command(self, text: str, present: Collection[int], host_of: Callable[[int], int | None]) -> str:
        """A recorded command with the numbers of here.

        A session nobody has seen in any output so far is the first of those `present` that is not known either;
        `host_of` tells a session's host.
        """

        def sid(match: re.Match[str]) -> str:
            number = int(match[2])
            unknown = sorted(set(present) - set(self.sids.values()))
            if number not in self.sids and unknown:
                self.sids[number] = unknown[0]
            return f"{match[1]}{self.sids.get(number, number)}"

        def host(match: re.Match[str]) -> str:
            sid = self.sids.get(self._hosts.get(int(match[2]), -1))
            found = None if sid is None else host_of(sid)
            return match[0] if found is None else f"{match[1]}{found}"

        text = re.sub(r"(-r |--sid=|/session)(\d+)\b", sid, text)
        text = re.sub(r"(-H |/host)(\d+)\b", host, text)
        return re.sub(r"(target|:0/)(\d+)(?=:0:0)", host, text)

    def translated(self, text: str) -> str:
        """Recorded output with the session ids of here."""

        def sid(number: str) -> str:
            return str(self.sids.get(int(number), int(number)))

        text = _LISTED.sub(lambda m: f"{m[1]}[{sid(m[2])}] {m[3]}", text)
        text = _MISSING.sub(lambda m: f"{m[1]}{sid(m[2])}", text)
        text = _NAMED.sub(lambda m: f"[sid: {sid(m[1])}, {m[2]}]", text)
        return _TREE.sub(lambda m: f"{m[1]}{sid(m[2])}", text)

    @property
    def moved(self) -> bool:
        """Whether any session has another number than recorded, so that lists are in another order."""
        return any(recorded != here for recorded, here in self.sids.items())


def same(case: Case, command: str, here: Result, numbers: Numbers | None = None) -> bool:
    """Whether the run counts as the recorded one."""
    if case.expected is None:
        return here.status == case.status
    recorded: Expected | Result = case.expected
    if numbers is not None:
        numbers.learn(recorded.stdout, here.stdout)
        recorded = Result(numbers.translated(recorded.stdout), numbers.translated(recorded.stderr), recorded.status)
    ours, theirs = _comparable(here), _comparable(recorded)
    if ours == theirs:
        return True
    free = _UNORDERED.search(command) or (numbers is not None and numbers.moved and " session" in command)
    return bool(free) and _sorted(ours) == _sorted(theirs)


def _described(text: str) -> dict[str, list[int]]:
    """Session ids by what is said of the session."""
    found: dict[str, list[int]] = {}
    for match in _LISTED.finditer(text):
        if ",[" not in match[0]:  # that would be a host
            found.setdefault(f"{match[1]}{match[3]}", []).append(int(match[2]))
    for match in _NAMED.finditer(text):
        sids = found.setdefault(match[2], [])
        if int(match[1]) not in sids:
            sids.append(int(match[1]))
    block: dict[str, str] = {}
    for line in text.splitlines():
        part = _BLOCK.match(line)
        if part:
            block[part[1]] = part[2]
            if part[1] == "SID":
                words = " ".join(value for name, value in block.items() if name != "SID")
                found.setdefault(words, []).append(int(part[2]))
    return found


def _comparable(printed: Expected | Result) -> Result:
    texts = []
    for text in (printed.stdout, printed.stderr):
        for pattern, replacement in _FREE:
            text = re.sub(pattern, replacement, text)
        texts.append(_HOST_LINE.sub(r"\1[N]\2", text))
    return Result(*texts, printed.status)


def _sorted(printed: Result) -> tuple[list[str], list[str], int]:
    return sorted(printed.stdout.splitlines()), sorted(printed.stderr.splitlines()), printed.status
