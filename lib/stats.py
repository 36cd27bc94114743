"""Statistics of samples, pure. Each says how it estimates, and answers None where the samples cannot carry an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, isfinite, sqrt

import numpy as np
from scipy import stats as scipy_stats

ESTIMATOR = "inverse of the empirical distribution (Hyndman-Fan 1)"  # always a value that was observed


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, in the unit of the samples. `lo`/`hi` are None where n cannot carry the confidence."""

    value: float
    lo: float | None
    hi: float | None
    n: int
    how: str

    @property
    def spread(self) -> float | None:
        """Half the interval as a share of the value."""
        return None if self.lo is None or self.hi is None or not self.value else (self.hi - self.lo) / 2 / abs(self.value)


@cache
def needed(q: float, *, confidence: float = 0.99) -> int:
    """How many samples a tail quantile wants: the fewest of which, with `confidence`, at least two lie beyond it.

    The rule of MLPerf's early stopping: 64 for p90 and 662 for p99 at 99 % confidence.
    """
    n = 2
    while scipy_stats.binom.cdf(1, n, 1 - q) > 1 - confidence:
        n += 1
    return n


def quantile(samples: Sequence[float], q: float, *, confidence: float = 0.95) -> Estimate | None:
    """The q-quantile with an order-statistic interval (exact, no assumption about the distribution).

    None for no samples, and for tails (q ≥ 0.9) with fewer than `needed(q)` samples. A failed request belongs into
    `samples` as infinity: it then sits in the tail where it hurts.
    """
    ordered = np.sort(np.asarray(samples, dtype=float))
    n = len(ordered)
    if n == 0 or (q >= 0.9 and n < needed(q)):
        return None
    value = float(ordered[min(n - 1, max(0, ceil(q * n) - 1))])
    below = int(scipy_stats.binom.ppf((1 - confidence) / 2, n, q)) - 1
    above = int(scipy_stats.binom.ppf((1 + confidence) / 2, n, q))
    held = below >= 0 and above < n
    return Estimate(value, float(ordered[below]) if held else None, float(ordered[above]) if held else None, n, ESTIMATOR)


def median(samples: Sequence[float]) -> Estimate | None:
    return quantile(samples, 0.5)


def mean(values: Sequence[float], *, confidence: float = 0.95) -> Estimate | None:
    """Mean of independent repeats with a Student-t interval."""
    n = len(values)
    if n == 0 or not all(map(isfinite, values)):
        return None
    centre = float(np.mean(values))
    if n == 1:
        return Estimate(centre, None, None, 1, "single value")
    half = float(scipy_stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / sqrt(n))
    return Estimate(centre, centre - half, centre + half, n, "mean, Student t")


def ratio(slower: Sequence[float], faster: Sequence[float], *, confidence: float = 0.95, resamples: int = 4000) -> Estimate | None:
    """Median(slower) ÷ median(faster) with a percentile-bootstrap interval (seeded: the same samples, the same answer)."""
    if not len(slower) or not len(faster) or not np.median(faster):
        return None
    a, b = np.asarray(slower, dtype=float), np.asarray(faster, dtype=float)
    value = float(np.median(a) / np.median(b))
    if min(len(a), len(b)) < 3:
        return Estimate(value, None, None, min(len(a), len(b)), "ratio of medians")
    boot = scipy_stats.bootstrap((a, b), lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis), method="percentile",
                                 confidence_level=confidence, n_resamples=resamples, rng=np.random.default_rng(0), paired=False)
    lo, hi = boot.confidence_interval
    return Estimate(value, float(lo), float(hi), min(len(a), len(b)), "ratio of medians, percentile bootstrap")


def noise_floor(repeats: Sequence[Sequence[float]]) -> float | None:
    """The largest relative difference of medians between A/A repeats of one thing: a smaller difference is no difference."""
    medians = [float(np.median(r)) for r in repeats if len(r)]
    return None if len(medians) < 2 else max(medians) / min(medians) - 1
