"""A machine is known by its hardware, not by its name, and its ceilings are measured or None."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lib import machine
from lib.home import PUBLISHED
from lib.machine import Gpu, Machine
from tests.nvml import FakeNvml

H100 = Gpu("NVIDIA H100 80GB HBM3", 80 * 2**30, "580.65", False)
EPYC = Machine(cpu="AMD EPYC (family 25, model 1)", cores=2, threads=4, isa=("avx2",), l3_bytes=32 * 2**20,
               memory_bytes=24 * 2**30, governor=None, hypervisor=True, gpus=(), gpu_status="no GPU",
               system="Linux 6.1", python="3.11.2", packages={"torch": "2.13.0"})


def test_a_fingerprint_is_stable() -> None:
    assert machine.here() == machine.here()
    assert EPYC.machine_id == replace(EPYC).machine_id
    assert EPYC.machine_id.startswith("amd-epyc-family-25-model-1-2c-")


@pytest.mark.parametrize("change", [
    {"python": "3.12.0"}, {"packages": {}}, {"system": "Linux 6.9"}, {"governor": "performance"},
    {"memory_bytes": 24 * 2**30 - 10**6}, {"gpu_status": "no GPU: no driver"},
])  # fmt: skip
def test_machine_id_does_not_depend_on_software(change: dict[str, object]) -> None:
    assert replace(EPYC, **change).machine_id == EPYC.machine_id  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [
    {"cpu": "AMD EPYC (family 26, model 2)"}, {"cores": 4}, {"isa": ("avx2", "avx512f")},
    {"memory_bytes": 48 * 2**30}, {"gpus": (H100,)}, {"gpus": (H100, H100)},
])  # fmt: skip
def test_machine_id_depends_on_hardware(change: dict[str, object]) -> None:
    assert replace(EPYC, **change).machine_id != EPYC.machine_id  # type: ignore[arg-type]


def test_stack_id_depends_on_software_too() -> None:
    on_gpu = replace(EPYC, gpus=(H100,))
    ids = [m.environment(**v)["stack_id"] for m, v in (
        (EPYC, {}), (replace(EPYC, python="3.12.0"), {}), (EPYC, {"vllm": "0.32.0"}), (EPYC, {"vllm": "0.33.0"}),
        (replace(EPYC, packages={"torch": "2.14.0"}), {}), (on_gpu, {}),
        (replace(EPYC, gpus=(replace(H100, driver="590.1"),)), {}))]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert EPYC.environment()["stack_id"] == ids[0]
    assert on_gpu.machine_id == replace(EPYC, gpus=(replace(H100, driver="590.1"),)).machine_id
    assert on_gpu.machine_id.startswith("nvidia-h100-80gb-hbm3-")


def test_the_environment_tells_the_machine_and_not_whose_it_is() -> None:
    told = json.loads(json.dumps(machine.here().environment(vllm="0.32.0"), allow_nan=False))
    assert sorted(told) == [
        "cores", "cpu", "governor", "gpu_status", "gpus", "hypervisor", "isa", "l3_bytes", "machine_id", "memory_bytes",
        "packages", "python", "stack_id", "system", "threads"]  # fmt: skip
    assert told["packages"]["vllm"] == "0.32.0"
    text = json.dumps({key: value for key, value in told.items() if key != "packages"})
    assert os.uname().nodename not in text.replace('"', " ").split()
    assert str(Path.home()) not in text and os.uname().release not in text


def test_cards_are_seen_and_missing_ones_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("NVIDIA H100 80GB HBM3"))
    seen = machine.here()
    assert (seen.gpus, seen.gpu_status) == ((H100,), "1 GPU")
    card = FakeNvml("NVIDIA L4", refused=frozenset({"nvmlDeviceGetMigMode"}))
    monkeypatch.setitem(sys.modules, "pynvml", card)
    assert [gpu.mig for gpu in machine.here().gpus] == [False]
    card = FakeNvml("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB")
    card.mig = 1
    monkeypatch.setitem(sys.modules, "pynvml", card)
    assert [gpu.mig for gpu in machine.here().gpus] == [True, True]
    for none, why in ((FakeNvml(), "NVML counts none"), (FakeNvml(missing="Driver Not Loaded"), "Driver Not Loaded")):
        monkeypatch.setitem(sys.modules, "pynvml", none)
        assert (machine.here().gpus, machine.here().gpu_status) == ((), f"no GPU: {why}")


def test_ceilings_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(machine, "_l3", lambda: None)  # the smallest array
    monkeypatch.setattr(machine, "here", lambda: replace(EPYC, threads=1))  # two wait for each other
    threads = torch.get_num_threads()
    found = {one.name: one for one in machine.ceilings(budget_s=0.05)}
    assert torch.get_num_threads() == threads
    for name, unit in (("read bandwidth, 1 thread", "B/s"), ("matmul float32", "FLOP/s")):
        one = found[name]
        assert one.rate is not None and one.timing is not None
        assert (one.unit, one.reason) == (unit, None)
        assert one.rate == one.amount / min(one.timing.samples_s)
        assert 1e8 < one.rate < 1e14
    assert {f"matmul {p}" for p in ("float32", "bfloat16", "float16", "int8")} < set(found)
    for one in found.values():
        assert (one.rate is None) == (one.timing is None) == (one.reason is not None)


def test_a_precision_that_is_not_supported_is_none_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuses(*_: object) -> None:
        raise RuntimeError("_int_mm is not implemented\nfor this device")

    monkeypatch.setattr(torch, "_int_mm", refuses)
    one = machine.matmul("cpu", "int8", 0.05)
    assert (one.rate, one.timing, one.reason) == (None, None, "not supported: _int_mm is not implemented")


@pytest.mark.parametrize(("name", "device"), [
    ("NVIDIA H200", "H200"), ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3"), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"),
    ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"), ("A100-SXM4-80GB", "A100-SXM4-80GB"),
])  # fmt: skip
def test_a_known_card_has_a_peak_with_its_source(name: str, device: str) -> None:
    row = machine.peak(name)
    assert row is not None and row["device"] == device
    assert "NVIDIA" in row["source"]


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA GH200 480GB", "NVIDIA H200 NVL", "NVIDIA H100 PCIe", "AMD EPYC",
                                  "NVIDIA GeForce RTX 4090 Laptop GPU", ""])  # fmt: skip
def test_a_card_nobody_wrote_down_has_no_peak(name: str) -> None:
    assert machine.peak(name) is None


@pytest.mark.parametrize("table", sorted(PUBLISHED.glob("*.csv")), ids=lambda table: table.name)
def test_every_published_number_has_a_source(table: Path) -> None:
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert not [row for row in rows if len(row["source"] or "") < 8 or None in row]


def test_every_published_peak_can_be_one() -> None:
    with (PUBLISHED / "peaks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["device"].lower() for row in rows}) == len(rows) > 0
    for row in rows:
        assert not row["device"].startswith("NVIDIA "), "peak() looks for the name without it"
        assert 1e11 < float(row["bandwidth_bytes_per_s"]) < 1e13
        assert 1e13 < float(row["bf16_flop_per_s"]) < 1e16
        assert not row["fp8_flop_per_s"] or float(row["fp8_flop_per_s"]) > float(row["bf16_flop_per_s"])


def test_a_card_tells_what_is_there_and_what_is_not() -> None:
    told = machine.card(json.loads(json.dumps(EPYC.environment(vllm="0.32.0")))).set_index("what")["value"]
    assert (told["processor"], told["cores"], told["memory"]) == (EPYC.cpu, "2 (4 threads)", "24.0 GiB")
    assert (told["GPU"], told["governor"], told["vllm"], told["L3 cache"]) == ("no GPU", "not told", "0.32.0", "32 MiB")
    gpus = machine.card(replace(EPYC, gpus=(H100,), l3_bytes=None).environment()).set_index("what")["value"]
    assert (gpus["GPU"], gpus["L3 cache"]) == ("NVIDIA H100 80GB HBM3 (80 GiB, driver 580.65)", "not told")
