"""What notebook 31 measures: every form on every batch size, then requests that come by chance, batched as they come.

A form with a number of threads is a process of its own (sweeper.py), so that no engine's threads wait beside another's. Refuses nothing
itself: a size that is too slow or does not fit is a row that says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lib import home
from lib.measured import Broke, Found, Skipped, keep
from lib.pipelines import arrivals
from lib.profiling.affine import Affine, fit
from lib.profiling.batcher import Policy, served, simulated
from lib.profiling.breakdown import threads
from lib.profiling.session import Bench, Session
from lib.vision import classifier, detector, yolo

ENERGY = Path("/sys/class/powercap")  # where a Linux tells what its processor draws
RESNET, YOLO = "resnet50", "yolov8n"


@dataclass(frozen=True, slots=True)
class Form:
    """`file`: by the name that the classifiers or YOLOv8n give it; None for eager PyTorch."""

    name: str
    engine: Literal["PyTorch", "ONNX Runtime", "OpenVINO"]
    precision: Literal["f32", "bf16", "INT8"]
    files: tuple[str | None, str | None]  # ResNet-50's, YOLOv8n's
    env: Mapping[str, str] = field(default_factory=dict)


# glibc gives large and topmost free memory back to the system, and every page of it is a fault again: with these it keeps it.
KEPT = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456"}
FORMS = (
    Form("PyTorch eager", "PyTorch", "f32", (None, None)),
    Form("PyTorch eager, memory kept", "PyTorch", "f32", (None, None), KEPT),
    Form("ONNX Runtime fp32", "ONNX Runtime", "f32", (classifier.ONNX, yolo.ONNX)),
    Form("ONNX Runtime INT8", "ONNX Runtime", "INT8", (classifier.ONNX_INT8, yolo.ONNX_INT8)),
    Form("OpenVINO f32", "OpenVINO", "f32", (classifier.ONNX, yolo.ONNX)),
    Form("OpenVINO bf16", "OpenVINO", "bf16", (classifier.ONNX, yolo.ONNX)),
    Form("OpenVINO INT8", "OpenVINO", "INT8", (classifier.OPENVINO_INT8, yolo.OPENVINO_INT8)),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """`sizes`: of YOLOv8n's pictures, in `yolo_forms`. `alone`: forms that are swept with one thread, too. `loads`: arrivals, as shares of
    what the largest batch answers a second, `load_s` seconds each.
    """

    batches: tuple[int, ...]
    yolo_batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    budget_s: float
    rounds: int
    limit_s: float
    loads: tuple[float, ...]
    load_s: float
    policies: tuple[Policy, ...] = (Policy(1), Policy(8), Policy(8, 0.01))
    forms: tuple[Form, ...] = FORMS
    alone: tuple[Form, ...] = FORMS
    yolo_forms: tuple[Form, ...] = FORMS[2:]


FEW = (FORMS[2], FORMS[6])
PLANS = {
    "smoke": Plan((1, 2, 4), (1, 2), ((320, 320),), 0.06, 2, 1.0, (0.5,), 1.0, forms=FEW),
    "quick": Plan((1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8), ((320, 320), (640, 640)), 0.3, 3, 1.5, (0.5, 0.9), 3.0,
                  alone=FEW[1:], yolo_forms=FEW),
    "full": Plan((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64), (1, 2, 3, 4, 6, 8, 12, 16, 32), ((320, 320), (480, 640), (640, 640)),
                 2.0, 5, 4.0, (0.3, 0.5, 0.7, 0.8, 0.9), 30.0),
}  # fmt: skip


def swept(s: Session, plan: Plan) -> None:
    """Every form, with one thread and with all; then the loads."""
    if s.model is None:
        return
    keep(s.run, {"what": "energy"}, _energy, timed=False)
    for form, network, hw, count in _settings(plan):
        setting = {"what": "sweep", "network": network, "form": form.name, "size": f"{hw[0]}×{hw[1]}", "threads": count}
        keep(s.run, setting, partial(_swept, s.model, form, network, hw, count, plan))
    for load in plan.loads:
        for policy in plan.policies:
            setting = {"what": "served", "load": load, "policy": policy.name}
            keep(s.run, setting, partial(_served, s.model, load, policy, plan))


def _settings(plan: Plan) -> Iterator[tuple[Form, str, tuple[int, int], int]]:
    most = threads()
    for form in plan.forms:
        for count in sorted({1, most} if form in plan.alone else {most}):
            yield form, RESNET, classifier.HW, count
        for hw in plan.sizes if form in plan.yolo_forms else ():
            yield form, YOLO, hw, most


def _energy() -> Found:
    counters = [path for path in ENERGY.glob("*/energy_uj") if path.exists()]
    if not counters:
        raise Skipped("this machine does not tell what its processor draws: no joules here")
    return Found({}, {"counters": len(counters)}, {})


def _swept(bench: Bench, form: Form, network: str, hw: tuple[int, int], count: int, plan: Plan) -> Found:
    asked: dict[str, Any] = {
        "engine": form.engine, "network": network, "file": str(_file(bench, form, network) or ""), "hw": list(hw), "threads": count,
        "precision": "bf16" if form.precision == "bf16" else "f32", "budget_s": plan.budget_s, "rounds": plan.rounds,
        "limit_s": plan.limit_s, "batches": list(plan.batches if network == RESNET else plan.yolo_batches),
    }  # fmt: skip
    rows = _asked(asked, form.env, what=f"{network}, {form.name}")
    there = [row for row in rows if "ns" in row]
    samples = {str(row["batch"]): [[ns / 1e9 for ns in taken] for taken in row["ns"]] for row in there}
    facts = {"peak_bytes": {str(row["batch"]): row["peak_bytes"] for row in there},
             "lacks": {str(row["batch"]): row["lacks"] for row in rows if "lacks" in row}}  # fmt: skip
    return Found(samples, facts, {"6 books": None if there else "no batch was measured"})


def _file(bench: Bench, form: Form, network: str) -> Path | None:
    name = form.files[0 if network == RESNET else 1]
    try:
        return None if name is None else bench.classifiers.file(network, name) if network == RESNET else bench.yolo.file(name)
    except (classifier.NotReady, yolo.NotReady) as reason:
        raise Skipped(str(reason)) from reason


def _asked(asked: dict[str, Any], env: Mapping[str, str], *, what: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        question, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(asked))
        ran = subprocess.run([sys.executable, "-m", "lib.profiling.sweeper", str(question), str(answer)], capture_output=True, text=True,
                             timeout=600, cwd=home.ROOT, env={**os.environ, **env}, check=False)  # fmt: skip
        if ran.returncode:
            said = ran.stderr.strip().splitlines()[-1:] or ("without a word",)
            if "WrongDevice" in said[0]:
                raise Skipped(said[0].partition(": ")[2])
            raise Broke(f"{what}: ended with status {ran.returncode} ({said[0]})")
        told: list[dict[str, Any]] = json.loads(answer.read_text())
    return told


def _served(bench: Bench, load: float, policy: Policy, plan: Plan) -> Found:
    """Poisson arrivals at `load` of what a largest batch answers a second: for real, and simulated twice.

    "simulated_s" is from lines fitted right before and right after: what one could foretell. "paced_s" has the same line at the pace that
    passes had while requests were served: what the rules of the queue alone do.
    """
    largest = max(one.most for one in plan.policies)
    infers = _engines(bench.classifiers.file(RESNET, classifier.OPENVINO_INT8), largest)
    pictures = np.random.default_rng(0).random((largest, 3, *classifier.HW), np.float32)

    def infer(size: int) -> object:
        return infers[size].infer(pictures[:size])

    line = _line(infer, largest)
    rate = load * largest / line.seconds(largest)
    n = max(10, round(rate * plan.load_s))
    due_s = (arrivals.poisson(rate, n, seed=round(100 * load)) / 1e9).tolist()
    real, after = served(due_s, infer, policy), _line(infer, largest)
    between = Affine((line.fixed_s + after.fixed_s) / 2, (line.each_s + after.each_s) / 2)
    made = simulated(due_s, between.seconds, policy)
    pace = sum(real.passes_s) / sum(between.seconds(size) for size in real.batches)
    paced = simulated(due_s, lambda size: pace * between.seconds(size), policy)
    facts = {"rate_per_s": rate, "most": policy.most, "wait_s": policy.wait_s, "pace": pace, "wall_s": real.wall_s,
             "before": {"fixed_s": line.fixed_s, "each_s": line.each_s}, "after": {"fixed_s": after.fixed_s, "each_s": after.each_s},
             "batches": list(real.batches), "simulated_batches": list(made.batches)}  # fmt: skip
    lost = int(np.isnan(real.latency_s).sum())
    samples = {"latency_s": real.latency_s, "simulated_s": made.latency_s, "paced_s": paced.latency_s, "passes_s": np.array(real.passes_s)}
    return Found({name: each.round(6).tolist() for name, each in samples.items()}, facts,
                 {"6 books": f"{lost} requests were not answered" if lost else None})  # fmt: skip


@cache
def _engines(file: Path, largest: int) -> dict[int, detector.Detector]:
    """One for each size up to the largest; all loads are served by the same."""
    return {size: detector.openvino_detector(file, net_hw=classifier.HW, batch=size, threads=threads(), canvas=False)
            for size in range(1, largest + 1)}  # fmt: skip


def _line(infer: Any, largest: int) -> Affine:
    from lib.clock import measure

    sizes = sorted({1, 2, max(1, largest // 2), largest})
    return fit({size: measure(partial(infer, size), budget_s=0.2, warmup_s=0.05).median_s for size in sizes})
