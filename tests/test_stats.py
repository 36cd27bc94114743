"""Estimates against textbook values, exact ranks and simulations; None where samples cannot carry an answer."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from lib import stats

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200)


@pytest.mark.parametrize(("q", "n"), [(0.9, 64), (0.99, 662)])
def test_a_tail_needs_as_many_samples_as_mlperf_says(q: float, n: int) -> None:
    assert stats.needed(q) == n
    assert binom.cdf(1, n, 1 - q) <= 0.01 < binom.cdf(1, n - 1, 1 - q)


@pytest.mark.parametrize("q", [0, 1, -0.1, 1.5, nan])
def test_there_is_no_quantile_outside_zero_and_one(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.needed(q)
    with pytest.raises(ValueError, match="quantile"):
        stats.quantile([1.0] * 1000, q)


def test_the_median_of_a_hundred_lies_between_the_40th_and_the_61st() -> None:
    told = stats.median(range(100, 0, -1))
    assert told == stats.Estimate(50, 40, 61, 100, stats.ESTIMATOR)  # Conover's table for n = 100, 95 %
    assert told.spread == pytest.approx(0.21)


@pytest.mark.parametrize(("n", "q"), [(50, 0.5), (30, 0.25), (100, 0.9)])
def test_the_interval_holds_what_it_promises(n: int, q: float) -> None:
    rng, truth, trials, inside = np.random.default_rng(n), -np.log(1 - q), 1500, 0
    for _ in range(trials):
        told = stats.quantile(rng.exponential(size=n), q)
        assert told is not None and told.lo is not None and told.hi is not None
        inside += told.lo <= truth <= told.hi
    assert 0.94 <= inside / trials <= 0.985  # at least the nominal 95 %, and not by being far too wide


@given(samples=NUMBERS, percent=st.integers(1, 89))
def test_a_quantile_was_observed_at_the_exact_rank(samples: list[float], percent: int) -> None:
    told = stats.quantile(samples, percent / 100)
    assert told is not None
    assert told.value == sorted(samples)[ceil(Fraction(percent, 100) * len(samples)) - 1]
    if told.lo is not None and told.hi is not None:
        assert min(samples) <= told.lo <= told.value <= told.hi <= max(samples)


def test_ranks_do_not_suffer_from_floats() -> None:
    assert 0.07 * 100 > 7
    assert stats.quantile(range(1, 101), 0.07).value == 7  # type: ignore[union-attr]


def test_a_tail_of_too_few_samples_is_suppressed() -> None:
    assert stats.quantile(range(63), 0.9) is None
    assert stats.quantile(range(64), 0.9) is not None
    assert stats.quantile(range(661), 0.99) is None
    assert stats.quantile(range(662), 0.99) is not None


def test_failures_stand_in_the_tail() -> None:
    late = stats.quantile([0.1] * 60 + [inf] * 10, 0.9)
    assert late is not None and (late.value, late.hi, late.spread) == (inf, inf, None)
    middle = stats.median([0.1] * 60 + [inf] * 10)
    assert middle is not None and (middle.value, middle.hi) == (0.1, 0.1)
    lost = stats.median([inf] * 20)
    assert lost is not None and (lost.value, lost.spread) == (inf, None)


def test_a_lost_sample_is_no_sample() -> None:
    with pytest.raises(ValueError, match="1 of them not a number"):
        stats.median([0.1, nan, 0.3])


def test_few_samples_carry_few_answers() -> None:
    assert stats.median([]) is stats.mean([]) is stats.ratio([], [1.0]) is stats.ratio([1.0], []) is None
    assert stats.median([3.0]) == stats.Estimate(3.0, None, None, 1, stats.ESTIMATOR)
    assert stats.mean([3.0]) == stats.Estimate(3.0, None, None, 1, "single value")
    assert stats.ratio([4.0, 4.0], [2.0] * 9) == stats.Estimate(2.0, None, None, 2, "ratio of medians")
    assert stats.median([1.0, 2.0, 3.0]) == stats.Estimate(2.0, None, None, 3, stats.ESTIMATOR)


def test_the_mean_of_repeats_has_students_interval() -> None:
    told = stats.mean([1, 2, 3, 4, 5])
    assert told is not None
    assert (told.value, told.n) == (3, 5)
    assert (told.lo, told.hi) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-4)  # 2.7764 × 1.5811 ÷ √5
    assert stats.mean([1, inf]) is None


def test_a_ratio_repeats_itself_and_holds_the_truth() -> None:
    rng, inside = np.random.default_rng(7), 0
    for _ in range(60):
        slow, fast = 2 * rng.lognormal(0, 0.2, 30), rng.lognormal(0, 0.2, 30)
        told = stats.ratio(slow, fast, resamples=500)
        assert told is not None and told.lo is not None and told.hi is not None
        inside += told.lo <= 2 <= told.hi
    assert inside >= 53  # 95 % of 60 is 57; fewer than 53 would be a chance of 1 in 40
    assert told == stats.ratio(slow, fast, resamples=500)


@pytest.mark.parametrize(("slow", "fast"), [([1.0] * 5, [0.0] * 5), ([inf] * 5, [1.0] * 5), ([1.0] * 5, [inf] * 5)])
def test_no_ratio_of_nothing_and_of_failures(slow: list[float], fast: list[float]) -> None:
    assert stats.ratio(slow, fast) is None


@given(samples=st.lists(st.floats(0.5, 2), min_size=3, max_size=20), scale=st.floats(0.1, 10))
def test_a_ratio_has_no_unit(samples: list[float], scale: float) -> None:
    told = stats.ratio(samples, samples, resamples=50)
    alike = stats.ratio([s * scale for s in samples], samples, resamples=50)
    assert told is not None and alike is not None
    assert told.value == 1
    assert alike.value == pytest.approx(scale)


def test_the_noise_floor_is_the_largest_difference_of_one_thing_with_itself() -> None:
    assert stats.noise_floor([[1.0, 1.0, 9.0], [1.1, 1.1], [1.04]]) == pytest.approx(0.1)
    assert stats.noise_floor([[2.0], [2.0]]) == 0
    for unknown in ([], [[1.0]], [[1.0], []], [[0.0], [1.0]], [[1.0], [inf]]):
        assert stats.noise_floor(unknown) is None


def test_a_knee_is_where_kneedle_has_it() -> None:
    """The paper's own figure 2: y = −1/x + 5 from 0 to 1 in ten points, knee at 0.22."""
    x = [0.0, 0.11, 0.22, 0.33, 0.44, 0.56, 0.67, 0.78, 0.89, 1.0]
    y = [5 - 1 / (at + 0.1) for at in x]
    assert stats.knee(x, y) == 2
    assert stats.knee([1, 2, 4, 8, 16], [68, 120, 200, 280, 300]) == 3
    assert stats.knee([1, 2, 4, 8, 16], [100, 190, 200, 201, 150]) in (1, 2)


