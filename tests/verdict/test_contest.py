"""Who wins, who ties, who stands alone: from samples of a hand's size, with intervals that can be reckoned by hand."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.verdict.contest import ALONE, NOTHING, TIE, UNTESTED, WINS, Contest, difference, margin, settle

T_2 = 4.302653  # Student's t at 97.5 %, of two degrees of freedom


def contest(samples: Mapping[str, Mapping[Any, float]], **more: Any) -> Contest:
    return Contest("k", "the soonest", "m", {"10_x": "run"}, samples=samples, **more)


def rounds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_lower_wins_by_the_geometric_mean_of_ratios_inside_rounds() -> None:
    done = settle(contest({"b": rounds(20, 40, 80), "a": rounds(10, 20, 40)}))
    assert (done.word, done.first, done.second, done.n) == (WINS, "a", "b", 3)
    assert (done.value, done.second_value) == (pytest.approx(20), pytest.approx(40))
    assert (done.margin, done.lo, done.hi) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))  # whatever the rounds' moods were


def test_the_interval_is_students_of_the_logarithms() -> None:
    done = settle(contest({"a": rounds(1, 1, 1), "b": rounds(2, 4, 8)}))
    half = T_2 * log(2) / sqrt(3)
    assert (done.margin, done.lo, done.hi) == tuple(map(pytest.approx, (4, 4 / exp(half), 4 * exp(half))))
    assert done.word == TIE  # 0.71: one is inside


def test_where_more_is_better_the_higher_wins() -> None:
    done = settle(contest({"slow": rounds(10, 11, 10), "fast": rounds(30, 31, 32)}, higher=True))
    assert (done.word, done.first) == (WINS, "fast")
    assert done.margin == pytest.approx((3 * 31 / 11 * 3.2) ** (1 / 3))


def test_an_interval_that_holds_one_names_nobody_and_says_who_is_still_worse() -> None:
    done = settle(contest({"a": rounds(10, 12, 10), "b": rounds(11, 10, 12), "c": rounds(50, 55, 52)}))
    assert (done.word, done.rivals) == (TIE, ("b",))
    assert done.lo is not None and done.lo < 1


def test_a_margin_under_the_machines_noise_names_nobody_however_steady_it_is() -> None:
    samples = {"a": rounds(100, 200, 300), "b": rounds(101, 202, 303.001)}
    assert settle(contest(samples)).word == WINS
    done = settle(contest(samples, floor=0.017))
    assert (done.word, done.rivals) == (TIE, ("b",))
    assert done.reason is not None and "1.7%" in done.reason


def test_one_contender_stands_alone_and_nobody_is_a_row_that_says_so() -> None:
    done = settle(contest({"a": rounds(1, 2)}))
    assert (done.word, done.first, done.margin, done.n) == (ALONE, "a", None, 2)
    nobody = settle(contest({}, why="no price of a B300"))
    assert (nobody.word, nobody.first, nobody.reason) == (NOTHING, None, "no price of a B300")
    assert settle(contest({})).reason


def test_a_single_repeat_has_a_margin_and_no_test() -> None:
    done = settle(contest({"a": rounds(1), "b": rounds(3)}))
    assert (done.word, done.margin, done.lo, done.n) == (UNTESTED, pytest.approx(3), None, 1)


def test_only_repeats_that_both_have_are_compared() -> None:
    samples = {"a": {0: 1.0, 1: 1.0, 2: 1.0}, "b": {1: 2.0, 2: 2.0, 7: 900.0}}
    assert settle(contest(samples)).n == 2
    apart = settle(contest({"a": {0: 1.0}, "b": {1: 2.0}}))
    assert (apart.word, apart.margin, apart.n) == (UNTESTED, None, 0)


@pytest.mark.parametrize("values", [{}, {0: 0.0}, {0: -1.0}, {0: float("nan")}, {0: float("inf")}])
def test_what_has_no_ratio_is_refused(values: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        contest({"a": values})


def loads(carried: Mapping[str, float], met: Mapping[str, tuple[int, int]]) -> Contest:
    return contest({name: {"carried": level} for name, level in carried.items()}, higher=True, met=met)


def test_loads_are_judged_by_what_both_did_at_the_winners() -> None:
    done = settle(loads({"a": 16, "b": 8}, {"a": (48, 48), "b": (20, 48)}))
    assert (done.word, done.first, done.margin, done.n, done.lo) == (WINS, "a", pytest.approx(2), 48, None)
    assert done.reason is not None and "48 of 48" in done.reason and "20 of 48" in done.reason
    near = settle(loads({"a": 16, "b": 8}, {"a": (12, 12), "b": (11, 12)}))
    assert (near.word, near.rivals) == (TIE, ("b",))


def test_the_same_load_is_a_tie_and_one_that_was_never_asked_so_much_is_not_tested() -> None:
    assert settle(loads({"a": 8, "b": 8}, {"a": (9, 9), "b": (9, 9)})).word == TIE
    done = settle(loads({"a": 16, "b": 4}, {"a": (48, 48)}))
    assert done.word == UNTESTED
    assert done.reason is not None and "not asked" in done.reason


def test_newcombes_interval_is_that_of_his_paper() -> None:
    """R. Newcombe: Interval estimation for the difference between independent proportions (1998), table II, method 10."""
    for ours, theirs, ends in (((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)),
                               ((10, 10), (0, 10), (0.6075, 1.0000))):  # fmt: skip
        assert difference(ours, theirs) == tuple(pytest.approx(end, abs=5e-5) for end in ends)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=8))
def test_a_margin_turned_round_is_its_inverse(pairs: list[tuple[float, float]]) -> None:
    mine = contest({"a": rounds(*(a for a, _ in pairs)), "b": rounds(*(b for _, b in pairs))})
    there, back = margin(mine, "a", "b"), margin(mine, "b", "a")
    assert there is not None and back is not None and there.lo is not None and back.hi is not None
    assert there.value == pytest.approx(1 / back.value)
    assert there.lo * back.hi == pytest.approx(1)
