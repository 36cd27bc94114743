"""Chart forms: what is in a frame is drawn, what is missing is not."""

from __future__ import annotations

import pandas as pd

from lib import charts

FRAME = pd.DataFrame({"name": ["a", "b"], "low": [1.0, 2.0], "high": [3.0, None]})


def test_a_ranking_keeps_the_order_and_joins_only_what_it_has() -> None:
    fig = charts.ranking(FRAME, "name", {"low": "p50", "high": "p99"}, x_title="µs")
    lines, marks = [t for t in fig.data if t.mode == "lines"], [t for t in fig.data if t.mode == "markers"]
    assert [list(line.x) for line in lines] == [[1.0, 3.0]]
    assert [(mark.name, list(mark.x)) for mark in marks] == [("p50", [1.0, 2.0]), ("p99", [3.0, None])]
    assert fig.layout.yaxis.autorange == "reversed"
    assert fig.layout.xaxis.type == "log"


def test_a_waterfall_begins_where_the_last_stage_ended() -> None:
    frame = pd.DataFrame({"stage": ["a", "b", "c"], "p50": [1.0, 2.0, 3.0], "p99": [2.0, 4.0, 6.0], "budget": [5.0, 5.0, 5.0]})
    fig = charts.waterfall(frame, "stage", "p50", "p99", "budget", x_title="µs")
    assert {tuple(bar.base) for bar in fig.data} == {(0.0, 1.0, 3.0)}
    assert [bar.name for bar in fig.data] == ["budget, p99", "p99", "p50"]
    assert list(fig.data[2].x) == [1.0, 2.0, 3.0]


def test_a_course_shows_what_went_on_behind_it() -> None:
    frame = pd.DataFrame({"hour": [0.0, 1.0], "p99": [1.0, None], "rate": [10.0, 20.0]})
    fig = charts.course(frame, "hour", {"p99": "p99"}, x_title="h", y_title="ms", behind=("rate", "a second"), log=True)
    assert [trace.yaxis for trace in fig.data] == ["y2", None]
    assert list(fig.data[1].y) == [1.0, None]
    assert fig.layout.yaxis.type == "log"
