# SPDX-License-Identifier: Apache-2.0
"""A host with an iserd of its own, whose discovery daemon is watched through its log and `rdmactl discovery status`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rdmactl.initiator import sysfs
from tests.lab.guest import wait_for

__all__ = ["Host"]

LIMIT_S = 240.0
"""Places are gone after three answers and ten seconds; an emulated machine under load takes its time."""


class Host:
    """One host; what it keeps is below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.environment = os.environ | {
            f"RDMACTL_{name}_DIRECTORY": str(directory / name.lower()) for name in ("STATE", "RUNTIME", "CONFIG")
        }
        self._log = directory / "iserd.log"
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "rdmactl.daemons.iserd"], env=self.environment, stderr=log
            )
        wait_for(lambda: self._run("rdmactl", "status").returncode == 0, "iserd")

    def kill(self) -> None:
        """kill -9."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> None:
        """SIGTERM."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            assert self.daemon.wait(60) == 0, self.log()

    def iseradm(self, words: str, *, status: int = 0) -> str:
        """Standard output of a run that ends with `status`."""
        done = self._run("iseradm", *words.split())
        assert done.returncode == status, (words, done.stdout, done.stderr, self.log())
        return done.stdout

    def watch(self, portal: str, *, type: str = "sendtargets", poll: int = 1) -> None:
        """A discovery record under watch."""
        self.iseradm(f"-m discoverydb -t {type} -p {portal} -o new")
        self.update(portal, "discoveryd_poll_inval", str(poll), type=type)
        self.update(portal, "use_discoveryd", "Yes", type=type)

    def update(self, portal: str, key: str, value: str, *, type: str = "sendtargets") -> None:
        self.iseradm(f"-m discoverydb -t {type} -p {portal} -o update -n discovery.{type}.{key} -v {value}")

    def status(self) -> dict[str, Any]:
        """Of the only watch, which begins within a second."""
        (watch,) = wait_for(self._watches, "the watch")
        return watch

    def _watches(self) -> list[dict[str, Any]]:
        done = self._run("rdmactl", "discovery", "status", "-j")
        assert done.returncode == 0, done.stderr
        watches: list[dict[str, Any]] = json.loads(done.stdout)["watches"]
        return watches

    def answers(self, more: int) -> None:
        """Wait for so many more answers."""
        for _ in range(more):
            before = self.status()["answered_at_s"]
            try:
                wait_for(lambda before=before: self.status()["answered_at_s"] != before, "an answer", limit_s=LIMIT_S)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.status()}\n{self.log()}") from None

    def sessions(self) -> set[tuple[str, str]]:
        """Target and portal of what is logged in."""
        return {(view.target, str(view.persistent)) for view in sysfs.sessions() if view.connection_text == "LOGGED IN"}

    def wait_for_sessions(self, *wanted: tuple[str, str]) -> None:
        """Until there are these and no others."""
        try:
            wait_for(lambda: self.sessions() == set(wanted), "the sessions", limit_s=LIMIT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.sessions()} instead of {set(wanted)}\n{self.log()}") from None

    def wait_for_log(self, words: str) -> None:
        try:
            wait_for(lambda: words in self.log(), f"{words!r} in the log", limit_s=LIMIT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def log(self) -> str:
        return self._log.read_text()

    def device_of(self, target: str) -> str:
        """The disk of its session."""

        def find() -> str | None:
            luns = [lun for view in sysfs.sessions() if view.target == target for lun in view.luns()]
            return next((lun.block_device for lun in luns if lun.block_device is not None), None)

        return f"/dev/{wait_for(find, 'the disk')}"

    def clear(self) -> None:
        """No records and no sessions."""
        for line in self._run("iseradm", "-m", "discoverydb").stdout.splitlines():
            portal, _, type = line.partition(" via ")
            self.iseradm(f"-m discoverydb -t {type} -p {portal} -o delete")
        wait_for(lambda: not self._watches(), "the end of the watches")
        for sid in sysfs.session_ids():
            done = self._run("rdmactl", "session", "release", "--everybody", str(sid))
            assert done.returncode == 0, (done.stdout, done.stderr, self.log())

    def _run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"rdmactl.cli.{program}", *words]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )  # fmt: skip
