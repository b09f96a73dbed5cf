#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions side by side: iserd and iseradm against iscsid and iscsiadm, in one machine, on one set of LIO targets.

    lab/run --memory 2048 --timeout 3000 -- .venv/bin/python bench/sessions.py [--counts 8,64] [--without-peer]
    lab/run --virtual-time --memory 2048 --timeout 3000 -- .venv/bin/python bench/sessions.py --never-idle

In virtual time the clock of an idle processor jumps to the next timer, also while the host reads a file for it; with
--never-idle a process that gives way to all others keeps it from being idle.

What is measured, for each transport and number of targets (each with one disk, all at one portal):

    floor      the kernel's part of the login: the same requests and PDUs, replayed by login_floor.c
    login      from the start of `-m node -l` until it has ended and every session's block device exists
    print      `-m session -P 3`, median of three
    restart    kill -9 of the daemon, start it, until it answers for all sessions and all are logged in; a process reads
               one of the disks past the page cache meanwhile, and must not see an error
    relogins   connections the target has seen made by the restart
    rss        of the daemon after that
    severed    the cut alone, with the daemon stopped: until the kernel has put all connections away; no part of `cut`
               can be faster than this, `floor` without its scan, and Time2Wait
    cut        the targets throw everybody out and take them again: until all are logged in; Time2Wait is 2 s, as usual
    logout     `-m node -u`
    few        `-m node -l` with three quarters of the targets: until their block devices exist
    cut0       the cut again, with these, and without Time2Wait on both sides
    silent     `few` with one quarter more records, of portals that do not answer

Results as JSON, one line each, then the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
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

from rdmactl.control.client import Client  # noqa: E402
from rdmactl.errors import RdmactlError  # noqa: E402
from rdmactl.initiator import sysfs  # noqa: E402
from tests.lab.guest import sh, wait_for  # noqa: E402

ADDRESS = "10.9.0.1"
PORTS = {"iser": 3260, "tcp": 3261}
NAME = "iqn.2026-11.bench:t"
TARGETS = Path("/sys/kernel/config/target/iscsi")
LIMIT_S = 300.0
LOOK_S = 0.1
BIN = Path(sys.executable).parent
COLUMNS = (
    "floor_s", "login_s", "few_s", "silent_s", "print_s", "restart_s", "severed_s", "cut_s", "cut0_s", "logout_s",
    "rss_kib",
)  # fmt: skip
READER = """
import mmap, os, time
descriptor, buffer = os.open(%r, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
while True:
    os.preadv(descriptor, [buffer], 0)
    time.sleep(0.02)
"""


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

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.client, *words], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        with self.begin(*words) as process:
            _, said = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(words, process.returncode, b"", said)

    def done(self, *words: str) -> None:
        ended = self.run(*words)
        assert ended.returncode == 0, (words, ended.stderr)

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
        """Asked from here: a program's start would be a large part of what is measured."""
        directory = self.environment["RDMACTL_RUNTIME_DIRECTORY"]
        try:
            with Client("initiator", deadline_s=LIMIT_S, directory=directory) as client:
                told = client.call("io.rdmactl.Initiator.Sessions", {})["sessions"]
        except RdmactlError:
            return False
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
    parser.add_argument("--never-idle", action="store_true", help="for virtual time: see above")
    parser.add_argument("--without-peer", action="store_true", help="only ours: for many sessions, in less time")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    made = 0
    if arguments.never_idle:
        subprocess.Popen(["chrt", "--idle", "0", sys.executable, "-c", "while True: pass"])
    transports = arguments.transports.split(",")
    sh(f"link rxe0 rxe dummy0 {ADDRESS}/24; modprobe -a ib_iser iscsi_tcp")
    floor = Path(tempfile.mkdtemp()) / "login_floor"
    subprocess.run(["gcc", "-O2", "-o", str(floor), str(HERE / "login_floor.c")], check=True)
    for count in map(int, arguments.counts.split(",")):
        make_targets(made, count, transports)
        made = count
        for transport in transports:
            floor_s = replayed(floor, transport, count)
            for tools in (Ours(),) if arguments.without_peer else (Theirs(), Ours()):
                head = {"tools": tools.name, "transport": transport, "n": count, "floor_s": floor_s}
                results.append({**head, **measure(tools, transport, count)})
                print(json.dumps(results[-1]), flush=True)
    report(results)
    return 0


