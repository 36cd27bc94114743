"""When requests are due: schedules of an open loop in ns from the start, decided before anything is sent.

An open loop keeps its schedule however slowly the server answers, as card holders do. Pure and seeded: the same arguments, the same
schedule. Refuses schedules that are none: no requests, no rate, time that runs backwards.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

LONGEST_S = 86_400  # a schedule beyond a day is a mistake in a unit


def poisson(rate_per_s: float, n: int, *, seed: int) -> NDArray[np.int64]:
    """A Poisson process seen from one of its arrivals: the first at 0, then exponential gaps. Shape (n,), ns.

    Not rescaled to end on time: the number of arrivals in a second varies as it does in life (n ± √n), so a run's achieved rate is
    not exactly the one asked for. Raises ValueError.
    """
    _check(rate_per_s, n)
    gaps_s = np.random.default_rng(seed).exponential(1 / rate_per_s, n - 1)
    return _ns(np.concatenate(([0.0], np.cumsum(gaps_s))))


def evenly(rate_per_s: float, n: int) -> NDArray[np.int64]:
    """One request every 1/rate seconds, the first at 0. Shape (n,), ns. For calibration: nobody's customers arrive like this."""
    _check(rate_per_s, n)
    return _ns(np.arange(n) / rate_per_s)


def replay(seconds: NDArray[np.int64], *, speed: float, seed: int) -> NDArray[np.int64]:
    """Recorded times, `speed` times as fast; the first at 0. Takes whole seconds, shape (n,), never falling; returns (n,), ns.

    The record knows whole seconds only, so the events that share one are spread over it uniformly at random, in their order: what
    happened inside a second is made up, what happened from second to second is real. Raises ValueError.
    """
    if len(seconds) == 0 or not np.issubdtype(seconds.dtype, np.integer):
        raise ValueError(f"replay takes whole seconds as integers, at least one, not {len(seconds)} of {seconds.dtype}")
    if (falls := np.flatnonzero(np.diff(seconds) < 0)).size:
        raise ValueError(f"time runs backwards at row {falls[0] + 1}: {seconds[falls[0]]} s, then {seconds[falls[0] + 1]} s")
    if not (isfinite(speed) and speed > 0):
        raise ValueError(f"a replay is so many times as fast as life; {speed} times is not")
    inside = np.random.default_rng(seed).random(len(seconds))
    spread_s = np.sort((seconds - seconds[0]) + inside)  # sorting moves none out of its second, and sorted uniforms are what we want
    return _ns((spread_s - spread_s[0]) / speed)


def _check(rate_per_s: float, n: int) -> None:
    if not (isfinite(rate_per_s) and rate_per_s > 0) or n < 1:
        raise ValueError(f"no schedule has {n} requests at {rate_per_s} a second")


def _ns(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    if seconds[-1] > LONGEST_S:
        raise ValueError(f"a schedule of {seconds[-1]:.0f} s is longer than a day; is the rate or the speed too low?")
    return np.round(seconds * 1e9).astype(np.int64)
