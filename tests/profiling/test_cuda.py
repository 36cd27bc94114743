"""On a GPU: in which order it is asked, on a stand-in for it. Nothing here needs one, and nothing here says how fast one is."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from lib import machine
from lib.measured import Broke, Skipped
from lib.profiling import asks, cuda, device, gpu, kernels, networks, sweeper, trace, worker
from tests.fakes.cuda import FakeCuda

ASKED: dict[str, Any] = {"engine": "PyTorch", "network": "toy", "hw": [8, 8], "threads": 1, "batch": 1, "batches": [1, 2, 4, 8],
                         "budget_s": 1e-9, "rounds": 2, "limit_s": 9.0}  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(torch, "cuda", made)
    return made


class Toy(torch.nn.Module):
    """Answers up to `most` pictures."""

    def __init__(self, *, most: int = 99, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.layer, self.most, self.error = torch.nn.Conv2d(3, 2, 3), most, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == self.most + 1 or x.shape[0] == 2 * self.most:
            raise self.error(f"out of memory: {x.shape[0]}\nand more")
        return self.layer(x).mean((2, 3))


def test_a_pass_lies_between_its_own_events_and_is_read_when_the_gpu_is_done(fake: FakeCuda) -> None:
    assert cuda.taken(fake.work(1.5), 2) == [1_500_000, 1_500_000]
    assert fake.said == ["event", "pass", "event", "event", "pass", "event", "synchronize"], "the host runs ahead; it waits once"


def test_a_cold_pass_is_flushed_before_its_first_event(fake: FakeCuda) -> None:
    assert cuda.taken(fake.work(1.5), 2, before=fake.work(40.0, "flush")) == [1_500_000, 1_500_000], "the flush is not in it"
    assert fake.said[:4] == ["flush", "event", "pass", "event"] and fake.said[4] == "flush"


def test_the_flush_writes_over_twice_the_l2_cache(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, *, dtype, device: asked.append((size, device)) or real(size, dtype=dtype).fill_(7))
    told = cuda.flusher()()
    assert asked == [(2000, "cuda")] and isinstance(told, torch.Tensor) and told.numel() * told.element_size() == 2000 and not told.any()


def test_a_caller_waits_until_the_gpu_is_done(fake: FakeCuda) -> None:
    assert len(cuda.walls(fake.work(1.0), 2)) == 2
    assert fake.said == ["synchronize", "pass", "synchronize", "pass", "synchronize"], "what was queued before is not in the first"


def test_clocks_are_warm_when_they_were_the_same_five_times(fake: FakeCuda) -> None:
    fake.mhz = [345.0, 1200.0, 1700.0, 1980.0, 1975.0, 1980.0, 1980.0, 1975.0, 1980.0]
    ticks = itertools.count(step=0.05)
    told = cuda.warmed(fake.work(1.0), now=lambda: next(ticks))
    assert told["settled"] is True and told["mhz"][:3] == [345.0, 1200.0, 1700.0] and set(told["mhz"][3:]) == {1980.0, 1975.0}
    assert len(told["mhz"]) == 3 + cuda.SETTLED and told["s"] >= cuda.LEAST_S
    assert fake.said[:2] == ["pass", "synchronize"], "a queue without end would outlast the warming"


def test_a_clock_that_never_settles_is_told_as_such(fake: FakeCuda) -> None:
    swings, ticks = itertools.cycle([1000.0, 1500.0]), itertools.count(step=0.05)
    told = cuda.warmed(fake.work(1.0), mhz=lambda: next(swings), now=lambda: next(ticks))
    assert told["settled"] is False and told["s"] >= cuda.MOST_S


def test_where_nobody_tells_the_clock_a_second_has_to_do(fake: FakeCuda) -> None:
    fake.mhz = []
    ticks = itertools.count(step=0.05)
    told = cuda.warmed(fake.work(1.0), now=lambda: next(ticks))
    assert told["settled"] is None and cuda.LEAST_S <= told["s"] < cuda.MOST_S and set(told["mhz"]) == {None}


def test_a_graph_is_recorded_after_passes_on_a_side_stream(fake: FakeCuda) -> None:
    replay = cuda.graph(fake.work(1.0))
    assert fake.said == ["side 1 waits for main", *["pass on side 1"] * cuda.SIDE, "main waits for side 1", "capture", "pass", "captured"]
    fake.said.clear()
    assert replay() == "answer" and fake.said == ["replay"], "no pass of the host's"


def test_what_a_graph_reads_is_kept_as_long_as_the_graph(fake: FakeCuda) -> None:
    meter = cuda.Meter(lambda x: x.clone(), graphs=True)
    meter.clock = {}
    seen: list[weakref.ref[torch.Tensor]] = []
    replay = meter.ready(lambda x: seen.append(weakref.ref(x)), np.zeros((1, 3), np.float32))
    gc.collect()
    assert seen[0]() is not None, "the pictures were freed, and a replay would read whatever lies there"
    del replay
    gc.collect()
    assert seen[0]() is None


def test_all_three_ways_are_told_and_the_quoted_one_is_warm(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "flusher", lambda: fake.work(9.0, "flush"))
    ways = cuda.ways()
    assert list(ways) == ["ns", "cold_ns", "wall_ns"]
    told = {}
    for name, way in ways.items():
        fake.said.clear()
        way(fake.work(1.0), 2)
        told[name] = fake.said.count("flush")
    assert told == {"ns": 0, "cold_ns": 2, "wall_ns": 0}


def test_variants_on_a_gpu_are_timed_by_its_events(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "flusher", lambda: fake.work(9.0, "flush"))
    monkeypatch.setattr(cuda, "warmed", lambda infer: {"settled": True, "said": infer() is not None})

    def variant(asked: dict[str, Any], name: str, plain: Any) -> tuple[Any, float]:
        if name == "too large":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\na story")
        return (lambda: (fake.work({"eager": 2.0, "fp16": 1.0}[name])(), torch.ones(1, 4))[1]), 0.1

    monkeypatch.setattr(networks, "network", lambda asked: None)
    monkeypatch.setattr(networks, "variant", variant)
    told = worker.timed({"device": "cuda", "variants": ["eager", "fp16", "too large"], "rounds": 2, "warm": 1, "passes": 3})
    assert told["ns"] == {"eager": [[2_000_000] * 3] * 2, "fp16": [[1_000_000] * 3] * 2} == told["cold_ns"]
    assert set(told["wall_ns"]) == {"eager", "fp16"} and told["clock"]["settled"] and told["facts"]["gpu"] == "Fake"
    assert told["failed"] == {"too large": "OutOfMemoryError: CUDA out of memory. Tried to allocate"}
    assert told["answers"]["fp16"] == {"off": 0.0, "same": 1.0}


def swept(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(networks, "network", lambda asked: model.eval())
    warmings: list[Any] = []
    monkeypatch.setattr(cuda, "warmed", lambda infer: warmings.append(infer()) or {"settled": True})
    it = networks.made(ASKED, "channels_last")
    rows = sweeper.swept(ASKED, lambda batch: it.run, meter := cuda.Meter(it.dress, graphs=False))
    assert len(warmings) == 1 and meter.clock == {"settled": True}, "clocks are warmed once, before the first batch"
    return rows


def test_a_batch_that_does_not_fit_is_a_row_and_the_sweep_goes_on(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = swept(Toy(most=2, error=torch.OutOfMemoryError), monkeypatch)
    assert [(row["batch"], "ns" in row) for row in rows] == [(1, True), (2, True), (4, False), (8, True)]
    assert rows[2]["lacks"] == "OutOfMemoryError: out of memory: 4"
    assert [len(row["ns"]) for row in rows if "ns" in row] == [2, 2, 2]
    assert fake.said.count("forget") == 4, "the most memory is each batch's own"


def test_what_else_goes_wrong_on_a_gpu_ends_the_sweep(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = swept(Toy(most=2, error=RuntimeError), monkeypatch)
    assert [row["batch"] for row in rows] == [1, 2, 4] and "RuntimeError" in rows[2]["lacks"]


def test_the_memory_of_a_batch_is_pytorch_s_own_count(fake: FakeCuda) -> None:
    meter = cuda.Meter(lambda x: x, graphs=False)
    fake.allocated, fake.most = 100, 900
    meter.forget()
    assert (meter.held(), meter.peak()) == (100, 100)


def test_a_variant_of_pytorch_is_swept_on_the_processor_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Sees(Toy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(x)

    monkeypatch.setattr(networks, "network", lambda asked: Sees(most=2).eval())
    told = worker.swept({**ASKED, "variant": "channels_last, bf16", "device": "cpu"})
    assert [row["batch"] for row in told["rows"]] == [1, 2, 4] and told["rows"][2]["lacks"] == "RuntimeError: out of memory: 4"
    assert set(seen) == {(torch.bfloat16, True)} and told["facts"] == {}
    assert all(min(taken) > 0 for row in told["rows"][:2] for taken in row["ns"])


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"variant": "cuda graph"}])
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_built(asked: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", FakeCuda(available=False))
    monkeypatch.setattr(networks, "network", lambda asked: pytest.fail("it was built"))
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU; PyTorch sees none"):
        networks.made({**ASKED, **asked}, asked.get("variant", "eager"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("job", ["kernels", "swept"])
def test_the_worker_says_that_there_is_no_gpu(job: str) -> None:
    with pytest.raises(Broke, match="needs an NVIDIA GPU; PyTorch sees none"):
        asks.ask(job, "resnet18", threads=1, what=job, device="cuda", variant="eager", engine="PyTorch")


def test_kernels_are_traced_in_passes_that_end_with_the_gpu(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    real = torch.profiler.profile
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: real(activities=activities[:1]))  # the processor's part of it
    monkeypatch.setattr(networks, "network", lambda asked: Toy().eval())
    monkeypatch.setattr(cuda, "warmed", lambda infer: {"settled": None})
    asked = {**ASKED, "network": "toy", "device": "cpu", "variant": "eager", "passes": 3, "trace": str(tmp_path / "trace.json")}
    told = worker.kernels(asked)
    whole = trace.parsed(tmp_path / "trace.json")
    assert len(kernels.spans(whole)) == len(told["traced_ns"]) == len(told["bare_ns"]) == 3
    for (begin, end), ns in zip(kernels.spans(whole), told["traced_ns"], strict=True):
        assert ns / 1e3 <= end - begin, "waiting for the GPU is within the pass"
    with pytest.raises(trace.BadTrace, match="no kernel"):
        gpu.found(told, whole)


def test_the_device_is_the_driver_s_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*gpus: machine.Gpu, status: str) -> Any:
        return type("Here", (), {"gpus": gpus, "gpu_status": status})()

    monkeypatch.setattr(machine, "here", lambda: told(status="no GPU: NVML Shared Library Not Found"))
    assert device.lacks() == "needs an NVIDIA GPU (no GPU: NVML Shared Library Not Found)"
    with pytest.raises(Skipped, match="needs an NVIDIA GPU"):
        device.needed()
    monkeypatch.setattr(machine, "here", lambda: told(machine.Gpu("H200", 1, "580", False), status="1 GPU"))
    assert device.lacks() is None
    device.needed()


