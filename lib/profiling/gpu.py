"""What notebooks 30 and 31 measure on an NVIDIA GPU beside the processor: kernels of a pass, changes to a network, batches up to 256.

Each is a point whose setting says device "cuda", measured in the worker's processes by the GPU's own clock (cuda.py). Where there is no GPU
one row says why there is nothing. Refuses nothing itself: a variant that fails and a batch that does not fit are told in their point.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lib.measured import Broke, Found, keep
from lib.profiling import batches, breakdown, device, kernels, trace
from lib.profiling.asks import HW, RESNETS, ask, seconds, sweep
from lib.profiling.networks import GRAPH
from lib.profiling.session import Session

TRACED = ("eager", "channels_last, fp16", f"channels_last, fp16, {GRAPH}")
CHANGES = ("fp16", "channels_last", "channels_last, fp16", "channels_last, bf16", "channels_last, fp16, compile", GRAPH,
           f"channels_last, fp16, {GRAPH}")  # fmt: skip
FORMS = ("eager", "channels_last, fp16", "channels_last, fp16, compile", f"channels_last, fp16, {GRAPH}")
LARGER = (128, 256)  # than any batch of a processor
PASSES = 20
ROW = {"what": "on a GPU"}


def _here(s: Session) -> bool:
    """Whether there is a GPU to measure on; else the run has a row that says why not."""
    if s.model is None:
        return False
    if device.lacks():
        keep(s.run, ROW, _nothing, timed=False)
        return False
    return True


def _nothing() -> Found:
    device.needed()
    return Found({}, {}, {})


def profiled(s: Session, plan: breakdown.Plan) -> None:
    """Notebook 30's: kernels of each network in each of TRACED, and all CHANGES in turns."""
    for network in plan.networks if _here(s) else ():
        common = {"network": network, "batch": 1, "device": device.CUDA}
        for variant in TRACED:
            keep(s.run, {"what": "kernels", **common, "variant": variant}, partial(_kernels, network, variant, plan))
        keep(s.run, {"what": "changed on a GPU", **common}, partial(_changed, network, plan))


def swept(s: Session, plan: batches.Plan) -> None:
    """Notebook 31's: batches in each of FORMS, beside the processor's forms."""
    for network in (batches.RESNET, batches.YOLO) if _here(s) else ():
        sizes = plan.batches if network in RESNETS else plan.yolo_batches
        if max(plan.batches) >= LARGER[0] // 2:
            sizes = (*sizes, *(size for size in (*plan.batches, *LARGER) if size > max(sizes)))
        # YOLOv8n's head keeps its anchors from pass to pass: a graph of one batch would read what the next has freed
        for variant in FORMS if network in RESNETS else FORMS[:2]:
            setting = {"what": "sweep", "network": network, "form": f"PyTorch on a GPU: {variant}", "device": device.CUDA,
                       "size": "×".join(map(str, HW[network])), "threads": breakdown.threads()}  # fmt: skip
            keep(s.run, setting, partial(sweep, device.CUDA, network, variant, sizes, threads=breakdown.threads(),
                                         budget_s=plan.budget_s, rounds=plan.rounds, limit_s=plan.limit_s))  # fmt: skip


def _kernels(network: str, variant: str, plan: breakdown.Plan) -> Found:
    with tempfile.TemporaryDirectory(prefix="kernels-") as scratch:
        path = Path(scratch) / "trace.json"
        told, _ = ask("kernels", network, threads=breakdown.threads(), what=f"{network}, kernels", device=device.CUDA, variant=variant,
                      passes=max(PASSES, plan.passes), trace=str(path))  # fmt: skip
        try:
            return found(told, trace.parsed(path))
        except trace.BadTrace as reason:  # a driver may forbid to look at kernels
            raise Broke(str(reason)) from reason


def found(told: Mapping[str, Any], whole: Mapping[str, Any]) -> Found:
    """The point of a trace: its kernels as a series, passes and what tracing costs as facts. Raises BadTrace."""
    passes, asked = kernels.spans(whole), len(told["traced_ns"])
    frame = kernels.tidy(whole)
    wrong = None if len(passes) == asked == frame["pass"].nunique() else f"{frame['pass'].nunique()} passes were traced, not {asked}"
    samples = {f"{way}_s": [ns / 1e9 for ns in told[f"{way}_ns"]] for way in ("bare", "traced")}
    first = passes[0][0]
    facts = {"spans": [[begin - first, end - first] for begin, end in passes], "clock": told["clock"], "device": told["facts"]}
    shifted = frame.assign(**{name: frame[name] - first for name in ("begin_us", "call_us")})
    return Found(samples, facts, {"6 books": wrong}, {"kernels": shifted})


def _changed(network: str, plan: breakdown.Plan) -> Found:
    told, _ = ask("timed", network, threads=breakdown.threads(), what=f"{network}, changed on a GPU", timeout_s=900, device=device.CUDA,
                  variants=["eager", *CHANGES], rounds=plan.rounds, passes=PASSES, warm=3)  # fmt: skip
    beside = pd.DataFrame([{"way": way, "name": name, "round": turn, "ns": ns} for way in ("cold_ns", "wall_ns")
                           for name, rounds in told[way].items() for turn, taken in enumerate(rounds) for ns in taken])  # fmt: skip
    facts = {key: told[key] for key in ("ready_s", "failed", "answers", "clock")} | {"device": told["facts"]}
    return Found({name: seconds(rounds) for name, rounds in told["ns"].items()}, facts, {}, {"beside": beside})
