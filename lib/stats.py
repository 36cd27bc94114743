"""Statistics of samples, pure. Each says how it estimates, and answers None where the samples cannot carry one.

Refuses NaN: whoever has it lost a sample on the way and should say where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, isfinite, sqrt
from typing import Literal

import numpy as np
from scipy import stats as scipy_stats

ESTIMATOR = "inverse of the empirical distribution (Hyndman-Fan 1)"  # always a value that was observed


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, in the samples' unit. `lo`/`hi` are None where n cannot carry the confidence."""

    value: float
    lo: float | None
    hi: float | None
    n: int
    how: str

    @property
    def spread(self) -> float | None:
        """Half the interval as a share of the value; None for a value of zero or an end at infinity."""
        if self.lo is None or self.hi is None or not self.value or not isfinite(self.hi - self.lo):
            return None
        return (self.hi - self.lo) / 2 / abs(self.value)


@cache
def needed(q: float, *, confidence: float = 0.99) -> int:
    """How many samples a tail quantile wants: the fewest of which, with `confidence`, at least two lie beyond it.

    The rule of MLPerf's early stopping: 64 for p90 and 662 for p99 at 99 % confidence. Raises ValueError
    unless 0 < q < 1.
    """
    if not 0 < q < 1:
        raise ValueError(f"no number of samples shows a quantile of {q}: it must lie between 0 and 1")
    n = 2
    while scipy_stats.binom.cdf(1, n, 1 - q) > 1 - confidence:
        n += 1
    return n


def quantile(samples: Sequence[float], q: float, *, confidence: float = 0.95) -> Estimate | None:
    """The q-quantile with an order-statistic interval (exact, no assumption about the distribution).

    None for no samples, and for tails (q ≥ 0.9) with fewer than `needed(q)` samples. A failed request belongs into
    `samples` as infinity: it then sits in the tail where it hurts. Raises ValueError for NaN and unless 0 < q < 1.
    """
    ordered = np.sort(np.asarray(samples, dtype=float))
    if np.isnan(ordered).any() or not 0 < q < 1:
        raise ValueError(f"quantile {q} of {len(ordered)} samples, {np.isnan(ordered).sum()} of them not a number")
    n = len(ordered)
    if n == 0 or (q >= 0.9 and n < needed(q)):
        return None
    value = float(ordered[min(n - 1, max(0, ceil(round(q * n, 9)) - 1))])  # 0.07 × 100 is 7.000000000000001
    below = int(scipy_stats.binom.ppf((1 - confidence) / 2, n, q)) - 1
    above = int(scipy_stats.binom.ppf((1 + confidence) / 2, n, q))
    held = below >= 0 and above < n
    lo, hi = (float(ordered[below]), float(ordered[above])) if held else (None, None)
    return Estimate(value, lo, hi, n, ESTIMATOR)


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


def share(hits: int, tries: int, *, confidence: float = 0.95, how: Literal["exact", "wilson"] = "exact") -> Estimate:
    """`hits` of `tries` with its interval: Clopper-Pearson's, or Wilson's. Raises ValueError where nothing was tried."""
    if tries < 1:
        raise ValueError(f"a share of {tries} tries")  # scipy 1.18, Python 3.12's, no longer minds
    ends = scipy_stats.binomtest(hits, tries).proportion_ci(confidence, method=how)
    return Estimate(hits / tries, float(ends.low), float(ends.high), tries, f"share of tries, {how} binomial interval")


def ratio(slower: Sequence[float], faster: Sequence[float], *, confidence: float = 0.95,
          resamples: int = 4000) -> Estimate | None:
    """Median(slower) ÷ median(faster) with a percentile-bootstrap interval (seeded: the same samples, the same answer).

    None for no samples, or where a median is infinite (most requests failed) or the divisor zero.
    """
    a, b = np.asarray(slower, dtype=float), np.asarray(faster, dtype=float)
    if not len(a) or not len(b) or not np.isfinite([np.median(a), np.median(b)]).all() or not np.median(b):
        return None
    value = float(np.median(a) / np.median(b))
    if min(len(a), len(b)) < 3:
        return Estimate(value, None, None, min(len(a), len(b)), "ratio of medians")
    boot = scipy_stats.bootstrap((a, b), lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis),
                                 method="percentile", confidence_level=confidence, n_resamples=resamples,
                                 rng=np.random.default_rng(0), paired=False)
    lo, hi = boot.confidence_interval
    return Estimate(value, float(lo), float(hi), min(len(a), len(b)), "ratio of medians, percentile bootstrap")


def noise_floor(repeats: Sequence[Sequence[float]]) -> float | None:
    """The largest relative difference of medians between A/A repeats of one thing: a smaller one is no difference.

    None for fewer than two repeats, or a median that is zero or infinite.
    """
    medians = [float(np.median(r)) for r in repeats if len(r)]
    if len(medians) < 2 or min(medians) <= 0 or not isfinite(max(medians)):
        return None
    return max(medians) / min(medians) - 1


def knee(x: Sequence[float], y: Sequence[float], *, sensitivity: float = 1.0, least: float = 0.1) -> int | None:
    """Where a saturating curve bends, as an index of `x`: Kneedle, offline, for a concave rise. Raises ValueError for x that do not rise.

    Both axes are scaled to 0…1; the bend is the highest point above the diagonal, if the curve comes back towards it by more than
    `sensitivity` × the mean gap of x. None for a curve without one, for fewer than three points, and where y rises by less than
    `least` of itself: noise has no bend. V. Satopää et al.: Finding a "Kneedle" in a haystack, ICDCSW 2011.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(xs) != len(ys) or not np.isfinite([*xs, *ys]).all() or (np.diff(xs) <= 0).any():
        raise ValueError(f"a knee needs rising finite x and a finite y for each, not {list(x)} and {list(y)}")
    if len(xs) < 3 or ys.max() - ys[0] < least * abs(ys[0]) or ys.max() == ys.min():
        return None
    above = (ys - ys.min()) / (ys.max() - ys.min()) - (xs - xs[0]) / (xs[-1] - xs[0])
    top = int(np.argmax(above))
    back = above[top] - sensitivity / (len(xs) - 1)
    return top if 0 < top < len(xs) - 1 and above[top:].min() < back else None


def pareto(rows: Sequence[Mapping[str, float]], *, maximise: Sequence[str] = (), minimise: Sequence[str] = ()) -> list[bool]:
    """For each row whether no other is at least as good in every named column and better in one. Raises ValueError for NaN."""
    signed = np.array([[*(row[c] for c in maximise), *(-row[c] for c in minimise)] for row in rows], dtype=float)
    if np.isnan(signed).any():
        raise ValueError("a row that lacks a value can neither be on a front nor behind one; leave it out and say so")
    return [not any((other >= one).all() and (other > one).any() for other in signed) for one in signed]


def jain(values: Sequence[float]) -> float | None:
    """Jain's fairness index, (Σx)² ÷ (n·Σx²): 1 when all get the same, 1/n when one gets all. None for nothing shared.

    R. Jain, D. Chiu, W. Hawe: A quantitative measure of fairness and discrimination, DEC-TR-301, 1984.
    """
    squares = sum(x * x for x in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def worst(values: Sequence[float]) -> float | None:
    """The least ÷ the median: how far behind the worst served one is. None for nothing shared."""
    return min(values) / middle if values and (middle := float(np.median(values))) else None