def make_targets(first: int, last: int, transports: list[str]) -> None:
    """Targets number `first` to `last`, each with a disk of a mebibyte, at a portal for each transport."""
    lines = []
    for number in range(first, last):
        lines += [f"target {NAME}{number:03} {ADDRESS}:{PORTS[kind]} {kind} 1" for kind in transports]
    sh("\n".join(lines), timeout_s=LIMIT_S)


def replayed(program: Path, transport: str, count: int) -> float:
    """The second of two runs: the first one loads modules, and warms caches for everybody."""
    for _ in range(2):
        begin = time.monotonic()
        subprocess.run([program, transport, ADDRESS, str(PORTS[transport]), str(count), NAME], check=True)
        wait_for(lambda: disks() == count, f"{count} disks", limit_s=LIMIT_S)
        took_s = time.monotonic() - begin
        clear(Ours())
    return round(took_s, 3)


def clear(tools: Tools) -> None:
    """No daemon, no session: by a daemon that finds them and logs them out."""
    tools.start()
    wait_for(tools.answers, f"{tools.name}'s daemon", limit_s=LIMIT_S)
    tools.run("-m", "session", "-u")
    wait_for(lambda: not sysfs.session_ids(), "the end of the sessions", limit_s=LIMIT_S)
    wait_for(lambda: disks() == 0, "the end of the disks", limit_s=LIMIT_S)
    tools.kill()


def measure(tools: Tools, transport: str, count: int) -> dict[str, Any]:
    """One round: discover, log in, look, restart the daemon, cut, log out; then with silent portals."""
    tools.start()
    try:
        wait_for(tools.answers, f"{tools.name}'s daemon", limit_s=LIMIT_S)
        discover(tools, transport)
        result: dict[str, Any] = {"login_s": timed(lambda: log_in(tools, count))}
        result["print_s"] = statistics.median(timed(lambda: tools.run("-m", "session", "-P", "3")) for _ in range(3))
        before = logins_seen()
        with subprocess.Popen([sys.executable, "-c", READER % a_disk()], stderr=subprocess.PIPE) as reader:
            result["restart_s"] = timed(lambda: restart(tools))
            assert reader.poll() is None, "a read failed"
            reader.terminate()
        result["relogins"] = logins_seen() - before
        result["rss_kib"] = tools.rss_kib()
        result["severed_s"] = severed(tools, count)
        result["cut_s"] = timed(lambda: cut(count))
        result["logout_s"] = timed(lambda: log_out(tools))
        result.update(few_and_silent(tools, transport, count))
    finally:
        tools.kill()
        clear(Ours())
        tools.run("-m", "node", "-o", "delete")
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}


def discover(tools: Tools, transport: str) -> None:
    """LIO names all portals of a target, those of the other transport as well if it has any."""
    iface = ("-I", "iser") if transport == "iser" else ()
    tools.done("-m", "discovery", "-t", "st", "-p", f"{ADDRESS}:{PORTS[transport]}", *iface)
    other = next(port for kind, port in PORTS.items() if kind != transport)
    tools.run("-m", "node", "-p", f"{ADDRESS}:{other}", "-o", "delete")


def set_time2wait(tools: Tools, seconds: int) -> None:
    """What both sides want; the larger one counts."""
    for group in TARGETS.glob(f"{NAME}*/tpgt_1"):
        (group / "param/DefaultTime2Wait").write_text(str(seconds))
    tools.done("-m", "node", "-o", "update", "-n", "node.session.iscsi.DefaultTime2Wait", "-v", str(seconds))


def few_and_silent(tools: Tools, transport: str, count: int) -> dict[str, float]:
    """Fewer targets alone, their cut without pause, and with portals that nobody has."""
    quarter = count // 4
    few = count - quarter
    for number in range(few, count):
        tools.done("-m", "node", "-T", f"{NAME}{number:03}", "-o", "delete")
    set_time2wait(tools, 0)
    result = {"few_s": timed(lambda: log_in(tools, few)), "cut0_s": cut_without_wait(tools, few)}
    log_out(tools)
    set_time2wait(tools, 2)
    iface = "iser" if transport == "iser" else "default"
    for number in range(quarter):
        words = ("-T", f"{NAME}-silent{number}", "-p", f"10.9.0.{100 + number}", "-I", iface)
        tools.done("-m", "node", *words, "-o", "new")
    begin = time.monotonic()
    with tools.begin("-m", "node", "-l") as process:
        wait_for(lambda: disks() == few, f"{few} disks", limit_s=LIMIT_S)
        result["silent_s"] = time.monotonic() - begin
        process.kill()
        process.communicate()
    return result


