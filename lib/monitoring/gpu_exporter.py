"""What NVML tells of this machine's GPUs, under dcgm-exporter's names, units and labels, so that dashboards work with either.

What a card, a slice of one or a driver does not tell is absent, never 0, and `gpu_exporter_info` says why. A card that falls off the bus is
missing from then on, the others stay. A machine without a GPU says just that, and is asked again at the next scrape.

    python -m lib.monitoring.gpu_exporter [--port 9400]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from lib.pipelines import meters, serve
from lib.pipelines.http import Connection, Request

Ask = Callable[[Any, Any], float]  # of NVML and a device
LABELS = ("gpu", "UUID", "device", "modelName")
MIB = 2**20
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


def _memory(nvml: Any, gpu: Any) -> Any:
    """Without what the driver keeps for itself, as DCGM has it; with it where the driver is too old to tell them apart."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(gpu, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetMemoryInfo(gpu)


def _throttled_ns(nvml: Any, gpu: Any, policy: int) -> float:
    return float(nvml.nvmlDeviceGetViolationStatus(gpu, policy).violationTime)


GAUGE, COUNTER = meters.Gauge, meters.Counter
# Names, types and helps of dcgm-exporter's default counters; violations are in ns, whatever older comments of it say.
METRICS: Mapping[str, tuple[type[meters.Counter], str, Ask]] = {
    "DCGM_FI_DEV_SM_CLOCK": (GAUGE, "SM clock frequency (in MHz).", lambda n, gpu: n.nvmlDeviceGetClockInfo(gpu, n.NVML_CLOCK_SM)),
    "DCGM_FI_DEV_MEM_CLOCK": (GAUGE, "Memory clock frequency (in MHz).", lambda n, gpu: n.nvmlDeviceGetClockInfo(gpu, n.NVML_CLOCK_MEM)),
    "DCGM_FI_DEV_GPU_TEMP": (GAUGE, "GPU temperature (in C).", lambda n, gpu: n.nvmlDeviceGetTemperature(gpu, n.NVML_TEMPERATURE_GPU)),
    "DCGM_FI_DEV_POWER_USAGE": (GAUGE, "Power draw (in W).", lambda n, gpu: n.nvmlDeviceGetPowerUsage(gpu) / 1e3),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": (COUNTER, "Total energy consumption since boot (in mJ).",
                                             lambda n, gpu: n.nvmlDeviceGetTotalEnergyConsumption(gpu)),
    "DCGM_FI_DEV_GPU_UTIL": (GAUGE, "GPU utilization (in %).", lambda n, gpu: n.nvmlDeviceGetUtilizationRates(gpu).gpu),
    "DCGM_FI_DEV_MEM_COPY_UTIL": (GAUGE, "Memory utilization (in %).", lambda n, gpu: n.nvmlDeviceGetUtilizationRates(gpu).memory),
    "DCGM_FI_DEV_FB_FREE": (GAUGE, "Framebuffer memory free (in MiB).", lambda n, gpu: _memory(n, gpu).free // MIB),
    "DCGM_FI_DEV_FB_USED": (GAUGE, "Framebuffer memory used (in MiB).", lambda n, gpu: _memory(n, gpu).used // MIB),
    "DCGM_FI_DEV_POWER_VIOLATION": (COUNTER, "Throttling duration due to power constraints (in ns).",
                                    lambda n, gpu: _throttled_ns(n, gpu, n.NVML_PERF_POLICY_POWER)),
    "DCGM_FI_DEV_THERMAL_VIOLATION": (COUNTER, "Throttling duration due to thermal constraints (in ns).",
                                      lambda n, gpu: _throttled_ns(n, gpu, n.NVML_PERF_POLICY_THERMAL)),
}  # fmt: skip


def text() -> bytes:
    """The exposition, as the cards are now."""
    import pynvml as nvml

    told: dict[str, dict[meters.Labels, float]] = {name: {} for name in METRICS}
    devices, reasons = 0, list[str]()
    try:
        nvml.nvmlInit()  # counted by NVML, and ended below: a driver that comes back later is found
        for index in range(nvml.nvmlDeviceGetCount()):
            devices += _card(nvml, index, told, reasons)
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        reasons.append(f"no GPU: {error}")
    reason = "; ".join(dict.fromkeys(reasons)) or ("" if devices else "no GPU: NVML counts none")
    shown = [_meter(name, values) for name, values in told.items() if values]
    return meters.text([*shown, _told(meters.Gauge("gpu_exporter_devices", "GPUs that answer"), (), devices),
                        _told(meters.Gauge("gpu_exporter_info", "1, labelled with why something is not told; empty where all is",
                                           ("reason",), [(reason,)]), (reason,), 1)])


def _card(nvml: Any, index: int, told: dict[str, dict[meters.Labels, float]], reasons: list[str]) -> bool:
    """Ask card `index` all that it may tell; whether it is there."""
    try:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        labels = str(index), _text(nvml.nvmlDeviceGetUUID(gpu)), f"nvidia{index}", _text(nvml.nvmlDeviceGetName(gpu))
    except nvml.NVMLError as error:
        reasons.append(f"GPU {index}: {error}")
        return False
    untold = []
    for name, (_, _, ask) in METRICS.items():
        try:
            told[name][labels] = float(ask(nvml, gpu))
        except nvml.NVMLError as error:
            untold.append(name)
            reasons.append(f"GPU {index} does not tell all: {error}")
    return len(untold) < len(METRICS)


def _meter(name: str, values: Mapping[meters.Labels, float]) -> meters.Counter:
    kind, help, _ = METRICS[name]
    meter = kind(name, help, LABELS, list(values))
    for labels, value in values.items():
        _told(meter, labels, value)
    return meter


def _told(meter: meters.Counter, labels: meters.Labels, value: float) -> meters.Counter:
    meter.child(*labels).set(value)
    return meter


def _text(told: str | bytes) -> str:
    return told.decode(errors="replace") if isinstance(told, bytes) else told  # older bindings


class Exporter:
    """A Service (see serve.py) that answers /metrics and health."""

    busy: bytes | None = None
    shed_prefix = b""
    sheds = 0
    ready = True

    def request(self, connection: Connection, request: Request) -> None:
        if request.path == b"/metrics":
            connection.answer(200, text(), content_type=PROMETHEUS)
        elif request.path in (b"/healthz", b"/readyz"):
            connection.answer(200, b'{"alive":true}')
        else:
            connection.answer(404, b'{"error":"There is /metrics and /healthz"}')

    def close(self) -> None: ...


def main(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 9400,
    host: Annotated[str, typer.Option(help="Beyond loopback only if you ask for it: there is no authentication.")] = "127.0.0.1",
) -> None:
    """Tell Prometheus of this machine's GPUs until told to stop."""
    serve.run(Exporter(), host=host, port=port)


if __name__ == "__main__":
    typer.run(main)
