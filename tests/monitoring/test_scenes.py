"""Scenes say what they are told to say, in promtool's words."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring.scenes import STALE, Change, Level, Scene, counter, gauge, histogram, none, scaled, together, told


def read(text: str) -> list[float]:
    """promtool's notation, read as its documentation has it."""
    found: list[float] = []
    for word in text.split():
        if word == "stale":
            found.append(STALE)
        elif hit := re.fullmatch(r"_x(\d+)", word):
            found += [np.nan] * int(hit[1])
        elif hit := re.fullmatch(r"(-?[\d.e+-]+?)([+-][\d.e-]+?)x(\d+)", word):
            found += [float(hit[1]) + float(hit[2]) * k for k in range(int(hit[3]) + 1)]
        else:
            found.append(float(word))
    return found


@given(st.lists(st.one_of(st.integers(-1000, 1000).map(float), st.just(np.nan), st.just(STALE)), min_size=1, max_size=40))
def test_what_is_told_reads_back(values: list[float]) -> None:
    assert read(told(np.array(values))) == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(("values", "text"), [
    ([0, 15, 30, 45], "0+15x3"), ([1, 1, 1, 0], "1+0x2 0"), ([1, np.nan, np.nan, 4], "1 _x2 4"), ([2, STALE, np.nan], "2 stale _x1"),
])  # fmt: skip
def test_straight_stretches_are_one_word(values: list[float], text: str) -> None:
    assert told(np.array(values, float)) == text


def test_counters_rise_gauges_show_and_changes_pass() -> None:
    world = together(counter("c_total", 2.0, a="x"), gauge("g", 5.0))
    found = Scene(world, 60, 10, (Change(20, 40, together(counter("c_total", 0.0, a="x"), gauge("g", 7.0))),)).samples()
    assert list(found['c_total{a="x"}']) == [0, 20, 40, 40, 40, 60, 80] and list(found["g"]) == [5, 5, 7, 7, 5, 5, 5]


def test_what_goes_wrong_with_scraping() -> None:
    world = together(counter("c_total", 1.0), gauge("g", 5.0), gauge("up", 1.0, job="x"))
    found = Scene(world, 70, 10, (Change(60, 99, none(world, "g")),), lost=(1,), failed=(3, 4), restart_s=50).samples()
    assert found["c_total"] == pytest.approx([0, np.nan, 20, STALE, np.nan, 0, 10, 20], nan_ok=True)
    assert found["g"] == pytest.approx([5, np.nan, 5, STALE, np.nan, 5, STALE, np.nan], nan_ok=True)
    assert found['up{job="x"}'] == pytest.approx([1, np.nan, 1, 0, 0, 1, 1, 1], nan_ok=True)


def test_a_histogram_is_cumulative() -> None:
    made = histogram("h", 10, {"1": 0.5, "2": 0.9, "+Inf": 1.0}, a="x")
    assert {name: level.value for name, level in made.items()} == pytest.approx({
        'h_bucket{a="x",le="1"}': 5, 'h_bucket{a="x",le="2"}': 9, 'h_bucket{a="x",le="+Inf"}': 10, 'h_count{a="x"}': 10,
        'h_sum{a="x"}': 10 * (0.5 * 0.5 + 0.4 * 1.5 + 0.1 * 3)})  # fmt: skip
    assert scaled(made, 2, ["h_count"])['h_count{a="x"}'] == Level(20, counter=True)
    for wrong in ({"1": 0.5, "+Inf": 0.4}, {"1": 0.5}, {"+Inf": 0.9}):
        with pytest.raises(ValueError, match="shares rise to 1"):
            histogram("h", 1, wrong)


def test_nothing_strange_can_change() -> None:
    with pytest.raises(ValueError, match="no such series"):
        Scene(gauge("g", 1), 10, 1, (Change(0, 5, gauge("other", 1)),))
