"""Notebooks 30 and 31 on a GPU: one row where there is none; where there is one, its points and their tables, from made-up answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from pytest import approx

from lib import record
from lib.profiling import asks, batches, breakdown, device, gpu, gpu_views
from lib.profiling.session import Bench, Session
from lib.session import Opened
from tests.profiling.events import two_streams
from tests.profiling.test_views import begun

PLAN = breakdown.Plan(("resnet18",), turns=2, looks=2, traced=1, rounds=2, passes=3, budget_s=0.1)
FACTS = {"gpu": "Fake H200", "l2_bytes": 50_000_000}


def of(s: Session) -> Session:
    """The session with something to measure; what it is, nobody here looks at."""
    return Session(s.opened, cast(Bench, object()))


def answer(job: str, network: str, **asked: Any) -> tuple[dict[str, Any], str]:
    """What a worker on a GPU would say: a pass of `two_streams`, fp16 twice as fast as eager, no memory for 256 pictures."""
    assert asked["device"] == "cuda"
    if job == "kernels":
        if asked["variant"].endswith("cuda graph"):
            Path(asked["trace"]).write_text('{"traceEvents": []}')
        else:
            whole = two_streams()
            whole["traceEvents"][0]["name"] = "pass"
            Path(asked["trace"]).write_text(json.dumps(whole))
        return {"bare_ns": [190_000], "traced_ns": [200_000], "clock": {"settled": True}, "facts": FACTS}, ""
    if job == "timed":
        ns = {"eager": [[2_000_000] * 2] * 2, "fp16": [[1_000_000] * 2] * 2}
        beside = {"cold_ns": {name: [[2 * one for one in turn] for turn in rounds] for name, rounds in ns.items()}, "wall_ns": ns}
        return {"ns": ns, **beside, "ready_s": {}, "failed": {"channels_last, fp16, compile": "RuntimeError: no compiler"},
                "answers": {"fp16": {"off": 0.001, "same": None}}, "clock": {"settled": True}, "facts": FACTS}, ""  # fmt: skip
    rows = [{"batch": batch, "ns": [[batch * 100_000] * 3] * 2, "peak_bytes": batch * 10**6} for batch in asked["batches"] if batch < 256]
    return {"rows": [*rows, {"batch": 256, "lacks": "OutOfMemoryError: CUDA out of memory"}], "facts": FACTS}, ""


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(device, "lacks", lambda: None)
    monkeypatch.setattr(gpu, "ask", answer)
    monkeypatch.setattr(asks, "ask", answer)
    return of(begun(tmp_path, monkeypatch, "30_profile_layers"))


def test_without_a_gpu_there_is_one_row_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "lacks", lambda: "needs an NVIDIA GPU (no GPU: a test)")
    monkeypatch.setattr(gpu, "ask", lambda *_, **__: pytest.fail("a worker was started"))
    s = of(begun(tmp_path, monkeypatch, "30_profile_layers"))
    for _ in range(2):
        gpu.profiled(s, PLAN)
        gpu.swept(s, batches.PLANS["quick"])
    assert [(p.setting, p.status, p.reason) for p in s.run.points()] == [
        ({"what": "on a GPU"}, "skipped", "needs an NVIDIA GPU (no GPU: a test)")]  # fmt: skip
    for table in (gpu_views.passes(s), gpu_views.top(s, "resnet50"), gpu_views.changes(s), gpu_views.swept(s)):
        assert table["status"].tolist() == ["not measured: needs an NVIDIA GPU (no GPU: a test)"]
    assert set(gpu_views.finding(s, "resnet50").values()) == {None}


def test_a_run_of_before_there_was_a_gpu_path_has_the_row_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = begun(tmp_path, monkeypatch, "30_profile_layers")
    gpu.profiled(s, PLAN)  # nothing to measure with: a recorded run
    assert not s.run.points() and gpu_views.passes(s)["status"].tolist() == ["not measured: needs an NVIDIA GPU"]


def test_a_pass_and_its_changes_on_a_gpu(on_gpu: Session) -> None:
    gpu.profiled(on_gpu, PLAN)
    told = {(p.setting["what"], p.setting.get("variant")): p for p in on_gpu.run.points()}
    assert all(p.setting["device"] == "cuda" for p in told.values())
    lost = told["kernels", "channels_last, fp16, cuda graph"]
    assert lost.status == "failed" and "no kernel" in str(lost.reason), "a driver that forbids to look is a row, and the rest goes on"
    (eager, half) = gpu_views.passes(on_gpu).to_dict("records")
    assert (eager["variant"], half["variant"], eager["held by"], eager["kernels"]) == ("eager", "channels_last, fp16", "host", 5)
    assert (eager["ms"], eager["watched, ms"], eager["computes"], eager["after the last"]) == (approx(0.19), approx(0.2), "41%", "36%")
    assert eager["clock"] == "settled"
    assert (eager["gaps of the busiest stream"], eager["longest, µs"]) == ("29%", 27), "5 + 2 + 27 of 119 µs"
    kernels = gpu_views.top(on_gpu, "resnet18").set_index("kernel")
    assert kernels["µs"].to_dict() == {"conv": 50, "gemm": 30, "side": 20, "Memcpy HtoD": 5}
    assert gpu_views.top(on_gpu, "resnet18", by="module")["module"].tolist() == ["stem", "head", ""]
    changes = gpu_views.changes(on_gpu).set_index("variant")
    assert changes.loc["fp16", ["ms, warm L2", "ms, cold L2", "ms, for a caller", "× eager"]].tolist() == approx([1, 2, 1, 2])
    assert changes.loc["channels_last, fp16, compile", "why not"] == "RuntimeError: no compiler"
    finding = gpu_views.finding(on_gpu, "resnet18")
    assert (finding["gpu"], finding["bound"], finding["variant"], finding["times"]) == ("Fake H200", "host", "fp16", 2)


def test_batches_on_a_gpu_are_forms_of_the_same_sweep(on_gpu: Session) -> None:
    gpu.swept(on_gpu, batches.PLANS["quick"])
    told = {(p.setting["network"], p.setting["form"]): p for p in on_gpu.run.points()}
    assert {(p.setting["what"], p.setting["device"], p.status) for p in told.values()} == {("sweep", "cuda", "ok")}
    assert [form for network, form in told if network == "yolov8n"] == ["PyTorch on a GPU: eager", "PyTorch on a GPU: channels_last, fp16"]
    eager = told["resnet50", "PyTorch on a GPU: eager"]
    assert [int(batch) for batch in eager.samples] == [1, 2, 4, 8, 16, 32, 64, 128] and list(eager.facts["lacks"]) == ["256"]
    assert list(told["yolov8n", "PyTorch on a GPU: eager"].samples) == ["1", "2", "4", "8", "16", "32", "64", "128"]
    table = gpu_views.swept(on_gpu).set_index(["network", "variant", "batch"])
    assert table.loc[("resnet50", "eager", 8), ["ms", "per_s", "MB"]].tolist() == approx([0.8, 10_000, 8])
    assert table.loc[("resnet50", "eager", 256), "why not"] == "OutOfMemoryError: CUDA out of memory"


def test_a_smoke_run_stays_small(on_gpu: Session) -> None:
    gpu.swept(on_gpu, batches.PLANS["smoke"])
    told = next(p for p in on_gpu.run.points() if p.setting["network"] == "resnet50")
    assert list(told.samples) == ["1", "2", "4"]


def test_another_machine_s_gpu_speaks_where_this_one_has_none(on_gpu: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.profiled(on_gpu, PLAN)
    here = begun(tmp_path / "here", monkeypatch, "30_profile_layers")
    beside = replace(here.opened, beside=(on_gpu.run,))
    told: record.Run | None = gpu_views.speaks(Session(beside, None))
    assert told is not None and told.run_id == on_gpu.run.run_id
    assert isinstance(beside, Opened) and gpu_views.speaks(here) is None
