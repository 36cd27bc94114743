"""What happened when, and what showed what: every mark is where its row and its time are, and no level is without a colour."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from lib import timelines

EVENTS = pd.DataFrame(
    [("cut", "fault", "", False, 0.0, 10.0), ("cut", "pending", "Right", True, 1.0, 2.0), ("cut", "firing", "Right", True, 2.5, 2.5),
     ("cut", "resolved", "Right", True, 14.0, 14.0), ("slow", "firing", "Noise", False, 3.0, 3.0), ("slow", "fault", "", False, 0.0, 8.0),
     ("nothing", "resolved", "Noise", False, 5.0, 5.0)],
    columns=["row", "kind", "alert", "right", "from_s", "to_s"],
)  # fmt: skip
DUE = pd.DataFrame({"row": ["cut"], "at_s": [3.0], "slack_s": [1.5]})
ROWS = ["slow", "cut", "nothing"]


def traces(fig: go.Figure) -> dict[str, Any]:
    names = [trace.name for trace in fig.data]
    assert len(set(names)) == len(names)
    return dict(zip(names, fig.data, strict=True))


def drawn(events: pd.DataFrame = EVENTS, due: pd.DataFrame = DUE) -> go.Figure:
    return timelines.timeline(events, due, ROWS, x_title="seconds")


def test_each_notice_is_a_mark_in_its_row_at_its_time() -> None:
    found = traces(drawn())
    marks = {name: list(zip(found[name].x, found[name].y, strict=True))
             for name in ("the right alert", "another alert", "the right alert is over", "another alert is over")}  # fmt: skip
    assert marks == {"the right alert": [(2.5, "cut")], "another alert": [(3.0, "slow")], "the right alert is over": [(14.0, "cut")],
                     "another alert is over": [(5.0, "nothing")]}  # fmt: skip
    assert found["another alert"].customdata[0][0] == "Noise"


def test_right_and_wrong_differ_in_colour_and_the_end_is_open() -> None:
    found = traces(drawn())
    right, other, over = (found[name].marker for name in ("the right alert", "another alert", "the right alert is over"))
    assert right.color != other.color and over.color == right.color
    assert (right.symbol, over.symbol) == ("circle", "circle-open")


def test_what_lasts_is_a_line_from_its_beginning_to_its_end() -> None:
    found = traces(drawn())
    assert list(found["fault"].x) == [0.0, 10.0, None, 0.0, 8.0, None]
    assert list(found["fault"].y) == ["cut", "cut", None, "slow", "slow", None]
    assert list(found["pending"].x) == [1.0, 2.0, None] and found["fault"].line.width > found["pending"].line.width


def test_what_was_due_has_a_bracket_as_wide_as_its_slack() -> None:
    due = traces(drawn())["when it was due"]
    assert (list(due.x), list(due.y), list(due.error_x.array)) == ([3.0], ["cut"], [1.5])


def test_rows_are_in_the_order_that_was_asked_for_from_the_top() -> None:
    fig = drawn()
    assert list(fig.layout.yaxis.categoryarray) == ROWS
    assert fig.layout.yaxis.range == (len(ROWS) - 0.5, -0.5) and fig.layout.yaxis.dtick == 1, "rows of which nothing was told too"
    assert fig.layout.xaxis.title.text == "seconds"
    assert [(shape.x0, shape.x1) for shape in fig.layout.shapes] == [(0, 0)]  # the injection


def test_what_did_not_happen_is_not_drawn() -> None:
    fig = drawn(EVENTS[:0], DUE[:0])
    assert all(not len(trace.x or ()) for trace in fig.data)


# --- what showed what ---

CELLS = pd.DataFrame([("a", "cut", 1.0), ("b", "cut", 2.0), ("b", "slow", 1.0), ("a", "cut", 0.0)], columns=["x", "y", "level"])
LEVELS = ((0.0, "#eee", "nothing"), (1.0, "#c9a27a", "fired too"), (2.0, "#1a7f4b", "right"))


def squares(fig: go.Figure, colour: str) -> set[tuple[str, str]]:
    (heat,) = [trace for trace in fig.data if trace.type == "heatmap" and trace.colorscale[0][1] == colour]
    return {(x, y) for y, row in zip(heat.y, heat.z, strict=True) for x, here in zip(heat.x, row, strict=True) if here is not None}


def test_each_pair_is_a_square_of_its_level_and_the_highest_counts() -> None:
    fig = timelines.matrix(CELLS, "x", "y", "level", levels=LEVELS)
    assert squares(fig, "#c9a27a") == {("a", "cut"), ("b", "slow")} and squares(fig, "#1a7f4b") == {("b", "cut")}
    assert squares(fig, "#eee") == set()  # of two levels of a pair the higher; ("a", "slow") stays white


def test_names_keep_the_order_in_which_they_come_and_levels_are_told() -> None:
    fig = timelines.matrix(CELLS.iloc[[2, 0, 1]], "x", "y", "level", x_title="alert", levels=LEVELS)
    heat = next(trace for trace in fig.data if trace.type == "heatmap")
    assert (list(heat.x), list(heat.y)) == (["b", "a"], ["slow", "cut"])
    told = [(trace.name, trace.marker.color) for trace in fig.data if trace.type == "scatter"]
    assert told == [(said, colour) for _, colour, said in LEVELS]
    assert fig.layout.xaxis.title.text == "alert" and fig.layout.yaxis.autorange == "reversed"


def test_a_level_without_a_colour_is_refused() -> None:
    with pytest.raises(AssertionError, match="a level without a colour"):
        timelines.matrix(CELLS, "x", "y", "level", levels=LEVELS[:2])


def test_nothing_showed_anything() -> None:
    fig = timelines.matrix(CELLS[:0], "x", "y", "level", levels=LEVELS)
    assert squares(fig, "#1a7f4b") == set()


def test_whether_a_panel_moved_has_two_levels() -> None:
    assert [level for level, _, _ in timelines.SHOWS] == [0.0, 1.0]