def cut_without_wait(tools: Tools, count: int) -> float:
    """Infinity when they are not all back in time: seen of iscsid with 48 iSER sessions, which is a result as well."""
    try:
        return timed(lambda: cut(count))
    except AssertionError as error:
        print(f"{tools.name}: {error}", file=sys.stderr, flush=True)
    tools.kill()
    clear(Ours())
    tools.start()
    wait_for(tools.answers, f"{tools.name}'s daemon", limit_s=LIMIT_S)
    return math.inf


def timed(action: Callable[[], object]) -> float:
    """Seconds; also to standard error, for who waits."""
    begin = time.monotonic()
    action()
    took_s = time.monotonic() - begin
    print(f"{took_s:.3f} s", file=sys.stderr, flush=True)
    return took_s


def log_in(tools: Tools, count: int) -> None:
    tools.done("-m", "node", "-l")
    wait_for(lambda: disks() == count, f"{count} disks", limit_s=LIMIT_S)


def log_out(tools: Tools) -> None:
    tools.run("-m", "node", "-u")
    wait_for(lambda: not sysfs.session_ids(), "the end of the sessions", limit_s=LIMIT_S)


def disks() -> int:
    return sum(name.startswith("sd") for name in os.listdir("/sys/block"))


def a_disk() -> str:
    return next(f"/dev/{name}" for name in os.listdir("/sys/block") if name.startswith("sd"))


def restart(tools: Tools) -> None:
    tools.kill()
    tools.start()
    wait_for(tools.answers, f"{tools.name}'s daemon", limit_s=LIMIT_S)
    until(all_logged_in, "all")


def until(condition: Callable[[], bool], what: str) -> None:
    """As wait_for, for conditions that cost so much that asking often would be a part of what is measured."""
    wait_for(lambda: condition() or time.sleep(LOOK_S), what, limit_s=LIMIT_S)


def all_logged_in() -> bool:
    return set(states()) == {"LOGGED_IN"}


def states() -> list[str | None]:
    """Of all sessions; two reads each, because whoever looks takes the only processor from those that are measured."""
    return [
        sysfs.read(f"/sys/class/iscsi_session/session{sid}/state")
        if sysfs.read(f"/sys/class/iscsi_connection/connection{sid}:0/state") == "up"
        else None
        for sid in sysfs.session_ids()
    ]


def cut(count: int) -> None:
    before = logins_seen()
    throw_out(count)
    until(lambda: logins_seen() >= before + count and all_logged_in(), "all sessions")


def severed(tools: Tools, count: int) -> float:
    """As `cut`, without the daemon; it may bring them back when this has been measured."""
    assert tools.process is not None
    tools.process.send_signal(signal.SIGSTOP)
    try:
        took_s = timed(lambda: (throw_out(count), until(lambda: "LOGGED_IN" not in states(), "the loss")))
    finally:
        tools.process.send_signal(signal.SIGCONT)
    until(all_logged_in, "all sessions")
    return took_s


def throw_out(count: int) -> None:
    """The first targets end all connections, and take new ones."""
    for group in sorted(TARGETS.glob(f"{NAME}*/tpgt_1"))[:count]:
        for value in ("0", "1"):
            (group / "enable").write_text(value)


def logins_seen() -> int:
    """Logins the targets have seen: LIO counts those of each portal group's sessions."""
    return sum(int(path.read_text()) for path in TARGETS.glob("iqn.*/fabric_statistics/iscsi_login_stats/accepts"))


def report(results: list[dict[str, Any]]) -> None:
    """Theirs divided by ours, for each transport and count; what falls short of that is ours alone."""
    print(f"\n{'':>6} {'n':>4} {'':>10}" + "".join(f" {column:>10}" for column in COLUMNS))
    for ours in (result for result in results if result["tools"] == Ours.name):
        head = f"{ours['transport']:>6} {ours['n']:>4}"
        same = [r for r in results if all(r[key] == ours[key] for key in ("transport", "n"))]
        for row in same:
            print(f"{head} {row['tools']:>10}" + "".join(f" {row[column]:>10}" for column in COLUMNS))
        for theirs in (row for row in same if row is not ours):
            ratios = [f"{theirs[column] / ours[column]:>10.2f}" for column in COLUMNS]
            print(f"{head} {'ratio':>10} " + " ".join(ratios))


if __name__ == "__main__":
    sys.exit(main())
