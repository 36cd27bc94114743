"""The published method decides as it is published, on machines that are made up; the stricter one sees what it overlooks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lib.pipelines.retail import density
from lib.pipelines.retail.density import Window


def window(streams: int, rate: float, *, age_s: float = 0.05, wrong: float = 0.01, slowest: float | None = None) -> Window:
    rates = [rate] * streams
    if slowest is not None:
        rates[0] = slowest
    return Window(streams, tuple(rates), age_s, due=100, lost=0, wrong=wrong)


def machine(*, capacity: float) -> Callable[[int], Window]:
    """It does so many frames a second, shared fairly."""
    return lambda streams: window(streams, min(15.0, capacity / streams))


@pytest.mark.parametrize(("capacity", "streams"), [(10, 0), (14.3, 1), (15, 1), (90, 6), (85.3, 6), (85.1, 5)])
def test_streams_are_added_until_their_mean_rate_falls_below_the_tolerance(capacity: float, streams: int) -> None:
    windows = list(density.climb(machine(capacity=capacity), most=20))
    assert density.density(windows) == streams
    assert [seen.streams for seen in windows] == [n for n in range(1, streams + 2) for _ in range(2)]  # two that agree, each


def test_it_ends_at_the_most_that_is_asked_for() -> None:
    windows = list(density.climb(machine(capacity=1e9), most=3))
    assert density.density(windows) == 3 == max(seen.streams for seen in windows)


def test_windows_that_disagree_are_asked_again_and_one_that_never_settles_has_failed() -> None:
    told = iter([15.0, 15.0, 15.0, 3.0, 15.0, 3.0, 15.0, 3.0, 15.0])
    windows = list(density.climb(lambda streams: window(streams, next(told)), most=5))
    assert [seen.streams for seen in windows] == [1, 1, *[2] * density.MOST_WINDOWS]
    assert density.settled([True, False]) is None
    assert density.settled([False, True, True]) is True
    assert density.settled([True, False, False]) is False
    assert density.density(windows) == 1


def test_the_mean_hides_what_the_stricter_condition_sees() -> None:
    good = window(4, 15.0)
    assert good.keeps_up and good.strictly
    for bad in (window(4, 15.0, age_s=0.3), window(4, 15.0, wrong=0.2), window(4, 15.0, slowest=13.0)):
        assert bad.keeps_up and not bad.strictly
    silent = Window(2, (15.0, 15.0), None, due=10, lost=0, wrong=None)
    assert not silent.strictly


def test_a_strict_density_is_never_more_than_the_published_one() -> None:
    windows = [window(1, 15), window(1, 15), window(2, 15), window(2, 15, age_s=0.5), window(3, 15), window(3, 15)]
    assert density.density(windows) == 3
    assert density.density(windows, lambda seen: seen.strictly) == 1
    assert density.density([]) == 0
