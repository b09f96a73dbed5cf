# SPDX-License-Identifier: Apache-2.0
"""Runs one command in one or two throw-away virtual machines.

A machine sees this machine's root file system read-only below a tmpfs, so that whatever is installed here is there and
nothing it does comes back, except what it writes to /tmp/lab, the directory of the run. The command's standard output
and error come back through ports of their own, apart from the console.

Choices that were measured: one virtual CPU (with two, an emulated machine on a busy host takes three to five times as
long); q35; the uncompressed kernel; 9p, not virtiofs. A machine that does not come up within its deadline is started
once more and that is reported; a command that fails is never repeated.

Not here: what a machine is made of (`build.py`).
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from kit.build import LAB, Kit, LabError, cache_directory

KERNEL_ARGUMENTS = "console=hvc0 quiet loglevel=3 panic=-1 nokaslr mitigations=off audit=0 cryptomgr.notests nowatchdog"
# What systemd starts in a full boot and no test of ours needs: 21 s become 8 s.
MASKED_SERVICES = (
    "systemd-udev-trigger systemd-timesyncd systemd-sysusers systemd-update-utmp systemd-random-seed systemd-binfmt "
    "systemd-journal-flush systemd-sysctl systemd-modules-load systemd-remount-fs systemd-tmpfiles-setup "
    "systemd-pstore kmod-static-nodes modprobe@configfs modprobe@dm_mod modprobe@drm modprobe@efi_pstore "
    "modprobe@fuse modprobe@loop rdma-load-modules@rdma rdma-ndd"
).split()
MASKED_OTHERS = (
    "dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount "
    "sys-kernel-config.mount sys-fs-fuse-connections.mount tmp.mount"
).split()
# A boot takes 2 s, emulated 3 to 5 s; on a busy machine it was seen to take 14 s.
BOOT_DEADLINE_S = 60.0
STATUS_NO_BOOT = 98
STATUS_TIMEOUT = 124
STATUS_OOPS = 96
# A machine whose runner was killed would keep a processor busy for ever.
WITH_THE_RUNNER = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(frozen=True)
class Request:
    """What to run. `environment` is added to the guest's own small one."""

    command: list[str]
    hosts: int = 1
    systemd: bool = False
    virtual_time: bool = False
    interactive: bool = False
    timeout_s: float = 120.0
    memory_mib: int = 1024
    accelerator: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def run(kit: Kit, request: Request) -> int:
    """Run it; the command's exit status, or the worst of two hosts."""
    with _slot(), tempfile.TemporaryDirectory(prefix="rdmactl-lab-") as share:
        os.chmod(share, 0o777)
        accelerator = request.accelerator or pick_accelerator(virtual_time=request.virtual_time)
        group = _Group(kit, request, Path(share), accelerator)
        if group.run():
            return group.status()
        print(f"lab: {group.missing()} did not boot ({accelerator}); starting once more, emulated", file=sys.stderr)
        group = _Group(kit, request, Path(share), "tcg")
        if group.run():
            return group.status()
        print(f"lab: {group.missing()} did not boot, twice", file=sys.stderr)
        group.show_consoles()
        return STATUS_NO_BOOT


def pick_accelerator(*, virtual_time: bool) -> str:
    """kvm where the processor offers it to us; virtual time exists only in plain emulation.

    The device alone does not say so: a machine without vmx or svm may have a /dev/kvm that starts no modern kernel.
    """
    flags = set(re.findall(r"\b(?:vmx|svm)\b", Path("/proc/cpuinfo").read_text()))
    if flags and not virtual_time and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "kvm"
    return "tcg"


