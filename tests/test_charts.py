"""Chart forms: what is in a frame is drawn, what is missing is not."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import charts, floorplan

FRAME = pd.DataFrame({"name": ["a", "b"], "low": [1.0, 2.0], "high": [3.0, None]})


def test_a_ranking_keeps_the_order_and_joins_only_what_it_has() -> None:
    fig = charts.ranking(FRAME, "name", {"low": "p50", "high": "p99"}, x_title="µs")
    lines, marks = [t for t in fig.data if t.mode == "lines"], [t for t in fig.data if t.mode == "markers"]
    assert [list(line.x) for line in lines] == [[1.0, 3.0]]
    assert [(mark.name, list(mark.x)) for mark in marks] == [("p50", [1.0, 2.0]), ("p99", [3.0, None])]
    assert fig.layout.yaxis.autorange == "reversed"
    assert list(fig.layout.yaxis.categoryarray) == ["a", "b"]
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


def test_lines_and_clouds_have_one_mark_for_each_kind() -> None:
    frame = pd.DataFrame({"x": [1, 2, 1], "y": [5.0, None, 7.0], "kind": ["a", "a", "b"], "name": ["p", "q", "r"]})
    fig = charts.lines(frame, "x", "y", "kind", x_title="x", y_title="y")
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in fig.data] == [("a", [1, 2], [5.0, None]), ("b", [1], [7.0])]
    assert len({trace.line.color for trace in fig.data}) == len({trace.marker.symbol for trace in fig.data}) == 2
    fig = charts.cloud(frame, "x", "y", "name", "kind", x_title="x", y_title="y", log=True)
    assert [list(trace.text) for trace in fig.data] == [["p", "q"], ["r"]]
    assert fig.layout.xaxis.type == "log"


def test_panels_are_one_below_the_other_and_named_once_in_the_legend() -> None:
    frame = pd.DataFrame({"at": [0, 1, 0, 1], "zone": ["door", "door", "till", "till"], "hand": [1, 2, 0, 0], "found": [1, 1, 0, 1]})
    fig = charts.panels(frame, "at", {"hand": "by hand", "found": "found"}, "zone", x_title="s", y_title="people")
    assert [(trace.name, trace.mode, trace.yaxis, trace.showlegend) for trace in fig.data] == [
        ("by hand", "lines", "y", True), ("found", "markers", "y", True),
        ("by hand", "lines", "y2", False), ("found", "markers", "y2", False),
    ]  # fmt: skip
    assert [note.text for note in fig.layout.annotations] == ["door", "till"]


def test_a_floor_plan_holds_every_second_that_somebody_stood() -> None:
    x, y = np.full(100, 100.0, np.float32), np.full(100, 60.0, np.float32)
    warm = floorplan.warmth(x, y, 0.1, (160, 240))
    assert warm.shape == (20, 30)
    assert warm.sum() == pytest.approx(10)  # 100 times a tenth of a second
    assert np.unravel_index(warm.argmax(), warm.shape) == (7, 12)


def test_a_floor_plan_is_bright_where_people_stood_and_pale_where_not() -> None:
    ground = cv2.imencode(".jpg", np.full((16, 24, 3), 100, np.uint8))[1].tobytes()
    warm = floorplan.warmth(np.full(9, 100.0, np.float32), np.full(9, 60.0, np.float32), 0.1, (160, 240))
    drawn = cv2.imdecode(np.frombuffer(floorplan.heat(warm, {"door": [(10, 100), (60, 100), (60, 150)]}, ground, (160, 240)), np.uint8), 1)
    assert drawn.shape == (160, 240, 3)
    assert drawn[60, 100].max() > 200
    assert drawn[10, 200].astype(int).tolist() == pytest.approx([55, 55, 55], abs=8)


def test_a_front_joins_what_nothing_surpasses() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [9.0, 1.0, 4.0], "n": ["8", "4", "1"], "e": ["vLLM"] * 3, "best": [True, False, True]})
    fig = charts.front(frame, "x", "y", "n", "e", "best", x_title="x", y_title="y")
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in fig.data] == [("vLLM", [1, 2, 3], [9, 1, 4]), ("front", [1, 3], [9, 4])]
    assert fig.data[1].line.shape == "vh"


def test_slots_are_panels_on_one_time_axis_and_fit_a_small_file() -> None:
    rows = [("a", place, 10 * place + n, kind, n + since, n + since + 0.4) for place in range(8) for n in range(8)
            for kind, since in (("prefill", 0), ("decode", 0.4), ("straggler", 0.8))]  # fmt: skip
    one = pd.DataFrame(rows, columns=["name", "place", "request", "kind", "from_s", "to_s"])
    fig = charts.slots(pd.concat([one.assign(name=f"way {n}") for n in range(6)]), "name")
    assert [trace.name for trace in fig.data if trace.showlegend] == ["prefill", "decode", "held for the batch"]
    assert {trace.xaxis for trace in fig.data if trace.yaxis == "y6"} == {"x6"}
    assert fig.layout.xaxis.matches == "x6"
    assert list(fig.data[0].base)[:2] == [0.0, 1.0]
    assert list(fig.data[0].x)[:2] == [0.4, 0.4]
    assert fig.data[0].y[0] == 1
    assert len(fig.to_json()) < 60_000


def test_a_short_logarithmic_axis_has_ticks_to_read() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "v": [17.0, 450.0]})
    fig = charts.ranking(frame, "name", {"v": "v"}, x_title="x")
    assert list(fig.layout.xaxis.tickvals) == [10, 20, 50, 100, 200, 500]
    assert charts.ranking(frame.assign(v=[1.0, 450.0]), "name", {"v": "v"}, x_title="x").layout.xaxis.dtick == 1


def test_a_descent_tells_what_each_step_took_off_or_put_on_top() -> None:
    frame = pd.DataFrame({"step": ["a", "b", "c", "d"], "usd": [9.0, None, 4.0, 5.0]})
    fig = charts.descent(frame, "step", "usd", unit="$", x_title="$")
    by = {trace.name: trace for trace in fig.data}
    assert list(by["saved by this step"].x) == [None, None, 5.0, None]
    assert list(by["saved by this step"].base) == [None, None, 4.0, None]
    assert list(by["added by this step"].x) == [None, None, None, 1.0]
    assert list(by["added by this step"].base) == [None, None, None, 4.0]
    assert list(by["remains"].x) == [9.0, None, 4.0, 4.0]  # of the last, what it had before; what it added is on top
    assert list(fig.data[-1].text) == ["$9", "", "$4", "$5"]


def test_a_treemap_has_a_node_for_each_part_and_sums_in_its_labels() -> None:
    frame = pd.DataFrame({"variant": ["fat", "fat", "slim"], "kind": ["x", "y", "x"], "part": ["a", "b", "a"], "mb": [100.0, 20.5, 7.25]})
    (trace,) = charts.treemap(frame, ["variant", "kind", "part"], "mb", unit="MB").data
    told = dict(zip(trace.ids, zip(trace.labels, trace.parents, trace.values, strict=True), strict=True))
    assert told["fat"] == ("fat 120 MB", "", 0.0)  # what is above a leaf is added up when it is drawn
    assert told["fat/x/a"] == ("a<br>100 MB", "fat/x", 100.0)
    assert told["slim/x"] == ("x 7.25 MB", "slim", 0.0)
    assert len(told) == 2 + 3 + 3
