"""Schedules: Poisson by its counts and gaps, a replay by the seconds it came from; nonsense is refused."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lib.pipelines import arrivals


def test_poisson_arrivals_have_exponential_gaps_and_poisson_counts() -> None:
    due = arrivals.poisson(2000, 40_000, seed=1)
    gaps_s = np.diff(due) / 1e9
    assert due[0] == 0 and due.dtype == np.int64 and (gaps_s >= 0).all()
    assert scipy_stats.kstest(gaps_s, "expon", args=(0, 1 / 2000)).pvalue > 0.01
    counts = np.bincount(due // 100_000_000)[:-1]  # a tenth of a second holds 200 ± √200
    assert 0.8 < counts.var() / counts.mean() < 1.25  # rescaled or even arrivals would not scatter so


def test_a_poisson_run_does_not_end_on_time() -> None:
    ends_s = [arrivals.poisson(100, 1000, seed=seed)[-1] / 1e9 for seed in range(200)]
    assert np.std(ends_s) == pytest.approx(np.sqrt(999) / 100, rel=0.2)


def test_the_same_seed_is_the_same_schedule() -> None:
    assert (arrivals.poisson(10, 50, seed=3) == arrivals.poisson(10, 50, seed=3)).all()
    assert (arrivals.poisson(10, 50, seed=3) != arrivals.poisson(10, 50, seed=4)).any()


def test_evenly_is_even() -> None:
    assert arrivals.evenly(4, 3).tolist() == [0, 250_000_000, 500_000_000]


@given(seconds=st.lists(st.integers(0, 5000), min_size=1, max_size=50).map(sorted), speed=st.floats(0.1, 1000), seed=st.integers(0, 99))
def test_a_replay_keeps_order_and_seconds(seconds: list[int], speed: float, seed: int) -> None:
    due = arrivals.replay(np.array(seconds), speed=speed, seed=seed)
    assert due[0] == 0 and (np.diff(due) >= 0).all()
    apart = due * speed / 1e9 - (np.array(seconds) - seconds[0])  # each stands inside its second, seen from inside the first one's
    assert (np.abs(apart) < 1 + 1e-6 * speed).all()


def test_events_of_one_second_are_spread_over_it() -> None:
    due_s = arrivals.replay(np.zeros(5000, np.int64), speed=10, seed=0) / 1e9
    assert scipy_stats.kstest(due_s * 10, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("rate", "n"), [(0, 1), (-1, 1), (inf, 1), (nan, 1), (10, 0), (1e-9, 100)])
def test_no_schedule_of_nothing(rate: float, n: int) -> None:
    for make in (lambda: arrivals.poisson(rate, n, seed=0), lambda: arrivals.evenly(rate, n)):
        with pytest.raises(ValueError, match="schedule"):
            make()


@pytest.mark.parametrize(("seconds", "speed", "why"), [
    (np.array([1, 3, 2]), 1, "backwards at row 2: 3 s, then 2 s"), (np.array([], np.int64), 1, "at least one"),
    (np.array([0.5]), 1, "integers"), (np.array([1]), 0, "times"), (np.array([1]), nan, "times"),
    (np.array([0, 10**6]), 1, "longer than a day"),
])
def test_a_replay_of_what_cannot_be_is_refused(seconds: np.ndarray, speed: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        arrivals.replay(seconds, speed=speed, seed=0)
