# SPDX-License-Identifier: Apache-2.0
"""open-isns in the lab: its server, and its command line for what targets and administrators do there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.lab.guest import sh, wait_for

__all__ = ["deregister", "isnsadm", "register", "start_isnsd"]

_SERVER = """\
HostName = isns.example
SourceName = iqn.2003-01.org.example:isns
Database = {database}
DefaultDiscoveryDomain = {default_domain}
RegistrationPeriod = {period_s}s
SLPRegister = 0
Security = 0
SCNTimeout = 5
ESIMinInterval = 5s
ESIMaxInterval = 10s
ESIRetries = 3
"""
_CLIENT = """\
HostName = san.example
SourceName = {source}
ServerAddress = 127.0.0.1
Security = 0
"""


def start_isnsd(directory: Path, *, period_s: int = 120, default_domain: bool = True) -> subprocess.Popen[bytes]:
    """isnsd on port 3205 of every address, with its database below `directory`; it serves when this returns.

    It needs an address other than 127.0.0.1 on the machine, or it finds no address family.
    """
    database = directory / "isns"
    database.mkdir(exist_ok=True)
    path = directory / "isnsd.conf"
    path.write_text(_SERVER.format(database=database, period_s=period_s, default_domain=int(default_domain)))
    with (directory / "isnsd.log").open("ab") as log:
        server = subprocess.Popen(["isnsd", "-f", "-c", path], stdout=log, stderr=log)
    wait_for(lambda: ":3205" in sh("ss -ltn"), "isnsd")
    return server


def isnsadm(source: str, *words: str) -> str:
    """What isnsadm prints, speaking as `source`: objects of two nodes would else land in one entity."""
    path = Path("/tmp/isnsadm.conf")
    path.write_text(_CLIENT.format(source=source))
    done = subprocess.run(["isnsadm", "-c", path, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def register(target: str, *portals: str, entity: str = "") -> None:
    """A target and its portals ("10.9.0.1:3260")."""
    of_entity = [f"entity={entity}"] if entity else []
    isnsadm(target, "--register", *of_entity, f"target={target}", *(f"portal={portal}" for portal in portals))


def deregister(target: str) -> None:
    """The target goes."""
    isnsadm(target, "--deregister", f"iscsi-name={target}")
