# SPDX-License-Identifier: Apache-2.0
"""Makes, once, what every virtual machine is started from, and keeps it in a cache.

The distribution's kernel packages are downloaded and *unpacked* there: nothing is installed, /boot and /lib/modules
of this machine are not touched. From them come an uncompressed kernel (it starts faster than the compressed one), an
initramfs that holds just what mounts this machine's root file system, and soft-iWARP, which the distribution does not
build, in two variants: `stock`, and `map`, in which a mapped connection is real (siw-map.patch says why).

Not here: starting machines (`machine.py`).
"""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LAB = Path(__file__).resolve().parent.parent
KERNEL_SERIES = "6.12"
# Bump when what is built changes: an older cache is then built anew.
RECIPE = 2
# Programs that rdmactl is tested with and measured against. They are unpacked for the guest only: installing them here
# would start their daemons on this machine.
PEERS = (
    "rdma-core", "rdmacm-utils", "ibverbs-utils", "open-iscsi", "libopeniscsiusr", "libisns0",
    "tgt", "libiscsi-bin", "libiscsi7", "open-isns-server", "open-isns-utils",
)  # fmt: skip
# The initramfs mounts the host's root over 9p below a tmpfs overlay; everything else is loaded from there.
INITRAMFS_MODULES = ("9pnet_virtio", "9p", "overlay")
SIW_VARIANTS = ("stock", "map")
NEEDED_PROGRAMS = {
    "apt-get": "apt", "dpkg-deb": "dpkg", "busybox": "busybox-static", "cpio": "cpio", "zstd": "zstd",
    "modprobe": "kmod", "depmod": "kmod", "patch": "patch", "gcc-12": "gcc-12", "make": "make", "xz": "xz-utils",
    "strip": "binutils", "qemu-system-x86_64": "qemu-system-x86",
}  # fmt: skip


class LabError(Exception):
    """The lab cannot be built or run; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Kit:
    """The finished parts. Paths are absolute; the guest sees them under the same names."""

    directory: Path
    release: str

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def initramfs(self) -> Path:
        return self.directory / "initramfs.cpio"

    @property
    def modules(self) -> Path:
        return self.directory / "lib" / "modules"


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("RDMACTL_LAB_CACHE") or os.path.join(base, "rdmactl-lab"))


def kit(say: TextIO = sys.stderr) -> Kit:
    """The parts, from the cache or built now (about half a minute, and some 280 MB to download)."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        made = _cached(cache) or _build(cache, say)
        if _peers_of(made) != PEERS:
            _unpack_peers(cache / "packages" / "peers", made.directory / "peers")
            shutil.rmtree(cache / "packages")
            (made.directory / "peers.list").write_text(" ".join(PEERS))
        if not made.initramfs.exists() or (made.directory / "initramfs.recipe").read_text() != _initramfs_recipe():
            _build_initramfs(made)
        return made


def _cached(cache: Path) -> Kit | None:
    link = cache / "current"
    if not (link / "recipe").exists() or (link / "recipe").read_text() != _recipe():
        return None
    directory = link.resolve()
    return Kit(directory, (directory / "release").read_text())


def _recipe() -> str:
    """What the cached kernel and modules were built from: a change of the patch makes them anew."""
    return f"recipe {RECIPE}\n{(LAB / 'siw-map.patch').read_text()}"


def _peers_of(kit: Kit) -> tuple[str, ...]:
    """The packages unpacked in it. More of them are added; to take one away, raise RECIPE."""
    found = kit.directory / "peers.list"
    return tuple(found.read_text().split()) if found.exists() else ()


def _initramfs_recipe() -> str:
    return (LAB / "guest" / "init").read_text()


def _build(cache: Path, say: TextIO) -> Kit:
    missing = {package for program, package in NEEDED_PROGRAMS.items() if not shutil.which(program)}
    if missing:
        raise LabError(f"the lab needs packages that are not installed: apt-get install {' '.join(sorted(missing))}")
    release = _kernel_release()
    print(f"lab: preparing kernel {release} and soft-iWARP in {cache} (once)", file=say, flush=True)
    directory = cache / f"{release}-{RECIPE}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    downloads = _download(cache / "packages", release)
    for package in downloads:
        if "linux-source" not in package.name:
            _run(["dpkg-deb", "-x", str(package), str(directory)])
    source = next(package for package in downloads if "linux-source" in package.name)
    made = Kit(directory, release)
    _run(["depmod", "-b", str(directory), release])
    _extract_kernel(directory / "boot" / f"vmlinuz-{release}", made.kernel)
    _relocate_headers(directory, release)
    _unpack_siw(directory, source)
    for variant in SIW_VARIANTS:
        _build_siw(directory, release, variant)
    for needless in ("boot", "usr", "siw"):
        shutil.rmtree(directory / needless, ignore_errors=True)
    shutil.rmtree(cache / "packages", ignore_errors=True)
    (directory / "release").write_text(release)
    for older in cache.glob(f"{KERNEL_SERIES}.*-amd64-*"):
        if older != directory:
            shutil.rmtree(older)
    (directory / "recipe").write_text(_recipe())
    temporary = cache / "current.new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(directory.name)
    temporary.replace(cache / "current")
    return made


