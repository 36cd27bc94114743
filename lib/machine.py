"""Who measured: a fingerprint without names of hosts or users, and the ceilings this machine really has.

Ceilings are measured first and read beside published peaks where those are known; unknown is None. Refuses to guess a
peak from a product's name: what is not in data/published/peaks.csv is not known.
"""

from __future__ import annotations

import csv
import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from lib.clock import Timing, measure
from lib.home import PUBLISHED
from lib.record import canonical

SHOWN = ("torch", "transformers", "onnxruntime-gpu", "plotly", "papermill", "uvloop", "httptools")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    driver: str
    mig: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine as the records know it. `machine_id` depends on hardware alone, `stack_id` on software too."""

    cpu: str
    cores: int
    threads: int
    isa: tuple[str, ...]
    l3_bytes: int | None
    memory_bytes: int
    governor: str | None
    hypervisor: bool
    gpus: tuple[Gpu, ...]
    gpu_status: str
    system: str
    python: str
    packages: dict[str, str]

    @property
    def machine_id(self) -> str:
        hardware = canonical({"cpu": self.cpu, "cores": self.cores, "isa": self.isa,
                              "memory_gib": round(self.memory_bytes / 2**30), "gpus": [gpu.name for gpu in self.gpus]})
        label = self.gpus[0].name if self.gpus else self.cpu
        slug = "-".join("".join(c if c.isalnum() else " " for c in label.lower()).split())[:32]
        return f"{slug}-{self.cores}c-{hashlib.sha256(hardware.encode()).hexdigest()[:6]}"

    def environment(self, **versions: str) -> dict[str, Any]:
        """What goes into run.json. `versions`: engines in isolated environments, name -> version."""
        packages = {**self.packages, **versions}
        drivers = [gpu.driver for gpu in self.gpus]
        software = canonical({"python": self.python, "packages": packages, "drivers": drivers})
        stack_id = hashlib.sha256(software.encode()).hexdigest()[:8]
        return {"machine_id": self.machine_id, "stack_id": stack_id, **asdict(self), "packages": packages}


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A measured limit in `unit` ("B/s" or "FLOP/s"); `rate` is None where it could not be measured: see `reason`."""

    name: str
    unit: str
    rate: float | None
    timing: Timing | None
    amount: float
    reason: str | None = None


def here() -> Machine:
    """This machine, read from the system; anything the system does not tell is None."""
    gpus, status = _gpus()
    info = _cpuinfo()
    flags = set(info.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
    packages = {}
    for name in SHOWN:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    threads = os.cpu_count() or 1
    return Machine(cpu=_cpu_name(info), cores=psutil.cpu_count(logical=False) or threads, threads=threads,
                   isa=tuple(f for f in wanted if f in flags), l3_bytes=_l3(),
                   memory_bytes=psutil.virtual_memory().total,
                   governor=governor(),
                   hypervisor="hypervisor" in flags, gpus=gpus, gpu_status=status,
                   system=f"{platform.system()} {platform.release().split('-')[0]}", python=platform.python_version(),
                   packages=packages)


def governor() -> str | None:
    """How the first processor's clock is governed now; None where the system does not tell (most virtual machines)."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def card(environment: Mapping[str, Any]) -> pd.DataFrame:
    """The machine of a record's environment as a table: what it is, what runs on it."""
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_bytes'] / 2**30:.0f} GiB, driver {gpu['driver']})"
                     for gpu in environment["gpus"])
    cache = environment["l3_bytes"]
    rows = {"machine": environment["machine_id"], "processor": environment["cpu"],
            "cores": f"{environment['cores']} ({environment['threads']} threads)",
            "instructions": ", ".join(environment["isa"]),
            "L3 cache": f"{cache / 2**20:.0f} MiB" if cache else "not told",
            "memory": f"{environment['memory_bytes'] / 2**30:.1f} GiB",
            "governor": environment["governor"] or "not told",
            "virtual machine": "yes" if environment["hypervisor"] else "no",
            "GPU": gpus or environment["gpu_status"], "system": environment["system"], "Python": environment["python"],
            **environment["packages"]}
    return pd.DataFrame({"what": list(rows), "value": list(rows.values())})


