# SPDX-License-Identifier: Apache-2.0
"""SendTargets whose server wants CHAP, one-way and mutual, from iseradm to real servers: tgt and LIO, over TCP.

Over iSER: test_iser_discovery.py. What is wrong on either side is said in one sentence without a secret.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import initiator_world as world
from tests.lab.guest import sh, wait_for
from tests.lab.iserd_host import Host

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TGT_PORTAL, TGT_TARGET = "10.9.0.1:3270", "iqn.2026-11.test:tgt"
AUTH = "/sys/kernel/config/target/iscsi/discovery_auth"
US = {"username": "joe", "password": "secret-of-joe-1"}
THEM = {"username_in": "array", "password_in": "secret-of-them-1"}

both = pytest.mark.parametrize(
    ("portal", "target"), [(TGT_PORTAL, TGT_TARGET), (str(world.TCP), world.TARGET)], ids=["tgt", "lio"]
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    world.set_up()
    # LIO would take a newline for a part of the value
    sh(f"""
        echo -n joe > {AUTH}/userid; echo -n {US["password"]} > {AUTH}/password
        echo -n array > {AUTH}/userid_mutual; echo -n {THEM["password_in"]} > {AUTH}/password_mutual
        echo 1 > {AUTH}/enforce_discovery_auth
    """)
    own = Host(tmp_path_factory.mktemp("rdmactl"))
    own.start()
    yield own
    own.stop()


@pytest.fixture(scope="module", autouse=True)
def tgt(host: Host) -> Iterator[None]:
    """An account without a target is the discovery's."""
    admin = "tgtadm --lld iscsi"
    daemon = subprocess.Popen(["tgtd", "-f", "--iscsi", f"portal={TGT_PORTAL}"])
    try:
        wait_for(lambda: not subprocess.run(f"{admin} --mode sys --op show".split(), check=False).returncode, "tgtd")
        sh(f"""
            {admin} --mode target --op new --tid 1 --targetname {TGT_TARGET}
            {admin} --mode target --op bind --tid 1 -I ALL
            {admin} --mode account --op new --user joe --password {US["password"]}
            {admin} --mode account --op bind --user joe
            {admin} --mode account --op new --user array --password {THEM["password_in"]}
            {admin} --mode account --op bind --user array --outgoing
        """)
        yield
    finally:
        daemon.kill()
        daemon.wait()


def discover(host: Host, directory: Path, portal: str, **credentials: str) -> tuple[int, str, str]:
    """Status, output and errors of a discovery with a record of its own."""
    db = ("-m", "discoverydb", "-t", "st", "-p", portal)
    host.run(*db, "-o", "delete")
    assert host.run(*db, "-o", "new").status == 0
    for name, value in {"authmethod": "CHAP" if credentials else "None", **credentials}.items():
        given = directory / "value"
        given.write_text(value)
        words = ("-o", "update", "-n", f"discovery.sendtargets.auth.{name}", "--from", f"file:{given}")
        assert host.run(*db, *words).status == 0
    return host.run(*db, "-D")


@both
@pytest.mark.parametrize("credentials", [US, US | THEM], ids=["one-way", "mutual"])
def test_058_chap(host: Host, tmp_path: Path, portal: str, target: str, credentials: dict[str, str]) -> None:
    status, output, error = discover(host, tmp_path, portal, **credentials)
    assert (status, error) == (0, "")
    assert f"{portal},1 {target}" in output.splitlines()


@both
@pytest.mark.parametrize(
    ("credentials", "status", "words"),
    [
        ({}, 24, "CHAP"),
        (US | {"password": "not-the-secret-1"}, 24, '"joe"'),
        (US | {"username": "jack"}, 24, '"jack"'),
        (US | THEM | {"password_in": "not-the-secret-1"}, 19, "the target failed authentication"),
        (US | THEM | {"username_in": "vault"}, 19, 'expected was "vault"'),
    ],
    ids=["none", "secret", "name", "their secret", "their name"],
)
def test_078_079_chap_that_fails(
    host: Host, tmp_path: Path, portal: str, target: str, credentials: dict[str, str], status: int, words: str
) -> None:
    ran = discover(host, tmp_path, portal, **credentials)
    assert (ran[0], ran[1], ran[2].count("\n")) == (status, "", 1), ran
    assert words in ran[2]
    assert portal in ran[2]
    assert "secret-" not in ran[2]
