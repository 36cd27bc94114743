"""Service levels over what happened to requests: indicators, error budget, burn rates, and drift of a score's distribution. Pure.

An objective's period may be thirty days or the seconds of a replay; the alerts' windows are the same shares of it. Drift is judged by its
own sampling noise, not by the folklore of "0.1 is some and 0.25 is much": those are right for one sample size only.
Refuses what is no number, and is None where there was no traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

TOO_MANY_REQUESTS = 429  # a 4xx, but the server's doing
FEWEST = 10  # scores a bin, on average, below which a drift is not told from noise


@dataclass(frozen=True, slots=True)
class Objective:
    """`target`: the share of valid requests that are to be good over `window_s`.

    Raises ValueError for a target that is not between 0 and 1 and a window that does not last.
    """

    name: str
    target: float
    window_s: float

    def __post_init__(self) -> None:
        if not (0 < self.target < 1 and 0 < self.window_s < np.inf):
            raise ValueError(f"{self.name}: a target lies between 0 and 1 and a window lasts, not {self.target} over {self.window_s} s")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The valid requests in the order of time: when each was due (s), and whether it was good."""

    at_s: NDArray[np.float64]
    good: NDArray[np.bool_]

    @property
    def share(self) -> float | None:
        """The indicator: good ÷ valid."""
        return float(self.good.mean()) if len(self.good) else None


def available(at_s: ArrayLike, status: ArrayLike) -> Outcomes:
    """Good: answered 2xx. `status`: of HTTP, anything else (0, −1) for no answer. A client's fault, 4xx other than 429, is not valid."""
    return _outcomes(at_s, status, np.ones(np.shape(status), bool))


def within(bound_s: float, at_s: ArrayLike, status: ArrayLike, latency_s: ArrayLike) -> Outcomes:
    """Good: answered 2xx within `bound_s`; no answer is no fast answer. `latency_s` counts from the schedule, its unknowns are ignored."""
    return _outcomes(at_s, status, np.asarray(latency_s, float) <= bound_s)


