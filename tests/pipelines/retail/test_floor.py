"""The floor counts what happens on it, and refuses to be drawn wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.home import INPUTS
from lib.pipelines.retail import floor as floors
from lib.pipelines.retail.floor import BadFloor, FloorState, Report
from lib.pipelines.retail.tracking import NOBODY, Tracks

SQUARE = [[100, 100], [200, 100], [200, 200], [100, 200]]
DRAWN: dict[str, Any] = {
    "frame": [400, 300],
    "line": {"start": [300, 300], "end": [300, 0]},
    "zones": [{"name": "shelf", "corners": SQUARE}, {"name": "till", "corners": [[0, 0], [90, 0], [90, 90]], "queue": True}],
}


def people(**feet: tuple[float, float]) -> Tracks:
    """Tracks by number, p1=(x, y): boxes 20 wide and 40 tall that stand there."""
    boxes = np.array([[x - 10, y - 40, x + 10, y] for x, y in feet.values()], np.float32).reshape(-1, 4)
    return Tracks(np.array([int(name[1:]) for name in feet], np.int64), boxes, np.ones(len(feet), np.float32))


def told(*frames: tuple[float, Tracks]) -> list[Report]:
    state = FloorState(floors.parse(DRAWN))
    return [state.update(tracks, time_s) for time_s, tracks in frames]


def test_people_are_where_their_feet_are() -> None:
    (report,) = told((0.0, people(p1=(150, 199), p2=(150, 239), p3=(85, 50))))
    assert report.people == 3
    assert {name: stay.count for name, stay in report.zones.items()} == {"shelf": 1, "till": 1}


def test_dwell_counts_from_coming_in_and_bridges_a_moment_out_of_sight() -> None:
    reports = told((0.0, people(p1=(150, 150))), (1.0, NOBODY), (1.9, people(p1=(150, 150))), (2.0, people(p1=(20, 150))),
                   (5.0, people(p1=(150, 150))), (6.0, people(p1=(150, 150), p2=(160, 150))))  # fmt: skip
    assert [report.zones["shelf"].dwell_s for report in reports] == [(0.0,), (), (1.9,), (), (0.0,), (1.0, 0.0)]
    assert [report.zones["shelf"].visits for report in reports] == [1, 1, 1, 1, 2, 3]


def test_a_queue_is_of_those_who_stay() -> None:
    reports = told(*((at, people(p1=(60, 30), p2=(60 if at > 1.5 else 390, 20))) for at in (0.0, 1.0, 2.0, 3.0, 4.0)))
    assert [report.queue for report in reports] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("xs", "counts"), [
    ((280, 290, 310, 320, 330), (0, 1)),
    ((330, 320, 290, 280, 270), (1, 0)),
    ((280, 310, 290, 280, 270), (0, 0)),  # one frame beyond it is a box that trembles
    ((280, 290, 310, 320, 330, 290, 280, 270), (1, 1)),
])  # fmt: skip
def test_whoever_crosses_the_line_enters_or_leaves(xs: tuple[int, ...], counts: tuple[int, int]) -> None:
    last = told(*((at / 10, people(p1=(x, 150))) for at, x in enumerate(xs)))[-1]
    assert (last.entries, last.exits) == counts


def test_a_report_on_the_wire_is_plain() -> None:
    report = told(*((at, people(p1=(60, 30))) for at in (0.0, 1.5, 2.25)))[-1]
    zones = {"shelf": {"count": 0, "visits": 0, "longest_s": 0.0}, "till": {"count": 1, "visits": 1, "longest_s": 2.2}}
    assert report.json() == {"time_s": 2.25, "people": 1, "zones": zones, "queue": 1, "entries": 0, "exits": 0}


def test_the_clips_floor_is_in_order() -> None:
    floor = floors.load(INPUTS / "retail" / "floor.toml")
    assert floor.frame_hw == (576, 768)
    assert [zone.name for zone in floor.zones if zone.queue] == ["checkout"]
    assert floor.line is not None


@pytest.mark.parametrize(("change", "why"), [
    ({"frame": [0, 300]}, "frame must be"),
    ({"frame": "400x300"}, "frame must be"),
    ({"walls": []}, "not walls"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [500, 0], [100, 100]]}]}, r"\(500, 0\) lies outside"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [-1, 0], [100, 100]]}]}, "lies outside"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [100, 100], [100, 0], [0, 100]]}]}, r"Self-intersection\[50 50\]"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [100, 100]]}]}, "needs 3 to 64 corners"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [50, 0], [100, 0]]}]}, "no simple shape|square pixels"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [5, 0], [5, 5]]}]}, "square pixels"),
    ({"zones": [{"name": "a", "corners": [[0, 0], [True, 0], [100, 100]]}]}, r"a point is \[x, y\]"),
    ({"zones": [{"name": "../a", "corners": SQUARE}]}, "name must be"),
    ({"zones": [{"name": "a", "corners": SQUARE, "queue": "yes"}]}, "queue must be"),
    ({"zones": [{"name": "a", "corners": SQUARE}] * 2}, "one name"),
    ({"zones": [{"name": "a", "corners": SQUARE, "colour": "red"}]}, "not colour"),
    ({"zones": [{"name": str(n), "corners": SQUARE} for n in range(17)]}, "at most 16"),
    ({"zones": [7]}, "must be a table"),
    ({"line": {"start": [1, 1], "end": [1, 1]}}, "no length"),
    ({"line": {"start": [1, 1]}}, "the line's end"),
])  # fmt: skip
def test_a_floor_that_cannot_be_meant_is_refused_with_the_reason(change: dict[str, Any], why: str) -> None:
    with pytest.raises(BadFloor, match=why):
        floors.parse({**DRAWN, **change})


def test_a_file_that_is_no_floor_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "floor.toml").write_text("zones = [")
    with pytest.raises(BadFloor, match=r"floor\.toml"):
        floors.load(tmp_path / "floor.toml")
    with pytest.raises(BadFloor, match=r"none\.toml"):
        floors.load(tmp_path / "none.toml")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional={"frame": JSON, "zones": JSON, "line": JSON, "more": JSON}))
def test_whatever_is_sent_is_a_floor_or_refused(drawn: dict[str, Any]) -> None:
    try:
        made = floors.parse(drawn)
    except BadFloor:
        return
    assert made.frame_hw[0] >= 1


@given(st.lists(st.lists(st.floats() | st.integers(-10, 410), min_size=2, max_size=2), min_size=3, max_size=8))
def test_zones_of_any_corners_are_refused_or_can_be_asked(corners: list[list[float]]) -> None:
    try:
        made = floors.parse({"frame": [400, 300], "zones": [{"name": "a", "corners": corners}]})
    except BadFloor:
        return
    assert FloorState(made).update(people(p1=(150, 150)), 0.0).people == 1
