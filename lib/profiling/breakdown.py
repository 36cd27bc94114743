"""What notebook 30 measures, in the order in which it has to be: ceilings, accounts of a pass, predictions from them, then changes.

Each is a point of the run. Accounts are taken of the network as it is; a prediction is kept before what it speaks of is measured.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import audit, machine
from lib.measured import Broke, Found, Skipped, keep, points, series
from lib.profiling import accounts, ceilings, counters, ledger, networks, onednn, predictions, trace
from lib.profiling.asks import HW, RESNETS, ask
from lib.profiling.session import Bench, Session
from lib.vision import classifier, product, yolo
from lib.vision.detector import WrongDevice

MORE = 8  # the batch that is predicted
VERBOSE = {"ONEDNN_VERBOSE_TIMESTAMP": "1"}
LAID_OUT = "channels_last"  # the change of which oneDNN tells as well
WEIGHTS = ("seed 1", "denormal")  # does latency depend on weights?
CHANGES = ("folded", "channels_last", "folded, channels_last", "inference_mode", "folded, channels_last, bf16",
           "folded, channels_last, compile", "folded, channels_last, bf16, compile")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """`networks` that are taken apart. `turns` of `looks` passes with each way of looking, `traced` of them with modules in the trace;
    `rounds` of `passes` with each change. `judged`: pictures by which answers are held against float32's; None for all. `thorough`: every
    recipe of what rounding does to answers (rounding.py).
    """

    networks: tuple[str, ...]
    turns: int
    looks: int
    traced: int
    rounds: int
    passes: int
    budget_s: float
    judged: int | None = None
    thorough: bool = True


PLANS = {
    "smoke": Plan(("resnet18",), 2, 2, 1, 2, 3, 0.1, judged=8, thorough=False),
    "quick": Plan(("resnet50", "yolov8n"), 8, 2, 1, 6, 3, 0.3, thorough=False),
    "full": Plan(("resnet50", "resnet18", "yolov8n"), 20, 3, 1, 12, 6, 2.0),
}


def threads() -> int:
    """All processors that this process may use."""
    return len(os.sched_getaffinity(0))


def profiled(s: Session, plan: Plan) -> None:
    """All of it that the run does not hold yet."""
    if s.model is None:
        return
    _ceilings(s, plan)
    for network in plan.networks:
        common = {"network": network, "threads": threads()}
        keep(s.run, {"what": "counted", **common}, partial(_counted, network), timed=False)
        keep(s.run, {"what": "traced", **common}, partial(_watched, network, plan))
        if (file := _file(s.model, network)) is not None:
            keep(s.run, {"what": "engine", "engine": "ONNX Runtime", **common}, partial(_engine, file, network, plan, counters.onnxruntime))
            keep(s.run, {"what": "engine", "engine": "OpenVINO", **common}, partial(_engine, file, network, plan, counters.openvino))
    for network in (one for one in plan.networks if one in RESNETS):
        if (told := account(s, network)) is None:
            continue
        less = spared(s, network, told)
        keep(s.run, {"what": "predicted", "network": network}, partial(_predicted, told, less), timed=False)
        variants = (*CHANGES, *(f"without {name}" for name in less), networks.ONE_THREAD, f"batch {MORE}", *WEIGHTS)
        keep(s.run, {"what": "changed", "network": network, "threads": threads()}, partial(_changed, network, plan, variants))


def _ceilings(s: Session, plan: Plan) -> None:
    for place, size in ceilings.places(threads()).items():
        keep(s.run, {"what": "bandwidth", "place": place, "threads": threads()}, partial(_bandwidth, size, plan.budget_s), timed=False)
    for kind, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        for by in ("PyTorch", "OpenVINO"):
            keep(s.run, {"what": "product", "precision": kind, "by": by}, partial(_product, kind, hint, by, plan.budget_s), timed=False)


def _bandwidth(size: int, budget_s: float) -> Found:
    rate, timing = ceilings.bandwidth(size, threads=threads(), budget_s=budget_s)
    return Found({"s": list(timing.samples_s)}, {"rate": rate, "bytes": size}, {"repeats": audit.repeats(timing.samples_s)})


def _product(kind: Any, hint: Any, by: str, budget_s: float) -> Found:
    try:
        if by == "OpenVINO":
            rate, timing = product.product(hint, threads=threads(), budget_s=budget_s)
        elif (told := machine.matmul("cpu", kind, budget_s)).rate is None or told.timing is None:
            raise Skipped(told.reason or f"{kind} was not multiplied")
        else:
            rate, timing = told.rate, told.timing
    except WrongDevice as reason:
        raise Skipped(str(reason)) from reason
    return Found({"s": list(timing.samples_s)}, {"rate": rate}, {"repeats": audit.repeats(timing.samples_s)})


def _counted(network: str) -> Found:
    told, _ = ask("counted", network, threads=threads(), what=f"{network}, counted")
    ours = 2 * sum(one["macs"] for one in told["layers"])
    wrong = None if abs(ours / told["flops"] - 1) < 0.01 else f"layers come to {ours} FLOP, PyTorch's counter says {told['flops']}"
    return Found({}, told, {"6 books": wrong})


def _watched(network: str, plan: Plan) -> Found:
    with tempfile.TemporaryDirectory(prefix="trace-") as scratch:
        stacks = Path(scratch) / "stacks.txt"
        told, said = ask("watched", network, threads=threads(), what=f"{network}, watched", env=VERBOSE, traces=f"{scratch}/{{}}.json",
                         stacks=str(stacks), rounds=plan.turns, passes=plan.looks, traced=plan.traced, warm=3)  # fmt: skip
        wholes, plain = ([trace.parsed(Path(scratch) / f"{way}-{turn}.json") for turn in range(plan.turns)]
                         for way in ("whole", "profiler"))  # fmt: skip
        frame, operators = (trace.joined([trace.tidy(one) for one in each]) for each in (wholes, plain))
        few = trace.read(Path(scratch) / "little-profiler-0.json")
        folded = stacks.read_text(errors="replace").splitlines()
    turn, number = divmod(ledger.median_pass(frame), plan.traced)
    one = json.dumps(trace.one_pass(wholes[turn], number), separators=(",", ":"))
    little, lines = told["little"], _said(said)
    passes = plan.turns * plan.looks
    own = lines["pass"] < passes  # of the pictures themselves; then come the little ones'
    samples = {f"{of}{way}_s": [[ns / 1e9 for ns in turn] for turn in taken]
               for of, each in (("", told), (accounts.OF_LITTLE, little)) for way, taken in each["ns"].items()}  # fmt: skip
    facts = {**{key: told[key] for key in ("cost_ns", "torch", "faults")}, "stacks": len(folded), "little_faults": little["faults"],
             "little_rows": {"profiler": int((few["kind"] != "pass").sum()) / plan.looks, "hooks": len(little["calls"][0]),
                             "onednn": int((~own).sum()) / passes},
             "modules": {name: kind for name, kind, _ in told["modules"] if name}}  # fmt: skip
    seen = int(frame["pass"].max()) + 1
    wrong = None if seen == plan.turns * plan.traced else f"{seen} passes were traced, not {plan.turns * plan.traced}"
    kept = {"trace": frame.drop(columns="begin_us"), "operators": operators[list(ledger.TOLD)], "one": pd.DataFrame({"json": [one]}),
            "stacks": pd.DataFrame({"line": folded}), "calls": accounts.calls(told["calls"], told["modules"]),
            "primitives": lines[own]}  # fmt: skip
    return Found(samples, facts, {"6 books": wrong}, kept)


def _said(said: str) -> pd.DataFrame:
    try:
        return onednn.read(said.splitlines())
    except onednn.BadVerbose as reason:
        raise Broke(str(reason)) from reason


def _file(bench: Bench, network: str) -> Path | None:
    """The network as ONNX; None where it was not exported, and is profiled in PyTorch alone."""
    if network == "yolov8n":
        return bench.yolo.file(yolo.ONNX)
    return bench.classifiers.file(network, classifier.ONNX) if network in classifier.NETWORKS else None


def _engine(file: Path, network: str, plan: Plan, run: Any) -> Found:
    x = np.random.default_rng(7).random((1, 3, *HW[network]), np.float32)
    try:
        told = run(file, x, threads=threads(), turns=plan.turns, passes=2 * plan.looks)
    except WrongDevice as reason:
        raise Skipped(str(reason)) from reason
    return Found({"bare_s": told.bare_s, "watched_s": told.watched_s}, {"node_us": told.node_us}, {}, {"nodes": told.nodes})


def account(s: Session, network: str) -> predictions.Account | None:
    """What two accounts of a network say, the profiler's of operators and oneDNN's of primitives; None where it was not watched."""
    seen, made = accounts.traced(s, network), accounts.eager(s, network)
    if seen is None or accounts.PROFILER not in made:
        return None
    named, primitives = ({str(part): float(us) for part, us in zip(made[by]["part"], made[by]["us"], strict=True)}
                         for by in (accounts.PROFILER, accounts.ONEDNN))  # fmt: skip
    layers = trace.modules(series(s.run, seen, "trace")).groupby("module")["whole_us"].median()
    return predictions.Account(float(made[accounts.PROFILER]["us"].sum()), named,
                               {part.removeprefix("oneDNN: "): us for part, us in primitives.items()},
                               {str(name): float(us) for name, us in layers.items()}, rates(s))  # fmt: skip


def rates(s: Session) -> dict[str, float]:
    """Precision → the best rate of a matrix product here, FLOP/s."""
    found: dict[str, float] = {}
    for point in points(s.run, "product"):
        found[point["precision"]] = max(found.get(point["precision"], 0.0), float(point["facts"]["rate"]))
    return found


def spared(s: Session, network: str, told: predictions.Account) -> tuple[str, ...]:
    """Modules that the network can do without, for what they take and give has one shape: the slowest block, and the slowest layer.

    A layer is a convolution with its batch norm and activation, which stand in one module.
    """
    counted = next(p for p in points(s.run, "counted") if p["network"] == network)["facts"]["layers"]
    layers = [one["name"].removesuffix(".convolution") for one in counted if one["kind"] == "Conv2d" and one["in"][0] == one["out"]]
    blocks = [name for name in told.layers_us if re.fullmatch(r"resnet\.encoder\.stages\.\d\.layers\.\d+", name)
              and f"{name}.shortcut.convolution" not in told.layers_us]  # fmt: skip
    return tuple(max(names, key=lambda name: told.layers_us[name]) for names in (blocks, layers) if names)


def _predicted(told: predictions.Account, less: tuple[str, ...]) -> Found:
    roofs = told.roofs
    bf16 = roofs["bfloat16"] / roofs["float32"] if {"bfloat16", "float32"} <= roofs.keys() else 1.0
    made = predictions.from_profile(told, without=less, batch=MORE, bf16=bf16)
    absurd = [one.name for one in made if not one.expects_us > 0]
    return Found({}, {"predictions": [asdict(one) for one in made], "whole_us": told.whole_us},
                 {"6 books": f"no time is left: {', '.join(absurd)}" if absurd else None})  # fmt: skip


def _changed(network: str, plan: Plan, variants: tuple[str, ...]) -> Found:
    told, said = ask("timed", network, threads=threads(), what=f"{network}, changed", timeout_s=900, env=VERBOSE, rounds=plan.rounds,
                     variants=["eager", *variants], passes=plan.passes, warm=1, speaks=LAID_OUT)  # fmt: skip
    samples = {name: [[ns / 1e9 for ns in taken] for taken in rounds] for name, rounds in told["ns"].items()}
    facts: Mapping[str, Any] = {key: told[key] for key in ("ready_s", "failed", "answers")}
    return Found(samples, facts, {}, {"primitives": _said(said)} if LAID_OUT in samples else None)
