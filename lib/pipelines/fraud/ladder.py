"""From what most people deploy first to the best that was found, a step at a time, each with its price a row.

Every step is timed on rows of its own, one row at a time: one row repeated would train the branch predictor on itself. Warm is one
row after another; cold is a row after the caches were swept, as it is for a service that does other things between two transactions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.fraud import forest
from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.forest import Scorer
from lib.pipelines.fraud.journal import Decision
from lib.pipelines.fraud.model import Model
from lib.pipelines.fraud.windows import Event, Stats

MOST = 2_000  # samples of a batch: of the quickest more would fill the record and say nothing new
SWEEP_BYTES = 64 << 20  # more than any cache of the machines we know


@dataclass(frozen=True, slots=True)
class Step:
    """A way to score rows. `changed`: what it does other than the step before."""

    name: str
    changed: str
    make: Callable[[Model], Scorer]


SCORING = (
    Step("LightGBM", "boosted trees instead of the shipped forest, library's own predict", forest.Native),
    Step("LightGBM, fast C call", "its single-row C function, no checks a call", forest.NativeFast),
    Step("ONNX Runtime", "the same trees as an ONNX graph", forest.Onnx),
    Step("tl2cgen", "the trees as C, compiled ahead", forest.Tl2cgen),
    Step("oneDAL", "the trees in Intel's library", forest.OneDal),
    Step("lleaves, compiled", "the trees as LLVM code, linked ahead, called through a pointer", forest.Compiled),
)


def singles(score: Callable[[NDArray[np.float32]], object], rows: NDArray[np.float32], *, warmup: int = 500) -> NDArray[np.int64]:
    """ns of each row on its own, one after another."""
    return each(score, [rows[i : i + 1] for i in range(len(rows))], warmup=warmup)


def each(work: Callable[[Any], object], things: Sequence[Any], *, warmup: int = 500) -> NDArray[np.int64]:
    """ns of `work` on each thing, one after another, after the first `warmup` of them."""
    for thing in things[:warmup]:
        work(thing)
    taken = np.empty(len(things), np.int64)
    for place, thing in enumerate(things):
        began = perf_counter_ns()
        work(thing)
        taken[place] = perf_counter_ns() - began
    return taken


def cold(score: Callable[[NDArray[np.float32]], object], rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """ns of each row when the caches hold nothing of the model."""
    other = np.zeros(SWEEP_BYTES // 8)
    taken = np.empty(len(rows), np.int64)
    for place in range(len(rows)):
        other += 1.0
        one = rows[place : place + 1]
        began = perf_counter_ns()
        score(one)
        taken[place] = perf_counter_ns() - began
    return taken


def batches(score: Callable[[NDArray[np.float32]], object], rows: NDArray[np.float32], *, size: int, budget_s: float) -> list[float]:
    """Seconds of each batch of `size` different rows, for `budget_s` and at most MOST of them."""
    if size > len(rows):
        raise ValueError(f"a batch of {size} rows out of {len(rows)}")
    starts = range(0, len(rows) - size + 1, size)
    score(rows[:size])
    taken: list[float] = []
    ends = perf_counter() + budget_s
    while len(taken) < 3 or (perf_counter() < ends and len(taken) < MOST):
        start = starts[len(taken) % len(starts)]
        began = perf_counter()
        score(rows[start : start + size])
        taken.append(perf_counter() - began)
    return taken


class Blank:
    """Windows that remember nothing: what the history costs is the difference."""

    name = "none"

    def observe(self, events: Sequence[Event]) -> list[Stats]:
        return [(0, 0.0, 0, 0.0)] * len(events)

    def newest(self) -> int | None:
        return None

    def close(self) -> None: ...


class Nowhere:
    """A log that keeps nothing: what the log costs is the difference."""

    fault = None

    def append(self, decisions: Sequence[Decision]) -> None: ...

    def recent(self, n: int) -> list[Decision]:
        return []

    def window(self, seconds: int) -> list[Event]:
        return []

    def close(self) -> None: ...


def frames(model: Model) -> Callable[[bytes], bytes]:
    """Bytes to bytes as a first version does it: json, a pandas frame with names, the library's predict. No history, no log."""
    import lightgbm
    import pandas as pd

    booster = lightgbm.Booster(model_file=str(model.root / "model.txt"))
    names, (a, b) = list(NAMES), model.calibration

    def decide(body: bytes) -> bytes:
        sent = json.loads(body)
        row = pd.DataFrame([[*sent["v"], sent["amount"], sent["time"] % 86_400, 0, 0.0, 0, 0.0, 0.0]], columns=names)
        margin = booster.predict(row, raw_score=True, num_threads=1)[0]
        return json.dumps({"id": sent["id"], "probability": float(1 / (1 + np.exp(-(a * margin + b))))}).encode()

    return decide


def arrays(model: Model) -> Callable[[bytes], bytes]:
    """The same without pandas: json, a NumPy row, the library's predict."""
    import lightgbm

    booster = lightgbm.Booster(model_file=str(model.root / "model.txt"))
    a, b = model.calibration

    def decide(body: bytes) -> bytes:
        sent = json.loads(body)
        row = np.array([[*sent["v"], sent["amount"], sent["time"] % 86_400, 0, 0.0, 0, 0.0, 0.0]], np.float32)
        margin = booster.predict(row, raw_score=True, num_threads=1)[0]
        return json.dumps({"id": sent["id"], "probability": float(1 / (1 + np.exp(-(a * margin + b))))}).encode()

    return decide