class _Group:
    """The one or two machines of a run, alive together."""

    def __init__(self, kit: Kit, request: Request, share: Path, accelerator: str) -> None:
        self._request = request
        self._share = share
        self._timed_out = False
        names = "AB"[: request.hosts]
        for stale in share.iterdir():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        (share / "wire").mkdir()
        shutil.copy(LAB / "guest" / "session", share / "session")
        self._machines = [_Machine(kit, request, share, name, accelerator) for name in names]

    def run(self) -> bool:
        """True when every machine came up (its command may still have failed)."""
        handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            for machine in self._machines:
                machine.start()
            return self._watch()
        finally:
            for machine in self._machines:
                machine.end()
            signal.signal(signal.SIGTERM, handler)

    def _watch(self) -> bool:
        deadline = time.monotonic() + BOOT_DEADLINE_S
        booted = False
        while any(machine.alive() for machine in self._machines):
            if not booted and not self.missing():
                booted = True
                deadline = math.inf if self._request.interactive else time.monotonic() + self._request.timeout_s
            if time.monotonic() > deadline:
                self._timed_out = booted
                break
            time.sleep(0.02)
        return not self.missing()

    def missing(self) -> str:
        """The machines that have not reported themselves up, as text."""
        return " and ".join(f"host {m.name}" for m in self._machines if not (self._share / f"{m.name}.up").exists())

    def show_consoles(self) -> None:
        for machine in self._machines:
            machine.show_console()

    def status(self) -> int:
        worst = 0
        for machine in self._machines:
            status = machine.status(timed_out=self._timed_out)
            worst = worst or status
        return worst


class _Machine:
    def __init__(self, kit: Kit, request: Request, share: Path, name: str, accelerator: str) -> None:
        self.name = name
        self._request = request
        self._share = share
        self._process: subprocess.Popen[bytes] | None = None
        self._copiers: list[threading.Thread] = []
        self._console = share / f"{name}.console"
        self._arguments = _qemu(kit, request, share, name, accelerator)
        (share / f"{name}.command").write_text(_script(request.command))
        (share / f"{name}.environment").write_text(_environment(kit, request, name))

    def start(self) -> None:
        if self._request.interactive:
            self._process = subprocess.Popen([*WITH_THE_RUNNER, *self._arguments])
            return
        with open(self._console, "wb") as console:
            self._process = subprocess.Popen(
                [*WITH_THE_RUNNER, *self._arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=(console.fileno(),), start_new_session=True,
            )  # fmt: skip
        prefix = f"{self.name}| ".encode() if self._request.hosts > 1 else b""
        streams: list[tuple[IO[bytes] | None, BinaryIO]] = [
            (self._process.stdout, sys.stdout.buffer),
            (self._process.stderr, sys.stderr.buffer),
        ]
        for source, sink in streams:
            assert source is not None
            copier = threading.Thread(target=_copy, args=(source, sink, prefix), daemon=True)
            copier.start()
            self._copiers.append(copier)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self) -> None:
        if self.alive():
            assert self._process is not None
            self._process.kill()
            self._process.wait()
        for copier in self._copiers:
            copier.join(5)

    def status(self, *, timed_out: bool) -> int:
        oops = self._share / f"{self.name}.oops"
        result = self._share / f"{self.name}.status"
        if oops.exists() and oops.stat().st_size:
            print(f"lab: the kernel of host {self.name} stumbled:", file=sys.stderr)
            sys.stderr.write((self._share / f"{self.name}.dmesg").read_text(errors="replace")[-6000:])
            return STATUS_OOPS
        if result.exists():
            return int(result.read_text())
        if timed_out:
            print(f"lab: host {self.name} was ended after {self._request.timeout_s:.0f} s", file=sys.stderr)
            return STATUS_TIMEOUT
        print(f"lab: host {self.name} went down without an exit status", file=sys.stderr)
        self.show_console()
        return STATUS_TIMEOUT

    def show_console(self) -> None:
        if self._console.exists():
            sys.stderr.write(self._console.read_text(errors="replace")[-3000:])


def _copy(source: IO[bytes], out: BinaryIO, prefix: bytes) -> None:
    while True:
        chunk = source.readline() if prefix else source.read1(65536)  # type: ignore[attr-defined]
        if not chunk:
            return
        out.write(prefix + chunk)
        out.flush()