def _outcomes(at_s: ArrayLike, status: ArrayLike, fine: NDArray[np.bool_]) -> Outcomes:
    at, code = np.asarray(at_s, float), np.asarray(status)
    if not len(at) == len(code) == len(fine) or not np.isfinite(at).all():
        raise ValueError(f"every request needs a time and an outcome: {len(at)} times, {len(code)} statuses, {len(fine)} latencies")
    valid = (code // 100 != 4) | (code == TOO_MANY_REQUESTS)
    order = np.argsort(at[valid], kind="stable")
    return Outcomes(at[valid][order], ((code // 100 == 2) & fine)[valid][order])


@dataclass(frozen=True, slots=True)
class Budget:
    """In requests: how many may fail, how many did."""

    allowed: float
    spent: int

    @property
    def left(self) -> float:
        return self.allowed - self.spent

    @property
    def share_left(self) -> float | None:
        """1 untouched, 0 used up, below 0 overdrawn; None where nothing was attempted."""
        return self.left / self.allowed if self.allowed else None


def budget(outcomes: Outcomes, objective: Objective) -> Budget:
    return Budget((1 - objective.target) * len(outcomes.good), int((~outcomes.good).sum()))


def burn(outcomes: Outcomes, objective: Objective, *, width_s: float, at_s: ArrayLike) -> NDArray[np.float64]:
    """How many times faster than allowed the budget was burnt in (t − width_s, t], for each t of `at_s`. NaN where nothing was due."""
    ends = np.asarray(at_s, float)
    bad = np.concatenate([[0], np.cumsum(~outcomes.good)])
    first, last = (np.searchsorted(outcomes.at_s, edge, side="right") for edge in (ends - width_s, ends))
    n = last - first
    share = np.divide(bad[last] - bad[first], n, out=np.full(len(ends), np.nan), where=n > 0)
    rate: NDArray[np.float64] = share / (1 - objective.target)
    return rate


@dataclass(frozen=True, slots=True)
class Pair:
    """Fires while both windows burn faster than `factor`: the long one says that it matters, the short one that it still goes on."""

    severity: Literal["page", "ticket"]
    factor: float
    long: float  # shares of the objective's window
    short: float


HOUR = 1 / 720  # of thirty days
# Google's SRE workbook, chapter 5: 2, 5, 10 and 10 % of the budget in the long window. A target below 1 − 1 ÷ factor can never fire.
PAIRS = (Pair("page", 14.4, HOUR, HOUR / 12), Pair("page", 6, 6 * HOUR, HOUR / 2),
         Pair("ticket", 3, 24 * HOUR, 2 * HOUR), Pair("ticket", 1, 72 * HOUR, 6 * HOUR))


@dataclass(frozen=True, slots=True)
class Alert:
    """`pair` fired from the request at `start_s` to the one at `end_s`."""

    pair: Pair
    start_s: float
    end_s: float


def alerts(outcomes: Outcomes, objective: Objective, *, pairs: tuple[Pair, ...] = PAIRS) -> list[Alert]:
    """When each pair fired, judged at every request, in the order of their starts.

    At the beginning a window holds only what there was: the fewer requests in it, the more a single failure burns.
    """
    found = []
    for pair in pairs:
        long, short = (burn(outcomes, objective, width_s=share * objective.window_s, at_s=outcomes.at_s)
                       for share in (pair.long, pair.short))
        fires = np.concatenate([[False], (long > pair.factor) & (short > pair.factor), [False]])
        starts, ends = np.flatnonzero(fires[1:] & ~fires[:-1]), np.flatnonzero(fires[:-1] & ~fires[1:]) - 1
        found += [Alert(pair, float(outcomes.at_s[start]), float(outcomes.at_s[end])) for start, end in zip(starts, ends, strict=True)]
    return sorted(found, key=lambda alert: alert.start_s)


@dataclass(frozen=True, slots=True)
class Drift:
    """Population Stability Index of n scores. Without a drift it is `expected` on average, and seldom (`confidence`) above `bound`."""

    psi: float
    expected: float
    bound: float
    n: int

    @property
    def drifted(self) -> bool:
        return self.psi > self.bound


@dataclass(frozen=True, slots=True)
class Reference:
    """How scores were distributed: `edges` (k − 1,) inside, upper ends included, and `counts` (k,)."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: ArrayLike, *, bins: int = 10) -> Reference:
        """Bins of equal weight; fewer where many scores are equal. Raises ValueError for NaN, one value, or under FEWEST scores a bin."""
        known = np.asarray(scores, float)
        if bins < 2 or len(known) < FEWEST * bins or np.isnan(known).any() or known.min() == known.max():
            raise ValueError(f"{len(known)} scores, {np.isnan(known).sum()} of them NaN, make no reference of {bins} bins: "
                             f"at least {FEWEST} a bin are needed, and two values")
        edges = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf"))
        edges = edges[edges < known.max()]  # beyond the largest nothing was seen
        if not len(edges):  # so many equal ones at the top that every quantile is the largest: what lies below it, and it
            edges = np.array([known[known < known.max()].max()])
        return cls(edges, _binned(known, edges))

    def drift(self, scores: ArrayLike, *, confidence: float = 0.999) -> Drift | None:
        """PSI of `scores` against this; None for fewer than FEWEST a bin. Raises ValueError for NaN.

        Half a score is added to every bin, so that an empty one is not infinitely far. Without drift PSI ÷ (1/n + 1/m) is distributed
        as χ² with bins − 1 degrees of freedom, so it is (bins − 1)(1/n + 1/m) on average, and `bound` is its quantile at `confidence`.
        """
        seen, bins = np.asarray(scores, float), len(self.counts)
        if np.isnan(seen).any():
            raise ValueError(f"{np.isnan(seen).sum()} of {len(seen)} scores are NaN: count them as errors where they arise")
        if len(seen) < FEWEST * bins:
            return None
        was, now = ((counts + 0.5) / (counts.sum() + bins / 2) for counts in (self.counts, _binned(seen, self.edges)))
        noise = 1 / len(seen) + 1 / int(self.counts.sum())
        return Drift(psi=float(((now - was) * np.log(now / was)).sum()), expected=(bins - 1) * noise,
                     bound=float(scipy_stats.chi2.ppf(confidence, bins - 1)) * noise, n=len(seen))


def _binned(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, scores, side="left"), minlength=len(edges) + 1)
