# SPDX-License-Identifier: Apache-2.0
"""Our NamedTuple does what typing's does, as far as it goes; and front ends do without the modules that cost time."""

from __future__ import annotations

import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from rdmactl import values


def point(base: Any) -> Any:
    class Point(base):  # type: ignore[misc]
        """A point."""

        x: int
        y: int = 2
        z: int = 3

        @property
        def sum(self) -> int:
            return self.x + self.y + self.z

    return Point


BOTH = [point(values.NamedTuple), point(typing.NamedTuple)]


@pytest.mark.parametrize("kind", BOTH)
def test_a_value_is_a_tuple_with_names(kind: Any) -> None:
    value = kind(1, z=5)
    assert (value, value.x, value.y, value.z, value.sum) == ((1, 2, 5), 1, 2, 5, 8)
    assert (kind(1), hash(kind(1)), kind(x=1) < kind(2)) == ((1, 2, 3), hash((1, 2, 3)), True)
    assert repr(value) == "Point(x=1, y=2, z=5)"
    x, y, z = value
    assert kind(x, y, z) == value
    assert (value._replace(y=7), type(value._replace(y=7))) == ((1, 7, 5), kind)
    with pytest.raises((TypeError, ValueError)):
        value._replace(w=1)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("words", "named"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"w": 1}), ((1, 2, 3), {"x": 1})])
def test_what_does_not_fit_is_refused(kind: Any, words: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises((TypeError, KeyError)):
        kind(*words, **named)


@pytest.mark.parametrize("kind", BOTH)
def test_a_value_does_not_change(kind: Any) -> None:
    with pytest.raises(AttributeError):
        kind(1).x = 2


COSTLY = {"typing", "re", "json", "argparse", "asyncio", "logging", "dataclasses", "inspect", "ipaddress", "enum"}
COSTLY |= {"socket", "_socket"}  # without them nobody asks a daemon, whether one runs or not
PORTAL = ["-T", "iqn.a", "-p", "192.0.2.1:3260,1"]


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "node", *PORTAL, "-o", "new"],
        ["-m", "node"],
        ["-m", "node", *PORTAL],
        ["-m", "node", *PORTAL, "-o", "update", "-n", "node.startup", "-v", "onboot"],
    ],
)
def test_a_run_that_needs_only_records_imports_nothing_costly(words: list[str], tmp_path: Path) -> None:
    assert costly_imports(words, tmp_path) == set()


def costly_imports(words: list[str], state: Path) -> set[str]:
    """Which of the costly modules one run of iseradm has imported."""
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv.pop(1))\n"
        "from rdmactl.cli.iseradm import main\n"
        "status = main()\n"
        f"print(*({COSTLY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    root = str(Path(values.__file__).parent.parent)
    environment = {**os.environ, "RDMACTL_STATE_DIRECTORY": str(state), "RDMACTL_RUNTIME_DIRECTORY": str(state)}
    command = [sys.executable, "-I", "-S", "-c", program, root, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_a_list_of_sessions_imports_nothing_costly(tmp_path: Path) -> None:
    assert costly_imports(["-m", "session", "-P", "3"], tmp_path) == set()


@pytest.mark.parametrize("words", [["-m", "discovery", "-t", "st", "-p", "192.0.2.1", "-I", "iser"]])
def test_a_run_that_asks_the_daemon_imports_no_more_than_asking_takes(words: list[str], tmp_path: Path) -> None:
    asking = {"json", "socket", "_socket"}
    assert costly_imports(words, tmp_path) == asking | {"re", "enum"}  # re for json, enum for both, and for socket
