"""GPU and host. A GPU that is "100 % utilised" only had some kernel running: memory traffic, tensor activity and throttling say more."""

from __future__ import annotations

from typing import Any

from lib.monitoring.dashboards.board import board
from lib.monitoring.dashboards.panel import GREEN, ORANGE, RED, Ask, Step, course, number

BUSY = (Step(0.8, ORANGE), Step(0.95, RED))
WAITING = (Step(0.3, ORANGE), Step(0.6, RED))
LEFT = (Step(0.1, ORANGE), Step(0.2, GREEN))
NO_GPU, DCGM_ONLY = "no GPU on this machine", "only a dcgm-exporter tells"


def machine() -> dict[str, Any]:
    top = [
        number("GPUs", "none",
               "Devices that the exporter sees. 0 is an answer; no answer is a target that is down.",
               Ask("sum(gpu_exporter_devices) or count(DCGM_FI_DEV_GPU_UTIL)", "GPUs"), width=3, empty="no exporter",
               runbook=["TargetDown"]),
        number("GPU busy", "percentunit",
               "Share of time in which some kernel ran.",
               Ask("avg(gpu:utilisation:ratio)", "GPU"), width=4, decimals=0, empty=NO_GPU),
        number("GPU memory", "percentunit",
               "Share of the memory in use by the fullest GPU. Engines take it all on purpose: see KV cache.",
               Ask("max(gpu:memory_used:ratio)", "GPU"), width=4, decimals=0, empty=NO_GPU),
        number("CPU busy", "percentunit",
               "Share of all cores' time. Busy is what it is paid for; see who waits.",
               Ask("max(host:cpu_busy:ratio)", "host"), width=4, decimals=0, steps=BUSY, runbook=["HostCpuSaturated"]),
        number("CPU waited for", "percentunit",
               "Pressure: share of time in which something that could run had no core.",
               Ask("max(host:cpu_pressure:ratio)", "host"), width=4, decimals=0, steps=WAITING, empty="no PSI in this kernel",
               runbook=["HostCpuSaturated"]),
        number("Memory left", "percentunit",
               "What can be had without swapping, as a share. Below 10 % the kernel ends someone soon.",
               Ask("min(host:memory_available:ratio)", "host"), width=5, decimals=0, steps=LEFT, runbook=["HostMemoryLow"]),
    ]  # fmt: skip
    gpu = [
        course("GPU busy", "percentunit",
               "Share of time in which some kernel ran, however small. 100 % is not full: see the two beside it.",
               Ask("gpu:utilisation:ratio", "GPU {{gpu}}"), most=1, height=5, empty=NO_GPU),
        course("Tensor cores active", "percentunit",
               "Share of cycles in which the tensor pipe worked: near its top prefill is limited by compute.",
               Ask("gpu:tensor_active:ratio", "GPU {{gpu}}"), most=1, height=5, empty=DCGM_ONLY),
        course("GPU memory traffic", "percentunit",
               "Share of cycles in which memory moved data: near its top decode is limited by bandwidth.",
               Ask("gpu:dram_active:ratio", "GPU {{gpu}}"), most=1, height=5, empty=DCGM_ONLY),
        course("GPU memory in use", "percentunit",
               "Share of the device's memory. A sudden growth outside the engine's own reserve ends in an out-of-memory error.",
               Ask("gpu:memory_used:ratio", "GPU {{gpu}}"), most=1, height=5, empty=NO_GPU),
        course("Power", "watt",
               "Draw of each GPU. Flat at its limit, clocks are held down.",
               Ask("gpu:power_watts", "GPU {{gpu}}"), height=5, empty=NO_GPU, runbook=["GpuThrottled"]),
        course("Throttled", "percentunit",
               "Share of time in which power or heat held the clocks down.",
               Ask("gpu:throttled:ratio", "GPU {{gpu}} {{cause}}"), steps=[Step(0.1, ORANGE), Step(0.5, RED)], most=1,
               height=5, empty=NO_GPU, runbook=["GpuThrottled"]),
    ]  # fmt: skip
    host = [
        course("CPU busy", "percentunit",
               "Share of all cores' time, by host.",
               Ask("host:cpu_busy:ratio", "{{instance}}"), steps=BUSY, most=1, runbook=["HostCpuSaturated"]),
        course("CPU waited for", "percentunit",
               "Share of time in which something that could run had no core (PSI). This, not being busy, makes requests late.",
               Ask("host:cpu_pressure:ratio", "{{instance}}"), steps=WAITING, most=1, empty="no PSI in this kernel",
               runbook=["HostCpuSaturated"]),
        course("Memory left", "percentunit",
               "What can be had without swapping, as a share of all.",
               Ask("host:memory_available:ratio", "{{instance}}"), steps=[Step(0.1, GREEN)], most=1, runbook=["HostMemoryLow"]),
    ]  # fmt: skip
    watcher = [
        course("Memory of each process", "bytes",
               "Resident memory. A line that only rises is a leak.",
               Ask("sum by (job) (process_resident_memory_bytes)", "{{job}}"), width=12,
               runbook=["MemoryGrowing"]),
        course("CPU of each process", "suffix: cores",
               "Cores in use. What watches must cost little beside what it watches.",
               Ask("sum by (job) (rate(process_cpu_seconds_total[$__rate_interval]))", "{{job}}"), width=12),
    ]  # fmt: skip
    return board("machine", "GPU and host", "What the accelerator and the machine do, and who waits for them.",
                 {"": top, "GPU": gpu, "Host": host, "Processes": watcher}, variables={})  # fmt: skip
