# SPDX-License-Identifier: Apache-2.0
"""`rdmactl dev` on a real kernel: soft-RoCE, soft-iWARP, other namespaces, and nothing at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdmactl.rdmacm.verbs_limits import read_limits
from tests.lab.guest import sh

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RDMACTL = str(Path(sys.executable).parent / "rdmactl")
NOBODY = 65534


def rdmactl(*words: str, uid: int = 0, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*before, RDMACTL, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def devices(*words: str, **how: Any) -> list[dict[str, Any]]:
    done = rdmactl("dev", "-j", *words, **how)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["devices"]
    return found


def test_a_kernel_without_rdma() -> None:
    """Before any module is there: a sentence with the remedy, 3, and the same as JSON."""
    done = rdmactl("dev")
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert "modprobe" in done.stderr or "no RDMA device" in done.stderr
    found = rdmactl("dev", "-j")
    assert found.returncode == 3
    assert json.loads(found.stdout)["devices"] == []


def test_modules_without_devices() -> None:
    sh("siw stock; modprobe rdma_rxe")
    done = rdmactl("dev")
    assert done.returncode == 3
    assert done.stderr.startswith("rdmactl: this host has no RDMA device; ")
    ping = rdmactl("iser", "ping", "10.9.0.1", "-n", "iqn.2026-11.test:me")
    assert ping.returncode == 3
    assert "this host has no usable RDMA device" in ping.stderr


@pytest.fixture(scope="module")
def world() -> Iterator[None]:
    sh(
        """
        siw stock || true
        link rxe0 rxe d0 10.9.0.1/24
        ip address add fd00:9::1/64 dev d0 nodad
        link siw0 siw d1 10.9.1.1/24
        """
    )
    yield
    sh("rdma link del rxe0; rdma link del siw0")


@pytest.mark.usefixtures("world")
def test_rxe_and_siw_as_the_kernel_has_them() -> None:
    rxe, siw = devices()
    assert (rxe["name"], rxe["transport"], rxe["node_type"]) == ("rxe0", "RoCE", "CA")
    assert (siw["name"], siw["transport"], siw["node_type"]) == ("siw0", "iWARP", "RNIC")
    for device, netdev in ((rxe, "d0"), (siw, "d1")):
        folder = Path("/sys/class/infiniband") / device["name"]
        assert device["node_guid"] == (folder / "node_guid").read_text().strip()
        (port,) = device["ports"]
        assert (port["number"], port["state"], port["physical_state"]) == (1, "ACTIVE", "LINK_UP")
        assert (port["link_layer"], port["netdev"]) == ("Ethernet", netdev)
        assert device["limits"] is None
    gids = {gid["gid"]: gid for gid in rxe["ports"][0]["gids"]}
    assert gids["0000:0000:0000:0000:0000:ffff:0a09:0001"]["type"] == "RoCE v2"
    assert gids["fd00:0009:0000:0000:0000:0000:0000:0001"]["netdev"] == "d0"


@pytest.mark.usefixtures("world")
def test_it_agrees_with_the_rdma_tool() -> None:
    theirs = {entry["ifname"]: entry for entry in json.loads(sh("rdma link show -j"))}
    ours = {device["name"]: device["ports"][0] for device in devices()}
    assert set(ours) == set(theirs)
    for name, port in ours.items():
        for mine, other in (("state", "state"), ("physical_state", "physical_state"), ("netdev", "netdev")):
            assert port[mine] == theirs[name][other]


@pytest.mark.usefixtures("world")
def test_states_follow_the_link() -> None:
    sh("ip link set d0 down")
    try:
        (rxe,) = devices("rxe0")
        assert (rxe["ports"][0]["state"], rxe["ports"][0]["physical_state"]) != ("ACTIVE", "LINK_UP")
    finally:
        sh("ip link set d0 up; wait_for 10 \"rdma link show rxe0/1 | grep -q 'state ACTIVE'\"")


@pytest.mark.usefixtures("world")
def test_without_privilege() -> None:
    assert [device["name"] for device in devices(uid=NOBODY)] == ["rxe0", "siw0"]


@pytest.mark.usefixtures("world")
def test_in_another_namespace_the_netdev_is_not_there() -> None:
    sh("ip netns add aside")
    rxe, _ = devices(before=("ip", "netns", "exec", "aside"))
    assert rxe["ports"][0]["netdev"] == ""
    assert "no netdev here" in rdmactl("dev", before=("ip", "netns", "exec", "aside")).stdout


@pytest.mark.usefixtures("world")
def test_limits_of_the_verbs() -> None:
    pytest.importorskip("pyverbs.device")
    (rxe,) = devices("rxe0")
    assert rxe["limits"]["max_qp"] > 1000
    assert rxe["limits"]["port1_active_mtu"] in (256, 512, 1024, 2048, 4096)
    assert "  max_qp: " in rdmactl("dev", "-v").stdout
    assert "max_qp" not in rdmactl("dev").stdout


@pytest.mark.usefixtures("world")
def test_without_pyverbs_there_are_no_limits_and_no_complaint(tmp_path: Path) -> None:
    (tmp_path / "pyverbs").mkdir()
    (tmp_path / "pyverbs/__init__.py").write_text("raise ImportError('version IBVERBS_PRIVATE_59 not found')")
    done = subprocess.run(
        [RDMACTL, "dev", "rxe0", "-j"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert json.loads(done.stdout)["devices"][0]["limits"] is None
    assert done.stderr == ""


@pytest.mark.usefixtures("world")
def test_limits_of_a_device_that_is_not_there() -> None:
    assert read_limits("mlx5_9", [1]) is None


@pytest.mark.usefixtures("world")
def test_reading_holds_nothing() -> None:
    rdmactl("dev", "-v")
    started = time.monotonic()
    sh("rdma link del siw0; link siw0 siw d1 10.9.1.1/24 || rdma link add siw0 type siw netdev d1")
    assert time.monotonic() - started < 10
