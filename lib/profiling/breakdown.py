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
from lib.profiling import ceilings, counters, ledger, onednn, predictions, trace
from lib.profiling.asks import HW, RESNETS, ask
from lib.profiling.session import Bench, Session
from lib.vision import classifier, product, yolo
from lib.vision.detector import WrongDevice

MORE = 8  # the batch that is predicted
VERBOSE = {"ONEDNN_VERBOSE": "profile_exec"}
CHANGES = ("folded", "channels_last", "folded, channels_last", "inference_mode", "folded, channels_last, bf16",
           "folded, channels_last, compile", "folded, channels_last, bf16, compile")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """`networks` that are taken apart; `rounds` of `passes` with each way of looking, and with each change.

    `judged`: pictures by which answers are held against float32's; None for all.
    """

    networks: tuple[str, ...]
    rounds: int
    passes: int
    budget_s: float
    judged: int | None = None


PLANS = {
    "smoke": Plan(("resnet18",), 2, 3, 0.1, judged=8),
    "quick": Plan(("resnet50", "resnet18", "yolov8n"), 5, 10, 1.0),
    "full": Plan(("resnet50", "resnet18", "yolov8n"), 12, 25, 3.0),
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
        keep(s.run, {"what": "traced", **common}, partial(_traced, network, plan))
        keep(s.run, {"what": "spoken", **common}, partial(_spoken, network, plan))
        if (file := _file(s.model, network)) is not None:
            keep(s.run, {"what": "engine", "engine": "ONNX Runtime", **common}, partial(_engine, file, network, plan, counters.onnxruntime))
            keep(s.run, {"what": "engine", "engine": "OpenVINO", **common}, partial(_engine, file, network, plan, counters.openvino))
    for network in (one for one in plan.networks if one in RESNETS):
        if (told := account(s, network)) is None:
            continue
        less = spared(s, network, told)
        keep(s.run, {"what": "predicted", "network": network}, partial(_predicted, told, less), timed=False)
        changes = (*CHANGES, *(f"without {name}" for name in less))
        keep(s.run, {"what": "changed", "network": network, "threads": threads(), "batch": 1}, partial(_changed, network, plan, changes))
        keep(s.run, {"what": "changed", "network": network, "threads": 1, "batch": 1}, partial(_changed, network, plan, (), threads=1))
        keep(s.run, {"what": "changed", "network": network, "threads": threads(), "batch": MORE},
             partial(_changed, network, plan, (), batch=MORE))  # fmt: skip
        keep(s.run, {"what": "weights", "network": network}, partial(_weights, network, plan))
        keep(s.run, {"what": "spoken again", "network": network, "variant": "channels_last", "threads": threads()},
             partial(_spoken, network, plan, "channels_last"))  # fmt: skip


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


def _traced(network: str, plan: Plan) -> Found:
    with tempfile.TemporaryDirectory(prefix="trace-") as scratch:
        path, stacks = Path(scratch) / "trace.json", Path(scratch) / "stacks.txt"
        told, _ = ask("traced", network, threads=threads(), what=f"{network}, traced", trace=str(path), stacks=str(stacks),
                      rounds=plan.rounds, passes=plan.passes, warm=5)  # fmt: skip
        whole = trace.parsed(path)
        frame = trace.tidy(whole)
        folded = stacks.read_text(errors="replace").splitlines()
    one = json.dumps(trace.one_pass(whole, ledger.median_pass(frame)), separators=(",", ":"))
    samples = {f"{way}_s": [ns / 1e9 for ns in taken] for way, taken in told["ns"].items()}
    facts = {"events": told["events"], "tick_ns": told["tick_ns"], "modules": told["modules"], "torch": told["torch"],
             "stacks": len(folded)}  # fmt: skip
    passes = int(frame["pass"].max()) + 1
    wrong = None if passes == plan.passes else f"the trace holds {passes} passes, {plan.passes} were made"
    kept = {"trace": frame.drop(columns="begin_us"), "one": pd.DataFrame({"json": [one]}), "stacks": pd.DataFrame({"line": folded})}
    return Found(samples, facts, {"6 books": wrong}, kept)


def _spoken(network: str, plan: Plan, variant: str = "eager") -> Found:
    told, said = ask("spoken", network, threads=threads(), what=f"{network}, oneDNN", env=VERBOSE, variant=variant, warm=5,
                     passes=plan.passes)  # fmt: skip
    try:
        frame = onednn.read(said.splitlines())
    except onednn.BadVerbose as reason:
        raise Broke(str(reason)) from reason
    return Found({"s": [ns / 1e9 for ns in told["ns"]]}, {}, {}, {"primitives": frame})


def _file(bench: Bench, network: str) -> Path | None:
    """The network as ONNX; None where it was not exported, and is profiled in PyTorch alone."""
    if network == "yolov8n":
        return bench.yolo.file(yolo.ONNX)
    return bench.classifiers.file(network, classifier.ONNX) if network in classifier.NETWORKS else None


def _engine(file: Path, network: str, plan: Plan, run: Any) -> Found:
    x = np.random.default_rng(7).random((1, 3, *HW[network]), np.float32)
    try:
        nodes, walls_us, bare_s = run(file, x, threads=threads(), passes=plan.rounds * plan.passes)
    except WrongDevice as reason:
        raise Skipped(str(reason)) from reason
    return Found({"bare_s": bare_s, "watched_s": [us / 1e6 for us in walls_us]}, {}, {}, {"nodes": nodes})


def watching_us(traced: Mapping[str, Any]) -> float:
    """What watching added to a pass of this trace, µs."""
    scopes_us = 1e6 * float(np.median(traced["samples"]["scopes_s"]) - np.median(traced["samples"]["bare_s"]))
    return ledger.watching_us(traced["facts"]["events"], traced["facts"]["tick_ns"], scopes_us)


def account(s: Session, network: str) -> predictions.Account | None:
    """What the accounts of a network say together; None where one of them is missing."""
    traced = next((p for p in points(s.run, "traced") if p["network"] == network), None)
    spoken = next((p for p in points(s.run, "spoken") if p["network"] == network), None)
    if traced is None or spoken is None:
        return None
    frame = series(s.run, traced, "trace")
    bare_us = 1e6 * float(np.median(traced["samples"]["bare_s"]))
    watching = watching_us(traced)
    told = ledger.onednn(frame, series(s.run, spoken, "primitives"), bare_us=bare_us, watching=watching)
    named = {str(part): float(us) for part, us in zip(told["part"], told["us"], strict=True)}
    primitives = {part.removeprefix("oneDNN: "): us for part, us in named.items() if part.startswith("oneDNN: ")}
    layers = trace.modules(frame).groupby("module")["whole_us"].median()
    roofs: dict[str, float] = {}
    for point in points(s.run, "product"):
        roofs[point["precision"]] = max(roofs.get(point["precision"], 0.0), float(point["facts"]["rate"]))
    return predictions.Account(bare_us, named, primitives, {str(name): float(us) for name, us in layers.items()}, roofs)


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


def _changed(network: str, plan: Plan, changes: tuple[str, ...], *, threads: int | None = None, batch: int = 1) -> Found:
    told, _ = ask("timed", network, threads=threads or _all(), what=f"{network}, changed", timeout_s=900, variants=["eager", *changes],
                  rounds=plan.rounds, passes=max(3, plan.passes // batch), warm=2, batch=batch)  # fmt: skip
    samples = {name: [[ns / 1e9 for ns in taken] for taken in rounds] for name, rounds in told["ns"].items()}
    facts: Mapping[str, Any] = {key: told[key] for key in ("ready_s", "failed", "answers")}
    return Found(samples, facts, {})


def _all() -> int:
    return threads()


def _weights(network: str, plan: Plan) -> Found:
    """Two seeds, and weights so small that products are denormal, in turns: does latency depend on weights?"""
    told, _ = ask("timed", network, threads=threads(), what=f"{network}, weights", variants=["eager", "seed 1", "denormal"],
                  rounds=plan.rounds, passes=plan.passes, warm=2)  # fmt: skip
    return Found({name: [[ns / 1e9 for ns in taken] for taken in rounds] for name, rounds in told["ns"].items()}, {}, {})
