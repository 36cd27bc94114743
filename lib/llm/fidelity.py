"""How faithful a quantised form is to its parent, from the probabilities that both gave to the same tokens: pure functions of frames.

Intervals come from a bootstrap over blocks of neighbouring tokens, for what is hard to guess comes in runs. Refuses an interval of
fewer than ten blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lib import measured, stats
from lib.llm.session import Session

PARENT = "16-bit"
BLOCK = 51  # scored tokens that are drawn together: five blocks to a window's 255
RESAMPLES = 4000
HOW = f"mean, percentile bootstrap over blocks of {BLOCK} tokens"


def flat(scored: Mapping[str, Any]) -> pd.DataFrame:
    """A worker's arrays (windows × scored tokens), one row a token: `logprob` of the true word, `kl` in nats, `top` the likeliest word."""
    shape = scored["logprob"].shape
    where = np.indices(shape).reshape(2, -1)
    return pd.DataFrame({"window": where[0], "position": where[1], **{key: scored[key].ravel() for key in scored}})


def perplexity(tokens: pd.DataFrame) -> float:
    return float(np.exp(-tokens["logprob"].astype(float).mean()))


def blocks(tokens: pd.DataFrame, values: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Means of `values` over blocks of BLOCK scored tokens, in order; what is left of a window is left out of the intervals."""
    inside = tokens["position"] < tokens["position"].max() // BLOCK * BLOCK + BLOCK * ((tokens["position"].max() + 1) % BLOCK == 0)
    means = values[inside].astype(float).groupby([tokens["window"][inside], tokens["position"][inside] // BLOCK]).mean()
    return np.asarray(means, dtype=float)


def interval(tokens: pd.DataFrame, values: pd.Series[Any], *, exp: bool = False, confidence: float = 0.95) -> stats.Estimate:
    """Mean (or its exponential) of `values` with its interval; None as ends for fewer than 10 blocks. The same draws for every form."""
    means, told = blocks(tokens, values), np.exp if exp else np.asarray
    value = float(told(values.astype(float).mean()))
    if len(means) < 10:
        return stats.Estimate(value, None, None, len(values), HOW)
    drawn = np.random.default_rng(0).integers(0, len(means), (RESAMPLES, len(means)))
    lo, hi = np.quantile(told(means[drawn].mean(axis=1)), [(1 - confidence) / 2, (1 + confidence) / 2])
    return stats.Estimate(value, float(lo), float(hi), len(values), HOW)


def judged(tokens: pd.DataFrame, parent: pd.DataFrame | None) -> dict[str, float | int | None]:
    """One form's quality: perplexity; against its parent the ratio of perplexities, mean KL divergence (nats), agreement on the top word.

    Each with `_lo`, `_hi` (95 %). `floor_kl` and `floor_top1` are against another engine's 16-bit form, where that was scored.
    """
    same = (tokens["top"] == tokens["parent_top"]).astype(float)
    told = {"ppl": interval(tokens, -tokens["logprob"].astype(float), exp=True), "kld": interval(tokens, tokens["kl"]),
            "top1": interval(tokens, same)}
    if parent is not None:
        told["ppl_ratio"] = interval(tokens, parent["logprob"].astype(float) - tokens["logprob"].astype(float), exp=True)
    if "other_kl" in tokens:
        told["floor_kl"] = interval(tokens, tokens["other_kl"])
        told["floor_top1"] = interval(tokens, (tokens["top"] == tokens["other_top"]).astype(float))
    return {"n": len(tokens), **{f"{key}{end}": value for key, one in told.items()
                                 for end, value in (("", one.value), ("_lo", one.lo), ("_hi", one.hi))}}


def table(s: Session) -> pd.DataFrame:
    """`judged` for every form that was scored; one row each."""
    scored = {(p["engine"], p["precision"]): measured.series(s.run, p, "tokens") for p in measured.points(s.run, "quality")}
    rows = [{"run_id": s.run.run_id, "machine_id": s.run.machine_id, "engine": engine, "precision": precision,
             **judged(tokens, scored.get((engine, PARENT)))} for (engine, precision), tokens in scored.items()]
    return pd.DataFrame(rows, columns=None if rows else ["run_id", "machine_id", "engine", "precision", "n", "ppl", "kld", "top1"])
