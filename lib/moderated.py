"""Many small t-tests at once: variances borrow from each other, a drift of everything is noise, and p-values hold for all of them together.

With a handful of repeats a variance is hardly known, and one that is small by chance makes a false alarm. The moderated t-test (G. Smyth,
Linear models and empirical Bayes methods, SAGMB 2004) gives each quantity a share of what others of its kind vary. Here it is never less
than its own variance, so that a noisy quantity stays one among quiet ones. What shifts from one occasion to the next although nothing was
changed is in no repeat of either: `drift` reads it off quantities that should not have shifted. Holm's procedure keeps the probability of
any false alarm under alpha however the tests hang together. Pure; refuses fewer than two repeats on a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isinf, log, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy import stats as scipy_stats

Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
ROUNDING = 1e-9  # logarithms closer than this are equal: their sums are rounded
CAP = 2.0  # a shift of more standard errors than this tells `drift` no more than one of as many
CAPPED = 0.9205  # the mean of min(z², CAP²) where z is normal


@dataclass(frozen=True, slots=True)
class Prior:
    """What the quantities of one kind share: a variance, and how many degrees of freedom it is worth (0: nothing is shared)."""

    dof: float
    variance: float


@dataclass(frozen=True, slots=True)
class Shifts:
    """By how much the mean of each quantity is larger after than before, with its standard error and that one's degrees of freedom."""

    shift: Floats
    error: Floats
    dof: Floats

    def of(self, those: Mask) -> Shifts:
        return Shifts(self.shift[those], self.error[those], self.dof[those])

    def by(self, more: Floats) -> Shifts:
        """As if each `after` had been that much larger: it would vary as it does."""
        return replace(self, shift=self.shift + more)


@dataclass(frozen=True, slots=True)
class Drift:
    """The standard deviation of what shifts from one occasion to the next, and how many quantities told it."""

    size: float
    dof: float


@dataclass(frozen=True, slots=True)
class Tests:
    """One test a quantity: its shift, what it is held against, p-value, p-value for all together."""

    shift: Floats
    error: Floats
    dof: Floats
    p: Floats
    p_holm: Floats


STILL = Drift(0.0, 1.0)


def shifts(before: Sequence[Floats], after: Sequence[Floats], kinds: Sequence[str]) -> Shifts:
    """Of each pair of repeats; `kinds` says who borrows from whom. Raises ValueError for a single repeat."""
    pairs = list(zip(before, after, strict=True))
    if any(min(len(a), len(b)) < 2 for a, b in pairs):
        raise ValueError("a single repeat shows no noise: there must be two on each side")
    n = np.array([[len(a), len(b)] for a, b in pairs], dtype=float).reshape(-1, 2)
    shift = np.array([b.mean() - a.mean() for a, b in pairs], dtype=float)
    squares = np.array([((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum() for a, b in pairs], dtype=float)
    dof = n.sum(axis=1) - 2
    variance, dof = moderated(np.where(squares < dof * ROUNDING**2, 0.0, squares / dof), dof, kinds)
    return Shifts(np.where(np.abs(shift) < ROUNDING, 0.0, shift), np.sqrt(variance * (1 / n).sum(axis=1)), dof)


def drift(of: Shifts) -> Drift:
    """How much more the quantities shifted than their errors explain: a maximum-likelihood scale, blind to a few that stand out (Huber).

    It is zero unless they shifted more than that. A shift that all share is a drift like any other.
    """
    told = (of.error > 0) & (of.dof > 2)
    squares = of.shift[told] ** 2
    errors = of.error[told] ** 2 * of.dof[told] / (of.dof[told] - 2)  # a t is wider than a normal

    def beyond(variance: float) -> float:
        whole = errors + variance
        return float(((np.minimum(squares / whole, CAP**2) - CAPPED) / whole).sum())

    if not told.any() or beyond(0.0) <= 0:
        return STILL
    low, high = 0.0, float(squares.max()) / CAPPED
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 0 else (low, middle)
    return Drift(sqrt(high), float(max(1, (errors <= high).sum())))


def judged(of: Shifts, drift: Drift = STILL) -> Tests:
    """Two-sided p-values against error and drift. Where nothing varies at all, equal is certain and so is different."""
    variance = of.error**2 + drift.size**2
    with np.errstate(divide="ignore", invalid="ignore"):
        dof = np.where(variance > 0, variance**2 / (of.error**4 / of.dof + drift.size**4 / drift.dof), of.dof)  # Satterthwaite
        p = np.where(of.shift == 0, 1.0, 2 * scipy_stats.t.sf(np.abs(of.shift / np.sqrt(variance)), dof))
    return Tests(of.shift, np.sqrt(variance), dof, p, holm(p))


def holm(p: Floats) -> Floats:
    """p-values that hold for all together (S. Holm 1979): with probability 1 − alpha no false one is alpha or less."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def prior(variances: Floats, dof: Floats) -> Prior:
    """Smyth's estimate: how much the logarithms of the variances spread beyond what their degrees of freedom explain.

    Variances of zero (a count that never varies) say nothing of noise and are passed over; fewer than three others share nothing.
    """
    kept = variances > 0
    if kept.sum() < 3:
        return Prior(0.0, 0.0)
    half = dof[kept] / 2
    logs = np.log(variances[kept]) - special.digamma(half) + np.log(half)
    beyond = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    if beyond <= 0:
        return Prior(inf, float(np.exp(logs.mean())))
    d = trigamma_inverse(beyond)
    return Prior(2 * d, float(np.exp(logs.mean() + special.digamma(d) - log(d))))


def moderated(variances: Floats, dof: Floats, kinds: Sequence[str]) -> tuple[Floats, Floats]:
    """Variances and degrees of freedom after borrowing within each kind; at most as many as all of the kind have, never below its own."""
    shrunk, worth, named = variances.copy(), dof.copy(), np.array(kinds)
    for kind in set(kinds):
        shared = prior(variances[named == kind], dof[named == kind])
        mine = named == kind
        mean = np.full(int(mine.sum()), shared.variance) if isinf(shared.dof) else (
            shared.dof * shared.variance + dof[mine] * variances[mine]) / (shared.dof + dof[mine])  # fmt: skip
        shrunk[mine] = np.maximum(mean, variances[mine])
        worth[mine] = np.minimum(shared.dof + dof[mine], dof[mine].sum())
    return shrunk, worth


def trigamma_inverse(x: float) -> float:
    """y with trigamma(y) = x > 0, by Newton's method on 1/trigamma, which is nearly straight (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / x) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-9 * y:
            break
    return y