@pytest.mark.parametrize(("x", "y"), [
    ([], []), ([1, 2], [1, 2]), ([1, 2, 4, 8], [1, 2, 4, 8]), ([1, 2, 4], [42, 42.5, 42.2]), ([1, 2, 4], [3, 3, 3]),
    ([1, 2, 4, 8], [9, 5, 3, 1]), ([1, 2, 4, 8], [1, 2, 5, 20]),
])  # fmt: skip
def test_what_does_not_bend_has_no_knee(x: list[float], y: list[float]) -> None:
    assert stats.knee(x, y) is None


@pytest.mark.parametrize(("x", "y"), [([1, 1], [1, 2]), ([2, 1], [1, 2]), ([1, 2], [1]), ([1, 2], [1, nan]), ([1, inf], [1, 2])])
def test_a_knee_needs_a_curve(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="rising finite x"):
        stats.knee(x, y)


@given(st.floats(0.1, 1e3), st.floats(0.1, 1e3))
def test_a_knee_has_no_unit(a: float, b: float) -> None:
    x, y = [1, 2, 4, 8, 16], [10, 18, 30, 40, 41]
    assert stats.knee([v * a for v in x], [v * b for v in y]) == stats.knee(x, y) == 3


def test_the_front_holds_what_nobody_beats_in_everything() -> None:
    rows = [{"a": 1, "b": 9}, {"a": 2, "b": 5}, {"a": 1, "b": 5}, {"a": 2, "b": 5}, {"a": 3, "b": 1}]
    assert stats.pareto(rows, maximise=["a", "b"]) == [True, True, False, True, True]
    assert stats.pareto(rows, maximise=["a"], minimise=["b"]) == [False, False, False, False, True]
    assert stats.pareto([], maximise=["a"]) == []
    with pytest.raises(ValueError, match="leave it out"):
        stats.pareto([{"a": nan}], maximise=["a"])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_row_behind_a_front_has_somebody_before_it(points: list[tuple[int, int]]) -> None:
    rows = [{"a": a, "b": b} for a, b in points]
    kept = stats.pareto(rows, maximise=["a", "b"])
    assert any(kept)
    for (a, b), on in zip(points, kept, strict=True):
        assert on == (not any(c >= a and d >= b and (c, d) != (a, b) for c, d in points))


def test_fairness_of_the_equal_the_greedy_and_of_nothing() -> None:
    assert stats.jain([3, 3, 3]) == pytest.approx(1)
    assert stats.jain([5, 0, 0, 0]) == pytest.approx(1 / 4)
    assert stats.jain([1, 2, 3]) == pytest.approx(36 / 42)
    assert stats.worst([1.0, 2.0, 4.0]) == 0.5
    assert stats.worst([0.0, 2.0, 4.0]) == 0
    for nothing in ([], [0.0, 0.0]):
        assert stats.jain(nothing) is stats.worst(nothing) is None


def test_a_share_has_clopper_pearson_s_interval_or_wilson_s_and_nothing_tried_has_none() -> None:
    exact, wilson = stats.share(36, 36), stats.share(12, 48, how="wilson")
    assert (exact.value, exact.hi, exact.n) == (1.0, 1.0, 36) and exact.lo == pytest.approx(0.025 ** (1 / 36))
    z, p, n = 1.959964, 12 / 48, 48
    middle, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z * (p * (1 - p) / n + z**2 / 4 / n**2) ** 0.5 / (1 + z**2 / n)
    assert (wilson.lo, wilson.hi) == pytest.approx((middle - half, middle + half))
    with pytest.raises(ValueError):
        stats.share(0, 0)
