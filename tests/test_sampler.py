"""What the sampler says of processes and cards is so, and what it cannot know it does not say."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from lib import sampler
from lib.sampler import NoGpu, Nvml, Sampler, Tree
from tests.nvml import FakeNvml

MIB = 2**20

# Holds 64 MiB; at each line, burns so many seconds of CPU ("child": in a child of its own) and says it is done.
BURNER = """
import subprocess, sys, time
held = bytearray(64 << 20)
burn = "import time\\nwhile time.process_time() < {}: pass"
print("up", flush=True)
for line in sys.stdin:
    who, seconds = line.split()
    if who == "child":
        subprocess.run([sys.executable, "-IS", "-c", burn.format(seconds)], check=True)
    until = time.process_time() + float(seconds)
    while who == "self" and time.process_time() < until:
        pass
    print("done", flush=True)
"""


@contextmanager
def burner() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-IS", "-c", BURNER]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def burn(child: subprocess.Popen[str], who: str, seconds: float) -> None:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(f"{who} {seconds}\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


@pytest.mark.parametrize("who", ["self", "child"])
def test_a_process_that_burns_and_holds_is_seen(who: str) -> None:
    with burner() as child:
        with Sampler([Tree(child.pid)], period_s=0.02) as seen:
            burn(child, who, 0.4)
        told = seen.summary()
    assert told["tree_cpu_s"] == pytest.approx(0.4, abs=0.1)  # the kernel counts in hundredths, a child has to start
    assert isinstance(told["tree_rss_max_bytes"], float)
    assert 64 * MIB < told["tree_rss_max_bytes"] < 110 * MIB
    assert isinstance(told["other_cpu_s"], float) and told["other_cpu_s"] >= 0
    assert isinstance(told["wall_s"], float) and told["wall_s"] >= 0.39
    assert told["status"] is None
    assert (told["gpu_energy_j"], told["gpu_memory_max_bytes"]) == (None, None)
    assert len(seen.rows) > 5 and seen.frame()["t_s"].is_monotonic_increasing


@pytest.mark.parametrize("reaped", [True, False])
def test_the_end_of_a_process_is_a_status_and_never_a_zero(reaped: bool) -> None:
    with burner() as child:
        tree = Tree(child.pid)
        burn(child, "self", 0.1)
        with Sampler([tree], period_s=0.02) as seen:
            child.kill()
            if reaped:
                child.wait()
            time.sleep(0.3)
    assert tree.status == "the process has ended"
    assert tree.read() == {"tree_cpu_s": None, "tree_rss_bytes": None}
    assert not (seen.frame()["tree_rss_bytes"] == 0).any()
    assert seen.summary()["status"] == "the process has ended"


def test_new_children_are_found_but_no_more_often_than_it_may_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    spent, now, walks = [0.0], [0.0], []

    def children(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
        spent[0] += 0.025  # CPU seconds, on a host with a thousand processes
        walks.append(now[0])
        return []

    monkeypatch.setattr(psutil.Process, "children", children)
    monkeypatch.setattr(sampler, "thread_time", lambda: spent[0])
    monkeypatch.setattr(sampler, "perf_counter", lambda: now[0])
    tree = Tree(os.getpid())
    for tenth in range(300):
        now[0] = tenth / 10
        assert tree.read()["tree_rss_bytes"]
    assert walks == [0.0, 12.5, 25.0]


def test_nothing_sampled_is_nothing_known() -> None:
    told = Sampler([NoGpu("no GPU: nobody has one")]).summary()
    assert told.pop("status") == "no GPU: nobody has one"
    assert set(told.values()) == {None}


def test_the_sampler_prices_itself() -> None:
    with Sampler([], period_s=0.005) as seen:
        time.sleep(0.1)
    assert seen.own_share is not None and 0 < seen.own_share < 1
    assert Sampler([]).own_share is None


# Cards


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(sampler, "perf_counter", lambda: now[0])
    return now


def test_no_nvml_is_a_null_object_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(missing="NVML Shared Library Not Found"))
    probe = sampler.gpu([1])
    assert isinstance(probe, NoGpu)
    with Sampler([probe]) as seen:
        pass
    told = seen.summary()
    assert told["status"] == "no GPU: NVML Shared Library Not Found"
    assert {told[key] for key in told if key.startswith("gpu")} == {None}


def test_energy_by_counter_and_by_power_agree(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    card = FakeNvml("NVIDIA H100 80GB HBM3", now=lambda: clock[0])
    card.power_w = lambda t: 400 + 200 * math.sin(t)
    card.energy_j = lambda t: 1e6 + 400 * t - 200 * math.cos(t)  # its integral, counted since the driver was loaded
    monkeypatch.setitem(sys.modules, "pynvml", card)
    seen = Sampler([sampler.gpu([7])])
    for tenth in range(61):
        clock[0] = tenth / 10
        seen._read()
    assert Sampler([], rows=seen.rows[:15]).summary()["gpu_energy_j"] is None  # 1.4 s: too short for the counter
    told = seen.summary()
    truth = 400 * 6 - 200 * (math.cos(6) - 1)
    assert told["gpu_energy_j"] == pytest.approx(truth, abs=0.01)
    assert told["gpu_energy_by_power_j"] == pytest.approx(truth, rel=0.001)
    assert told["gpu_memory_max_bytes"] == 5 * 2**30
    assert (told["gpu_throttle"], told["status"]) == (0, None)
    row = seen.rows[-1]
    assert (row["gpu_process_bytes"], row["gpu_busy_pct"], row["gpu_sm_mhz"]) == (3 * 2**30, 97, 1980)


@pytest.mark.parametrize(("reasons", "slowed"), [
    (0x1, 0),  # idle
    (0x4, 0),  # the power cap it lives with
    (0x8, 0x8), (0x20, 0x20), (0x40, 0x40), (0x80 | 0x4, 0x80),
])  # fmt: skip
def test_only_slowing_down_is_throttling(monkeypatch: pytest.MonkeyPatch, reasons: int, slowed: int) -> None:
    card = FakeNvml("NVIDIA L4")
    card.slowdown = reasons
    monkeypatch.setitem(sys.modules, "pynvml", card)
    assert Nvml().read()["gpu_throttle"] == slowed


def test_what_a_slice_does_not_tell_is_none_with_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = frozenset({"nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTotalEnergyConsumption"})
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("NVIDIA H100 MIG 1g.10gb", refused=refused))
    with Sampler([Nvml()]) as seen:
        pass
    assert {name for name, value in seen.rows[0].items() if value is None} == {
        "gpu_busy_pct", "gpu_energy_j", "gpu_process_bytes"}
    told = seen.summary()
    assert told["gpu_energy_j"] is None
    assert told["status"] == "not all of NVML answers: Not Supported"
    assert told["gpu_memory_max_bytes"] == 5 * 2**30


@pytest.mark.parametrize("unknown", ["nobody's process", "a driver that does not tell"])
def test_memory_of_processes_that_nobody_knows_is_none(monkeypatch: pytest.MonkeyPatch, unknown: str) -> None:
    card = FakeNvml("NVIDIA L4")
    card.processes[0].usedGpuMemory = None
    monkeypatch.setitem(sys.modules, "pynvml", card)
    pids = [99] if unknown == "nobody's process" else [7, 8]
    assert Nvml(pids=pids).read()["gpu_process_bytes"] is None


def test_of_several_cards_it_says_which_it_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("NVIDIA L4", "NVIDIA L4"))
    assert sampler.gpu().status == "2 GPUs, only number 0 was watched"
