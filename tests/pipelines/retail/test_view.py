"""What is drawn is where it was seen, a frame is drawn once for all who look, and the frame itself stays as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from lib.pipelines.retail import view as views
from lib.pipelines.retail.floor import FloorState, parse
from lib.pipelines.retail.pipeline import Sight
from lib.pipelines.retail.tracking import NOBODY, Tracks
from lib.pipelines.retail.view import PERSON, View, annotated
from lib.vision.boxes import none
from tests.pipelines.retail.null import SHOP, frame


def sight(*boxes: tuple[float, float, float, float]) -> Sight:
    tracks = Tracks(np.arange(len(boxes)), np.array(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.float32))
    return Sight(0.0, none(), tracks, FloorState(parse(SHOP)).update(tracks, 0.0))


def test_a_box_is_drawn_where_the_person_is_and_on_a_copy() -> None:
    before = frame(90)
    drawn = annotated(before, sight((30, 30, 50, 60)), None)
    assert (before == 90).all()
    assert tuple(drawn[45, 30]) == tuple(drawn[60, 40]) == PERSON
    assert (drawn[35:55, 33:47] == 90).all()  # the person is not painted over


def test_a_person_half_outside_and_an_odd_zone_name_are_drawn() -> None:
    floor = parse({"frame": [96, 72], "zones": [{"name": "Käse 櫃檯", "corners": [[0, 0], [95, 0], [95, 71]]}]})
    tracks = Tracks(np.array([7]), np.array([[-30, -30, 500, 500]], np.float32), np.ones(1, np.float32))
    told = Sight(0.0, none(), tracks, FloorState(floor).update(tracks, 0.0))
    assert annotated(frame(90), told, floor).shape == (72, 96, 3)


@pytest.mark.parametrize("hw", [(1, 1), (3, 2000)])
def test_the_smallest_frame_can_be_drawn_on(hw: tuple[int, int]) -> None:
    told = Sight(0.0, none(), NOBODY, sight().report)
    assert annotated(frame(90, hw), told, None).shape == (*hw, 3)


def test_many_who_look_see_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(views, "_jpeg", lambda seen, floor: drawn.append(seen) or str(seen).encode())

    class Watch:
        latest: Any = None
        floor = None

    async def look() -> None:
        view, watch = View(), Watch()
        assert await view.jpeg(watch) is None  # type: ignore[arg-type]
        for number in (1, 2):
            watch.latest = number
            found = await asyncio.gather(*(view.jpeg(watch) for _ in range(10)))  # type: ignore[arg-type]
            assert found == [(number, str(number).encode())] * 10

    asyncio.run(look())
    assert drawn == [1, 2]