def ceilings(*, device: str = "cpu", budget_s: float = 1.0) -> list[Ceiling]:
    """Measured limits of `device`: read bandwidth (one core and all), matmul rate per precision; ~6 × `budget_s`."""
    import torch

    measured = []
    threads = torch.get_num_threads()
    cores = here().threads
    try:
        for count in sorted({1, cores}) if device == "cpu" else [0]:
            if count:
                torch.set_num_threads(count)
            measured.append(_bandwidth(device, count, budget_s))
        torch.set_num_threads(cores)
        measured += [matmul(device, precision, budget_s) for precision in ("float32", "bfloat16", "float16", "int8")]
    finally:
        torch.set_num_threads(threads)
    return measured


def peak(name: str, *, table: Path = PUBLISHED / "peaks.csv") -> dict[str, str] | None:
    """The published peak of the device called `name`, with its source; None if nobody wrote it down for us."""
    with table.open() as rows:
        called = name.removeprefix("NVIDIA ").lower()  # the whole name: an L40 is no L4, a GH200 no H200
        return next((row for row in csv.DictReader(rows) if row["device"].lower() == called), None)


def _bandwidth(device: str, threads: int, budget_s: float) -> Ceiling:
    """Reading is what decoding does: a sum over far more bytes than any cache holds."""
    import torch

    size = max(2**28, 8 * (_l3() or 0)) if device == "cpu" else 2**32
    data = torch.ones(size // 4, dtype=torch.float32, device=device)
    timing = measure(lambda: data.sum(), budget_s=budget_s, sync=_sync(device))
    name = f"read bandwidth, {threads} thread{'s' * (threads > 1)}" if threads else "read bandwidth"
    return Ceiling(name, "B/s", size / min(timing.samples_s), timing, size)


def matmul(device: str, precision: str, budget_s: float) -> Ceiling:
    """Square matrices, grown until one product takes a fair part of the budget; a slow precision says so."""
    import torch

    dtype = getattr(torch, precision)
    name, unit = f"matmul {precision}", "FLOP/s"

    def product(n: int) -> Callable[[], object]:
        if precision == "int8":
            a, b = (torch.randint(-127, 127, (n, n), dtype=dtype, device=device) for _ in range(2))
            return lambda: torch._int_mm(a, b)
        x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        return lambda: x @ y

    try:
        # many small ones first: on a busy machine most of them wait for a thread that does not run
        n, timing = 128, measure(product(128), budget_s=0.02, warmup_s=0, at_least=20, sync=_sync(device))
        while n < (2048 if device == "cpu" else 8192) and min(timing.samples_s) * 8 < budget_s / 3:
            n *= 2
            timing = measure(product(n), budget_s=0.05, warmup_s=0, at_least=2, sync=_sync(device))
        if n < 512:
            gflops = 2 * n**3 / min(timing.samples_s) / 1e9
            return Ceiling(name, unit, None, None, 0, f"no fast path: {gflops:.1f} GFLOP/s at {n}×{n}")
        timing = measure(product(n), budget_s=budget_s, sync=_sync(device))
    except RuntimeError as error:
        return Ceiling(name, unit, None, None, 0, f"not supported: {str(error).splitlines()[0]}")
    return Ceiling(name, unit, 2 * n**3 / min(timing.samples_s), timing, 2 * n**3)


def _sync(device: str) -> Callable[[], object] | None:
    if device == "cpu":
        return None
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize
    return wait


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs NVML knows, and in words why there are none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"no GPU: {error}"
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            try:
                mig = bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
            except pynvml.NVMLError_NotSupported:
                mig = False
            memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            found.append(Gpu(str(pynvml.nvmlDeviceGetName(handle)), memory_bytes, driver, mig))
        return tuple(found), f"{len(found)} GPU" if found else "no GPU: NVML counts none"
    finally:
        pynvml.nvmlShutdown()


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo."""
    text = _read("/proc/cpuinfo") or ""
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in text.split("\n\n")[0].splitlines())}


def _cpu_name(info: dict[str, str]) -> str:
    """A hypervisor may shorten the name ("AMD EPYC"): family and model tell two of them apart."""
    name = info.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in info or "model" not in info:
        return name
    return f"{name} (family {info['cpu family']}, model {info['model']})"


def _l3() -> int | None:
    text = _read("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]] if text and text[-1] in "KM" else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
