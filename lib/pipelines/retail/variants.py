"""Each variant of the network alone: the time of an inference, what it finds in frames that it never learned from, the memory it takes.

Beside each variant runs the reference, before and after: a machine's pace changes with the minute, so speeds are compared with what ran
in the same one. Refuses to judge on frames that an INT8 variant was calibrated on; there are none, the calibration saw other pictures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib import audit, home, machine
from lib.clock import Timing
from lib.measured import Found, Skipped, keep
from lib.pipelines.retail import ladder, walk
from lib.pipelines.retail.ladder import REFERENCE, Variant
from lib.pipelines.retail.plan import Plan
from lib.pipelines.retail.session import Session, Shop
from lib.vision import head, letterbox, yolo
from lib.vision.boxes import Boxes
from lib.vision.clip import frames as frames_of
from lib.vision.coco import PERSON
from lib.vision.detector import Detector, WrongDevice
from lib.vision.product import product
from lib.vision.yolo import Yolo

JUDGED = 9  # every so many frames are looked at to judge a variant; the hand-labelled ones, every 27th, are among them
LEAST_SCORE = 0.05  # boxes are kept down to here: average precision wants the unsure ones
CEILINGS: dict[str, Literal["f32", "bf16"]] = {"matmul float32": "f32", "matmul bfloat16": "bf16"}
BESIDE = 12  # inferences of the reference before and after each variant


def models(s: Session) -> None:
    """What was built, from what, and how large it is."""
    if s.model is not None:
        keep(s.run, {"what": "models"}, partial(_models, s.model.yolo), timed=False)


def _models(built: Yolo) -> Found:
    """What was built, if it is still what was built."""
    other = [name for name, told in built.facts["files"].items() if yolo.summed(built.file(name))["sha256"] != told["sha256"]]
    wrong = f"{', '.join(other)} changed since it was built" if other else None
    return Found({}, {"version": built.version, **built.facts}, {"6 sums": wrong})


def ceiling(s: Session) -> None:
    """What the processors do at most in matrix products, which is what convolutions are: PyTorch's and OpenVINO's, the better counts."""
    if s.model is None or all(s.run.measured({"what": "ceiling", "name": name, "by": "PyTorch"}) for name in CEILINGS):
        return
    for told in machine.ceilings(budget_s=0.5):
        if told.name in CEILINGS and told.timing is not None and told.rate is not None:
            found = partial(_ceiling, told.rate, told.timing)
            keep(s.run, {"what": "ceiling", "name": told.name, "by": "PyTorch"}, found, timed=False)
    for name, precision in CEILINGS.items():
        keep(s.run, {"what": "ceiling", "name": name, "by": "OpenVINO"}, partial(_product, precision), timed=False)


def _product(precision: Literal["f32", "bf16"]) -> Found:
    try:
        return _ceiling(*product(precision, threads=ladder.processors()))
    except WrongDevice as reason:
        raise Skipped(str(reason)) from reason


def _ceiling(rate: float, timing: Timing) -> Found:
    return Found({"s": list(timing.samples_s)}, {"rate": rate}, {"repeats": audit.repeats(timing.samples_s)})


def variants(s: Session, plan: Plan) -> None:
    """Each variant alone: time of an inference, what it finds on the judged frames, the memory it takes."""
    if s.model is None:
        return
    for variant in plan.variants:
        for turn in range(1 if variant.torch else plan.rounds):
            setting: dict[str, Any] = {"what": "variant", "name": variant.name, "round": turn}
            keep(s.run, setting, partial(_variant, s.model, variant, plan, judged=turn == 0))
            if turn == 0 and not s.run.measured(setting):
                break  # what cannot run here cannot in another round either
        if variant.make and s.run.measured({"what": "variant", "name": variant.name, "round": 0}):
            keep(s.run, {"what": "memory", "name": variant.name}, partial(_memory, variant), timed=False)


def canvases(shop: Shop, net_hw: tuple[int, int], every: int = JUDGED, last: int | None = None) -> tuple[list[int], NDArray[np.uint8]]:
    """Frames of the clip by number, and each as the network is shown it, (n, H, W, 3)."""
    numbers, images = zip(*frames_of(shop.clip, every=every, last=last), strict=True)
    fitted = np.empty((len(images), *net_hw, 3), np.uint8)
    for image, out in zip(images, fitted, strict=True):
        letterbox.letterbox(image, letterbox.fit(shop.floor.frame_hw, net_hw), out)
    return list(numbers), fitted


def _variant(shop: Shop, variant: Variant, plan: Plan, *, judged: bool) -> Found:
    numbers, shown = canvases(shop, variant.net_hw)
    reference = ladder.named(REFERENCE)
    beside = reference.detector(shop)
    before_s = timed(beside, canvases(shop, reference.net_hw, last=JUDGED)[1], BESIDE)
    facts = {"engine": variant.engine, "precision": variant.precision, "net_hw": variant.net_hw, "changed": variant.changed}
    if variant.torch:
        taken_s, raws, more = _by_torch(variant.torch, shown, repeats=max(1, plan.infers // len(shown)))
        facts |= more
    else:
        made = variant.detector(shop)
        taken_s = timed(made, shown, plan.infers)
        prepare = walk.preparing(made)
        raws = (made.infer(prepare(canvas[None]))[0] for canvas in shown) if judged else ()
    after_s = timed(beside, canvases(shop, reference.net_hw, last=JUDGED)[1], BESIDE)
    series = None
    if judged:
        fit = letterbox.fit(shop.floor.frame_hw, variant.net_hw)
        found = [head.boxes(raw, fit, labels=(PERSON,), score=LEAST_SCORE) for raw in raws]
        series = {"boxes": table(numbers, found)}
    return Found({"infer_s": taken_s, "beside_s": [*before_s, *after_s]}, {**facts, "frames": numbers}, {}, series)


def timed(made: Detector, shown: NDArray[np.uint8], times: int) -> list[float]:
    """Seconds of each of `times` inferences, one after another, on canvases in turn; three before them warm up."""
    prepare, taken = walk.preparing(made), []
    for turn in range(times + 3):
        x = prepare(shown[turn % len(shown)][None])
        began_ns = perf_counter_ns()
        made.infer(x)
        taken.append((perf_counter_ns() - began_ns) / 1e9)
    return taken[3:]


def table(numbers: Sequence[int], found: Sequence[Boxes]) -> pd.DataFrame:
    """Boxes of frames, one row a box."""
    rows = [(number, *corners, score) for number, boxes in zip(numbers, found, strict=True)
            for corners, score in zip(boxes.xyxy.tolist(), boxes.score.tolist(), strict=True)]  # fmt: skip
    kinds = {"frame": np.int16, **dict.fromkeys(("left", "top", "right", "bottom", "score"), np.float32)}
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)


def _by_torch(variant: str, shown: NDArray[np.uint8], *, repeats: int) -> tuple[list[float], Any, dict[str, Any]]:
    """PyTorch's worker, in its own environment. Raises Skipped."""
    with tempfile.TemporaryDirectory(prefix=".torch-", dir=home.cache()) as scratch:
        given, answer = Path(scratch) / "canvases.npy", Path(scratch) / "raw.npy"
        np.save(given, shown)
        job = {"job": "pytorch", "variant": variant, "canvases": str(given), "raw": str(answer), "repeats": repeats,
               "threads": ladder.processors()}  # fmt: skip
        told = yolo.ask(job, what=f"PyTorch {variant}", say=lambda line: None)
        if "skipped" in told:
            raise Skipped(told["skipped"])
        raws = list(np.load(answer))
    return [ns / 1e9 for ns in told["ns"]], raws, {"peak_bytes": told["peak_bytes"], "warm_s": told["warm_s"], "torch": told["torch"]}


def _memory(variant: Variant) -> Found:
    """In a process of its own: what making the detector and five inferences add to it."""
    ran = subprocess.run([sys.executable, "-m", "lib.pipelines.retail.weigh", variant.name], capture_output=True, text=True, timeout=120,
                         cwd=home.ROOT)  # fmt: skip
    if ran.returncode:
        raise Skipped(ran.stderr.strip().splitlines()[-1])
    told = json.loads(ran.stdout)
    wrong = None if told["before_bytes"] < told["used_bytes"] else "the network took no memory"
    return Found({}, told, {"6 books": wrong})
