#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions side by side: iserd and iseradm against iscsid and iscsiadm, in one machine, on one set of LIO targets.

    lab/run --virtual-time --memory 2048 --timeout 3000 -- .venv/bin/python bench/sessions.py [--counts 8,64]

What is measured, for each transport and number of targets (each with one disk, all at one portal):

    login      from the start of `-m node -l` until it has ended and every session's block device exists
    print      `-m session -P 3`, median of three
    restart    kill -9 of the daemon, start it, until it answers for all sessions and all are logged in
    rss        of the daemon after that
    relogins   connections the target has seen made by the restart
    logout     `-m node -u`

Results as JSON, one line each, then the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from rdmactl.initiator import sysfs  # noqa: E402
from tests.lab.guest import sh, wait_for  # noqa: E402

ADDRESS = "10.9.0.1"
PORTS = {"iser": 3260, "tcp": 3261}
LIMIT_S = 300.0
BIN = Path(sys.executable).parent


class Tools:
    """A daemon and its front end."""

    name: str
    daemon: tuple[str, ...]
    client: tuple[str, ...]

    def __init__(self) -> None:
        self.environment = os.environ.copy()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.daemon, env=self.environment, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def answers(self) -> bool:
        """It can be asked about sessions, and knows those there are."""
        raise NotImplementedError

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*self.client, *words]
        return subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=LIMIT_S,
            check=False,
        )

    def rss_kib(self) -> int:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


class Ours(Tools):
    name = "rdmactl"
    daemon = (str(BIN / "iserd"),)
    client = (str(BIN / "iseradm"),)

    def __init__(self) -> None:
        super().__init__()
        directory = tempfile.mkdtemp()
        for name in ("STATE", "RUNTIME", "CONFIG"):
            self.environment[f"RDMACTL_{name}_DIRECTORY"] = f"{directory}/{name.lower()}"

    def answers(self) -> bool:
        command = [str(BIN / "rdmactl"), "session", "history", "-j"]
        done = subprocess.run(command, env=self.environment, capture_output=True, check=False)
        if done.returncode:
            return False
        told = [each for each in json.loads(done.stdout)["sessions"] if each["ended_s"] is None]
        return len(told) >= len(sysfs.session_ids())


class Theirs(Tools):
    name = "open-iscsi"
    daemon = ("/usr/sbin/iscsid", "-f")
    client = ("/usr/sbin/iscsiadm",)

    def answers(self) -> bool:
        """iscsiadm asks iscsid for the state of each connection."""
        done = subprocess.run([*self.client, "-m", "session", "-P", "1"], capture_output=True, text=True, check=False)
        return done.stdout.count("iSCSI Connection State: LOGGED IN") >= len(sysfs.session_ids())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", default="8,64", help="numbers of targets")
    parser.add_argument("--transports", default="tcp,iser")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    made = 0
    sh(f"link rxe0 rxe dummy0 {ADDRESS}/24; modprobe -a ib_iser iscsi_tcp")
    for count in map(int, arguments.counts.split(",")):
        make_targets(made, count)
        made = count
        for transport in arguments.transports.split(","):
            for tools in (Theirs(), Ours()):
                results.append(
                    {"tools": tools.name, "transport": transport, "n": count, **measure(tools, transport, count)}
                )
                print(json.dumps(results[-1]), flush=True)
    report(results)
    return 0


def make_targets(first: int, last: int) -> None:
    """Targets number `first` to `last`, each with a disk of a mebibyte, at both portals."""
    lines = []
    for number in range(first, last):
        name = f"iqn.2026-11.bench:t{number:03}"
        lines += [f"target {name} {ADDRESS}:{port} {kind} 1" for kind, port in PORTS.items()]
    sh("\n".join(lines), timeout_s=LIMIT_S)


def measure(tools: Tools, transport: str, count: int) -> dict[str, Any]:
    """One round: discover, log in, look, restart the daemon, log out."""
    portal = f"{ADDRESS}:{PORTS[transport]}"
    iface = ["-I", "iser"] if transport == "iser" else []
    tools.start()
    try:
        wait_for(tools.answers, f"{tools.name}'s daemon", limit_s=LIMIT_S)
        found = tools.run("-m", "discovery", "-t", "st", "-p", portal, *iface)
        assert found.returncode == 0, found.stderr
        result: dict[str, Any] = {"login_s": timed(lambda: log_in(tools, count))}
        result["print_s"] = statistics.median(timed(lambda: tools.run("-m", "session", "-P", "3")) for _ in range(3))
        before = logins_seen()
        result["restart_s"] = timed(lambda: restart(tools, count))
        result["relogins"] = logins_seen() - before
        result["rss_kib"] = tools.rss_kib()
        result["logout_s"] = timed(lambda: tools.run("-m", "node", "-u"))
        wait_for(lambda: not sysfs.session_ids(), "the end of the sessions", limit_s=LIMIT_S)
        tools.run("-m", "node", "-o", "delete")
    finally:
        tools.kill()
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}


def timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def log_in(tools: Tools, count: int) -> None:
    done = tools.run("-m", "node", "-l")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: disks() == count, f"{count} disks", limit_s=LIMIT_S)


def disks() -> int:
    return sum(name.startswith("sd") for name in os.listdir("/sys/block"))


def restart(tools: Tools, count: int) -> None:
    tools.kill()
    tools.start()
    wait_for(tools.answers, f"{tools.name}'s daemon", limit_s=LIMIT_S)
    wait_for(lambda: all(view.connection_text == "LOGGED IN" for view in sysfs.sessions()), "all", limit_s=LIMIT_S)


def logins_seen() -> int:
    """Logins the targets have seen: LIO counts those of each portal group's sessions."""
    directories = Path("/sys/kernel/config/target/iscsi").glob("iqn.*/fabric_statistics/iscsi_login_stats/accepts")
    return sum(int(path.read_text()) for path in directories)


def report(results: list[dict[str, Any]]) -> None:
    """Theirs divided by ours, for each transport and count; memory the other way round."""
    columns = ("login_s", "print_s", "restart_s", "rss_kib", "logout_s")
    print(f"\n{'':>6} {'n':>4} {'':>10}" + "".join(f" {column:>10}" for column in columns))
    for theirs in (result for result in results if result["tools"] == Theirs.name):
        ours = next(
            r for r in results if r["tools"] == Ours.name and all(r[k] == theirs[k] for k in ("transport", "n"))
        )
        head = f"{theirs['transport']:>6} {theirs['n']:>4}"
        for row in (theirs, ours):
            print(f"{head} {row['tools']:>10}" + "".join(f" {row[column]:>10}" for column in columns))
        ratios = [f"{theirs[column] / ours[column]:>10.2f}" for column in columns]
        print(f"{head} {'ratio':>10} " + " ".join(ratios))


if __name__ == "__main__":
    sys.exit(main())