def _kernel_release() -> str:
    """The release that the distribution's newest 6.12 kernel package carries, e.g. 6.12.117+deb12-amd64."""
    meta = f"linux-image-{KERNEL_SERIES}-amd64"
    text = _run(["apt-cache", "depends", meta], check=False)
    found = re.search(r"Depends: linux-image-(\S+)", text)
    if not found:
        _run(["apt-get", "-q", "update"])
        found = re.search(r"Depends: linux-image-(\S+)", _run(["apt-cache", "depends", meta], check=False))
    if not found:
        raise LabError(
            f"no package {meta} is known to apt on this machine; "
            "the lab needs Debian 12 with its security archive (or newer) as package source"
        )
    return found.group(1)


def _download(directory: Path, release: str) -> list[Path]:
    common = release.removesuffix("-amd64")
    names = [
        f"linux-image-{release}",
        f"linux-headers-{release}",
        f"linux-headers-{common}-common",
        f"linux-kbuild-{common}",
        f"linux-source-{KERNEL_SERIES}",
    ]
    directory.mkdir(exist_ok=True)
    _run(["apt-get", "-q", "download", *names], cwd=directory)
    found = sorted(directory.glob("*.deb"))
    versions = {re.sub(r"^[^_]*_(.*)_(all|amd64)$", r"\1", package.stem) for package in found}
    if len(found) != len(names) or len(versions) != 1:
        raise LabError(f"kernel, headers and source must be one version, apt gave {', '.join(sorted(versions))}")
    return found


def _unpack_peers(downloads: Path, target: Path) -> None:
    """The peers as a layer above this machine's root: with merged /usr, as the root itself has it."""
    downloads.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "-q", "download", *PEERS], cwd=downloads)
    for package in sorted(downloads.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(target)])
    for name in ("bin", "sbin", "lib"):
        if (target / name).is_dir():
            shutil.copytree(target / name, target / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(target / name)


def _extract_kernel(bzimage: Path, target: Path) -> None:
    """The zstd payload of a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length)."""
    image = bzimage.read_bytes()
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The last four bytes are the unpacked size, not part of the stream.
    _run(["zstd", "-dqf", "-o", str(target)], stdin=image[start : start + length - 4])


def _relocate_headers(directory: Path, release: str) -> None:
    """The header packages name each other by absolute path; in the cache they stand elsewhere."""
    common = release.removesuffix("-amd64")
    tree = directory / "usr" / "src" / f"linux-headers-{release}"
    for makefile in (tree / "Makefile", directory / "usr/src" / f"linux-headers-{common}-common" / "Makefile"):
        text = makefile.read_text()
        makefile.write_text(text.replace("/usr/src/linux-headers", f"{directory}/usr/src/linux-headers"))


def _unpack_siw(directory: Path, source: Path) -> None:
    tree = directory / "siw"
    tree.mkdir()
    unpack = (
        f"dpkg-deb --fsys-tarfile '{source}' | tar -xO ./usr/src/linux-source-{KERNEL_SERIES}.tar.xz | xz -dc -T0 |"
        f" tar -x -C '{tree}' --strip-components=5 --wildcards '*/drivers/infiniband/sw/siw/*'"
    )
    _run(["bash", "-c", f"set -o pipefail; {unpack}"])


def _build_siw(directory: Path, release: str, variant: str) -> None:
    tree = directory / f"siw-{variant}"
    shutil.copytree(directory / "siw", tree)
    if variant == "map":
        _run(["patch", "-s", "-p1", "-d", str(tree)], stdin=(LAB / "siw-map.patch").read_bytes())
    headers = directory / "usr" / "src" / f"linux-headers-{release}"
    # No BTF: it would need pahole, and nothing here reads it.
    _run(
        [
            "make",
            "-s",
            "-C",
            str(headers),
            f"M={tree}",
            "CONFIG_RDMA_SIW=m",
            "CONFIG_DEBUG_INFO_BTF_MODULES=",
            "modules",
        ]
    )
    _run(["strip", "--strip-debug", "-o", str(directory / f"siw-{variant}.ko"), str(tree / "siw.ko")])
    shutil.rmtree(tree)


def _build_initramfs(made: Kit) -> None:
    root = made.directory / "initramfs"
    for name in ("bin", "mod", "proc", "sys", "dev", "new", "lower", "rw"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
    shutil.copy(LAB / "guest" / "init", root / "init")
    (root / "init").chmod(0o755)
    order = []
    for path in _with_dependencies(made):
        name = path.name.removesuffix(".xz")
        packed = path.read_bytes()
        (root / "mod" / name).write_bytes(lzma.decompress(packed) if path.suffix == ".xz" else packed)
        _run(["strip", "--strip-debug", str(root / "mod" / name)])
        order.append(name)
    (root / "mod" / "order").write_text("\n".join(order) + "\n")
    names = "\n".join(["."] + [str(path.relative_to(root)) for path in sorted(root.rglob("*"))])
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), stdout=subprocess.PIPE, check=True
    )
    made.initramfs.write_bytes(archive.stdout)
    (made.directory / "initramfs.recipe").write_text(_initramfs_recipe())
    shutil.rmtree(root)


def _with_dependencies(made: Kit) -> Iterator[Path]:
    seen = set()
    for module in INITRAMFS_MODULES:
        command = ["modprobe", "-d", str(made.directory), "-S", made.release, "--show-depends", module]
        for line in _run(command).splitlines():
            words = line.split()
            if words[0] == "insmod" and words[1] not in seen:
                seen.add(words[1])
                yield Path(words[1])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], *, cwd: Path | None = None, stdin: bytes | None = None, check: bool = True) -> str:
    """The one door for subprocesses of the build; a failure shows what the program said."""
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False)
    if check and done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        raise LabError(f"{' '.join(command)[:200]} failed ({done.returncode}): {' / '.join(said[-3:])}")
    return done.stdout.decode(errors="replace")
