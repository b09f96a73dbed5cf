# SPDX-License-Identifier: Apache-2.0
"""Playing a scenario of the corpus from its start to its end, once, and keeping what each case printed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rdmactl.iscsi.portal import Portal
from rdmactl.records.store import Store
from tests.golden.corpus import Case, Step, configuration, scenarios
from tests.golden.shell import NotForUs, Result, execute
from tests.golden.world import CONFIGURATION, World

__all__ = ["Played", "is_ours", "play"]

_PORTAL_CHANGE = re.compile(r"\(target (\S+): portal (\S+) (removed|added)\)")
_REGISTERED = re.compile(r"\(iSNS: register target (\S+) with portals (\S+) and (\S+)\)")
_OTHER_FILES = re.compile(r"/sys/class/net")
"""Commands about a machine that is not this one."""

_CLEANED = re.compile(r"^rm (-rf )?/etc/iscsi/(nodes/iqn.2003-01.org.example:e\*|ifaces/nnnn\*)")
"""Two clean-ups of its files that have to be made in our records as well."""

_IGNORED = (
    "(modprobe",
    "(ip link",
    "(initiatorname.iscsi written)",
    "a server on",
    "rm ",
    "rmdir ",
    "cp ",
    "sed ",
    "touch ",
)
"""Changes of what is not played: modules, files of open-iscsi, mounts."""


class Played(NamedTuple):
    """A case and what it printed here; `result` is None when it is not ours to run."""

    case: Case
    command: str
    result: Result | None


def is_ours(step: Step) -> bool:
    """Whether the command can be run here: complete, about the program, and not about files of open-iscsi's.

    What a discovery daemon has done by itself is for a real one.
    """
    if step.cut_short or (step.case is not None and step.case.name.startswith("discoveryd-")):
        return False
    try:
        execute(step.text, lambda _: Result("", "", 0))
    except NotForUs:
        return False
    return not _OTHER_FILES.search(step.text)


@cache
def play(name: str) -> dict[str, Played]:
    """All cases of a scenario, by name."""
    memory = Path("/dev/shm")  # every command syncs its records to the disk
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        return _Player(Path(directory)).play(scenarios()[name])


class _Player:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory / "world0")
        self.worlds = 1

    def play(self, steps: list[Step]) -> dict[str, Played]:
        played = {}
        for step in steps:
            if step.case is not None:
                played[step.case.name] = Played(step.case, step.text, self.run(step, step.case))
            elif step.text.startswith("iscsiadm"):
                execute(step.text, self.world.iscsiadm)
            else:
                self.prepare(step.text)
        return played

    def run(self, step: Step, case: Case) -> Result | None:
        if not is_ours(step):
            return None
        if case.name.startswith("conf-"):
            text = None if case.name == "conf-missing" else configuration(case.name)
            if text is not None and case.name == "conf-nonewline-last":
                text = text.rstrip("\n")
            self.world.configure(text)
        result = execute(step.text, self.world.iscsiadm)
        if case.name == "conf-missing":
            self.world.configure(CONFIGURATION)
        return result

    def prepare(self, text: str) -> None:
        portal = _PORTAL_CHANGE.match(text)
        registered = _REGISTERED.match(text)
        if text == "(database emptied)":
            self.world.empty_database()
        elif text.startswith("(iscsid.conf:"):
            self.world.configure(CONFIGURATION + text.partition("plus: ")[2].rstrip(")") + "\n")
        elif text.startswith(("(a file system", "(unmounted)")):
            self.world.mounted = "unmounted" not in text
        elif text in ("(iscsid started)", "(iscsid stopped)"):
            self.world.daemon = text == "(iscsid started)"
        elif text.startswith("(fixture F"):
            self.world = World(self.directory / f"world{self.worlds}")
            self.worlds += 1
            self.world.start_fixture(iser="without iser" not in text)
        elif text.startswith("fixture N started"):
            self.world.isns = {}
        elif registered:
            assert self.world.isns is not None
            self.world.isns[registered[1]] = [Portal.parse(registered[2]), Portal.parse(registered[3])]
        elif portal:
            portals = self.world.targets[portal[1]].portals
            (portals.remove if portal[3] == "removed" else portals.append)(Portal.parse(portal[2]))
        elif text.startswith("(target: discovery CHAP"):
            self.world.discovery_chap = None if "off" in text else ("duser", "dsecret123456")
        elif _CLEANED.match(text):
            self.clean()
        else:
            assert text.startswith(_IGNORED), text

    def clean(self) -> None:
        with Store(str(self.world.state)) as store, store.transaction():
            for node in store.nodes():
                if node.target.startswith(("iqn.2003-01.org.example:e", "NotAnIqn")) or "xxxxx" in node.target:
                    store.delete_node(node)
            for name in store.ifaces():
                if name.startswith("nnnn"):
                    store.delete_iface(name)
