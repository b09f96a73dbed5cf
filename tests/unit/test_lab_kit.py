# SPDX-License-Identifier: Apache-2.0
"""lab/kit: what a machine is started with, and what the tests' own runner reads."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lab"))

from kit import build, machine  # noqa: E402
from tests.lab import run as lab_tests  # noqa: E402
from tests.lab.guest import wait_for  # noqa: E402

KIT = build.Kit(Path("/cache/kit"), "6.12.0-test")


def test_one_word_is_shell_text_and_several_stay_words() -> None:
    assert machine._script(["echo $HOME; exit 7"]) == "echo $HOME; exit 7\n"
    assert shlex.split(machine._script(["printf", "%s", "a b", "$HOME"])) == ["printf", "%s", "a b", "$HOME"]


def test_environment_survives_the_guests_shell() -> None:
    request = machine.Request(command=["true"], environment={"ODD": "a 'b' \"c\" $d\ne"})
    text = machine._environment(KIT, request, "A")
    done = subprocess.run(
        ["bash", "-c", f'set -a\n{text}set +a\nprintf "%s|%s" "$ODD" "$LAB_HOST"'], capture_output=True, check=True
    )
    assert done.stdout.decode() == "a 'b' \"c\" $d\ne|A"


def test_a_machine_has_one_processor_and_the_root_read_only(tmp_path: Path) -> None:
    words = machine._qemu(KIT, machine.Request(command=["true"]), tmp_path, "A", "tcg")
    assert words[words.index("-smp") + 1] == "1"
    (root,) = [word for word in words if "id=root" in word]
    assert "readonly=on" in root
    assert "-netdev" not in words


def test_two_hosts_have_two_links_wired_to_each_other(tmp_path: Path) -> None:
    request = machine.Request(command=["true"], hosts=2)
    ends = {}
    for name in "AB":
        words = machine._qemu(KIT, request, tmp_path, name, "tcg")
        ends[name] = [dict(part.split("=") for part in word.split(",")[1:]) for word in words if "local.path" in word]
    assert len(ends["A"]) == len(ends["B"]) == 2
    for mine, other in zip(ends["A"], ends["B"], strict=True):
        assert (mine["local.path"], mine["remote.path"]) == (other["remote.path"], other["local.path"])


def test_virtual_time_is_emulated_whatever_the_processor_offers() -> None:
    assert machine.pick_accelerator(virtual_time=True) == "tcg"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("..\n2 passed in 0.10s\n", (2, 0)),
        ("A| 3 passed, 1 skipped in 1.2s\nB| 1 failed, 2 passed in 0:01:02\n", (5, 1)),
        ("1 failed, 2 errors in 3.0s\n", (0, 3)),
        ("some line about 5 passed cars\n", (0, 0)),
    ],
)
def test_the_runner_counts_pytests_closing_lines(output: str, expected: tuple[int, int]) -> None:
    assert lab_tests.count(output) == expected


def test_the_runner_reads_a_files_options(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text('# SPDX\n# lab: --hosts 2 --timeout 30\n"""Doc."""\n')
    assert lab_tests.lab_options(file) == ["--hosts", "2", "--timeout", "30"]
    file.write_text('"""Doc."""\n')
    assert lab_tests.lab_options(file) == ["--timeout", "900"]


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "lab/run"), *words], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.lab
@pytest.mark.slow
def test_output_status_and_isolation() -> None:
    probe = ROOT / "written-by-a-guest"
    done = lab("--", f"echo out; echo err >&2; echo x > {probe}; cat {probe}; uname -r; exit 7")
    assert done.returncode == 7
    assert done.stdout.startswith("out\nx\n6.12.")
    assert done.stderr.endswith("err\n")  # behind a word about waiting, if other runs have the machine
    assert not probe.exists()


@pytest.mark.lab
@pytest.mark.slow
def test_a_command_that_does_not_end_is_ended() -> None:
    done = lab("--timeout", "1", "--", "sleep 600")
    assert done.returncode == machine.STATUS_TIMEOUT
    assert "host A was ended after 1 s" in done.stderr


@pytest.mark.lab
@pytest.mark.slow
def test_two_hosts_reach_each_other_and_the_worse_status_counts() -> None:
    script = """. "$LAB/guest/lib.sh"
i=1; other=2; [ $LAB_HOST = A ] || { i=2; other=1; }
modprobe virtio_net; ip address add 10.9.0.$i/24 dev eth0; ip link set eth0 up
here up; there up
ask() { echo > /dev/udp/10.9.0.$other/9; ip neigh show 10.9.0.$other | grep -q lladdr; }
wait_for 20 ask
[ $LAB_HOST = A ] || exit 5"""
    done = lab("--hosts", "2", "--", script)
    assert done.returncode == 5, done.stderr


@pytest.mark.lab
@pytest.mark.slow
def test_a_machine_ends_with_its_runner_however_that_ends() -> None:
    with subprocess.Popen([str(ROOT / "lab/run"), "--", "sleep 600"], stderr=subprocess.DEVNULL, cwd=ROOT) as runner:
        qemu = wait_for(lambda: children(runner.pid, "qemu-system"), "the machine", limit_s=900)
        runner.kill()
    wait_for(lambda: not is_alive(qemu[0]), "the machine's end")


def children(parent: int, name: str) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent), name], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