def _script(command: list[str]) -> str:
    """One word is shell text, several are words that stay what they are."""
    return (command[0] if len(command) == 1 else shlex.join(command)) + "\n"


def _environment(kit: Kit, request: Request, name: str) -> str:
    values = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb") if request.interactive else "dumb",
        "SYSTEMD_PAGER": "",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LAB": str(LAB),
        "LAB_DIRECTORY": os.getcwd(),
        "LAB_HOST": name,
        "LAB_KIT": "/lab-kit",
        "LAB_SHARE": "/tmp/lab",
        "LAB_INTERACTIVE": "1" if request.interactive else "",
        **request.environment,
    }
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def _qemu(kit: Kit, request: Request, share: Path, name: str, accelerator: str) -> list[str]:
    append = f"{KERNEL_ARGUMENTS} labrun={name} labtree={LAB.parent}"
    if request.systemd:
        masks = [f"{service}.service" for service in MASKED_SERVICES] + MASKED_OTHERS
        append += " labsystemd=1 systemd.unit=lab.target systemd.show_status=0 systemd.log_target=journal "
        append += " ".join(f"systemd.mask={unit}" for unit in masks)
    return [
        "qemu-system-x86_64", "-accel", accelerator, "-M", "q35",
        "-cpu", "host" if accelerator == "kvm" else "max", "-smp", "1", "-m", str(request.memory_mib),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(kit.kernel), "-initrd", str(kit.initramfs), "-append", append,
        "-fsdev", "local,id=root,path=/,security_model=none,multidevs=remap,readonly=on",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        "-fsdev", f"local,id=kit,path={kit.directory},security_model=none,multidevs=remap,readonly=on",
        "-device", "virtio-9p-pci,fsdev=kit,mount_tag=kit",
        "-fsdev", f"local,id=lab,path={share},security_model=none",
        "-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab",
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        *_console(request, share, name),
        *(_network(share, name) if request.hosts > 1 else []),
        *(["-icount", "shift=1,sleep=off"] if request.virtual_time else []),
    ]  # fmt: skip


def _console(request: Request, share: Path, name: str) -> list[str]:
    if request.interactive:
        return ["-chardev", "stdio,id=console,signal=off", "-device", "virtconsole,chardev=console"]
    return [
        "-chardev", f"file,id=console,path={share / (name + '.console')}", "-device", "virtconsole,chardev=console",
        "-chardev", "file,id=out,path=/proc/self/fd/1", "-device", "virtserialport,chardev=out,name=stdout",
        "-chardev", "file,id=err,path=/proc/self/fd/2", "-device", "virtserialport,chardev=err,name=stderr",
    ]  # fmt: skip


def _network(share: Path, name: str) -> list[str]:
    """Two point-to-point links between the two hosts: eth0 and eth1."""
    mine, other, number = (("a", "b", 1), ("b", "a", 2))[name == "B"]
    arguments = []
    for link in (0, 1):
        wire = share / "wire"
        arguments += [
            "-netdev", f"dgram,id=n{link},local.type=unix,local.path={wire}/{link}.{mine},"
            f"remote.type=unix,remote.path={wire}/{link}.{other}",
            "-device", f"virtio-net-pci,netdev=n{link},mac=52:54:00:00:0{link}:0{number}",
        ]  # fmt: skip
    return arguments


@contextmanager
def _slot() -> Iterator[None]:
    """At most as many runs at a time as there are processors: an emulated machine that waits for one is very slow."""
    directory = cache_directory() / "slots"
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        slots = [stack.enter_context(open(directory / str(number), "w")) for number in range(os.cpu_count() or 1)]
        said = False
        started = time.monotonic()
        while not any(_try_lock(slot) for slot in slots):
            if not said and time.monotonic() - started > 10:
                print("lab: waiting for another run to end", file=sys.stderr)
                said = True
            if time.monotonic() - started > 1800:
                raise LabError("other lab runs have held this machine for half an hour: see `pgrep -a qemu-system`")
            time.sleep(0.1)
        yield


def _try_lock(slot: IO[str]) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
