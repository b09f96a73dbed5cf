# SPDX-License-Identifier: Apache-2.0
"""What a trace says of the port mapper, by what the port mapper answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import pytest

from rdmactl.errors import RdmactlError, Unavailable
from rdmactl.netlink.sockaddr import SockAddr
from rdmactl.rdmacm import port_mapper
from rdmactl.rdmacm.port_mapper import part_of_port_mapper

LOCAL = SockAddr.parse("10.9.0.1:4711")


def mapping(local: str, mapped: str, *, port_mapped: bool = True) -> dict[str, Any]:
    return {"local": local, "mapped": mapped, "kind": "connection", "port_mapped": port_mapped}


def answering(monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]] | RdmactlError) -> None:
    class FakeClient:
        def __init__(self, role: str, *, deadline_s: float) -> None:
            assert (role, deadline_s <= 1.0) == ("iwpm", True)
            if isinstance(answer, RdmactlError):
                raise answer

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def more(self, method: str) -> Iterator[dict[str, Any]]:
            assert method == "io.rdmactl.PortMapper.List"
            assert isinstance(answer, list)
            yield {"mappings": answer[:1]}
            yield {"mappings": answer[1:]}

    monkeypatch.setattr(port_mapper, "Client", FakeClient)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            [mapping("10.9.0.1:3260", "10.9.0.1:1"), mapping("10.9.0.1:4711", "10.9.0.1:50123")],
            "asked: 10.9.0.1:4711 is 10.9.0.1:50123 on the wire",
        ),
        (
            [mapping("10.9.0.1:4711", "10.9.0.1:4711", port_mapped=False)],
            "asked: 10.9.0.1:4711 is used as it is, because the device wants no mapped ports",
        ),
        ([], "not asked: iwpmd has no mapping of 10.9.0.1:4711"),
        (Unavailable("none", code="daemon-not-running"), "not asked: iwpmd does not run"),
        (Unavailable("no permission", code="access-denied"), "unknown: no permission"),
    ],
    ids=["mapped", "unmapped", "none", "no daemon", "not allowed"],
)
def test_its_part_in_words(
    monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]] | RdmactlError, words: str
) -> None:
    answering(monkeypatch, answer)
    assert part_of_port_mapper(LOCAL) == words
