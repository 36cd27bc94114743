"""A box holds what it promises: checked on made-up control groups of both versions, and on the kernel's own where they may be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib import box
from lib.box import Unboxed, boxed, granted


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for which in ("cpu", "cpuacct", "memory"):
        (tmp_path / which).mkdir()
    return tmp_path


def emptied(group: Path) -> None:
    """A made-up group is a directory with files, which the kernel's own are not."""
    for file in group.iterdir():
        file.unlink()


def test_limits_of_version_2(v2: Path) -> None:
    with boxed(cpus=0.5, memory_bytes=64 << 20, mount=v2) as made:
        assert (made.cpu / "cpu.max").read_text() == "50000 100000"
        assert (made.memory / "memory.max").read_text() == str(64 << 20)
        assert (v2 / "cgroup.subtree_control").read_text() == "+cpu +memory"
        assert made.prefix[4:] == ("1", str(made.cpu))
        emptied(made.cpu)
    assert not made.cpu.exists()


def test_limits_of_version_1(v1: Path) -> None:
    with boxed(cpus=1.5, memory_bytes=64 << 20, mount=v1) as made:
        assert (made.cpu / "cpu.cfs_quota_us").read_text() == "150000"
        assert (made.memory / "memory.limit_in_bytes").read_text() == str(64 << 20)
        assert made.prefix[4:] == ("3", *(str(v1 / which / made.cpu.name) for which in ("cpu", "cpuacct", "memory")))
        for group in (made.cpu, made.account, made.memory):
            emptied(group)
    assert not any((v1 / which / made.cpu.name).exists() for which in ("cpu", "cpuacct", "memory"))


def test_boxes_of_the_dead_are_swept(v2: Path) -> None:
    (dead := v2 / "box-999999999-0").mkdir()
    (alive := v2 / f"box-{os.getppid()}-0").mkdir()
    with boxed(mount=v2):
        assert (dead.exists(), alive.exists()) == (False, True)


def test_no_limit_is_no_file(v2: Path) -> None:
    with boxed(mount=v2) as made:
        assert list(made.cpu.iterdir()) == []


def test_usage_of_version_2(v2: Path) -> None:
    with boxed(mount=v2) as made:
        (made.cpu / "cpu.stat").write_text("usage_usec 2500000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 300000\n")
        (made.memory / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
        assert made.usage() == box.Usage(2.5, 10, 4, 0.3, None, 1)
        (made.memory / "memory.peak").write_text("4096\n")
        assert made.usage().peak_bytes == 4096
        emptied(made.cpu)


def test_usage_of_version_1(v1: Path) -> None:
    with boxed(mount=v1) as made:
        (made.cpu / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 300000000\n")
        (made.account / "cpuacct.usage").write_text("2500000000\n")
        (made.memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        (made.memory / "memory.max_usage_in_bytes").write_text("8192\n")
        assert made.usage() == box.Usage(2.5, 10, 4, 0.3, 8192, 2)
        for group in (made.cpu, made.account, made.memory):
            emptied(group)


@pytest.mark.parametrize("limits", [{"cpus": 0.0}, {"cpus": -1.0}, {"memory_bytes": 0}])
def test_limits_that_are_none_are_refused(limits: dict[str, float], v2: Path) -> None:
    with pytest.raises(ValueError, match="limits of"), boxed(mount=v2, **limits):  # type: ignore[arg-type]
        pass


def test_where_no_group_can_be_made_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unboxed, match="control groups cannot be made here"), boxed(cpus=1, mount=tmp_path / "absent"):
        pass


@pytest.mark.parametrize(("told", "files", "expected"), [
    ("0::/app\n", {"app/cpu.max": "50000 100000"}, 1),
    ("0::/app/inner\n", {"app/cpu.max": "150000 100000", "app/inner/cpu.max": "max 100000"}, 2),
    ("0::/elsewhere\n", {"cpu.max": "100000 100000"}, 1),  # in a container the path of the host is not to be seen, but the root is ours
    ("4:cpu,cpuacct:/app\n3:memory:/app\n", {"cpu/app/cpu.cfs_quota_us": "50000", "cpu/app/cpu.cfs_period_us": "100000"}, 1),
    ("4:cpu:/app\n", {"cpu/app/cpu.cfs_quota_us": "-1", "cpu/app/cpu.cfs_period_us": "100000"}, 8),
    ("0::/\n", {}, 8),
    ("0::/\n", {"cpu.max": "max 100000"}, 8),
    ("0::/\n", {"cpu.max": "nonsense"}, 8),
])  # fmt: skip
def test_granted_reads_the_quota(told: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (own := tmp_path / "own").write_text(told)
    assert granted(mount=tmp_path, own=own) == expected


def test_granted_without_groups_is_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert granted(mount=tmp_path, own=tmp_path / "absent") == 3


def real(script: str, **limits: float) -> tuple[int, str, box.Usage]:
    try:
        with boxed(**limits) as made:  # type: ignore[arg-type]
            ran = subprocess.run([*made.prefix, sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
            return ran.returncode, ran.stdout.strip(), made.usage()
    except Unboxed as reason:
        pytest.skip(str(reason))


def test_the_kernel_holds_a_process_to_its_time() -> None:
    script = "import time\nwhile time.process_time() < 0.25: pass\nfrom lib.box import granted; print(granted())"
    status, said, usage = real(script, cpus=0.5)
    assert (status, said) == (0, "1")
    assert usage.cpu_s >= 0.25
    assert usage.periods > 0


def test_the_kernel_kills_what_wants_more_memory() -> None:
    status, _, usage = real("bytearray(256 << 20)", memory_bytes=64 << 20)
    assert (status, usage.oom_kills) == (-9, 1)
    assert usage.peak_bytes is None or usage.peak_bytes <= 64 << 20
