"""The renderer: numbers as Grafana writes them, the JSON's grid, what is missing said, what it cannot draw refused."""

from __future__ import annotations

import copy
from math import inf, nan
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import panels
from lib.monitoring import dashboards
from lib.monitoring.dashboards.query import COLUMNS
from lib.monitoring.timing import DRILL
from lib.panels.clock import hours
from lib.panels.draw import COLOURS, INK
from lib.panels.units import SCALES, decades, formatted, ticks

SERVICES = dashboards.ALL[0]
UNITS = st.sampled_from([*SCALES, "suffix: tok/s"])


def by_title(title: str, board: dict[str, Any] = SERVICES) -> dict[str, Any]:
    (found,) = [one for one in dashboards.query.panels(board) if one["title"] == title]
    return found


def answers(title: str, values: dict[str, list[float]], *, ref: str = "A") -> pd.DataFrame:
    return pd.DataFrame([("inference-services", by_title(title)["id"], ref, series, float(t), value)
                         for series, course in values.items() for t, value in enumerate(course)], columns=COLUMNS)  # fmt: skip


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0.0, "s", "0 s"), (0.25, "s", "250 ms"), (1.234, "s", "1.23 s"), (90, "s", "1.50 min"), (4.2e-7, "s", "420 ns"), (250, "ms", "250 ms"),
    (0.0123, "percentunit", "1.23%"), (1, "percentunit", "100%"), (0, "bytes", "0 B"), (1536, "bytes", "1.50 KiB"), (3, "none", "3"),
    (1234, "reqps", "1.23K req/s"), (0.00042, "currencyUSD", "$0.000420"), (-2, "currencyUSD", "-$2"), (14.4, "suffix:×", "14.4×"),
    (nan, "s", "NaN"), (inf, "currencyUSD", "∞"), (75.5, "watt", "75.5 W"), (2.5e6, "short", "2.50M"), (0.4, "reqps", "0.400 req/s"),
])  # fmt: skip
def test_numbers_are_written_as_grafana_writes_them(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text


def test_decimals_that_are_asked_for_are_given() -> None:
    assert formatted(0.98765, "percentunit", 1) == "98.8%"


def test_a_unit_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no unit 'parsecs'"):
        formatted(1, "parsecs")


@given(UNITS, st.floats(0, 1e9), st.floats(1e-6, 1e9))
def test_ticks_lie_on_the_axis_and_rise(unit: str, lo: float, room: float) -> None:
    values, texts = ticks(lo, lo + room, unit)
    slack = room * 1e-6 + lo * 1e-12
    assert len(values) == len(texts) <= 6 and values == sorted(values)
    assert all(lo - slack <= value <= lo + room + slack for value in values)


def test_ticks_are_round() -> None:
    assert ticks(0, 0.25, "s") == ([0, pytest.approx(0.1), pytest.approx(0.2)], ["0 s", "100 ms", "200 ms"])
    assert ticks(0, 7.6, "suffix:×")[1] == ["0×", "2×", "4×", "6×"]
    assert ticks(0, 1, "percentunit")[1] == ["0%", "25%", "50%", "75%", "100%"]
    assert decades(0.001, 10, "s")[1] == ["1 ms", "10 ms", "100 ms", "1 s", "10 s"]


def test_times_are_of_the_day_or_count_from_zero() -> None:
    assert hours(-30, 90, most=4) == ([-30, 0, 30, 60, 90], ["-0:30", "0:00", "0:30", "1:00", "1:30"])
    assert hours(1_700_000_000, 1_700_003_600, most=4)[1] == ["22:15", "22:30", "22:45", "23:00"]


def test_a_number_is_the_last_that_is_known_in_its_threshold_s_colour() -> None:
    frame = answers("Errors", {"llm": [0.5, 0.002, nan], "fraud": [0.0, 0.02], "retail": [0.3]})
    found = panels.cells(by_title("Errors"), frame)
    assert [(cell.name, cell.text, cell.colour) for cell in found] == [
        ("fraud", "2.00%", COLOURS["orange"]), ("llm", "0.20%", COLOURS["green"]), ("retail", "30.00%", COLOURS["red"])]  # fmt: skip
    assert panels.cells(by_title("Requests"), answers("Requests", {"fraud": [40]}))[0].colour == INK  # no threshold, no verdict


def test_a_panel_without_data_says_why() -> None:
    (cell,) = panels.cells(by_title("Errors"), answers("Errors", {}))
    assert cell.text == "no requests"
    for frame in (answers("Age of a frame", {}), answers("Age of a frame", {"p95": [nan, nan]})):
        fig = panels.panel(SERVICES, by_title("Age of a frame")["id"], frame, start_s=0, end_s=9)
        assert not fig.data and [note.text for note in fig.layout.annotations] == ["no frames"]


def test_a_course_has_its_threshold_where_the_axis_reaches_it_and_its_gaps() -> None:
    frame = answers("Age of a frame", {"p95": [0.1, 0.2, 0.9, 0.3, 0.2, 0.1]})
    fig = panels.panel(SERVICES, by_title("Age of a frame")["id"], frame[frame.t_s != 3], start_s=0, end_s=5,
                       marks=[panels.Band(1, 3, "stall")])  # fmt: skip
    (trace,) = fig.data
    assert list(trace.y) == [0.1, 0.2, 0.9, None, 0.2, 0.1]
    assert [(shape.type, shape.y0) for shape in fig.layout.shapes] == [("line", 0.5), ("rect", 0)]
    low = panels.panel(SERVICES, by_title("Age of a frame")["id"], frame.assign(value=frame.value / 10), start_s=0, end_s=5)
    assert not low.layout.shapes  # Grafana does not stretch an axis to a threshold either


def test_names_stay_words() -> None:
    frame = answers("Fraud model", {"<b>v1</b>": [1, 1]})
    fig = panels.panel(SERVICES, by_title("Fraud model")["id"], frame, start_s=0, end_s=9)
    assert "&lt;b&gt;v1&lt;/b&gt;" in fig.layout.annotations[0].text


@pytest.mark.parametrize("board", dashboards.ALL, ids=lambda board: board["uid"])
def test_every_panel_is_drawn_on_its_place_of_the_grid(board: dict[str, Any]) -> None:
    rows = [(query.dashboard, query.panel, query.ref, query.named({}) or "x", float(t), 2.0 if "ALERTS" in query.expr else 0.5 + t / 10)
            for query in panels.queries(board, timing=DRILL, step_s=1) for t in range(5)]  # fmt: skip
    fig = panels.draw(board, pd.DataFrame(rows, columns=COLUMNS), start_s=0, end_s=4)
    said = " ".join(str(note.text) for note in fig.layout.annotations)
    assert all(f"<b>{one['title']}</b>" in said for one in board["panels"])
    assert "No data" not in said and "no GPU" not in said
    plots = [name for name in fig.layout if name.startswith("yaxis") and name != "yaxis"]
    assert len(plots) == sum(one["type"] in ("timeseries", "state-timeline") for one in board["panels"])
    for name in plots:
        assert 0 <= fig.layout[name].domain[0] < fig.layout[name].domain[1] <= 1


def test_a_panel_that_cannot_be_drawn_is_refused() -> None:
    board = copy.deepcopy(SERVICES)
    board["panels"][0]["type"] = "piechart"
    with pytest.raises(ValueError, match="'Requests' is a piechart"):
        panels.draw(board, answers("Requests", {}), start_s=0, end_s=1)
    with pytest.raises(ValueError, match="no panel 999"):
        panels.panel(SERVICES, 999, answers("Requests", {}), start_s=0, end_s=1)
