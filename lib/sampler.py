"""Background sampling of GPU (NVML) and host (a process tree) while something is measured.

It runs on a thread of the process that looks on, never of the one that is measured, and accounts for its own cost. A
value that cannot be read is None with a status that says why, never zero.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Any, Protocol

import pandas as pd
import psutil

ENERGY_WINDOW_S = 2.0


class Probe(Protocol):
    """Something that can be read at any moment. `status` is None when all is readable, else the reason."""

    status: str | None

    def read(self) -> dict[str, float | None]: ...


class NoGpu:
    """The null object: looks like a GPU probe, knows nothing and says why."""

    def __init__(self, reason: str) -> None:
        self.status: str | None = reason

    def read(self) -> dict[str, float | None]:
        return {}


class Nvml:
    """One GPU, by NVML index. Memory is the whole device's and, where the driver tells, that of the given processes."""

    def __init__(self, index: int = 0, *, pids: Sequence[int] = ()) -> None:
        import pynvml

        self._nvml, self._pids = pynvml, set(pids)
        pynvml.nvmlInit()
        self._gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        count = pynvml.nvmlDeviceGetCount()
        self.status: str | None = f"{count} GPUs, only number {index} was watched" if count > 1 else None

    def read(self) -> dict[str, float | None]:
        nvml, gpu = self._nvml, self._gpu
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used)
        return {
            "gpu_busy_pct": self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
            "gpu_memory_bytes": memory,
            "gpu_process_bytes": self._ask(self._of_processes),
            "gpu_power_w": self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3),
            "gpu_energy_j": self._ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3),
            "gpu_sm_mhz": self._ask(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
            "gpu_temperature_c": self._ask(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
            "gpu_throttle": self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu) & _SLOWDOWN),
        }

    def _of_processes(self) -> float | None:
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
        used = [process.usedGpuMemory for process in running if process.pid in self._pids]
        return None if not used or None in used else float(sum(used))

    def _ask(self, question: Any) -> float | None:
        try:
            answer = question()
        except self._nvml.NVMLError as error:
            self.status = f"not all of NVML answers: {error}"
            return None
        return None if answer is None else float(answer)


# NVML's reasons that mean "slower than asked": hardware slowdown, thermal in soft- and hardware, power brake (not idle,
# not settings, not the power cap a card lives with).
_SLOWDOWN = 0x08 | 0x20 | 0x40 | 0x80


class Tree:
    """CPU seconds and resident memory of a process and all below it, and the CPU of the whole machine meanwhile."""

    WALK = 0.002  # share of a core for looking for new children: that reads all of /proc, however crowded the host

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._family: list[psutil.Process] = []
        self._walk_at = 0.0
        self.status: str | None = None

    def read(self) -> dict[str, float | None]:
        cpu_s, rss = 0.0, 0
        if perf_counter() >= self._walk_at:
            began = thread_time()
            try:
                self._family = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                self._family = []
            self._walk_at = perf_counter() + (thread_time() - began) / self.WALK
        for process in self._family:
            try:
                times = process.cpu_times()
                # what children used goes to their parent when they end, so the sum never falls
                cpu_s += times.user + times.system + times.children_user + times.children_system
                rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        if not rss:
            self.status = "the process has ended"
            return {"tree_cpu_s": None, "tree_rss_bytes": None}
        busy = psutil.cpu_times()
        return {"tree_cpu_s": cpu_s, "tree_rss_bytes": float(rss), "host_cpu_s": busy.user + busy.system + busy.nice,
                "host_steal_s": float(busy.steal)}


@dataclass(slots=True)
class Sampler:
    """Read every probe each `period_s` until the block ends: `with Sampler([Tree(pid), gpu()]) as seen: …`."""

    probes: Sequence[Probe]
    period_s: float = 0.1
    rows: list[dict[str, float | None]] = field(default_factory=list)
    own_cpu_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _started: float = 0.0

    def __enter__(self) -> Sampler:
        self._started = perf_counter()
        self._read()
        self._thread = threading.Thread(target=self._loop, name="sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._read()

    def _loop(self) -> None:
        began = thread_time()
        while not self._stop.wait(self.period_s):
            self._read()
            self.own_cpu_s = thread_time() - began

    def _read(self) -> None:
        row: dict[str, float | None] = {"t_s": perf_counter() - self._started}
        for probe in self.probes:
            row.update(probe.read())
        self.rows.append(row)

    @property
    def own_share(self) -> float | None:
        """The share of one core the sampling itself took."""
        wall = (self.rows[-1]["t_s"] or 0.0) if self.rows else 0.0
        return self.own_cpu_s / wall if wall else None

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def summary(self) -> dict[str, float | str | None]:
        """Peak memory, CPU seconds of the tree and of all else, energy by counter and by power, throttling; or None.

        Energy is None for windows under ENERGY_WINDOW_S: the counter moves too rarely for them.
        """
        seen = self.frame()

        def of(column: str, how: str) -> float | None:
            if column not in seen or seen[column].dropna().empty:
                return None
            values = seen[column].dropna()
            return float(values.max() if how == "max" else values.iloc[-1] - values.iloc[0])

        tree, host = of("tree_cpu_s", "rise"), of("host_cpu_s", "rise")
        power = seen.dropna(subset=["gpu_power_w"]) if "gpu_power_w" in seen else seen.iloc[:0]
        wall = float(seen["t_s"].iloc[-1]) if len(seen) else None
        weighed = wall is not None and wall >= ENERGY_WINDOW_S
        return {
            "wall_s": wall,
            "tree_rss_max_bytes": of("tree_rss_bytes", "max"),
            "tree_cpu_s": tree,
            "other_cpu_s": None if tree is None or host is None else max(0.0, host - tree),
            "steal_s": of("host_steal_s", "rise"),
            "gpu_memory_max_bytes": of("gpu_memory_bytes", "max"),
            "gpu_energy_j": of("gpu_energy_j", "rise") if weighed else None,
            "gpu_energy_by_power_j": _trapezoid(power) if weighed and len(power) > 1 else None,
            "gpu_throttle": of("gpu_throttle", "max"),
            "sampler_share": self.own_share,
            "status": "; ".join(p.status for p in self.probes if p.status) or None,
        }


def _trapezoid(power: pd.DataFrame) -> float:
    watts, at = power["gpu_power_w"].to_numpy(dtype=float), power["t_s"].to_numpy(dtype=float)
    return float(((watts[1:] + watts[:-1]) / 2 * (at[1:] - at[:-1])).sum())


def family(pid: int) -> list[int]:
    """A process and all below it, now."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def gpu(pids: Sequence[int] = ()) -> Probe:
    """The machine's first GPU, or the null object with the reason."""
    import pynvml

    try:
        return Nvml(pids=pids)
    except pynvml.NVMLError as error:
        return NoGpu(f"no GPU: {error}")
