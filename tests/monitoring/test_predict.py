"""The burn formula is that of the SRE workbook, and a prediction says how far off it may be."""

from __future__ import annotations

from math import inf

import pytest
from pytest import approx

from lib.monitoring.predict import Due, burnt, crossed, due, held, over
from lib.monitoring.timing import DRILL, PRODUCTION, Timing, duration, seconds


def test_the_workbook_s_example() -> None:
    """99.9 %, all requests fail: the fast page comes after 52 s (chapter 5, table 5-4: 14.4 × an hour × 0.001)."""
    assert burnt(factor=14.4, objective=0.999, window_s=3600, share=1.0) == approx(51.84)
    assert burnt(factor=14.4, objective=0.999, window_s=3600, share=0.0144) == inf  # exactly as fast as allowed is not faster
    assert burnt(factor=1, objective=0.99, window_s=seconds("3d"), share=0.02) == approx(seconds("3d") / 2)


def test_an_average_crosses_and_is_held() -> None:
    assert crossed(threshold=0.05, window_s=300, level=0.5) == approx(30)
    assert crossed(threshold=0.5, window_s=300, level=0.5) == inf
    assert held(threshold=0.05, window_s=300, level=0.5) == approx(270)  # a tenth of the window may still be bad
    assert held(threshold=0.5, window_s=300, level=0.4) == 0


def test_of_many_events_more_fewer_bad_ones_are_needed() -> None:
    """Ten of them a second for an hour, then forty, half of them bad: after a fifth of the hour 4 × 0.5 × 0.2 ÷ (0.8 + 4 × 0.2) are."""
    assert crossed(threshold=0.25, window_s=3600, level=0.5, times=4) == approx(720)
    assert crossed(threshold=0.25, window_s=3600, level=0.5, times=1) == approx(1800)
    assert crossed(threshold=0.25, window_s=3600, level=0.25, times=4) == inf


def test_what_a_stack_adds() -> None:
    assert due(10, PRODUCTION, for_="1m", group_wait="30s") == Due(10 + 15 + 60 + 30, 30)
    told = due(3.456, DRILL, for_="1m")  # 0.4 s of pending: judged at evaluations alone, so 0.5
    assert told.at_s == approx(3.456 + 0.5 + 0.5 + 0.2)
    assert told.holds(told.at_s + 1) and not told.holds(told.at_s + 1.01) and not told.holds(None)


def test_the_all_clear_waits_for_the_router() -> None:
    assert over(2, PRODUCTION).at_s == approx(2 + 15 + 150)
    assert over(2, PRODUCTION).slack_s == approx(30 + 150)


@pytest.mark.parametrize(("told", "s"), [("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("3d", 259_200), ("1w", 604_800)])
def test_durations_go_there_and_back(told: str, s: float) -> None:
    assert seconds(told) == s and seconds(duration(s)) == s


@pytest.mark.parametrize("told", ["", "5", "m5", "5 m", "-5m", "5min", "1.5h"])
def test_what_is_no_duration_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(told)


def test_a_window_holds_four_scrapes() -> None:
    assert DRILL.window("5m") == "2s" and PRODUCTION.window("1m") == "1m"
    with pytest.raises(ValueError, match="fewer than 4 scrapes"):
        PRODUCTION.window("45s")
    with pytest.raises(ValueError, match="not slower"):
        Timing(1, 1, speed=0.5)
