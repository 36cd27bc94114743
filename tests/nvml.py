"""An NVML to put in the place of the real one: cards whose power, energy, refusals and end a test decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As pynvml's: the text says what went wrong."""


class NVMLError_NotSupported(NVMLError):
    """What a card, a MIG slice or a driver does not tell."""


class FakeNvml(ModuleType):
    """`names` are the cards, `lost` those that fell off the bus; functions in `refused` are not supported.

    `power_w` and `energy_j` follow `now`.
    """

    NVMLError, NVMLError_NotSupported = NVMLError, NVMLError_NotSupported
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
    nvmlMemory_v2 = 2

    def __init__(self, *names: str, now: Callable[[], float] = lambda: 0.0, refused: frozenset[str] = frozenset(),
                 missing: str | None = None) -> None:
        super().__init__("pynvml")
        self.names, self.now, self.missing, self.slowdown, self.mig = names, now, missing, 0, 0
        self.power_w: Callable[[float], float] = lambda t: 300.0
        self.energy_j: Callable[[float], float] = lambda t: 300.0 * t
        self.processes = [SimpleNamespace(pid=7, usedGpuMemory=3 * 2**30), SimpleNamespace(pid=8, usedGpuMemory=2**30)]
        self.lost: set[int] = set()
        for name in refused:
            setattr(self, name, self._refuse)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._if_there, found) if name.startswith("nvmlDevice") and callable(found) else found

    def _if_there(self, function: Callable[..., Any], *told: int, **more: int) -> Any:
        if told and told[0] in self.lost:
            raise NVMLError("GPU is lost")
        return function(*told, **more)

    @staticmethod
    def _refuse(*_: object) -> None:
        raise NVMLError_NotSupported("Not Supported")

    def nvmlInit(self) -> None:
        if self.missing:
            raise NVMLError(self.missing)

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, index: int) -> str:
        return self.names[index]

    def nvmlDeviceGetMigMode(self, index: int) -> list[int]:
        return [self.mig, self.mig]

    def nvmlDeviceGetUUID(self, index: int) -> str:
        return f"GPU-{index:08d}"

    def nvmlDeviceGetMemoryInfo(self, index: int, version: int = 1) -> SimpleNamespace:
        """What the driver keeps for itself, half a GiB, is used for version 1 and not for version 2."""
        reserved = 2**29
        return SimpleNamespace(total=80 * 2**30, used=5 * 2**30 - (version > 1) * reserved, free=75 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=97, memory=41)

    def nvmlDeviceGetViolationStatus(self, index: int, policy: int) -> SimpleNamespace:
        return SimpleNamespace(referenceTime=0, violationTime=7_000_000_000 * (policy == self.NVML_PERF_POLICY_POWER))

    def nvmlDeviceGetComputeRunningProcesses(self, index: int) -> list[SimpleNamespace]:
        return self.processes

    def nvmlDeviceGetPowerUsage(self, index: int) -> int:
        return round(self.power_w(self.now()) * 1e3)

    def nvmlDeviceGetTotalEnergyConsumption(self, index: int) -> int:
        return round(self.energy_j(self.now()) * 1e3)

    def nvmlDeviceGetClockInfo(self, index: int, kind: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, index: int, kind: int) -> int:
        return 51

    def nvmlDeviceGetCurrentClocksEventReasons(self, index: int) -> int:
        return self.slowdown
