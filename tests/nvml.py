"""An NVML to put in the place of the real one: a card whose power, energy and refusals a test decides."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace


class NVMLError(Exception):
    """As pynvml's: the text says what went wrong."""


class NVMLError_NotSupported(NVMLError):
    """What a card, a MIG slice or a driver does not tell."""


class FakeNvml(ModuleType):
    """`names` are the cards; `power_w` and `energy_j` follow `now`; functions in `refused` are not supported."""

    NVMLError, NVMLError_NotSupported = NVMLError, NVMLError_NotSupported
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self, *names: str, now: Callable[[], float] = lambda: 0.0, refused: frozenset[str] = frozenset(),
                 missing: str | None = None) -> None:
        super().__init__("pynvml")
        self.names, self.now, self.missing, self.slowdown, self.mig = names, now, missing, 0, 0
        self.power_w: Callable[[float], float] = lambda t: 300.0
        self.energy_j: Callable[[float], float] = lambda t: 300.0 * t
        self.processes = [SimpleNamespace(pid=7, usedGpuMemory=3 * 2**30), SimpleNamespace(pid=8, usedGpuMemory=2**30)]
        for name in refused:
            setattr(self, name, self._refuse)

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

    def nvmlDeviceGetMemoryInfo(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * 2**30, used=5 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=97)

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
