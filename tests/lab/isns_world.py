# SPDX-License-Identifier: Apache-2.0
"""open-isns in the lab: its server, and its command line for what targets and administrators do there."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rdmactl.isns.attributes import (
    DELIMITER,
    Attribute,
    Tag,
    ask,
    of_address,
    of_number,
    of_text,
    pack,
    read_number,
    unpack,
)
from rdmactl.isns.conversation import read_status
from rdmactl.isns.pdu import Function, Message, StreamDecoder, encode
from rdmactl.isns.requests import NODE_INITIATOR, NODE_TARGET
from tests.lab.guest import sh, wait_for

__all__ = ["Administrator", "deregister", "isnsadm", "register", "start_isnsd"]

_DD_REG, _DD_DEREG = 0x0009, 0x000A  # functions, and tags, for administrators only
_DD_NAME, _DD_MEMBER = 2066, 2068

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


class Administrator:
    """Whatever isnsadm cannot say: many targets at once, discovery domains. Speaks as a target of its own entity."""

    def __init__(self, source: str) -> None:
        self._source = of_text(Tag.ISCSI_NAME, source)
        self._sock = socket.create_connection(("127.0.0.1", 3205), timeout=60)
        self._transaction = 0

    def register(self, names: Sequence[str], address: str, port: int) -> None:
        """Targets with one portal, a few in each message: isnsd takes no long ones."""
        entity = of_text(Tag.ENTITY_IDENTIFIER, "storage")
        portal = of_address(Tag.PORTAL_IP, address), of_number(Tag.PORTAL_PORT, port)
        for start in range(0, len(names), 20):
            nodes = [
                attribute
                for name in names[start : start + 20]
                for attribute in (of_text(Tag.ISCSI_NAME, name), of_number(Tag.ISCSI_NODE_TYPE, NODE_TARGET))
            ]
            key = [] if not start else [entity]
            first = [entity, of_number(Tag.ENTITY_PROTOCOL, 2), *portal] if not start else [entity]
            self._ask(Function.DEV_ATTR_REG, [*key, DELIMITER, *first, *nodes])

    def new_domain(self, name: str, *members: str) -> int:
        """A discovery domain; its number."""
        said = [Attribute(_DD_NAME, of_text(Tag.ISCSI_NAME, name).value)]
        said += [Attribute(_DD_MEMBER, of_text(Tag.ISCSI_NAME, member).value) for member in members]
        for attribute in unpack(self._ask(_DD_REG, [DELIMITER, *said]), 4):
            if attribute.tag == Tag.DD_ID:
                return read_number(attribute)
        raise AssertionError("a discovery domain without a number")

    def remove_member(self, domain: int, member: str) -> None:
        """Takes a member out of a domain."""
        gone = Attribute(_DD_MEMBER, of_text(Tag.ISCSI_NAME, member).value)
        self._ask(_DD_DEREG, [of_number(Tag.DD_ID, domain), DELIMITER, gone])

    def knows(self, initiator: str) -> bool:
        """Whether an initiator is registered."""
        name = of_text(Tag.ISCSI_NAME, initiator)
        answer = list(unpack(self._ask(Function.DEV_ATTR_QRY, [name, DELIMITER, *ask(Tag.ISCSI_NODE_TYPE)]), 4))
        return answer[-1] != DELIMITER and read_number(answer[-1]) == NODE_INITIATOR

    def close(self) -> None:
        """The connection is not needed any more."""
        self._sock.close()

    def _ask(self, function: int, attributes: Sequence[Attribute]) -> bytes:
        self._transaction += 1
        self._sock.sendall(encode(Message(function, self._transaction, pack([self._source, *attributes]))))
        decoder = StreamDecoder()
        while not (found := list(decoder.receive(self._sock.recv(65536)))):
            pass
        assert read_status(found[0].payload) == 0, found[0]
        return found[0].payload
