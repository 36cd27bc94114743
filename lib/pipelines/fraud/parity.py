"""Does another engine score as the native one does, and would anybody be told something else? Over all that happened, and where it is hard.

A branch taken wrongly shows where a value lies on a threshold, which transactions hardly ever do. So real rows are changed until they do:
one feature on a threshold of the forest, or one float32 beside it. What remains of a difference there is the rounding of a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.pipelines.fraud import trees, verdict
from lib.pipelines.fraud.features import NAMES
from lib.pipelines.fraud.forest import Margins, Native, Rows, Scorer
from lib.pipelines.fraud.model import Model

AMOUNT = NAMES.index("amount")


def against_native(model: Model, scorer: Scorer, *, reference: Scorer | None = None) -> dict[str, Any]:
    """How far `scorer` is from `reference` (LightGBM's own predict): over all of the model's rows, and over as many around thresholds.

    Differences of margins are in log-odds; flips are verdicts that are not the same (verdict.Costs()). Raises NotReady without a model.
    """
    native = reference or Native(model)
    near = near_thresholds(model, np.random.default_rng(0))
    there, fuzzed = compared(model, model.rows(), native, scorer), compared(model, near, native, scorer)
    return {**there, "near": len(near), "max_margin_difference_near": fuzzed["max_margin_difference"],
            "flips_near_thresholds": fuzzed["flips"]}


def compared(model: Model, rows: Rows, native: Scorer, other: Scorer) -> dict[str, Any]:
    """The same two scorers on `rows`: largest differences of margin and probability, and how many verdicts flip."""
    ours = np.array(native.margins(rows))  # a copy: the next call may overwrite it
    theirs = np.array(other.margins(rows))
    return {"rows": len(rows), "max_margin_difference": _largest(ours, theirs),
            "max_probability_difference": _largest(model.probabilities(ours), model.probabilities(theirs)),
            "flips": int(np.count_nonzero(_verdicts(model, rows, ours) != _verdicts(model, rows, theirs)))}


def near_thresholds(model: Model, rng: np.random.Generator, n: int = 20_000) -> Rows:
    """(n, 35): rows of the ledger in which one feature is a split's threshold, or the float32 next below or above it.

    Every split comes in all three ways before any comes again.
    """
    features, thresholds = trees.of_lightgbm(model.file("model.txt").read_text()).splits()
    at = trees.floor32(thresholds)
    ways = np.stack([at, np.nextafter(at, np.float32(-np.inf)), np.nextafter(at, np.float32(np.inf))])
    order = np.concatenate([rng.permutation(ways.size) for _ in range(-(-n // ways.size))])[:n]
    rows = model.rows()
    chosen = np.array(rows[np.sort(rng.integers(len(rows), size=n))])  # sorted: the file is read from front to back
    chosen[np.arange(n), features[order % len(at)]] = ways.reshape(-1)[order]
    return chosen


def _verdicts(model: Model, rows: Rows, margins: Margins) -> NDArray[np.int8]:
    amount = np.maximum(rows[:, AMOUNT].astype(np.float64), 0)  # one float32 below 0 is no amount
    return verdict.decide_all(model.probabilities(margins), amount, verdict.Costs())


def _largest(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.abs(a - b).max())
