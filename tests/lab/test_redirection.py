# SPDX-License-Identifier: Apache-2.0
"""A target that has moved: tgt redirects to LIO, for one login or for good. Sessions, records and the kernel's view."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from rdmactl.initiator import sysfs
from tests.lab import initiator_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iserd_host import Host

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OLD = "127.0.0.1:3270"  # tgt does not redirect to the address the initiator comes from
ADMIN = "tgtadm --lld iscsi"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    world.set_up()
    own = Host(tmp_path_factory.mktemp("rdmactl"))
    own.start()
    yield own
    own.stop()


@pytest.fixture(scope="module", autouse=True)
def tgt() -> Iterator[None]:
    daemon = subprocess.Popen(["tgtd", "-f", "--iscsi", f"portal={OLD}"])
    try:
        wait_for(lambda: not subprocess.run(f"{ADMIN} --mode sys --op show".split(), check=False).returncode, "tgtd")
        sh(f"""
            {ADMIN} --mode target --op new --tid 1 --targetname {world.TARGET}
            {ADMIN} --mode target --op bind --tid 1 -I ALL
            {ADMIN} --mode target --op update --tid 1 -n RedirectAddress -v {world.ADDRESS}
            {ADMIN} --mode target --op update --tid 1 -n RedirectPort -v {world.TCP.port}
        """)
        yield
    finally:
        daemon.kill()
        daemon.wait()


def redirect(reason: str) -> None:
    sh(f"{ADMIN} --mode target --op update --tid 1 -n RedirectReason -v {reason}")


def recorded(host: Host) -> list[str]:
    """The portals that have a record, without their tags."""
    return [line.partition(",")[0] for line in host.run("-m", "node").stdout.splitlines()]


def test_for_one_login(host: Host) -> None:
    """Checklist 26."""
    node = ("-m", "node", "-T", world.TARGET, "-p", OLD)
    redirect("Temporary")
    assert host.run(*node, "-o", "new").status == 0
    assert host.run(*node, "-l").status == 0
    (view,) = sysfs.sessions()
    assert (str(view.persistent), str(view.current)) == (OLD, str(world.TCP))
    assert recorded(host) == [OLD]
    assert host.run(*node, "-u").status == 0
    assert host.run(*node, "-o", "delete").status == 0


def test_for_good(host: Host) -> None:
    """Checklist 55: the record has its settings, and another portal; after a restart everybody still knows."""
    old, new = (("-m", "node", "-T", world.TARGET, "-p", portal) for portal in (OLD, str(world.TCP)))
    redirect("Permanent")
    assert host.run(*old, "-o", "new").status == 0
    assert host.run(*old, "-o", "update", "-n", "node.session.timeo.replacement_timeout", "-v", "77").status == 0
    assert host.run(*old, "-l").status == 0
    (view,) = sysfs.sessions()
    assert (str(view.persistent), str(view.current)) == (str(world.TCP), str(world.TCP))
    wait_for(lambda: recorded(host) == [str(world.TCP)], "the record of the new portal")
    assert "node.session.timeo.replacement_timeout = 77" in host.run(*new).stdout
    host.stop()
    host.start()
    assert str(world.TCP) in host.run("-m", "session").stdout
    assert host.run(*new, "-u").status == 0
    assert host.run(*new, "-l").status == 0  # without a word from the old one
    assert host.run(*new, "-u").status == 0
    assert sysfs.sessions() == []
