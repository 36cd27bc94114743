"""A line is found again, foretells what it did not see, and says where its bend is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from lib.profiling import affine
from lib.profiling.affine import Affine

TIMES = st.floats(1e-5, 1.0)


@given(TIMES, TIMES)
def test_a_line_is_found_again(fixed: float, each: float) -> None:
    true = Affine(fixed, each)
    found = affine.fit({batch: true.seconds(batch) for batch in (1, 2, 8, 32)})
    assert (found.fixed_s, found.each_s) == (approx(fixed, rel=1e-6, abs=1e-9), approx(each, rel=1e-6))


def test_relative_errors_count_alike() -> None:
    """A batch of 32 that is 10 % slow must not spoil batch 1: plain least squares would be 0.6 s off there, 60 %."""
    found = affine.fit({1: 1.0, 2: 1.1, 8: 1.7, 32: 4.1 * 1.1})
    assert found.seconds(1) == approx(1.0, rel=0.05)


@given(TIMES, TIMES)
def test_the_knee_reaches_nine_tenths_and_a_limit_is_kept(fixed: float, each: float) -> None:
    line = Affine(fixed, each)
    knee = line.knee()
    assert knee / line.seconds(knee) == approx(0.9 * line.most_per_s)
    batch = line.within(10 * (fixed + each))
    assert batch >= 1 and line.seconds(batch) <= 10 * (fixed + each) * (1 + 1e-9) < line.seconds(batch + 1) * (1 + 1e-6)
    assert line.within(0.5 * (fixed + each)) == 0


def test_sizes_held_out_are_not_seen_and_are_judged() -> None:
    rounds = {1: [[1.1, 1.1], [1.1]], 2: [[1.2], [1.2]], 4: [[9.0], [9.0]], 8: [[1.8], [1.8]]}
    first, second = affine.fits(rounds)
    assert (first.fixed_s, first.each_s) == (approx(1.0), approx(0.1)) and second == first
    assert affine.errors([first, second], rounds) == {4: approx(1.4 / 9 - 1)}
    assert affine.held_out(rounds) == [4] and affine.held_out([1, 2, 4]) == [], "a line speaks of the range that it was fitted on"
    assert affine.held_out([1, 2, 4, 8, 16, 32, 64]) == [4, 16] and affine.fits({1: [[1.0]], 2: [[2.0]], 4: [[5.0]]})[0].seconds(4) > 4
    slower = {batch: [each[0], [2 * taken for taken in each[1]]] for batch, each in rounds.items()}
    assert affine.errors(affine.fits(slower), slower) == {4: approx(1.4 / 9 - 1)}, "a round that is slower for all is no error"
    fixed, each = affine.parameters([Affine(1.0, 0.1), Affine(1.2, 0.1)])
    assert fixed is not None and fixed.value == approx(1.1) and fixed.lo is not None and fixed.lo < 1.0
    assert each is not None and each.value == approx(0.1)


def test_one_size_is_no_line() -> None:
    with pytest.raises(ValueError, match="1 batch sizes"):
        affine.fit({1: 1.0})
