"""The GPU exporter on cards that tell all, some, or nothing any more."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import httpx
import pytest

from lib import process
from lib.monitoring import gpu_exporter, known
from tests.monitoring.exposition import families
from tests.nvml import FakeNvml

H100 = "NVIDIA H100 80GB HBM3"


def told(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> dict[str, dict[str, float]]:
    """Value by metric and card; of what is no card's, by its reason or nothing."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    seen = families(gpu_exporter.text().decode())
    return {name: {(*key, "")[1]: value for key, value in family.samples.items()} for name, family in seen.items()}


def test_units_are_dcgms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = told(monkeypatch, FakeNvml(H100, now=lambda: 10.0))
    assert {name: cards["0"] for name, cards in seen.items() if name.startswith("DCGM")} == {
        "DCGM_FI_DEV_SM_CLOCK": 1980, "DCGM_FI_DEV_MEM_CLOCK": 1980, "DCGM_FI_DEV_GPU_TEMP": 51,
        "DCGM_FI_DEV_POWER_USAGE": 300, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 3_000_000,  # W and mJ
        "DCGM_FI_DEV_GPU_UTIL": 97, "DCGM_FI_DEV_MEM_COPY_UTIL": 41,
        "DCGM_FI_DEV_FB_FREE": 75 * 1024, "DCGM_FI_DEV_FB_USED": 4.5 * 1024,  # MiB, without what the driver keeps
        "DCGM_FI_DEV_POWER_VIOLATION": 7e9, "DCGM_FI_DEV_THERMAL_VIOLATION": 0,  # ns
    }  # fmt: skip
    assert (seen["gpu_exporter_devices"], seen["gpu_exporter_info"]) == ({"": 1}, {"": 1})


def test_labels_are_dcgms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(H100, H100))
    lines = [line for line in gpu_exporter.text().decode().splitlines() if line.startswith("DCGM_FI_DEV_GPU_UTIL")]
    assert lines == [f'DCGM_FI_DEV_GPU_UTIL{{gpu="{n}",UUID="GPU-{n:08d}",device="nvidia{n}",modelName="{H100}"}} 97' for n in (0, 1)]


def test_without_a_gpu_that_is_all_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, FakeNvml(missing="Driver Not Loaded")) == {
        "gpu_exporter_devices": {"": 0}, "gpu_exporter_info": {"no GPU: Driver Not Loaded": 1},
    }  # fmt: skip
    assert told(monkeypatch, FakeNvml())["gpu_exporter_info"] == {"no GPU: NVML counts none": 1}


def test_what_a_card_refuses_is_absent_and_not_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = told(monkeypatch, FakeNvml("NVIDIA L4", refused=frozenset({"nvmlDeviceGetPowerUsage", "nvmlDeviceGetViolationStatus"})))
    missing = {name for name in gpu_exporter.METRICS if name not in seen}
    assert missing == {"DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_POWER_VIOLATION", "DCGM_FI_DEV_THERMAL_VIOLATION"}
    assert seen["gpu_exporter_info"] == {"GPU 0 does not tell all: Not Supported": 1}
    assert seen["gpu_exporter_devices"] == {"": 1}


def test_an_old_driver_tells_memory_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, index: int, version: int = 1):  # type: ignore[no-untyped-def]
            return self._refuse() if version > 1 else super().nvmlDeviceGetMemoryInfo(index)

    assert told(monkeypatch, Old(H100))["DCGM_FI_DEV_FB_USED"] == {"0": 5 * 1024}


def test_a_card_that_falls_off_the_bus_is_missed_and_the_other_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(H100, H100)
    assert told(monkeypatch, nvml)["gpu_exporter_devices"] == {"": 2}
    nvml.lost.add(0)
    seen = told(monkeypatch, nvml)
    assert seen["gpu_exporter_devices"] == {"": 1}
    assert seen["gpu_exporter_info"] == {"GPU 0: GPU is lost": 1}
    assert set(seen["DCGM_FI_DEV_GPU_UTIL"]) == {"1"}


def test_a_card_that_falls_off_while_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Falls(FakeNvml):
        def nvmlDeviceGetPowerUsage(self, index: int) -> int:
            self.lost.add(index)
            return 1000

    seen = told(monkeypatch, Falls(H100))
    assert seen["DCGM_FI_DEV_POWER_USAGE"] == {"0": 1} and "DCGM_FI_DEV_GPU_UTIL" not in seen
    assert seen["gpu_exporter_info"] == {"GPU 0 does not tell all: GPU is lost": 1}


def test_names_types_and_labels_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(H100))
    seen = {name: (f.type, set(f.labels), f.help) for name, f in families(gpu_exporter.text().decode()).items()}
    assert seen == {m.name: (m.type, set(m.labels), m.help) for m in known.metrics().values() if "gpu" in m.exporters}


def test_it_serves_where_there_is_no_gpu_and_goes_on(tmp_path: Path) -> None:
    def argv(port: int) -> list[str]:
        return [sys.executable, "-m", "lib.monitoring.gpu_exporter", "--port", str(port)]

    with process.running(argv, name="gpu exporter", logs=tmp_path, health="/healthz") as exporter:
        for _ in range(2):
            assert "gpu_exporter_devices" in httpx.get(f"{exporter.url}/metrics", trust_env=False).text
        assert httpx.get(f"{exporter.url}/else", trust_env=False).status_code == 404
        assert exporter.signal(signal.SIGTERM) == 0
